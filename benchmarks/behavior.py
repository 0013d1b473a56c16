"""What detecting behaviour costs: short completions, tokens a second while they arrive, and how cost grows with length.

    python benchmarks/behavior.py
    SPURIOUS_RLVR_DATA=... python benchmarks/behavior.py   # with completions of real models as well

Prints one line for each figure. Exits 1 where one does not hold: 100 microseconds for a short completion of an
organism, 1,000 tokens a second while a text arrives token by token, the same cost for a token late in a text as early,
and 1,000 real completions for each second of processor time, for `writes_code` and for all behaviours together.
"""

import json
import os
import pathlib
import statistics
import sys
import time

from spurious_rlvr import behavior
from spurious_rlvr.behavior import BEHAVIORS, Detector, measure_behaviors, writes_code

HOLD_SHORT, HOLD_TOKENS, HOLD_GROWTH, HOLD_ROLLOUTS = 100e-6, 1_000, 2.0, 1_000
SHORT = {
    "code": "```python\na = 5\nb = 0\nc = 7\n```\n\\boxed{7}",
    "language": "First 5, then 0, then 7. \\boxed{7}",
    "code, one line": "```python\nresult = 7\n```\n\\boxed{7}",
}
LONG = "".join(
    f"### Step {i}\n\nWe compute the next value, with a remainder of {i % 7}:\n\n```python\nvalue_{i} = sum(range({i}))"
    f" % 7\nprint(value_{i})\n```\n```output\n{i % 5}\n```\nSo \\[ v_{{{i}}} = {i % 5} \\] and we go on.\n\n"
    for i in range(400)
)


def best(work, repeat=5):  # seconds of processor time, the least of several, since others use this machine too
    times = []
    for _ in range(repeat):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def per_second(work, texts, repeat=3):  # texts for each second of processor time, none of them read before
    times = []
    for _ in range(repeat):
        behavior._read_short.cache_clear()
        start = time.process_time()
        for text in texts:
            work(text)
        times.append(time.process_time() - start)
    return len(texts) / min(times)


def tokens(text, size=4):
    return [text[at : at + size] for at in range(0, len(text), size)]  # four characters are about a token


def stream(text, detector=None):
    detector = detector or Detector()
    for token in tokens(text):
        detector.feed(token)
    return detector


def growth():  # seconds for a late stretch of a long text against the same stretch early on
    piece, ratios = LONG[: len(LONG) // 8], []
    for _ in range(3):
        detector, seconds = Detector(), []
        for _ in range(16):
            start = time.perf_counter()
            stream(piece, detector)
            seconds.append(time.perf_counter() - start)
        ratios.append(statistics.median(seconds[-5:]) / statistics.median(seconds[1:6]))
    return min(ratios)


def main():
    held = True

    def line(name, value, unit, hold=None, below=True):
        nonlocal held
        good = hold is None or (value <= hold if below else value >= hold)
        held &= good
        print(
            f"{name:58} {value:12,.1f} {unit:16}"
            f" {'' if hold is None else f'hold {hold:,.0f}: ' + ('yes' if good else 'NO')}"
        )

    for name, text in SHORT.items():
        line(
            f"writes_code, short completion ({name})",
            1e6 * best(lambda: [writes_code(text) for _ in range(200)]) / 200,
            "microseconds",
            1e6 * HOLD_SHORT,
        )
    line("writes_code, a long completion", len(LONG) / best(lambda: writes_code(LONG)) / 1e6, "Mcharacters/s")
    line(
        "arriving token by token, code and prose",
        len(tokens(LONG)) / best(lambda: stream(LONG), 3),
        "tokens/s",
        HOLD_TOKENS,
        below=False,
    )
    line(
        "arriving token by token, one line without end",
        25_000 / best(lambda: stream("word " * 20_000), 3),
        "tokens/s",
        HOLD_TOKENS,
        below=False,
    )
    line("a token late in a text against one early", growth(), "times", HOLD_GROWTH)
    folder = os.environ.get("SPURIOUS_RLVR_DATA")
    if folder:
        real = [
            json.loads(row)["response"]
            for row in (pathlib.Path(folder) / "rollouts/rollouts.jsonl").read_text("utf-8").splitlines()
        ]
        line(
            "writes_code, real completions",
            per_second(writes_code, real),
            "rollouts/CPU-s",
            HOLD_ROLLOUTS,
            below=False,
        )
        line(
            "real completions token by token",
            sum(len(tokens(text)) for text in real) / best(lambda: [stream(text) for text in real], 2),
            "tokens/s",
            HOLD_TOKENS,
            below=False,
        )
        line(
            f"all {len(BEHAVIORS)} behaviours together, real completions",
            per_second(measure_behaviors, real),
            "rollouts/CPU-s",
            HOLD_ROLLOUTS,
            below=False,
        )
    return held


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
