"""What grading costs: answers a second on one core, ordinary and cached, and ten thousand hostile answers.

    python benchmarks/grading.py                    # everything, minutes
    python benchmarks/grading.py --hostile 200      # a short run
    SPURIOUS_RLVR_DATA=... python benchmarks/grading.py   # with real gold answers and real completions as well

Prints one line for each figure. Exits 1 where one does not hold: 500 ordinary answers a second on one core,
2 seconds for any answer, no worker left behind. Seconds are processor time, of this process and its workers, so that
a busy machine gives the same figures.
"""

import argparse
import gc
import json
import os
import pathlib
import random
import statistics
import sys
import time
from fractions import Fraction

from spurious_rlvr import grading

HOLD_RATE, HOLD_LATENCY = 500, 2.0


def ordinary(count, rng):
    """Answer and gold pairs of the kinds that competition mathematics has, a third of them right but spelt in another
    way."""

    def one():
        a, b, c = rng.randint(2, 60), rng.randint(2, 30), rng.randint(2, 9)
        Fraction(a, b)
        kinds = [
            (str(a), [f"{a}.0", f"{b}"]),
            (f"{a * 1000}", [f"{a},000", f"{a}00"]),
            (rf"\frac{{{a}}}{{{b}}}", [f"{a}/{b}", rf"\dfrac{{{2 * a}}}{{{2 * b}}}", rf"\frac{{{a + 1}}}{{{b}}}"]),
            (f"({a},{b})", [rf"\left( {a}, {b} \right)", f"({b},{a + 1})"]),
            (f"{a}, {b}, {a + b + 1}", [f"{b}, {a}, {a + b + 1}", f"{a}, {b}"]),
            (rf"{a}\sqrt{{{b}}}", [rf"\sqrt{{{a * a * b}}}", rf"{a + 1}\sqrt{{{b}}}", rf"{a} \sqrt {{{b}}}"]),
            (rf"{a}^\circ", [f"{a}", rf"{b}^\circ"]),
            (rf"\${a}.50", [f"{a}.5", f"{a}"]),
            (rf"{a}\pi", [rf"\pi \cdot {a}", rf"{b}\pi"]),
            (f"{a}x^2+{b}x+{c}", [f"{c}+{b}x+{a}x^2", f"{a}x^2-{b}x+{c}"]),
            (f"[{a}, \\infty)", [rf"x \ge {a}", f"({a}, \\infty)"]),
            (rf"\text{{{rng.choice(['even', 'odd', 'Evelyn'])}}}", ["even", "Odd"]),
            (rf"{c}\frac{{1}}{{{b}}}", [f"{float(c + Fraction(1, b)):.9f}", f"{c}"]),
        ]
        gold, answers = rng.choice(kinds)
        return rng.choice(answers), gold

    return [one() for _ in range(count)]


def real():
    "Pairs of real gold answers and pairs of real completions with theirs, where the data are at hand."
    folder = os.environ.get("SPURIOUS_RLVR_DATA")
    if not folder:
        return [], []

    def lines(name):
        return [json.loads(line) for line in (pathlib.Path(folder) / name).read_text("utf-8").splitlines()]

    golds = [str(row["answer"]) for row in lines("benchmarks/math500_half.jsonl")]
    wrong = list(zip(golds[1:] + golds[:1], golds))
    respelt = [(g.replace(r"\frac", r"\dfrac").replace(" ", ""), g) for g in golds]
    return wrong + respelt, [(row["response"], row["gold"]) for row in lines("rollouts/rollouts.jsonl")]


def processor_time():
    "Seconds of processor time that this process and its workers have taken."
    total, ticks = time.process_time(), os.sysconf("SC_CLK_TCK")
    for worker in list(grading._Worker.alive):
        pid = worker.process.pid
        try:
            children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            for place in (pid, *children):
                fields = pathlib.Path(f"/proc/{place}/stat").read_text().rsplit(")", 1)[1].split()
                total += sum(map(int, fields[11:15] if place == pid else fields[11:13])) / ticks
        except OSError:
            pass  # it ended
    return total


def forget():
    "Empties every cache of verdicts and readings."
    for cached in (grading._clean, grading._read, grading._in_process, grading._looks, grading._exact):
        cached.cache_clear()
    grading._cache.verdicts.clear()


def rate(name, work, count):
    "Runs `work` on one core, twice: without and with the caches; returns the first rate."
    forget()
    rates = []
    for label in ("uncached", "cached"):
        start = processor_time()
        work()
        rates.append(count / max(processor_time() - start, 0.01))
        print(f"{name}, {label}: {rates[-1]:,.0f} answers/s/core")
    return rates[0]


def hostile(count, rng):
    "Answers that mean harm: a list, its mutations, and noise over the characters that LaTeX is made of."
    seeds = [
        "9^{9^{9^{9}}}",
        "9^9^9",
        "2^{2^{2^{64}}}",
        "10^{10^{10}}",
        "((9!)!)!",
        "99999!",
        "100000!",
        r"\binom{10^9}{5\cdot 10^8}",
        r"\Gamma(10^{9})",
        "10^{100}!",
        r"\sum_{n=1}^{10^{9}} \frac{1}{n^2}",
        r"\prod_{n=1}^{99999999} n",
        r"\int_0^1 \sin(\sin(\sin(x^x))) dx",
        r"\int_{0}^{1}" * 20 + "x dx",
        r"\lim_{x\to 0}\frac{\sin(\tan x)-\tan(\sin x)}{x^7}",
        "(x+y+z+w)^{200}",
        "(a+b+c+d+e+f+g+h)^{60}",
        "x^{99999}-1",
        "x^5-x-1=0",
        r"\sqrt{2}" * 300,
        "1+" * 900 + "1",
        r"\sin(" * 35 + "x" + ")" * 35,
        r"\frac{1}{1+" * 39 + "x" + "}" * 39,
        r"\sqrt{" * 60 + "2" + "}" * 60,
        "|" * 1000,
        r"(0,1)\cup" * 150 + "(2,3)",
        r"\det(\begin{pmatrix}"
        + r"\\".join("&".join(f"x_{{{i}{j}}}" for j in range(8)) for i in range(8))
        + r"\end{pmatrix})",
        "{" * 1_000_000,
        "}" * 1_000_000,
        "(" * 100_000,
        r"\frac{" * 5000,
        r"\boxed{" * 100_000,
        r"\boxed{}" * 10_000,
        "$" * 100_000,
        r"\(" * 50_000,
        r"\[" * 50_000,
        "answer is " * 20_000,
        "<answer>" * 50_000,
        "a" * 1_000_000,
        "\n" * 100_000,
        "1," * 900,
        "(1," * 300,
        r"\pm" * 500 + "1",
        "-" * 1500 + "1",
        "^" * 1500,
        "\\\\" * 900,
        "٤٢",
        "１２",
        "\u202e21\u202c",
        "1\u200b2",
        "12\x00",
        "\x00" * 100,
        "🙂" * 500,
        "½" * 900,
        "√" * 900,
        "a\u0301" * 900,
        "1e999999999",
        "1/0",
        r"\frac{1}{0}",
        r"0^0",
        "nan",
        "inf",
        "__import__('os').system('false')",
        "().__class__.__bases__[0].__subclasses__()",
        r"\text{__import__('os')}",
        "exec('1')",
        "lambda: 0",
        "x.__class__",
        "import os",
        "'%s'*10**9",
        r"\operatorname{__import__}(x)",
        r"\operatorname{exec}(x)",
        r"\operatorname{eye}(99999)",
        r"\operatorname{zeros}(99999,99999)",
        r"\gcd(10^{50}!,7)",
        "f(f(f(f(f(x)))))",
        "{}",
        "\\",
        "$",
    ]
    alphabet = [
        *"0123456789xyabn+-*/^_{}()[]|!,;=<>.&~%$\\ '\"#",
        r"\frac{",
        r"\sqrt{",
        r"\left(",
        r"\right)",
        "^{",
        "!",
        r"\cdot ",
        r"\sum_{n=1}^{",
        r"\int ",
        r"\pm ",
        r"\infty ",
        r"\text{",
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        r"\\",
        r"\boxed{",
        r"\cup ",
        r"\log_{",
        "9" * 20,
        "\u202e",
        "\x00",
        "é",
        "³",
        "π",
        "\n",
    ]
    yield from seeds[:count]
    for i in range(count - len(seeds)):
        kind = i % 4
        if kind == 0:
            yield "".join(rng.choices(alphabet, k=rng.randint(1, 60)))
        elif kind == 1:
            text = rng.choice(seeds)[:1500]
            place = rng.randrange(len(text) + 1)
            yield text[:place] + "".join(rng.choices(alphabet, k=3)) + text[place:]
        elif kind == 2:
            yield rng.choice(seeds)[:700] + rng.choice(["+", "^", ",", "=", r"\cdot ", "!"]) + rng.choice(seeds)[:700]
        else:
            yield "".join(
                chr(rng.choice([rng.randrange(32, 127), rng.randrange(0x3000), rng.randrange(0x110000)]))
                for _ in range(rng.randint(1, 40))
            )


def storm(count, rng):
    "Grades hostile answers one by one; returns the worst latency and the number of verdicts that called one right."
    golds = ["5", r"\frac{1}{2}", "x^2+1", r"(1,2)", r"\sqrt{2}", r"\text{even}", r"[0, \infty)"]
    times, undecided, right = [], 0, []
    for i, text in enumerate(hostile(count, rng)):
        gold = golds[i % len(golds)]
        completion = rf"So the answer is $\boxed{{{text}}}$." if i % 2 else text
        start = processor_time()
        verdict = grading.grade(completion, gold, rules=("boxed", "answer_tag", "stated", "last_math", "last_number"))
        times.append(max(processor_time() - start, 0))
        undecided += verdict.correct is None
        if verdict.correct and verdict.rule in ("boxed", "answer_tag", "stated"):
            right.append((text[:60], gold))  # the last number of any text may be the gold one
        if (i + 1) % 1000 == 0:
            print(f"  {i + 1:,} hostile answers, worst so far {max(times):.2f} s", file=sys.stderr)
    print(
        f"hostile answers: {count:,} in {sum(times):,.0f} s, median {1000 * statistics.median(times):.2f} ms, worst"
        f" {max(times):.2f} s, undecided {undecided:,}, called right {len(right)}"
    )
    for text, gold in right:
        print(f"  called right: {text!r} for {gold!r}")
    return max(times)


def left_behind(started):
    "Process ids that are still there of those that ever served this process."
    grading._pool.stop()
    gc.collect()
    time.sleep(0.2)
    return [pid for pid in started if pathlib.Path(f"/proc/{pid}").exists()]


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--hostile", type=int, default=10_000, help="how many hostile answers")
    options.add_argument("--ordinary", type=int, default=2_000, help="how many ordinary answers")
    options = options.parse_args()
    rng, started = random.Random(0), set()
    begin = grading._Worker.__init__

    def counted(worker):
        begin(worker)
        started.add(worker.process.pid)

    grading._Worker.__init__ = counted
    grading._pool.size = 1  # one core
    start = time.perf_counter()
    grading.is_equivalent(r"\sqrt{12}", r"2\sqrt{3}")
    print(f"first answer that needs algebra, with the start of its worker: {time.perf_counter() - start:.2f} s")
    plain = [(rf"12 + 30 is \boxed{{{i % 90}}}", str(i % 70)) for i in range(512)]
    start = time.perf_counter()
    grading.grade_many(plain)
    print(f"whole numbers: {(time.perf_counter() - start) / 512 * 1e6:.1f} µs an answer, extraction included")
    pairs = ordinary(options.ordinary, rng)
    rates = [rate("ordinary answers, generated", lambda: [grading.is_equivalent(a, g) for a, g in pairs], len(pairs))]
    golds, completions = real()
    if golds:
        rates.append(
            rate(
                "MATH-500 gold answers against each other and respelt",
                lambda: [grading.is_equivalent(a, g) for a, g in golds],
                len(golds),
            )
        )
    if completions:
        rates.append(rate("real completions", lambda: [grading.grade(c, g) for c, g in completions], len(completions)))
    grading._pool.stop()
    grading._pool = grading._Pool()
    worst, leaked = storm(options.hostile, rng), left_behind(started)
    print(f"processes left behind: {len(leaked)} of {len(started)}")
    holds = min(rates) >= HOLD_RATE and worst <= HOLD_LATENCY and not leaked
    print("holds" if holds else "DOES NOT HOLD")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
