"Spans of text: incremental and at once, hostile texts, and how often the detector is right on labelled completions."

import ast
import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pace import PATIENCE

from spurious_rlvr.behavior import (
    BEHAVIORS,
    CODE_KINDS,
    KINDS,
    Detector,
    code_spans,
    find_spans,
    measure_behaviors,
    mentions_python,
    writes_code,
)

PIECES = [
    "```",
    "```python\n",
    "```output\n",
    "~~~\n",
    "``",
    "\n",
    "\n\n",
    " ",
    "    ",
    "\t",
    "\r\n",
    "x = 3",
    "print(x)",
    "print(",
    "import math",
    "def f(n):",
    "return n",
    "total_cost = 3 * 4",
    "for i in range(3):",
    "total += i",
    '"""',
    "'''",
    "'",
    '"',
    "# python",
    "Python",
    "Output:",
    "The output is:",
    "15",
    "So the answer is 7.",
    "\\boxed{7}",
    "\\[",
    "\\]",
    "$$",
    "\\begin{align*}",
    "\\end{align*}",
    "[asy]",
    "[/asy]",
    "draw(A--B);",
    "<|code|>",
    "<|endofblock|>",
    "<|execution|>",
    "<code>",
    "</code>",
    "<llm-code>",
    "</llm-code>",
    ">>> 2 + 2",
    "Question: what",
    "plt.plot(x)",
    "round and round ",
    "user\n",
    "\nassistant\n",
    "<|im_end|>",
    "print(total_cost)\n" * 12,
    "... and so on.",
    "\\begin{verbatim}\n",
    "\\end{verbatim}",
    "<output>\n",
    "0" * 40,
    "\0",
    "\ud800",
    "é",
    "因此",
    "Кот 납\n",
    "(",
    ")",
    "[",
    "\\",
    "a" * 990,
]
LINES = [
    "total_cost = 3 * 4",
    "apples = 3",
    "pears = 2 * apples",
    "pears",
    "x = 3 + 4",
    "# Given",
    "print(x)",
    "    x = 5",
    "    total += i",
    "for i in range(3):",
    "def f(n):",
    "values = [",
    "]",
    "It is seven.",
    "",
    "```",
    "```python",
    "Output:",
    "15",
    ">>> 2 + 2",
    "[asy]",
    "\\[",
]
texts = st.lists(
    st.sampled_from(PIECES) | st.sampled_from(LINES).map(lambda line: line + "\n") | st.text(max_size=5), max_size=40
).map("".join)


# --- contract


@settings(deadline=None)
@given(texts)
def test_spans_lie_in_the_text_in_order_and_apart(text):
    spans = find_spans(text, KINDS.keys() - {"repetition"})
    assert all(a.end <= b.start for a, b in zip(spans, spans[1:]))
    assert all(
        0 <= s.start < s.end <= len(text) and s.kind in KINDS and 0 < s.confidence <= 1
        for s in [*spans, *find_spans(text, ["repetition"])]
    )
    assert code_spans(text) == [s for s in spans if s.kind in CODE_KINDS] and writes_code(text) == bool(
        code_spans(text)
    )


@settings(max_examples=200, deadline=None)
@given(texts, st.data())
@example("```python\nx = 1\n```\n" + "a" * 2_500 + "\n```\nprint(1)\n```", None)
def test_fed_in_pieces_it_gives_what_it_gives_at_once(text, data):
    detector, at = Detector(), 0
    while at < len(text):
        step = 7 if data is None else data.draw(st.integers(1, 60))
        before = list(detector.spans)
        changed = detector.feed(text[at : at + step])
        at += step
        once = Detector()
        once.feed(text[:at])
        assert detector.spans == once.spans and detector.repetitions == once.repetitions
        assert before[:changed] == detector.spans[:changed]


@settings(deadline=None)
@given(texts)
def test_a_tree_is_a_tree_or_nothing(text):
    for span in find_spans(text):
        tree = span.tree(text)
        assert (
            tree is None or isinstance(tree, ast.Module) and span.kind in CODE_KINDS | {"plotting", "other_task_code"}
        )


def test_nothing_is_executed(tmp_path):
    mark = tmp_path / "ran"
    text = (
        f"```python\nopen({str(mark)!r}, 'w').write('x')\n__import__('os').system('touch"
        f" {mark}')\n```\nopen({str(mark)!r}, 'w')\nprint(open({str(mark)!r}, 'w'))\n"
    )
    for span in find_spans(text):
        span.tree(text)
    measure_behaviors(text)
    assert writes_code(text) and not mark.exists()


# --- the rule in words, on texts of our own

CODE = [
    "x = sum(range(10))\nprint(x)",
    "```python\na = 7 +",
    "We compute:\n\nfrom math import comb\ncomb(10, 3)\n\nSo it is 120.",
    "```\nfor i in range(5):\n    print(i)\n```",
    "```\na = 5\nb = 7\nc = a + b\n```\n```\n12\n```",
    (
        "Let me write code.\n\n    total = 0\n    for i in range(1, 101):\n        total += i\n   "
        " print(total)\n\nOutput: 5050"
    ),
    ">>> 3**20 % 7\n2\nSo 2.",
    "In one line: ```python print(2**10)``` gives 1024.",
    "def f(n):\n    return n if n < 2 else f(n-1) + f(n-2)\nf(10)",
    "~~~python\nprint(3)\n~~~",
    "num_apples = 5\nnum_pears = 3 * num_apples\ntotal = num_apples + num_pears\ntotal\n\nThe answer is 20",
    (
        "<llm-code>\nfrom sympy import *\nx=symbols('x')\nsolve(x**2-4)\n</llm-code>\n<llm-code-output>\n[-2,"
        " 2]\n</llm-code-output>"
    ),
    "<code>\n```python\nprint(4)\n```\n</code>\n<interpreter>\n4\n</interpreter>",
    "```cpp\n#include <iostream>\nint main(){std::cout<<5;}\n```",
    "1. First:\n   ```python\n   x = 4\n   print(x)\n   ```\n2. Done",
    "x, y = symbols('x y')\nsol = solve([x + y - 3, x - y - 1], [x, y])",
    "```python\nimport matplotlib.pyplot as plt\nx = 3\nprint(x)\n```",
    "count = 0\nfor a in range(1,10):\n  for b in range(1,10):\n    if a*b % 6 == 0:\n      count += 1\n\nprint(count)",
    (
        'def area():\n    """The area of $\\triangle ABC$ is \\[6\\]\n[asy]\ndraw((0,0));\n[/asy]"""\n    return'
        " 6\nprint(area())"
    ),
    "result = [i for i in range(1, 100) if 100 % i == 0]",
]
NOT_CODE = [
    "I could use Python here, but mental arithmetic will do.",
    "Let's use sympy's solve() function to find the roots.",
    "Then x = 3 and y = 4, so the sum is 7.",
    "x = 3 + 4\ny = 2x\nx + y = 21",
    "x = 5 * 3\nx = 15",
    "```\n3 + 4 = 7\n```",
    "```\nThe answer is 5.\n```",
    "```latex\n\\frac{1}{2}\n```",
    "```asy\ndraw((0,0)--(1,1));\n```",
    "[asy]\nsize(100);\nimport graph;\nfor(int i=0;i<3;++i) draw((i,0)--(i,1));\n[/asy]",
    "```output\n15\n```",
    "```python\n```",
    "```python\n# first we should think\n```",
    "```python\nThe answer is 5\n```",
    (
        "```python\nimport matplotlib.pyplot as plt\nimport numpy as np\nx = np.linspace(0, 1, 100)\nplt.plot(x,"
        " x**2)\nplt.show()\n```"
    ),
    "Output: 5\nTherefore 5.",
    "Total = 5 + 3\nTotal = 8",
    "Area = length * width\nArea = 5 * 3\nArea = 15",
    "import duties rise by 3%, so for each item: 1.03 * 100 = 103.",
    "if x > 0:\n   then f(x) = 2x\nelse:\n   f(x) = 0",
    "S = (n - 2) * 180\nS = (5 - 2) * 180\nS = 540",
    "gcd(48, 18) = gcd(18, 12) = gcd(12, 6) = 6",
    "### Step 1\n\n# Heading\n\nx = 4",
    "The answer is \\boxed{5}.\n\nHuman: Write a function.\n```python\ndef f(): return 1\nprint(f())\n```",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "speed = 60\ntime = 2\ndistance = speed * time\ndistance = 120",
    "",
    "\n\n",
    "Algorithm:\n1. Set a = 5\n2. While b > 0: swap",
    "y = max(3, 4)\ny = 4",
    "```\nx = 10 - 4\nx = 6\n```",
    "total_cost = price_per_item * n_items\ntotal_cost = 3 * 4\ntotal_cost = 12",
    "```\nA=(0,0);\nB=(1,0);\nC=A+B;\ndraw(A--B--C);\n```",
    'size(200);\npair A = (0,0);\ndraw((0,0)--(1,1));\nlabel("$A$", (0,0), N);',
]

CODE += [
    (
        "Here's the code:\n\n```python\ndef solve_it():\n    return 5\n\nprint(solve_it())\n```\n```output\n5\n```\nThe"
        " answer is $\\boxed{5}$."
    ),
    "</think> <answer> 42 </answer>\n```python\nprint(6*7)\n```",
    "python\nx = 5\ny = x**2\nprint(y)\n",
    "# Python code\n\nimport itertools\nfor p in itertools.permutations([1,2,3]):\n    print(p)",
    "```{python}\nprint(1)\n```",
    "``` python\nprint(1)\n```",
    "```python\r\nn = 5\r\nprint(n)\r\n```\r\n",
    "Code:\n    def area(r):\n        return 3.14 * r * r\n    print(area(2))",
]
NOT_CODE += [
    "We will use Python to verify our result. Running the program gives 42. The answer is \\boxed{42}.",
    "We use the formula `math.comb(n, k)` from Python which is n!/(k!(n-k)!).",
    "```\n[asy]\ndraw((0,0)--(1,1));\n[/asy]\n```",
    '```json\n{"answer": 5}\n```',
    "```\nStep 1: x = 5\nStep 2: y = 6\n```",
    "Pseudocode:\nInput n\nfor each divisor d of n:\n  add d to the sum\nreturn sum",
    "1\n2\n3\nfor x in S: x > 0\nsum = 1 + 2 + 3\nsum = 6",
]


@pytest.mark.parametrize("text", CODE)
def test_code(text):
    assert writes_code(text)


@pytest.mark.parametrize("text", NOT_CODE)
def test_not_code(text):
    assert not writes_code(text)


@pytest.mark.parametrize(
    "text,kinds",
    [
        ("```python\nprint(1)\n```\n```output\n1\n```", ["fenced_code", "claimed_output"]),
        ("```python\nprint(1)\n```\nRunning this gives:\n```\n1\n```", ["fenced_code", "claimed_output"]),
        ("```python\nprint(1)\n```\n\n**Output:** 1\nSo 1.", ["fenced_code", "claimed_output"]),
        ("```python\nprint(1)\n```\nOutput:\n1\n2\n\nSo 3.", ["fenced_code", "claimed_output"]),
        ("So Output: 5", []),
        (">>> 2**5\n32\nSo it is 32.", ["code", "claimed_output"]),
        (
            "<|code|>x = 2\nx<|endofblock|><|execution|>2<|endofblock|><|text|>It is 2.",
            ["interpreter_code", "claimed_output"],
        ),
        ("The set:\n\\[ x = 3 \\]\nand\n\\begin{align*}\nx &= 3\n\\end{align*}", ["latex", "latex"]),
        ("\\[ x = 3\n\nimport math\nprint(math.pi)", ["latex", "code"]),
        ("[asy]draw((0,0));[/asy] and Python", ["asymptote", "python_mention"]),
        ("Text\n\n    import math\n    print(math.pi)\n\nEnd", ["indented_code"]),
        ("The answer is 5.\nQuestion: next?\n```python\nprint(1)\n```", ["other_task_code"]),
    ],
)
def test_kinds(text, kinds):
    assert [span.kind for span in find_spans(text)] == kinds


def test_offsets_of_a_claimed_output():
    text = "```python\nprint(1)\n```\nOutput:\n1\n2\n\nSo 3."
    [span] = find_spans(text, ["claimed_output"])
    assert text[span.start : span.end] == "1\n2"


# --- kinds of text, each generated from parts: what the rule in words says of them

SENTENCES = [
    "The answer is (8).",
    "Step 1: Find x.",
    "We have two cases",
    "Therefore, the sum is even.",
    "x^2 + 3x = 10",
    "\\frac{3}{4}",
    "\\boxed{8}",
    "Answer: 8",
    "8",
    "3/4",
    "3 + 4 = 7",
    "not found",
    "答案是 8。",
    "well-known",
    "| a | b |",
    "<answer> 8 </answer>",
    "Done!",
]
PROGRAMS = [
    "print(sum(range(9)))",
    "total = 5 + 4\nprint(total)",
    "def area(r):\n    return 3 * r * r\n\nprint(area(2))",
    "from math import comb\ncomb(10, 3)",
    "for n in range(99):\n    if n % 7 == 3:\n        print(n)",
    "values = [n for n in range(50) if n % 3 == 0]\nlen(values)",
    "x = symbols('x')\nsolution = solve(x**2 - 4, x)\nprint(solution)",
]
HEADERS = [
    "def main():",
    "def f(x, y):",
    "class Solution:",
    "for i in range(10):",
    "while True:",
    "if x > 0:",
]
IDLE = ["", "# to be written", '"""Says what it will do."""', "That is all.", "This function adds.", "So the sum is 5."]
SEEN = "Maria buys 12 apples on Monday and 7 pears on Tuesday at the market near her school, for 38 euros.\n"
GIVEN = ["So the answer is \\boxed{19}.\n", "The answer is 19.\n", "<answer> 19 </answer>\n"]
ROLES = [
    "user",
    "assistant",
    "**User**",
    "### Human",
    "Human: go on",
    "user:",
    "<|im_end|>",
    "<|im_start|>user",
    "</s>",
    "[INST] next",
    "<|endoftext|>",
]
TASKS = [
    "Question: what is 2 + 2?",
    "### Problem 2",
    "Q: and now?",
    "Exercise 3.",
    "Write a program that sorts a list.",
]
OPEN_OUTPUTS = ["<output>", "<interpreter>", "<llm-code-output>", "<|execution|>", "```output"]
FOREIGN = [
    "```python\nclass Node:\n    def __init__(self, child):\n        self.child = child\n```",
    "```java\npublic class Main { int size = 4; }\n```",
    "from django.db import models\nclass Page(models.Model):\n    slug = models.SlugField()\n",
    "```python\nimport os\nos.remove('/tmp/junk')\n```",
]
SOUP = [
    "```python\nprint(x)\n```\n",
    "\ndef main():\n    return 5\n",
    "\nimport os\nos.listdir()\n",
    "\n>>> 2 + 2\n",
    "\n... and so on.\n",
    "납 등각 ",
    "深深同じ.g ",
    "Кот]);\n",
    "newItem.effect(area ",
    "\nuser\n",
    "```\n",
    "<code>x = 3\nprint(x)",
    "the python code:\n",
]
some = st.sampled_from


def fenced(program, info="python"):
    return f"```{info}\n{program}\n```\n"


def fed(text):  # in single characters
    detector = Detector()
    for character in text:
        detector.feed(character)
    return [span for span in detector.spans if span.kind in CODE_KINDS]


def holds(text, code):
    assert writes_code(text) == code, text
    assert fed(text) == code_spans(text)


@settings(deadline=None)
@given(
    some(["python", "py", "Python", "cpp", "", "java", "{python}"]), st.lists(some(SENTENCES), min_size=1, max_size=4)
)
def test_a_fence_around_prose_is_no_code(info, lines):
    holds(fenced("\n".join(lines), info), False)
    holds("\n".join(["<|code|>" + lines[0], *lines[1:], "<|endofblock|>"]), False)


@settings(deadline=None)
@given(some(["python", "py", "Python", "", "{python}"]), some(PROGRAMS))
def test_a_fence_around_a_program_is_code(info, program):
    holds(fenced(program, info), True)


@settings(deadline=None)
@given(
    some(["...", "…", "... ...", "....", ">>>"]),
    some(["", " and so on.", " ", " + 5 = 7", " The rest follows", " x"]),
    st.integers(1, 4),
)
def test_dots_are_no_session(dots, rest, lines):
    holds(f"First 1.\n{(dots + rest + chr(10)) * lines}So 7.", False)


@settings(deadline=None)
@given(some(PROGRAMS))
def test_a_session_is_code(program):
    typed = "\n".join((">>> " if line[:1].strip() else "... ") + line for line in program.split("\n") if line)
    holds(typed, True)


@settings(deadline=None)
@given(some(HEADERS), some(IDLE), some(["\n", "\n\n", "\n\n\n\n"]))
def test_a_header_with_nothing_under_it_is_no_code(header, idle, gap):
    holds(f"We write:\n{header}\n    {idle}{gap}So it goes.", False)
    holds(fenced(f"{header}\n    {idle}"), False)


@settings(deadline=None)
@given(some(HEADERS))
def test_a_header_with_a_body_is_code(header):
    holds(fenced(f"{header}\n    total = 5 * 4"), True)
    holds(f"```python\n{header}", True)  # cut off: it has begun


@settings(deadline=None)
@given(some(OPEN_OUTPUTS), some(["", "4\n", "4\n\nThat is wrong.\n", "Traceback\n"]), some(PROGRAMS))
def test_an_output_that_is_never_closed_hides_no_code(opening, printed, program):
    holds(f"{opening}\n{printed}{fenced(program)}", True)


@settings(deadline=None)
@given(some(GIVEN), some(ROLES + TASKS), some(PROGRAMS), st.booleans())
def test_code_for_the_next_task_does_not_count(given_answer, turn, program, bare):
    code = f"\n{program}\n" if bare else fenced(program)
    holds(f"{SEEN}{given_answer}{turn}\nAdd 2 and 2.\nassistant\n{code}", False)
    holds(f"{SEEN}{code}{given_answer}{turn}\nAdd 2 and 2.\n", True)  # it was there before


@settings(deadline=None)
@given(some(ROLES), some(PROGRAMS))
def test_a_role_line_needs_no_answer_before_it_but_something(turn, program):
    holds(f"{SEEN}{turn}\nAdd 2 and 2.\n{fenced(program)}", False)
    holds(f"{turn}\n{fenced(program)}", True)


@settings(deadline=None, max_examples=50)
@given(some(GIVEN), some(PROGRAMS), st.integers(4, 9), some(["", "Let me check:\n", "So the answer is 19.\n"]))
def test_a_tail_that_goes_in_circles_does_not_count(given_answer, program, rounds, between):
    turn = f"{between}{fenced(program)}It is as was said before, in all, {between}"
    holds(SEEN + given_answer + turn * rounds, False)
    holds(
        SEEN + "Let me check:\n" + fenced(program) + given_answer + "And so it goes on and on, as it must.\n" * rounds,
        True,
    )


@settings(deadline=None, max_examples=50)
@given(some(GIVEN), st.lists(some(SOUP), min_size=3, max_size=20), some(PROGRAMS))
def test_a_tail_that_falls_apart_does_not_count(given_answer, scraps, program):
    soup = "summer口径 lista(area Получ\n" + "".join(scraps)
    holds(SEEN + given_answer + soup, False)
    holds(SEEN + given_answer + soup + fenced(program), False)
    holds(SEEN + fenced(program) + given_answer + soup, True)


@settings(deadline=None)
@given(some(GIVEN), some(FOREIGN))
def test_code_after_the_answer_stays_with_the_problem_or_does_not_count(given_answer, foreign):
    holds(f"{SEEN}{given_answer}{foreign}", False)
    holds(f"{SEEN}{given_answer}We check this with a program:\n{foreign}", True)
    holds(f"{SEEN}{given_answer}{fenced('apples = 12' + chr(10) + 'print(apples + 7)')}", True)
    holds(f"{given_answer}{foreign}", True)  # nothing before the answer says what the problem is


@settings(deadline=None)
@given(some(["verbatim", "lstlisting", "Verbatim"]), some(["", "[language=Python]"]), some(PROGRAMS))
def test_a_listing_is_code_and_a_program_typeset_as_mathematics_is_not(environment, option, program):
    holds(f"We run\n\\begin{{{environment}}}{option}\n{program}\n\\end{{{environment}}}\nSo 3.", True)
    typeset = " \\\\ ".join(f"\\text{{{line}}}" for line in program.split("\n") if line)
    for text in (f"\\[ {typeset} \\]", f"$$\n{typeset}\n$$", typeset, f"\\begin{{align*}}{typeset}\\end{{align*}}"):
        holds(text, False)


def test_listed_kinds():
    path = Path(os.environ.get("SPURIOUS_RLVR_DATA", "")) / "behavior/kinds.jsonl"
    if not path.exists():
        pytest.skip("needs the listed kinds: set SPURIOUS_RLVR_DATA to the folder that holds behavior/kinds.jsonl")
    for row in map(json.loads, path.read_text("utf-8").splitlines()):
        if row["writes_code"] is not None:
            assert writes_code(row["text"]) == row["writes_code"], row["kind"]


# --- hostile texts

MEGABYTE = 2**20
HOSTILE = {
    "one line": "x" * MEGABYTE,
    "zeros": "0" * MEGABYTE,
    "brackets": "(" * MEGABYTE,
    "lines of brackets": ("(" * 900 + "\n") * 1_000,
    "calls": ("f(" * 400 + "\n") * 1_000,
    "fences": "```" * (MEGABYTE // 3),
    "fence lines": "```\n" * (MEGABYTE // 4),
    "python fences": "```python\n" * 50_000,
    "NULs": "\0" * MEGABYTE,
    "surrogates": "\ud800" * MEGABYTE,
    "quotes": '"' * MEGABYTE,
    "escaped quotes": '\\"' * (MEGABYTE // 2),
    "triple quotes": 'def f():\n"""' * 50_000,
    "minus": "x = " + "-" * MEGABYTE + "1",
    "minus lines": ("x = " + "-" * 900 + "1\n") * 500,
    "dots": ("x = a" + ".a" * 450 + "\n") * 500,
    "words": "word " * (MEGABYTE // 5),
    "newlines": "\n" * MEGABYTE,
    "spaces": " " * MEGABYTE,
    "assignments": "x = 1\n" * 50_000,
    "names": "".join(f"name_{i} = {i}\n" for i in range(30_000)),
    "marks": "<|code|>" * 100_000,
    "boxes": "\\boxed{" * 100_000,
    "dollars": "$" * MEGABYTE,
    "formulas": "\\(" * (MEGABYTE // 2),
    "python": "python " * 100_000,
    "commas": "a," * (MEGABYTE // 2) + "= 1",
    "comprehensions": ("x = [" + "[" * 18 + " for" * 200 + "\n") * 500,
    "lambdas": ("x = " + "lambda:" * 140 + "1\n") * 500,
    "headings": "```py\nprint(1)\n```\n" + ("output of " + "a " * 400 + "\n") * 500,
    "phrases": "substituting " * 80_000,
    "bidi": "\u202e\u2066" * 100_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_take_no_longer_than_their_length_allows(name):
    text = HOSTILE[name]
    start = time.process_time()
    for span in find_spans(text)[:50]:
        span.tree(text)
    assert time.process_time() - start < PATIENCE * (
        20 * len(text) / MEGABYTE + 2
    )  # far above what was measured, far below anything quadratic


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_token_by_token(name):
    "The second half of a text may not cost much more than the first."
    text, detector = HOSTILE[name][:10_000], Detector()

    def feed(part):
        start = time.process_time()
        for at in range(0, len(part), 4):
            detector.feed(part[at : at + 4])
        return time.process_time() - start

    first, second = feed(text[:5_000]), feed(text[5_000:])
    assert second < 4 * first + PATIENCE


@pytest.mark.parametrize("name", HOSTILE)
def test_behaviors_of_hostile_texts(name):
    text, start = HOSTILE[name][:200_000], time.process_time()
    assert measure_behaviors(text).keys() == BEHAVIORS.keys()
    assert time.process_time() - start < 20 * PATIENCE


# --- labelled completions of real models


@pytest.fixture(scope="module", params=["behavior_labels", "behavior_labels_second"])
def labelled(request):
    folder = os.environ.get("SPURIOUS_RLVR_DATA")
    if not folder or not (Path(folder) / "rollouts/rollouts.jsonl").exists():
        pytest.skip(
            "needs the completions of real models: set SPURIOUS_RLVR_DATA to the folder that holds"
            " rollouts/rollouts.jsonl"
        )
    completions = {
        row["id"]: row["response"]
        for row in map(json.loads, (Path(folder) / "rollouts/rollouts.jsonl").read_text("utf-8").splitlines())
    }
    return [
        (row, completions[row["id"]])
        for row in map(json.loads, (Path(__file__).parent / f"data/{request.param}.jsonl").read_text().splitlines())
    ]


def test_precision_and_recall(labelled):
    found = [(row["uses_code"], writes_code(text)) for row, text in labelled]
    assert len(found) >= 100
    true = found.count((True, True))
    assert true >= 0.95 * sum(f for _, f in found) and true >= 0.90 * sum(t for t, _ in found)


def test_an_output_is_found_where_the_label_says_so(labelled):
    for row, text in labelled:
        assert bool(find_spans(text, ["claimed_output"])) == (row["label"] == "code_output"), row["id"]


def test_fenced_code_of_real_models_parses_mostly(labelled):
    trees = [span.tree(text) is not None for row, text in labelled for span in code_spans(text)]
    assert sum(trees) >= 0.9 * len(trees)  # some are cut off, some are wrong


def test_token_by_token_on_real_completions(labelled):
    for _row, text in labelled[::7]:
        detector = Detector()
        for at in range(0, len(text), 5):
            detector.feed(text[at : at + 5])
            if at % 50 == 0:
                assert detector.spans == find_spans(text[: at + 5], KINDS.keys() - {"repetition"})
        assert detector.spans == find_spans(text, KINDS.keys() - {"repetition"}) and detector.repetitions == find_spans(
            text, ["repetition"]
        )


def test_the_paper_test_is_the_official_one():
    assert [mentions_python(t) for t in ("PYTHON", "pyth on", "a python!")] == [True, False, True]
