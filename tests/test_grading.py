"""The grader beyond its notebook: families of answers, hostile text, processes, and real data."""

import json
import math
import multiprocessing
import os
import pathlib
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from decimal import Decimal
from fractions import Fraction

import pytest
from grading_kinds import KINDS, gsm8k
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pace import PATIENCE

from spurious_rlvr import grading
from spurious_rlvr.core import ConfigError, DataError
from spurious_rlvr.grading import extract_answer, grade, grade_many, is_equivalent

ROOT = pathlib.Path(__file__).resolve().parents[1]
EVERY_RULE = ("boxed", "answer_tag", "stated", "last_math", "last_number")
DATA = os.environ.get("SPURIOUS_RLVR_DATA")
needs_data = pytest.mark.skipif(
    not DATA, reason="real data: set SPURIOUS_RLVR_DATA to the folder that holds grading/ and rollouts/"
)

# Families of answers. Left of the bar the gold answer, right of it what is the same and what is not.
FAMILIES = {
    "numbers": [
        ("142", ["142.0", "142.", "+142", "0142", "142.00"], ["14", "1420", "-142", "14.2"]),
        ("-0.5", ["-.5", "-1/2", r"-\frac12"], ["0.5", r"\frac12"]),
        ("12000", ["12,000", "12{,}000", r"12,\!000", r"12\,000", r"1.2\times 10^4"], ["12,00", "1200"]),
        ("1/3", ["0.333333", r"0.\overline{3}"], ["0.333", "0.34"]),
    ],
    "fractions": [
        (
            r"\frac12",
            [r"\frac{1}{2}", r"\dfrac12", r"\tfrac{1}2", "1/2", "0.5", r"\frac{2}{4}", "½"],
            [r"\frac13", "2", "1/20", "12"],
        ),
        (r"2\frac{1}{3}", ["7/3", "2 1/3", r"\frac{7}{3}"], [r"\frac{2}{3}", "2"]),
        (r"-\frac{3}{4}", [r"\frac{-3}{4}", r"\frac{3}{-4}"], [r"\frac34"]),
    ],
    "units": [
        (r"5\text{ cm}^2", ["5", "5 cm^2", r"5\,\mathrm{cm}^{2}", "5 square centimeters"], ["6", r"5\text{ m}^2"]),
        ("3 hours", ["3", "180 minutes"], ["3 minutes"]),
        (r"125\text{ miles}", ["125", "125 miles", r"125\textnormal{ miles}"], ["12.5"]),
        ("7", ["7 apples", r"7\text{ apples}"], ["7x", "7 ab"]),
    ],
    "percent": [
        (r"28\%", ["28", "28%", "28 percent", "0.28", r"28\text{ percent}", "7/25"], ["2.8", "28 cm"]),
        ("0.28", [r"28\%"], ["28"]),
    ],
    "dollars": [
        (
            r"\$32,\!348",
            ["32348", r"\$32348", "$32,348", "32348 dollars", "32348.00"],
            ["3234.8", r"32348\text{ cents}"],
        ),
        (r"\$0.50", ["50 cents", "0.5"], ["5 cents"]),
    ],
    "degrees": [
        (r"145^\circ", ["145", "145°", r"145^{\circ}", "145 degrees", r"145\text{ degrees}"], ["144", "35^\\circ"])
    ],
    "text": [
        (r"\text{Evelyn}", ["Evelyn", "evelyn.", r"\textbf{Evelyn}", r"\mathrm{Evelyn}"], ["Evely", r"\text{Navin}"]),
        (r"\text{odd}", ["odd", "Odd"], ["even", "oddd", "ddo"]),
        ("4:40 a.m.", ["4:40 AM", r"4:40\text{ a.m.}"], ["4:45 a.m."]),
        ("no solution", [r"\text{No solution}"], ["one solution"]),
    ],
    "choices": [
        ("B", ["(B)", r"\text{(B)}", "B.", r"\textbf{(B)}\ 12", "B) 12"], ["A", "(C)", "BC"]),
        (r"\textbf{(B)}\ 12", ["B", "12", "(B)"], ["C", "13", "(A) 12"]),
    ],
    "intervals": [
        (
            r"(2, \infty)",
            ["(2,oo)", "x > 2", "2 < x", r"x \in (2, \infty)", r"\left(2, +\infty\right)"],
            [r"[2, \infty)", r"x \ge 2", "(2, 3)"],
        ),
        (
            r"(-\infty, 1) \cup (3, \infty)",
            [r"(3,\infty)\cup(-\infty,1)", r"x<1\text{ or }x>3"],
            [r"(-\infty,1]\cup(3,\infty)", r"(-\infty,1)"],
        ),
        ("[0,1)", [r"0 \le x < 1"], ["(0,1)", "[0,1]"]),
    ],
    "lists and sets": [
        (r"\{1, 2, 3\}", ["3,2,1", r"\{3,1,2\}", "1, 2 and 3", "x = 1, 2, 3"], ["1,2", "1,2,4", "(1,2,3)"]),
        (r"1 \pm \sqrt{19}", [r"1+\sqrt{19}, 1-\sqrt{19}"], [r"1+\sqrt{19}", r"1 \pm \sqrt{18}"]),
    ],
    "tuples": [
        (
            "(1,2)",
            ["( 1, 2 )", r"\left(1,2\right)", "1,2", "(1.0, 2)", "(x,y)=(1,2)", r"\langle 1,2 \rangle"],
            ["(2,1)", "[1,2]", "(1,2,3)", "1"],
        ),
        ("(1,2),(3,4)", ["(3,4),(1,2)"], ["(1,2)", "(2,1),(4,3)"]),
    ],
    "matrices": [
        (
            r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
            [r"\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}", r"\left[\begin{array}{cc}1&2\\3&4\end{array}\right]"],
            [r"\begin{pmatrix}1&3\\2&4\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"],
        ),
        (
            r"\begin{pmatrix}1\\2\end{pmatrix}",
            ["(1,2)", r"\begin{pmatrix}1.0\\2\end{pmatrix}"],
            [r"\begin{pmatrix}1&2\end{pmatrix}"],
        ),
    ],
    "equations": [
        ("x = 5", ["5", "x=5", "5 = x"], ["y = 5", "4"]),
        ("y = 2x + 3", ["2x+3", "y = 3 + 2x", "2x - y + 3 = 0"], ["2x - 3", "y = 2x"]),
        ("5", ["x = 5", r"\sqrt{25} = 5"], ["x = 4"]),
    ],
    "bases": [("204_5", ["204_{5}", "204"], ["206_5", "204_6", "54"])],
    "ratios": [("3:2", ["6:4", "3/2", "1.5"], ["2:3"])],
    "expressions": [
        (r"3\sqrt{13}", [r"\sqrt{117}", "3√13", "3sqrt(13)"], [r"2\sqrt{13}", r"3\sqrt{13}x"]),
        ("(x+1)^2", ["x^2+2x+1", "x**2 + 2*x + 1"], ["x^2+1"]),
        ("p - q", ["-q+p", "p-q"], ["q-p", "p + q"]),
        (r"\sin x", ["sin x", "sin(x)"], [r"\cos x"]),
        ("6+9i", ["9i + 6"], ["6-9i"]),
        (r"\frac{\pi}{2}", [r"\frac\pi2", r"\pi/2", "0.5\\pi"], [r"\pi", "1.57"]),
        (r"2\sin b\cos a", [r"2 \cos a \sin b"], [r"2\sin a\cos b"]),
    ],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_family(family):
    "Each gold answer with what is the same and what is not; also wrapped in delimiters, and boxed within a completion."
    wrong = []
    for gold, same, different in FAMILIES[family]:
        for answer, wanted in [(a, True) for a in [gold, *same]] + [(a, False) for a in different]:
            if is_equivalent(answer, gold) is not wanted:
                wrong.append((answer, gold, wanted))
            if is_equivalent(f"${answer}$", rf"\({gold}\)") is not wanted and not answer.startswith("$"):
                wrong.append((f"${answer}$", gold, wanted))
            if grade(rf"So it is $\boxed{{{answer}}}$.", gold).correct is not wanted:
                wrong.append((rf"\boxed{{{answer}}}", gold, wanted))
    assert not wrong


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**4), st.integers(1, 9))
@settings(max_examples=300, deadline=None)
def test_every_spelling_of_a_fraction(top, bottom, factor):
    value = Fraction(top, bottom)
    spellings = [
        f"{top}/{bottom}",
        rf"\frac{{{top}}}{{{bottom}}}",
        rf"\dfrac{{{factor * top}}}{{{factor * bottom}}}",
        rf"$\frac {{{top}}} {{{bottom}}}$",
    ]
    if value.denominator == 1:
        spellings += [str(value), f"{value}.0", f"{value.numerator:,}"]
    if 10**12 % value.denominator == 0:
        spellings.append(f"{Decimal(value.numerator) / value.denominator:f}")
    for spelling in spellings:
        assert grading._number(grading._clean(spelling)).value == value, spelling


@given(st.fractions(max_denominator=1000), st.fractions(max_denominator=1000))
@settings(max_examples=300, deadline=None)
def test_different_fractions_differ(x, y):
    assume(x != y)
    assert (
        is_equivalent(rf"\frac{{{x.numerator}}}{{{x.denominator}}}", f"{y.numerator}/{y.denominator}", percent="value")
        is False
    )


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=5, unique=True), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_order(items, rng):
    shuffled = rng.sample(items, len(items))

    def text(numbers):
        return ", ".join(map(str, numbers))

    assert is_equivalent(text(shuffled), rf"\{{{text(items)}\}}") is True
    assert is_equivalent(f"({text(shuffled)})", f"({text(items)})") is (shuffled == items)
    assert is_equivalent(f"({text(shuffled)})", f"({text(items)})", ordered=False) is True


def test_conventions():
    assert is_equivalent("070", "70", convention="aime") and is_equivalent("70", "070", convention="aime")
    assert is_equivalent("69.9999999999999", "70", convention="aime") is False
    assert is_equivalent("0.333", "1/3", convention="lenient") and not is_equivalent("0.333", "1/3")
    assert not is_equivalent("52", "52_8", convention="exact") and is_equivalent("52", "52_8")
    with pytest.raises(ConfigError, match="there is no 'strict'"):
        is_equivalent("1", "1", convention="strict")
    with pytest.raises(ConfigError, match="the options are rounded"):
        grade("1", "1", digits=3)
    with pytest.raises(ConfigError, match="no rule 'last'"):
        grade("1", "1", rules=("last",))
    with pytest.raises(DataError, match="must be text"):
        grade_many([("1", None)])


@pytest.mark.parametrize(
    "text, rules, found",
    [
        (r"\boxed{1} then \boxed{2", None, ("1", "boxed")),
        (r"\boxed{2", None, (None, None)),
        (r"\boxed {\{1,\, 2\}}", None, (r"\{1,\, 2\}", "boxed")),
        (r"\fbox{7}", None, ("7", "boxed")),
        (r"\boxed{\boxed{3}}", None, (r"\boxed{3}", "boxed")),
        (r"<answer>4</answer> <answer>", None, ("4", "answer_tag")),
        (r"\boxed{5} <answer>4</answer>", ("answer_tag", "boxed"), ("4", "answer_tag")),
        ("The answer is 3.5.", None, ("3.5", "stated")),
        ("Final Answer: $x+1$. I hope it is correct.", None, ("x+1", "stated")),
        ("So $x = 2$ and we are done", None, (None, None)),
        ("So $x = 2$ and we are done", ("last_math",), ("x = 2", "last_math")),
        ("it costs $5 and $6", ("last_math",), ("6", "last_math")),
        ("", EVERY_RULE, (None, None)),
    ],
)
def test_extraction(text, rules, found):
    assert extract_answer(text, **({"rules": rules} if rules else {})) == found


# Hostile text

HOSTILE = [
    "9^{9^{9^{9}}}",
    "2^{2^{2^{64}}}",
    "10^{10^{10}}",
    "((9!)!)!",
    "100000!",
    r"\binom{10^9}{5\cdot 10^8}",
    r"\Gamma(10^{9})",
    r"\sum_{n=1}^{10^{9}} \frac{1}{n^2}",
    r"\int_{0}^{1}" * 20 + "x dx",
    "(x+y+z+w)^{200}",
    "1+" * 900 + "1",
    r"\sin(" * 35 + "x" + ")" * 35,
    "|" * 1000,
    "{" * 1_000_000,
    "(" * 100_000,
    r"\frac{" * 5000,
    r"\boxed{" * 100_000,
    "$" * 100_000,
    r"\[" * 50_000,
    "answer is " * 20_000,
    "<answer>" * 50_000,
    "a" * 1_000_000,
    "1," * 900,
    r"\pm" * 500 + "1",
    "^" * 1500,
    "\\\\" * 900,
    "٤٢",
    "\u202e21\u202c",
    "12\x00",
    "🙂" * 500,
    "√" * 900,
    "1e999999999",
    "1/0",
    r"\frac{1}{0}",
    "nan",
    "__import__('os').system('false')",
    "().__class__.__bases__[0].__subclasses__()",
    r"\operatorname{zeros}(99999,99999)",
    r"\operatorname{exec}(x)",
    "'%s'*10**9",
    "\\",
    "{}",
    "$",
]


def processor_time():
    "Seconds of processor time that this process and its workers have taken, as the limits count it."
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


def timed(text, gold):
    start = processor_time()
    verdict = grade(text, gold, rules=EVERY_RULE)
    return verdict, processor_time() - start


@pytest.mark.parametrize("place", range(2))
def test_hostile_list(place):
    "Bare and boxed: nothing hangs, nothing is called right, and what this list was made for is undecided."
    is_equivalent(r"\sqrt{12}", r"2\sqrt{3}")  # the start of a worker does not count against an answer
    for text in HOSTILE:
        verdict, seconds = timed(rf"so $\boxed{{{text}}}$" if place else text, r"\frac{1}{2}")
        assert seconds < 2, (text[:40], seconds)
        assert verdict.correct is not True, (text[:40], verdict)
    for text in [
        "9^{9^{9^{9}}}",
        "((9!)!)!",
        "100000!",
        "{" * 1_000_000,
        "(" * 1000,
        "٤٢",
        "\u202e21\u202c",
        "12\x00",
        "__import__('os').system('false')",
    ]:
        assert is_equivalent(text, "12") is None, text[:40]


@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(
            st.sampled_from(
                [
                    *"0123456789xyn+-*/^_{}()[]|!,;=<.%$\\ ",
                    r"\frac{",
                    r"\sqrt{",
                    r"\left(",
                    r"\pm ",
                    r"\text{",
                    r"\cup ",
                    r"\boxed{",
                    "\n",
                    r"\begin{pmatrix}",
                    r"\end{pmatrix}",
                    r"\\",
                    r"\sum_{n=1}^{",
                    "and",
                    "or",
                    "answer is ",
                ]
            ),
            max_size=40,
        ).map("".join),
    ),
    st.sampled_from(["5", r"\frac{1}{2}", "x^2+1", "(1,2)", r"\text{even}"]),
)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_text(text, gold):
    "Any text gets a verdict in time, and our own reading of it never fails."
    verdict, seconds = timed(text, gold)
    assert seconds < 2 and verdict.correct in (True, False, None)
    assert not verdict.reason.startswith("cannot be compared (T"), verdict  # TypeError and the like would be ours
    assert is_equivalent(text, text) in (True, None)


def test_hostile_answers_do_not_hold_up_others():
    hostile = [rf"\sum_{{n=1}}^{{10^{{{9 + i}}}}} \sin(n)" for i in range(6)]
    ordinary = [(rf"\boxed{{\sqrt{{{4 * i}}}}}", rf"2\sqrt{{{i}}}") for i in range(2, 14)]
    done = {}

    def attack():
        done["attack"] = (
            [v.correct for v in grade_many([(rf"\boxed{{{h}}}", "7") for h in hostile])],
            time.perf_counter(),
        )

    is_equivalent(r"\sqrt{12}", r"2\sqrt{3}")
    attacker = threading.Thread(target=attack)
    attacker.start()
    time.sleep(0.1)
    latencies = []
    while attacker.is_alive() and len(latencies) < 40:
        i, start = len(latencies) + 30, processor_time()
        assert is_equivalent(rf"\sqrt{{{9 * i}}}", rf"3\sqrt{{{i}}}") is True
        latencies.append(processor_time() - start)
        time.sleep(0.05)
    # it waits for the short turns of those before it, which two workers take side by side, and never for a full one
    assert len(latencies) > 10 and max(latencies) < 2, latencies
    mixed = grade_many([(rf"\boxed{{{h}+1}}", "7") for h in hostile[:2]] + ordinary)
    assert [v.correct for v in mixed[2:]] == [True] * len(ordinary)
    attacker.join()
    assert done["attack"][0] == [None] * 6
    assert is_equivalent(r"\sqrt{50}", r"5\sqrt{2}") is True  # the pool lives


# Processes

PLAIN = [(f"so \\boxed{{{i}}}", str(i % 7)) for i in range(512)]


def python(code, *arguments, through_stdin=False, timeout=60):
    command = [sys.executable, "-"] if through_stdin else [sys.executable, "-c", code]
    return subprocess.run(
        [*command, *arguments],
        input=code if through_stdin else None,
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
    )


def test_plain_answers_start_nothing():
    code = """
        import sys
        from spurious_rlvr import grading
        verdicts = grading.grade_many([("so \\\\boxed{%d}" % i, str(i % 7)) for i in range(512)])
        assert sum(v.correct for v in verdicts) == 7, sum(v.correct for v in verdicts)
        assert not list(grading._Worker.alive)
        heavy = [m for m in sys.modules if m.split(".")[0] in ("sympy", "math_verify", "torch", "transformers")]
        assert not heavy, heavy
    """
    result = python(textwrap.dedent(code))
    assert result.returncode == 0, result.stderr


SCRIPT = """
import os, sys
from spurious_rlvr import grading
pairs = [
    (r"\\boxed{\\sqrt{8}}", r"2\\sqrt{2}"),
    (r"\\boxed{\\sum_{n=1}^{10^9} \\sin(n)}", "2"),
    (r"\\boxed{\\sqrt{27}}", r"3\\sqrt{3}"),
]
print([v.correct for v in grading.grade_many(pairs)])
print(*[worker.process.pid for worker in grading._Worker.alive])
"""


def gone(pid):
    "Whether a process has ended (a zombie has)."
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


def all_gone(pids, seconds=5):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if all(map(gone, pids)):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("how", ["python -c", "python -", "an unguarded script"])
def test_started_from(how, tmp_path):
    if how == "an unguarded script":
        (tmp_path / "script.py").write_text(SCRIPT)
        result = subprocess.run(
            [sys.executable, str(tmp_path / "script.py")],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    else:
        result = python(SCRIPT, through_stdin=how == "python -")
    assert result.returncode == 0, result.stderr
    verdicts, pids = result.stdout.strip().splitlines()
    assert verdicts == "[True, None, True]"
    assert pids and all_gone(map(int, pids.split()))


def test_jupyter():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(SCRIPT)],
        metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}},
    )
    nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(ROOT)}}).execute()
    assert notebook.cells[0].outputs[0].text.startswith("[True, None, True]")


def test_threads():
    results = {}

    def work(i):
        results[i] = is_equivalent(rf"\sqrt{{{4 * (i + 20)}}}", rf"2\sqrt{{{i + 20}}}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: True for i in range(12)}
    assert len(list(grading._Worker.alive)) <= grading._pool.size


def in_child(queue):
    queue.put(
        (
            is_equivalent(r"\sqrt{44}", r"2\sqrt{11}"),
            [worker.process.pid for worker in grading._Worker.alive if worker.process.poll() is None],
        )
    )


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process")
def test_in_a_child_process(method):
    "A forked child leaves its parent's workers alone and gets its own."
    assert is_equivalent(r"\sqrt{20}", r"2\sqrt{5}")
    mine = {worker.process.pid for worker in grading._Worker.alive}
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=in_child, args=(queue,))
    child.start()
    verdict, theirs = queue.get(timeout=60)
    child.join(timeout=60)
    assert verdict is True and child.exitcode == 0
    assert all_gone(set(theirs) - mine)
    assert is_equivalent(r"\sqrt{28}", r"2\sqrt{7}") is True


@pytest.mark.parametrize("when", ["idle", "busy"])
def test_killed_owner_leaves_no_worker(when):
    code = (
        SCRIPT
        + """
sys.stdout.flush()
if sys.argv[1] == "busy": grading.is_equivalent(r"\\sum_{n=1}^{10^{9}} \\sin(n)", "3")
else: sys.stdin.read()
"""
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, when], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    owner.stdout.readline()
    pids = list(map(int, owner.stdout.readline().split()))
    children = [int(p) for pid in pids for p in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    time.sleep(0.2)
    os.kill(owner.pid, signal.SIGKILL)
    owner.communicate()
    assert pids and children and all_gone(pids + children)


def test_a_killed_worker_is_replaced():
    assert is_equivalent(r"\sqrt{12}", r"2\sqrt{3}")
    for worker in list(grading._Worker.alive):
        if worker.process.poll() is None:
            os.killpg(worker.process.pid, signal.SIGKILL)
    time.sleep(0.1)
    assert all(is_equivalent(rf"\sqrt{{{4 * i}}}", rf"2\sqrt{{{i}}}") for i in range(101, 110))


def forget():
    "Empties every cache of verdicts."
    grading._cache.verdicts.clear()
    grading._in_process.cache_clear()


def test_a_stalled_worker_is_asked_again(monkeypatch):
    "Workers that are stopped count as lost after the wall-clock guard; another one gives the verdict."
    assert is_equivalent(r"\sqrt{12}", r"2\sqrt{3}")
    idle = list(grading._pool.idle)
    for worker in idle:
        pid = worker.process.pid
        for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(child), signal.SIGSTOP)
    wait = grading._Worker._line
    monkeypatch.setattr(grading._Worker, "_line", lambda worker, seconds: wait(worker, 0.5 if worker in idle else 60))
    monkeypatch.setattr(grading, "_TRIES", len(idle) + 1)
    assert idle and is_equivalent(r"\sqrt{1452}", r"22\sqrt{3}") is True
    assert all(worker.process.poll() is not None for worker in idle)


def test_a_lost_verdict_is_not_remembered(monkeypatch):
    forget()
    pair = r"\sqrt{2028}", r"26\sqrt{3}"
    with monkeypatch.context() as patch:
        patch.setattr(grading._Pool, "_ask_once", lambda pool, task: {"lost": True})
        assert is_equivalent(*pair) is None
        assert grade(rf"\boxed{{{pair[0]}}}", pair[1]).reason == grading._LOST
    assert is_equivalent(*pair) is True


def needing_algebra():
    "Pairs that need a worker: equal and different, cheap and dear, and two that take more time than they get."
    pairs = [(rf"\sqrt{{{n * n * 3}}}", rf"{n}\sqrt{{3}}") for n in range(5, 12)]
    pairs += [(rf"\frac{{{n}}}{{\sqrt{{{n}}}+1}}", rf"\frac{{{n}(\sqrt{{{n}}}-1)}}{{{n - 1}}}") for n in (3, 5, 6, 7)]
    pairs += [(rf"\sqrt{{2}}+2^{{-{n}}}", r"\sqrt{2}") for n in (90, 300, 900)]
    pairs += [(r"\sin(2x)\cos x", r"2\sin x\cos^2 x"), (r"\{x \mid x > 2\}", r"(2,\infty)"), (r"\sqrt{x^2}", "x")]
    pairs += [(rf"\sum_{{k=1}}^{{{n}}} k^2", str(n * (n + 1) * (2 * n + 1) // 6)) for n in (10, 20)]
    return pairs + [(r"\sum_{n=1}^{10^{9}} \sin(n)", "7"), (r"\sum_{n=1}^{10^{8}} \cos(n)", "7")]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts on processes as Linux has them")
def test_verdicts_do_not_depend_on_load():
    "The same verdicts alone and beside four busy processes: limits are processor time."
    pairs = [(rf"\boxed{{{answer}}}", gold) for answer, gold in needing_algebra()]
    forget()
    quiet = grade_many(pairs)
    busy = [
        subprocess.Popen([sys.executable, "-c", "import time\nwhile time.process_time() < 60: pass"]) for _ in range(4)
    ]
    try:
        forget()
        loaded = grade_many(pairs)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert [(v.correct, v.reason) for v in loaded] == [(v.correct, v.reason) for v in quiet]
    assert {True, False, None} == {v.correct for v in quiet}


def test_processor_time_is_what_counts():
    "A worker that sleeps through its limit is not late; one that computes through it is."
    code = """
        import json, os, sys, time
        from spurious_rlvr import grading
        def judge(answer, *_):
            start = time.process_time()
            if answer == "sleep": time.sleep(0.6)
            while answer == "compute" and time.process_time() < start + 5: pass
            return True, "done"
        grading._judge, grading._load_algebra = judge, lambda: None
        read, write = os.pipe()
        tasks = [dict(answer=answer, gold="7", convention={}, limit=0.2) for answer in ("sleep", "compute")]
        os.write(write, b"".join(json.dumps(task).encode() + b"\\n" for task in tasks))
        os.close(write); os.dup2(read, 0)
        grading._serve()
    """
    replies = [json.loads(line) for line in python(textwrap.dedent(code)).stdout.splitlines()]
    assert replies[0] == {"ready": True} and replies[1] == {"equal": True, "reason": "done"}
    assert replies[2]["reason"].startswith("took longer")


@pytest.mark.parametrize("text", ["\ud800", "5\udfff", r"\frac{1}{2}" + "\udc80"])
def test_a_lone_surrogate_breaks_nothing(text):
    "Text that no encoding takes comes out of broken decoders: undecided, never an error."
    assert is_equivalent(text, "5") is None and is_equivalent("5", text) is None
    assert grade(rf"so \boxed{{{text}}}", "5").correct is None
    assert grade(f"it is {text}. The answer is 5.", "5").correct is True
    assert extract_answer(text) == (None, None)
    assert grade_many([(text, "5"), (r"\boxed{\sqrt{25}}", "5")])[1].correct is True


# Kinds: rules that make right and wrong pairs, see grading_kinds.py


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_kind(kind):
    @given(st.randoms(use_true_random=False))
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def holds(rng):
        answer, gold, right = kind.draw(rng)
        verdict = grade(answer, gold).correct if kind.graded else is_equivalent(answer, gold)
        assert verdict is right, (answer, gold, right)

    assert kind.how
    holds()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_kinds_go_both_ways(kind):
    "Each kind makes right pairs and wrong ones: a grader that always says the same fails it."
    rng = random.Random(0)
    undecided = {None} if kind.name == "gold answers that cannot be judged" else {True, False}
    assert {kind.draw(rng)[2] for _ in range(200)} == undecided


def arithmetic(rng, depth):
    "A random expression of whole numbers in LaTeX and in Python's notation, with its value; None where it has none."
    if depth == 0:
        n = rng.randint(0, 30)
        return str(n), str(n), Fraction(n)
    sign = rng.choice("+-*/^!")
    x, y, a = arithmetic(rng, depth - 1)
    if sign in "^!":
        n = rng.randint(2, 9) if sign == "!" else rng.randint(0, 60)
        if sign == "!":
            return rf"{n}! \cdot ({x})", f"factorial({n})*({y})", None if a is None else math.factorial(n) * a
        return rf"\left({x}\right)^{{{n}}}", f"({y})**{n}", None if a is None else a**n
    u, v, b = arithmetic(rng, depth - 1)
    shown = r"\cdot" if sign == "*" else sign
    latex = rf"\frac{{{x}}}{{{u}}}" if sign == "/" else rf"({x}) {shown} ({u})"
    if a is None or b is None or sign == "/" and b == 0:
        return latex, f"({y}){sign}({v})", None
    value = {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}[sign]()
    return latex, f"({y}){sign}({v})", value


@given(st.randoms(use_true_random=False), st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_exact_numbers_are_compared_exactly(rng, depth):
    "Random arithmetic against its value, worked out with Python's fractions, and against a value very near to it."
    latex, python_text, value = arithmetic(rng, depth)
    assume(value is not None and max(value.numerator.bit_length(), value.denominator.bit_length()) < 4_000)
    written = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    near = rf"{written}+\frac{{1}}{{2^{{{rng.randint(50, 900)}}}}}"
    for text in (latex, python_text):
        if len(written) < 1_500:
            assert is_equivalent(text, written) is True, (text, written)
            assert is_equivalent(text, near) is False, (text, near)


@pytest.mark.parametrize(
    "said",
    [
        "less than {}", "at least {}", "not {}", "{} squared", "the square root of {}", "{} factorial", "twice {}",
        "minus {}", "between {} and 99",
        "{} or 98", "{} thirds", "{} dozen", "{} million", "one less than {}", "either {} or 98",
        "{} to the power of 3", "half of {}", "more than ${}$", "at most ${}$",
        "${}$ million", "$3$ plus ${}$", "a multiple of ${}$", "$7$ if $n={}$",
        "$7$ instead of ${}$", "{} choose 2", "{}^2", "{}n", "{} * 8",
    ],
)  # fmt: skip
def test_what_hedges_states_no_number(said):
    for n in (5, 12):
        for form in ("The answer is {}.", "<answer>The total is {}.</answer>", "Final Answer: the largest one is {}"):
            assert grade(form.format(said.format(n)), str(n)).correct is not True, (form, said)


@pytest.mark.parametrize(
    "said",
    [
        "There are {} pairs, so 600 in all.", "There are {} cases and 600 solutions.",
        "$a$ is 600 and $b$ is {}", "$m=600$, and $n$ is {}",
        "There are {}^2 ways.", "There are {} x 8 ways.",
        "There were {}, and now there are 600.", "{} degrees below zero",
    ],
)  # fmt: skip
def test_one_of_two_numbers_is_not_the_answer(said):
    for n in (5, 12):
        assert grade(f"<answer>{said.format(n)}</answer>", str(n)).correct is not True


@pytest.mark.parametrize("filling", ["so ", " " * 50, "if x = ", "$a$ is 1, ", "and 1 ", "is 5 "])
def test_a_long_sentence_in_a_tag_takes_no_time(filling):
    text = f"<answer>There are 5 {filling * (150_000 // len(filling))}!</answer>"
    began = time.process_time()
    assert grade(text, "5").correct is not True
    assert time.process_time() - began < 2 * PATIENCE


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        (r"(B) \sqrt{2}", r"(B) \sqrt{3}", False), ("(C) 1/2", "(C) 0.5", True),
        ("5th May", "May 5", True), ("two thousand and five", "2005", True),
        ("(B) 17", "(B) 18", False), ("17", "B. 17", True), ("B", "B) 17", True),
        ("2^3 = 9", "9", False), ("40 grand pianos", "40", True),
        ("6'", '6"', False), ("6'", "72 inches", True), ("3 xyz", "3", False),
        ("3 root two", "3", False), ("10 times", "10", True),
        ("1.7320509", r"\sqrt{3}", False), ("1.7320508", r"\sqrt{3}", True),
        (r"C(n,3)", r"\frac{n(n-1)(n-2)}{6}", True),
        (r"\binom{n+1}{2}", r"\frac{n(n-1)}{2}", False), ("C^3_8", "56", True),
        (r"\operatorname{arctg}(1)", r"\frac{\pi}{4}", True),
        ("3\u200bx", "3x", True), ("5000₩", "5000", True), ("Interval(0, oo)", r"[0,\infty)", True),
        ("S(3)/4", "0.75", True),
        ("Matrix([[1, 2], [3, 4]]).T", "Matrix([[1, 3], [2, 4]])", True),
        (r"\boxed{5} million", "5", False), ("minus three", "-3", True),
        ("one hundred and five", "105", True), (r"x\text{ is even}", "x", False), (r"\max\{3, 5\}", "5", True),
        ("]0;1]", "(0,1]", True),
    ],
)  # fmt: skip
def test_neighbours(answer, gold, right):
    "What stands one word, letter or sign apart."
    assert is_equivalent(answer, gold) is right


def test_the_table_of_units_is_what_its_tool_writes():
    pytest.importorskip("pint", reason="the table of units is compared with pint's definitions where pint is installed")
    result = subprocess.run([sys.executable, "tools/units.py", "--check"], cwd=ROOT, timeout=120)
    assert result.returncode == 0


def test_measure_grader_counts_and_bounds():
    "Against a hundred labels with known errors: counts, Wilson's intervals by their formula, and J."
    rollouts = [
        {"completion": rf"\boxed{{{i % 3}}}", "gold": "1", "label": (i % 3 == 1) != (i % 10 == 0), "odd": i % 2}
        for i in range(100)
    ]
    table = grading.measure_grader(rollouts, "label", by="odd")
    row = table.loc[("all", "all")]
    paid = [r for i, r in enumerate(rollouts) if i % 3 == 1 and not r["label"]]
    missed = [r for i, r in enumerate(rollouts) if i % 3 != 1 and r["label"]]
    assert (row["false positives"], row["false negatives"]) == (len(paid), len(missed))
    assert len(table.attrs["disagreements"]) == len(paid) + len(missed) == 10
    n, p, z = row["wrong"], row["false positives, rate"], 1.959963984540054
    middle, half = (
        (p + z * z / 2 / n) / (1 + z * z / n),
        z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n) / (1 + z * z / n),
    )
    assert row["false positives, low"] == pytest.approx(middle - half) and row[
        "false positives, high"
    ] == pytest.approx(middle + half)
    assert row["J"] == pytest.approx(1 - row["false positives, rate"] - row["false negatives, rate"])
    assert row["J, low"] < row["J"] < row["J, high"]
    assert table.loc["odd", "rollouts"].tolist() == [50, 50]
    unknown = grading.measure_grader(rollouts, [None, *(r["label"] for r in rollouts[1:])])
    assert unknown.loc[("all", "all"), "undecided"] == 1


def test_the_second_judge_is_safe():
    "Hostile completions cost the second judge its limit and no more, and it never calls Python's evaluator."
    pairs = [
        (rf"\boxed{{{text}}}", "7")
        for text in ("__import__('os').system('false')", r"\sum_{n=1}^{10^9} \sin(n)", "\ud800", "7")
    ]
    opinions = grading.second_opinion([*pairs, ("it is 7", "__import__('os')")])
    assert opinions[3] is True and True not in opinions[:3] and opinions[4] is not True


@given(st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_every_solution_in_the_form_of_gsm8k_is_its_own_answer(rng):
    body, shown, value = gsm8k(rng)
    solution = f"{body}\n#### {shown}"
    assert is_equivalent(solution, solution) is True
    assert grade(solution, solution).correct is True
    assert grade(rf"so \boxed{{{value}}}", solution).correct is True


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="macOS does not limit the address space; the time limit holds there"
)
def test_memory_is_limited():
    "In a worker, with a judge that asks for more than it may have: undecided, and the next task is served."
    code = """
        import json, os
        from spurious_rlvr import grading
        grading._limit_memory()
        size = dict(much=2 * grading._MEMORY, little=10)
        grading._judge = lambda answer, *_: (len(bytearray(size[answer])) > 0, "had it")
        tasks = [dict(answer=answer, gold="7", convention={}, limit=20.) for answer in ("much", "little")]
        read, write = os.pipe()
        os.write(write, b"".join(json.dumps(task).encode() + b"\\n" for task in tasks))
        os.close(write); os.dup2(read, 0)
        grading._work(lambda **reply: print(reply["equal"], reply["reason"]))
    """
    result = python(textwrap.dedent(code))
    assert result.stdout.splitlines() == ["None needs too much memory", "True had it"], result.stdout + result.stderr


def test_a_worker_never_evaluates():
    "Once locked, the process refuses Python's evaluator, programs, sockets and files for writing."
    code = """
        import os, socket, subprocess
        from spurious_rlvr import grading
        grading._load_algebra()
        attempts = [lambda: eval("1+1"), lambda: exec("a = 1"),
                    lambda: compile("1", "<string>", "eval"), lambda: os.system("true"),
                    lambda: subprocess.run(["true"]),
                    lambda: open("written.txt", "w"), lambda: socket.socket().connect(("127.0.0.1", 9)),
                    lambda: __import__("sympy").sympify("1+1")]
        for attempt in attempts:
            try: attempt()
            except Exception: pass
            assert grading._trespassed, attempt
            grading._trespassed = False
        assert grading._algebra(r"\\sqrt{12}", r"2\\sqrt{3}", grading.CONVENTIONS["math"]) is True
        assert not grading._trespassed
    """
    result = python(textwrap.dedent(code))
    assert result.returncode == 0, result.stderr


def test_results_are_cached(monkeypatch):
    asked, ask = [], grading._pool.ask
    monkeypatch.setattr(grading._pool, "ask", lambda task: asked.append(task) or ask(task))
    forget()
    assert is_equivalent(r"\sin(2x)\cos x", r"2\sin x\cos^2 x") is True and asked
    asked.clear()
    assert is_equivalent(r"\sin(2x)\cos x", r"2\sin x\cos^2 x") is True and not asked


# Real data


def rows(name):
    return [json.loads(line) for line in (pathlib.Path(DATA) / name).read_text("utf-8").splitlines()]


@needs_data
def test_public_cases():
    cases = [c for c in rows("grading/cases.jsonl") if not c.get("policy_dependent") and not c["multilingual"]]

    def rules(c):
        return EVERY_RULE[:3] if c["pred_form"] == "boxed" else EVERY_RULE[:4]

    misses = [
        (c["gold"][-50:], c["pred"][-50:])
        for c in cases
        if grade(c["pred"], c["gold"], rules=rules(c)).correct is not bool(c["label"])
    ]
    assert len(misses) <= 0.01 * len(cases), misses


@needs_data
def test_real_completions():
    completions = rows("rollouts/rollouts.jsonl")
    verdicts = grade_many([(r["response"], r["gold"]) for r in completions], rules=EVERY_RULE)
    agreeing = sum(v.correct is r["correct"] for v, r in zip(verdicts, completions))
    assert agreeing >= 0.98 * len(completions)
    assert sum(v.correct is None for v in verdicts) <= 3


@needs_data
def test_every_gold_answer_is_itself():
    for name in ("math500_half", "amc23_half", "aime24_half", "aime25_half", "amc_ttrl83_half"):
        for row in rows(f"benchmarks/{name}.jsonl"):
            gold = row["answer"]
            assert is_equivalent(gold, gold) is True, gold
            assert grade(rf"Thus \[\boxed{{{gold}}}.\]", gold).correct is True, gold


def test_the_benchmark_runs():
    result = subprocess.run(
        [sys.executable, "benchmarks/grading.py", "--hostile", "40", "--ordinary", "100"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env={**{k: v for k, v in os.environ.items() if k != "SPURIOUS_RLVR_DATA"}, "PYTHONPATH": str(ROOT)},
    )
    assert "processes left behind: 0" in result.stdout, result.stdout + result.stderr
    assert "called right 0" in result.stdout


@pytest.mark.slow
def test_ten_thousand_hostile_answers():
    result = subprocess.run(
        [sys.executable, "benchmarks/grading.py"],
        capture_output=True,
        text=True,
        timeout=3600,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stdout + result.stderr
