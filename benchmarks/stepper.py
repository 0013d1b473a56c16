"""What it costs to look into a run of 100,000 rollouts: time and memory to open it, to read a row, and a step in the
page.

    python benchmarks/stepper.py                       # 100 phases of 1,000 rollouts, 300 tokens each
    python benchmarks/stepper.py --phases 20 --tokens 3000
    python benchmarks/stepper.py --browser             # with Chromium: first picture, a step, another rollout, a filter

Prints one line for each figure and judges none. The run folder is made in a temporary folder: one phase is written, the
others are copies of its file, so that every part costs what a real one costs to read.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

OPEN = """
import resource, sys, time
from spurious_rlvr.widgets import RolloutStepper
memory = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
before, start = memory(), time.perf_counter()
stepper = RolloutStepper(sys.argv[1])
opened, after = time.perf_counter() - start, memory()
outline = len(stepper.head) / 1e3
print(f"open {opened:.2f} s, {after - before:.0f} MB above the import; the outline for the page is {outline:.0f} kB")
start = time.perf_counter()
for place in range(len(stepper._pages.source.parts)): stepper._pages.answer("index", dict(parts=[place]))
print(f"index of all parts {time.perf_counter() - start:.2f} s, {memory() - before:.0f} MB above the import")
times = []
for number in range(0, sum(part.rows for part in stepper._pages.source.parts), 4999):
    start = time.perf_counter()
    stepper._pages.answer("rows", dict(rows=[number]))
    times.append(time.perf_counter() - start)
times.sort()
middle, slowest = times[len(times) // 2] * 1e3, times[-1] * 1e3
print(f"a row anywhere: median {middle:.0f} ms, slowest {slowest:.0f} ms; {memory() - before:.0f} MB above the import")
start = time.perf_counter()
stepper._pages.answer("measure", dict(part=1))
print(f"clip and length counts of a part {time.perf_counter() - start:.2f} s")
start = time.perf_counter()
stepper._pages.answer("search", dict(part=1, text="forty two so"))
print(f"search in a part {time.perf_counter() - start:.2f} s")
"""


def write(folder, phases, rollouts, tokens):
    from spurious_rlvr.core import Rollout, keyed_rng
    from spurious_rlvr.runs import create_run

    writer, rng, words = (
        create_run(folder),
        keyed_rng(0, "stepper"),
        ["the", "answer", "is", "forty", "two", "so", "we", "print", "it", "."],
    )
    rows = []
    for at in range(rollouts):
        text = " ".join(rng.choice(words, size=tokens))
        old = rng.normal(-1, 0.5, tokens).round(4)
        rows.append(
            Rollout(
                1,
                at // 16,
                at % 16,
                f"problem-{at // 16}",
                "What is 6 times 7?",
                text,
                "42",
                rng.integers(0, 50_000, tokens).tolist(),
                old.tolist(),
                "stop",
                answer="42",
                correct=bool(rng.random() < 0.5),
                reward=float(rng.random() < 0.5),
                advantage=float(rng.normal()),
                update=0,
                logprob_old=old.tolist(),
                logprob_new=(old + 0.01).tolist(),
                clip_side=rng.choice([0] * 20 + [1, -1], tokens).tolist(),
                out_of_band=[0] * tokens,
                entropy=rng.random(tokens).tolist(),
                mentions_python=False,
                writes_code=bool(rng.random() < 0.5),
            )
        )
    writer.write_rollouts(1, rows)
    first = folder / "rollouts/phase-000001.parquet"
    for phase in range(1, phases + 1):
        if phase > 1:
            shutil.copy(first, folder / f"rollouts/phase-{phase:06d}.parquet")
        writer.log("phase", phase=phase, reward=0.5, code_share=0.5)


def in_browser(folder):
    "Serves the run as `view --serve` does and times the page; from the event until the page is laid out."
    from playwright.sync_api import sync_playwright

    from spurious_rlvr.widgets import RolloutStepper, serve

    executable = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    server = serve(RolloutStepper(folder))
    timed = """async ([act, done]) => {
      const start = performance.now();
      (0, eval)(act);
      while (!(0, eval)(done)) await new Promise((next) => setTimeout(next, 1));
      document.querySelector('.rollout-stepper').getBoundingClientRect();
      return performance.now() - start;
    }"""

    def press(key):
        return (
            f"document.querySelector('.text').dispatchEvent(new KeyboardEvent('keydown', {{ key: '{key}', bubbles: true"
            " }))"
        )

    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_context(bypass_csp=True).new_page()
        start = time.perf_counter()
        page.goto(server.url)
        page.wait_for_selector(".text .piece")
        print(f"first rollout in the page {time.perf_counter() - start:.2f} s")
        page.wait_for_function("document.querySelector('.passing').textContent === ''", timeout=600_000)
        print(f"all counts in the page {time.perf_counter() - start:.1f} s")
        shown = "document.querySelector('.rollout-stepper').dataset.shown"
        steps = [page.evaluate(timed, [press("ArrowRight"), "true"]) for _ in range(50)]
        samples = [page.evaluate(timed, [press("n"), "true"]) for _ in range(20)]
        fetched = [page.evaluate(timed, [press("j"), f"!{shown}.includes('waiting')"]) for _ in range(10)]
        filters = [
            page.evaluate(timed, ["document.querySelector('[data-filter=wrong]').click()", "true"]) for _ in range(6)
        ]
        page.click("[data-view=table]")
        sorts = [
            page.evaluate(timed, ["document.querySelector('th[data-column=advantage] button').click()", "true"])
            for _ in range(4)
        ]
        for name, times in (
            ("step", steps),
            ("next sample", samples),
            ("next problem, read on demand", fetched),
            ("filter over all", filters),
            ("sort all", sorts),
        ):
            print(f"{name}: median {statistics.median(times):.0f} ms, largest {max(times):.0f} ms, n = {len(times)}")
        browser.close()
    server.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("--phases", 100), ("--rollouts", 1000), ("--tokens", 300)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--browser", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder) / "run"
        write(run, given.phases, given.rollouts, given.tokens)
        print(
            f"{given.phases * given.rollouts:,} rollouts of {given.tokens} tokens,"
            f" {sum(f.stat().st_size for f in run.rglob('*.parquet')) / 2**20:.0f} MB in {given.phases} files",
            flush=True,
        )
        subprocess.run([sys.executable, "-c", OPEN, str(run)], check=True)
        if given.browser:
            in_browser(run)
