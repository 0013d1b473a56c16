"""Kinds of answers on which graders go wrong, each as a rule that makes pairs of answer and gold answer.

A kind is a function of a random generator. It draws a value, spells it in two ways or draws another value near it, and
says which it did: so what is right is known by construction, never by asking a grader. `KINDS` lists them; the tests
drive them with hypothesis, and the notebook `02_grading` counts them.
"""

import dataclasses
import math
import random
from collections.abc import Callable
from fractions import Fraction


@dataclasses.dataclass(frozen=True)
class Kind:
    name: str
    how: str  # what generates it
    draw: Callable[[random.Random], tuple[str, str, bool | None]]  # answer or completion, gold answer, right
    graded: bool = False  # the first text is a completion


KINDS: list[Kind] = []


def kind(name, how, graded=False):
    def register(draw):
        KINDS.append(Kind(name, how, draw, graded))
        return draw

    return register


def fraction(value, rng):
    "A fraction in LaTeX or with a slash."
    top, bottom = value.numerator, value.denominator
    if bottom == 1:
        return str(top)
    return rng.choice([rf"\frac{{{top}}}{{{bottom}}}", rf"\dfrac{{{top}}}{{{bottom}}}", f"{top}/{bottom}"])


def another(value, rng, options):
    "One of the options that is not the value."
    return rng.choice([option for option in options if option != value])


# Right answers are never near wrong ones


@kind("near values", "powers, factorials, binomials with one number changed; a tiny power added to a number or a root")
def near_values(rng):
    b, k, n = rng.randint(2, 12), rng.randint(40, 2000), rng.randint(30, 2000)
    tiny = another(None, rng, [f"{b}^{{-{k}}}", rf"\frac{{1}}{{{b}^{{{k}}}}}", rf"\frac1{{{n}!}}"])
    base = rng.choice(
        [str(rng.randint(0, 99)), rf"\sqrt{{{another(0, rng, [2, 3, 5, 7, 11])}}}", r"\pi", "x", r"\frac{2}{3}"]
    )
    return rng.choice(
        [
            (f"{b}^{{-{k}}}", f"{b}^{{-{k + 1}}}", False),
            (f"{b}^{{-{k}}}", rf"\frac{{1}}{{{b}^{{{k}}}}}", True),
            (rf"\left(\frac{{1}}{{{b}}}\right)^{{{k}}}", f"{b}^{{-{k}}}", True),
            (f"{b}^{{{k}}}+1", f"{b}^{{{k}}}", False),
            (rf"{b} \cdot {b}^{{{k}}}", f"{b}^{{{k + 1}}}", True),
            (rf"\frac{{1}}{{{n}!}}", rf"\frac{{1}}{{{n + 1}!}}", False),
            (rf"\frac{{{n}!}}{{{n - 1}!}}", str(n), True),
            (rf"\frac{{{n}!}}{{{n - 1}!}}", str(n + 1), False),
            (rf"\binom{{{n}}}{{2}}", str(n * (n - 1) // 2), True),
            (rf"\binom{{{n}}}{{{n // 2}}}", rf"\binom{{{n}}}{{{n // 2 - 1}}}", False),
            (tiny, "0", False),
            (f"{base}+{tiny}", base, False),
            (f"{base}-{tiny}", base, False),
            (rf"\sqrt{{{b}^{{{2 * k}}}+1}}", f"{b}^{{{k}}}", False),
            (rf"\sqrt{{{b}^{{{2 * k}}}}}", f"{b}^{{{k}}}", True),
        ]
    )


@kind(
    "decimals",
    "a decimal of 2 to 12 digits against the fraction that it rounds, and one unit of its last digit further",
)
def decimals(rng):
    value, digits = Fraction(rng.randint(1, 999), another(1, rng, [3, 7, 9, 11, 13, 17])), rng.randint(2, 12)
    if 10**20 % value.denominator == 0:
        value += Fraction(1, 3)
    whole = len(str(int(value))) if value >= 1 else 0
    places = max(digits - whole, 1)
    scaled = value * 10**places
    nearest = math.floor(scaled + Fraction(1, 2))
    off = rng.choice([0, 0, 2, -2, 5])
    shown = nearest + off
    text = f"{shown // 10**places}.{shown % 10**places:0{places}d}"
    significant = len(text.replace(".", "").lstrip("0"))
    return text, fraction(value, rng), off == 0 and significant >= 6


MAGNITUDE = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}


@kind(
    "magnitude words", "an amount with a word of magnitude against its digits, without the word, or with another word"
)
def magnitude_words(rng):
    word = rng.choice(list(MAGNITUDE))
    amount = Fraction(rng.randint(2, 99)) if word in ("dozen", "hundred") else Fraction(rng.randint(11, 999), 10)
    shown = str(amount.numerator) if amount.denominator == 1 else f"{float(amount)}"
    value = amount * MAGNITUDE[word]
    other = another(word, rng, list(MAGNITUDE))
    spelt = rng.choice(
        [
            f"{shown} {word}",
            rf"{shown}\text{{ {word}}}",
            rf"{shown}\,\text{{{word}}}",
            rf"{shown} \text{{ {word} people}}",
        ]
    )
    money = word != "dozen" and rng.random() < 0.3
    digits = rng.choice([str(value), f"{value.numerator:,}"])
    if money:
        spelt, digits = r"\$" + spelt.replace(" people", ""), r"\$" + digits
    letter = {"thousand": "k", "million": "M", "billion": "B"}.get(word)
    short = shown + letter if letter else spelt
    return rng.choice(
        [
            (spelt, digits, True),
            (short, str(value), True),
            (short, shown, False),
            (spelt.replace(word, rng.choice(["quintillion", "googol", "milliard"])), r"\$" * money + shown, False),
            (digits, spelt, True),
            (spelt, r"\$" * money + shown, False),
            (r"\$" * money + shown, spelt, False),
            (spelt, r"\$" * money + rf"{shown}\text{{ {other}}}", False),
        ]
    )


UNITS = {  # names, dimension and size in the dimension's first unit
    "mm": ("length", Fraction(1, 1000)),
    "cm": ("length", Fraction(1, 100)),
    "m": ("length", Fraction(1)),
    "km": ("length", Fraction(1000)),
    "mg": ("mass", Fraction(1, 1000)),
    "g": ("mass", Fraction(1)),
    "kg": ("mass", Fraction(1000)),
    "s": ("time", Fraction(1)),
    "min": ("time", Fraction(60)),
    "h": ("time", Fraction(3600)),
    "hours": ("time", Fraction(3600)),
    "minutes": ("time", Fraction(60)),
    "seconds": ("time", Fraction(1)),
    "days": ("time", Fraction(86400)),
    "inches": ("inches", Fraction(1)),
    "feet": ("inches", Fraction(12)),
    "yards": ("inches", Fraction(36)),
    "mL": ("volume", Fraction(1)),
    "L": ("volume", Fraction(1000)),
    "km/h": ("speed", Fraction(5, 18)),
    "m/s": ("speed", Fraction(1)),
    r"m/s^2": ("acceleration", Fraction(1)),
    r"cm^2": ("area", Fraction(1, 10**4)),
    r"m^2": ("area", Fraction(1)),
    "cents": ("money", Fraction(1)),
    "dollars": ("money", Fraction(100)),
}


def measured(number, unit, rng):
    "A number with a unit, with and without a text command."
    name, power, exponent = unit.partition("^")
    raised = f"^{{{exponent}}}" if power else ""
    return rng.choice(
        [f"{number} {name}{raised}", rf"{number}\text{{ {name}}}{raised}", rf"{number}\ \mathrm{{{name}}}{raised}"]
    )


@kind("units", "a number with one of 26 units: converted, with the same number and another unit, and without a unit")
def units(rng):
    unit, n = rng.choice(list(UNITS)), rng.randint(2, 900)
    dimension, size = UNITS[unit]
    same = [u for u, (d, _) in UNITS.items() if d == dimension and u != unit]
    other = another(unit, rng, [u for u, (d, s) in UNITS.items() if (d, s) != (dimension, size)])
    cases = [
        (measured(n, unit, rng), measured(n, other, rng), False),
        (measured(n, unit, rng), str(n), True),
        (str(n), measured(n, unit, rng), True),
        (measured(n, unit, rng), str(n + 1), False),
        (measured(n, unit, rng), measured(n, unit, rng), True),
    ]
    if same:
        target = rng.choice(same)
        cases += [(measured(fraction(n * size / UNITS[target][1], rng), target, rng), measured(n, unit, rng), True)] * 3
    return rng.choice(cases)


@kind(
    "amounts in two units",
    "hours and minutes, feet and inches, pounds and ounces, dollars and cents against the smaller unit",
)
def two_units(rng):
    big, small, factor = rng.choice(
        [
            ("hours", "minutes", 60),
            ("minutes", "seconds", 60),
            ("feet", "inches", 12),
            ("pounds", "ounces", 16),
            ("days", "hours", 24),
            ("dollars", "cents", 100),
        ]
    )
    a, b = rng.randint(1, 20), rng.randint(1, factor - 1)
    text = rng.choice(
        [
            rf"{a}\text{{ {big} }}{b}\text{{ {small}}}",
            f"{a} {big} {b} {small}",
            f"{a} {big} and {b} {small}",
            rf"{a} \text{{ {big} and }} {b} \text{{ {small}}}",
        ]
    )
    off = rng.choice([0, 0, 1, -a * factor])
    return text, measured(a * factor + b + off, small, rng), off == 0


@kind(
    "currency and angles", "cents against dollars, another currency, degrees against radians and against multiples of π"
)
def currency(rng):
    n, k = rng.randint(2, 99), rng.choice([2, 3, 4, 6, 12])
    return rng.choice(
        [
            (f"{n}¢", rf"\$0.{n:02d}", True),
            (f"{n}¢", rf"\${n}", False),
            (rf"{n} \text{{ cents}}", f"{n}¢", True),
            (f"€{n}", rf"\${n}", False),
            (f"{n}€", str(n), True),
            (f"£{n}", f"{n}£", True),
            (rf"{n}^\circ", rf"{n}\text{{ rad}}", False),
            (rf"{180 // k}^\circ", rf"\frac{{\pi}}{{{k}}}", True),
            (rf"{180 // k}^\circ", rf"\frac{{\pi}}{{{k + 1}}}", False),
            (rf"{180 // k}^\circ", rf"\frac{{\pi}}{{{k}}}\text{{ radians}}", True),
            (rf"{180 // k}\text{{ rad}}", rf"\frac{{\pi}}{{{k}}}", False),
            (rf"{n}\text{{ rad}}", rf"{n}^\circ\text{{C}}", False),
            (rf"{n}^\circ\text{{C}}", rf"{n}^\circ\text{{F}}", False),
            (rf"{5 * n}^\circ\text{{C}}", rf"{9 * n + 32}^\circ\text{{F}}", True),
        ]
    )


@kind(
    "a formula is not prose",
    "sums of products of two or three letters with a number somewhere, against that number",
    graded=True,
)
def formula(rng):
    letters = rng.choice(["abcd", "xyz", "pqrs", "mnk"])
    terms = ["".join(rng.sample(letters, rng.choice([2, 2, 3]))) for _ in range(rng.randint(3, 5))]
    number = rng.randint(2, 9)
    terms[rng.randrange(len(terms))] = f"{number}{terms[-1]}"
    sign = rng.choice(["+", " + ", "-", " - "])
    gold = sign.join(terms)
    return rng.choice(
        [
            (rf"\boxed{{{number}}}", gold, False),
            (rf"\boxed{{{number}}}", gold, False),
            (rf"\boxed{{{gold}}}", gold, True),
        ]
    )


# Right in another notation


@kind(
    "choice letter",
    "a letter from A to E in six spellings before a value, against the value, another one and another letter",
)
def choice_letter(rng):
    letter, other = rng.sample("ABCDE", 2)
    value = rng.choice(
        [
            str(rng.randint(1, 99)),
            rf"\frac{{{rng.randint(1, 9)}}}{{{rng.randint(10, 19)}}}",
            rf"{rng.randint(2, 9)}\sqrt{{3}}",
        ]
    )
    wrong = str(rng.randint(100, 200))
    forms = [
        "({}) {}",
        r"\textbf{{({})}}\ {}",
        "{}. {}",
        "{}) {}",
        r"\text{{({}) }}{}",
        r"\textbf{{({}) }}{}",
        "{}: {}",
    ]
    spelt = rng.choice(forms).format(letter, value)
    return rng.choice(
        [
            (spelt, value, True),
            (spelt, wrong, False),
            (spelt, letter, True),
            (spelt, other, False),
            (spelt, rf"\textbf{{({other})}}\ {value}", False),
        ]
    )


@kind(
    "unicode", "minus signs, raised and full-width digits, fractions, Greek letters and roots of Unicode against LaTeX"
)
def unicode(rng):
    n, k = rng.randint(2, 99), rng.randint(2, 30)
    raised = str(k).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    wide = str(n).translate(str.maketrans("0123456789", "０１２３４５６７８９"))
    bold = str(n).translate(str.maketrans("0123456789", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗"))
    minus = rng.choice("−‐‑‒–﹣－")
    sign, value = rng.choice(
        list(
            {
                "½": "1/2",
                "⅓": "1/3",
                "⅔": "2/3",
                "¼": "1/4",
                "¾": "3/4",
                "⅕": "1/5",
                "⅖": "2/5",
                "⅙": "1/6",
                "⅛": "1/8",
                "⅝": "5/8",
                "⅞": "7/8",
                "⅑": "1/9",
                "⅒": "1/10",
            }.items()
        )
    )
    greek, name = rng.choice(
        list(
            {
                "α": "alpha",
                "β": "beta",
                "γ": "gamma",
                "θ": "theta",
                "λ": "lambda",
                "μ": "mu",
                "σ": "sigma",
                "φ": "phi",
                "ω": "omega",
            }.items()
        )
    )
    return rng.choice(
        [
            (f"{minus}{n}", f"-{n}", True),
            (f"{minus}{n}", str(n), False),
            (f"x{raised}", f"x^{{{k}}}", True),
            (f"x{raised}", f"x^{{{k + 1}}}", False),
            (f"10⁻{raised}", f"10^{{-{k}}}", True),
            (f"10⁻{raised}", f"10^{{{k}}}", False),
            (sign, value, True),
            (f"{n}{sign}", f"{n} {value}", True),
            (sign, rf"\frac{{{n}}}{{97}}", False),
            (wide, str(n), True),
            (bold, str(n), True),
            (bold, str(n + 1), False),
            (f"{n}{greek}", rf"{n}\{name}", True),
            (f"{n}√{k}", rf"{n}\sqrt{{{k}}}", True),
            (f"√({k}x+1)", rf"\sqrt{{{k}x+1}}", True),
        ]
    )


@kind("operatorname", "gcd, lcm, max, min and functions written with \\operatorname, \\mathrm, \\text or bare")
def operatorname(rng):
    a, b = rng.randint(2, 60), rng.randint(2, 60)
    name, function = rng.choice([("gcd", math.gcd), ("lcm", math.lcm), ("max", max), ("min", min)])
    spelt = rng.choice([r"\operatorname{%s}", r"\mathrm{%s}", r"\text{%s}", r"\%s", "%s"]) % name
    value = function(a, b)
    known = rng.choice(
        [
            (r"\operatorname{arctan}(1)", r"\frac{\pi}{4}"),
            (r"\operatorname{arcsin}(1)", r"\frac{\pi}{2}"),
            (r"\operatorname{sin}(x)", r"\sin x"),
            (r"\operatorname{cos} x", r"\cos x"),
            (r"\operatorname{ln}(2)", r"\ln 2"),
        ]
    )
    return rng.choice(
        [
            (f"{spelt}({a},{b})", str(value), True),
            (f"{spelt}({a}, {b})", str(value + 1), False),
            (*known, True),
            (known[0], r"\frac{\pi}{5}", False),
        ]
    )


MONTHS = "January February March April June July August September October November December".split()


@kind("words in text", "dates, days, rooms and names, in a text command and without")
def words_in_text(rng):
    month, other = rng.sample(MONTHS, 2)
    n, k = rng.sample(range(1, 29), 2)
    text, wrong = rng.choice(
        [
            (f"{month} {n}", f"{month} {k}"),
            (f"{month} {n}", f"{other} {n}"),
            (f"Room {n}", f"Room {k}"),
            (f"Team {'ABCDEF'[n % 6]}", f"Team {'ABCDEF'[(n + 1) % 6]}"),
            (month, other),
            (f"{month} {n}, 1999", f"{month} {n}, 1998"),
        ]
    )
    if rng.random() < 0.3:
        ending = "th" if 3 < n < 21 or n > 23 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
        day = rng.choice([f"{n} {month}", f"{month} {n}{ending}", f"{n}{ending} {month}"])
        return rng.choice(
            [(day, f"{month} {n}", True), (rf"\text{{{day}}}", f"{month} {n}", True), (day, f"{month} {k}", False)]
        )
    return rng.choice(
        [
            (rf"\text{{{text}}}", text, True),
            (text, rf"\text{{{text}}}", True),
            (rf"\text{{{text}}}", wrong, False),
            (rf"\textbf{{{text}}}", rf"\text{{{text}}}", True),
        ]
    )


def matrix(rows, name="pmatrix"):
    return rf"\begin{{{name}}}" + r"\\".join("&".join(map(str, row)) for row in rows) + rf"\end{{{name}}}"


@kind(
    "python notation",
    "matrices, powers, roots, complex numbers, sets, tuples, lists and fractions as Python and SymPy print them",
)
def python_notation(rng):
    a, b, c = rng.randint(2, 30), rng.choice([2, 3, 5, 7, 11]), rng.randint(2, 9)
    rows = [[rng.randint(-9, 9) for _ in range(rng.choice([2, 3]))] for _ in range(2)]
    rows[1] = (rows[1] * 2)[: len(rows[0])]
    changed = [list(row) for row in rows]
    changed[0][0] += 1
    numbers = rng.sample(range(-20, 60), 3)
    shown = ", ".join(map(str, numbers))
    return rng.choice(
        [
            (str(rows), matrix(rows), True),
            (f"Matrix({rows})", matrix(rows, "bmatrix"), True),
            (f"np.array({rows})", matrix(rows), True),
            (f"Matrix({rows})", matrix(changed), False),
            (f"Matrix({numbers})", matrix([[n] for n in numbers]), True),
            (f"{a}**{c}", str(a**c), True),
            (f"{a}**{c}", str(a * c + 1 if a**c == a * c else a * c), False),
            (f"x**{a} + {c}*x", f"x^{{{a}}}+{c}x", True),
            (f"{c}*sqrt({b})", rf"{c}\sqrt{{{b}}}", True),
            (f"{c}*sqrt({b})", rf"{c}\sqrt{{{b + 6}}}", False),
            (f"1/{c} + sqrt({b})*I/{c}", rf"\frac{{1}}{{{c}}}+\frac{{\sqrt{{{b}}}}}{{{c}}}i", True),
            (f"{a} - {c}*I", f"{a}-{c}i", True),
            (f"{a} - {c}*I", f"{a}+{c}i", False),
            (f"E**{c}", f"e^{{{c}}}", True),
            (f"exp({c})", f"e^{{{c}}}", True),
            (f"E**{c}", f"e^{{{c + 1}}}", False),
            (f"{a * 1000:_}", str(a * 1000), True),
            (f"{a * 1000:_}", str(a), False),
            (f"{{{shown}}}", rf"\{{{shown}\}}", True),
            (f"[{shown}]", shown, True),
            (f"({shown})", f"({shown})", True),
            (f"({shown})", f"({numbers[1]}, {numbers[0]}, {numbers[2]})", False),
            (f"Rational({a}, {b})", rf"\frac{{{a}}}{{{b}}}", True),
            (f"Fraction({a}, {b})", rf"\frac{{{a + 1}}}{{{b}}}", False),
            (f"math.comb({a}, 2)", str(math.comb(a, 2)), True),
            (f"factorial({c})", str(math.factorial(c)), True),
            (f"pi/{c}", rf"\frac{{\pi}}{{{c}}}", True),
            (f"[({a}, {b}), ({b}, {c})]", f"({b},{c}),({a},{b})", True),
            (f"sqrt({a} + sqrt({b}))", rf"\sqrt{{{a}+\sqrt{{{b}}}}}", True),
        ]
    )


@kind("repeating decimals", "a fraction with a repeating block in seven spellings, cut off, and with another block")
def repeating(rng):
    block, fixed, whole = (
        str(rng.randint(1, 8) if rng.random() < 0.5 else rng.randint(12, 97)),
        rng.choice(["", "", "5", "1"]),
        rng.randint(0, 20),
    )
    if len(set(block)) == 1:
        block = block[0]
    if fixed == block[-1]:
        fixed = ""
    value = whole + (Fraction(int(fixed or 0)) + Fraction(int(block), 10 ** len(block) - 1)) / 10 ** len(fixed)
    digits = f"{whole}.{fixed}"
    forms = [
        f"{digits}({block})",
        rf"{digits}\overline{{{block}}}",
        f"{digits}{block * 3}...",
        f"{digits}{block * 4}…",
        rf"{digits}{block * 3}\ldots",
        rf"{digits}{block * 3}\dots",
    ]
    if len(block) == 1:
        forms += [rf"{digits}\dot{{{block}}}", rf"{digits}\bar{block}"] + [f"{digits}{block} repeating"] * (not fixed)
    spelt = rng.choice(forms)
    cut = Fraction(f"{digits}{block}")
    return rng.choice(
        [
            (spelt, fraction(value, rng), True),
            (spelt, fraction(value, rng), True),
            (spelt, fraction(cut, rng), False),
            (f"{digits}{block}", fraction(value, rng), False),
        ]
    )


@kind(
    "thousands",
    "a number from 1,000 to 10⁹ with its groups separated in twelve ways, alone, named, with a factor and in fractions",
)
def thousands(rng):
    n = rng.choice([rng.randint(1000, 99_999), rng.randint(10**6, 10**9)])
    plain, spelt = str(n), f"{n:,}"
    separator = rng.choice(
        [",", "{,}", r",\!", r"\,", r"{\,}", ",\\,", r",\! ", " ", "\u202f", "\u00a0", "'", "_", r"\ "]
    )
    shown = spelt.replace(",", separator)
    wrong = spelt.split(",")[0]
    frame = "{}"
    if separator in (",", "{,}", r",\!"):
        frame = rng.choice(
            ["{}", "x = {}", r"{}\pi", r"{}\sqrt{{2}}", r"\frac{{{}}}{{7}}", r"{} \text{{ miles}}", r"\${}", "{}x"]
        )
    answer, gold = frame.format(shown), frame.format(plain)
    return rng.choice(
        [
            (answer, gold, True),
            (answer, gold, True),
            (gold, answer, True),
            (answer, frame.format(wrong), False),
            (answer, frame.format(n + 1), False),
        ]
    )


@kind(
    "no thousands",
    "a pair or a list of numbers of which the second has three digits, against the number without its comma",
)
def no_thousands(rng):
    a, b = rng.randint(1, 99), rng.randint(100, 999)
    pair = rng.choice([f"({a},{b})", f"({a}, {b})", rf"\{{{a}, {b}\}}", f"{a}, {b}", rf"({a},\,{b})", f"[{a},{b}]"])
    return rng.choice([(pair, f"{a}{b}", False), (f"{a}{b}", pair, False), (pair, pair.replace(" ", ""), True)])


@kind(
    "intervals",
    "an interval with brackets turned outward, alone and in a union, against round brackets and against other ends",
)
def intervals(rng):
    a = rng.randint(-20, 20)
    b = a + rng.randint(1, 30)
    left, right = rng.choice("[]"), rng.choice("[]")
    if (left, right) == ("[", "]"):
        left = "]"
    usual = {"[": ("[", ")"), "]": ("(", "]")}
    gold = f"{usual[left][0]}{a},{b}{usual[right][1]}"
    other = gold.translate(str.maketrans("[(])", "([)]"))
    text = rf"{left}{a}{rng.choice([',', ', ', ';'])}{b}{right}"
    union = rf"]-\infty,{a}[ \cup ]{b},\infty["
    return rng.choice(
        [
            (text, gold, True),
            (text, other, False),
            (union, rf"(-\infty,{a})\cup({b},\infty)", True),
            (union, rf"(-\infty,{a}]\cup({b},\infty)", False),
        ]
    )


@kind(
    "binomials and moduli",
    "binomial coefficients in eight spellings; residues with a modulus, another modulus, another residue",
)
def binomials(rng):
    n, k = rng.randint(4, 20), rng.randint(1, 4)
    value = math.comb(n, k)
    spelt = rng.choice(
        [
            rf"\binom{{{n}}}{{{k}}}",
            rf"\dbinom{{{n}}}{{{k}}}",
            f"C({n},{k})",
            rf"{{}}_{{{n}}}C_{{{k}}}",
            rf"{{}}^{{{n}}}C_{{{k}}}",
            rf"{{{n} \choose {k}}}",
            rf"\mathrm{{C}}_{{{n}}}^{{{k}}}",
            f"{n}C{k}",
        ]
    )
    m = rng.randint(5, 40)
    r = rng.randrange(m)
    modulus = rng.choice([rf"\pmod {m}", rf"\pmod{{{m}}}", f"(mod {m})", rf"\mod {m}", rf"(\bmod {m})"])
    return rng.choice(
        [
            (spelt, str(value), True),
            (spelt, str(value + 1), False),
            (f"{r} {modulus}", str(r), True),
            (str(r), f"{r} {modulus}", True),
            (f"{r} {modulus}", str((r + 1) % m), False),
            (f"{r + m} {modulus}", rf"{r} \pmod{{{m}}}", True),
            (f"{r + m} {modulus}", str(r), True),
            (f"{r + m} {modulus}", str(r + m), False),
            (f"{r} {modulus}", rf"{r} \pmod{{{m + 1}}}", False),
            (rf"x \equiv {r} {modulus}", str(r), True),
        ]
    )


@kind(
    "vectors", "columns, transposed rows, tuples and square brackets; two entries exchanged, and a row against a column"
)
def vectors(rng):
    entries = rng.sample(range(-20, 20), rng.choice([2, 3, 3]))
    swapped = [entries[1], entries[0], *entries[2:]]
    shown, column = ",".join(map(str, entries)), matrix([[e] for e in entries])
    turned = rng.choice(
        [
            rf"({shown})^T",
            rf"({shown})^{{\top}}",
            rf"[{shown}]^T",
            matrix([entries]) + "^T",
            matrix([entries], "bmatrix") + r"^{\mathsf{T}}",
        ]
    )
    spelt = rng.choice([turned, turned, f"({shown})", rf"\langle {shown} \rangle", f"[{shown}]"])
    return rng.choice(
        [
            (spelt, column, True),
            (column, spelt, True),
            (spelt, matrix([[e] for e in swapped]), False),
            (matrix([entries]), column, False),
            (column, column, True),
        ]
    )


@kind("roots with parentheses", "\\sqrt(…), √(…) and sqrt(…) against braces")
def roots(rng):
    a, b = rng.randint(2, 20), rng.choice([2, 3, 5, 6, 7, 10])
    form = rng.choice([r"{}\sqrt({})", "{}√({})", "{}*sqrt({})", r"{}\sqrt ({})"])
    return rng.choice(
        [
            (form.format(a, b), rf"{a}\sqrt{{{b}}}", True),
            (form.format(a, b), rf"{a + 1}\sqrt{{{b}}}", False),
            (form.format(a, f"x+{b}"), rf"{a}\sqrt{{x+{b}}}", True),
            (form.format(a, b), str(a * b), False),
        ]
    )


@kind("Greek letters that are Python words", "products and sums with λ in another order, and with another letter")
def greek(rng):
    letter, n = rng.choice("kxavt"), rng.randint(2, 9)
    return rng.choice(
        [
            (rf"\lambda {letter}", rf"{letter}\lambda", True),
            (rf"{n}\lambda {letter}", rf"{n}{letter}\lambda", True),
            (rf"{n}λ{letter}", rf"{n}\lambda {letter}", True),
            (rf"\lambda {letter} + {n}", rf"{n}+\lambda {letter}", True),
            (rf"\lambda {letter}", r"\lambda", False),
            (rf"\lambda {letter}", rf"\mu {letter}", False),
            (rf"{n}*lambda*{letter}", rf"{n}\lambda {letter}", True),
        ]
    )


@kind("equal alternatives", "one value in two spellings with `or`, and two values with `or`")
def alternatives(rng):
    value, other = Fraction(rng.randint(1, 40), rng.choice([1, 2, 4, 5])), Fraction(rng.randint(41, 80))
    first, second = fraction(value, rng), f"{float(value)}"
    word = rng.choice([r" \text{ or } ", " or ", r"\text{ or }"])
    both, wrong = f"{first}{word}{second}", f"{first}{word}{other}"
    return rng.choice(
        [
            (both, first, True),
            (both, second, True),
            (first, both, True),
            (wrong, first, False),
            (first, wrong, False),
            (both, str(other), False),
        ]
    )


@kind(
    "named pairs",
    "two pairs with their names against tuples: in another order, with values exchanged, with one pair missing",
)
def named_pairs(rng):
    x, y = rng.choice([("x", "y"), ("p", "q"), ("a", "b"), ("m", "n"), ("x_1", "x_2")])
    a, b, c, d = rng.sample(range(-30, 30), 4)
    form = rng.choice(
        [
            "{x}={a},{y}={b};{x}={c},{y}={d}",
            r"{x}={a}, {y}={b} \text{{ or }} {x}={c}, {y}={d}",
            "{x} = {a}, {y} = {b}; {x} = {c}, {y} = {d}",
        ]
    )
    named = form.format(x=x, y=y, a=a, b=b, c=c, d=d)
    one = f"{x}={a}, {y}={b}"
    return rng.choice(
        [
            (f"({a},{b}),({c},{d})", named, True),
            (f"({c},{d}),({a},{b})", named, True),
            (named, f"({a}, {b}), ({c}, {d})", True),
            (f"({b},{a}),({d},{c})", named, False),
            (f"({a},{b})", named, False),
            (f"{y}={b}, {x}={a}", f"({a},{b})", True),
            (f"{y}={a}, {x}={b}", f"({a},{b})", False),
            (one, f"({a},{b})", True),
        ]
    )


@kind("functions", "a polynomial as f(x), as y, in another variable and bare; with another coefficient")
def functions(rng):
    a, b, k = rng.randint(2, 9), rng.randint(1, 20), rng.choice([1, 2, 3])
    x = "x" if k == 1 else f"x^{k}"
    f = rng.choice(["f", "g", "h"])
    t = x.replace("x", "t")
    return rng.choice(
        [
            (f"{f}(x) = {a}{x}+{b}", f"y = {a}{x}+{b}", True),
            (f"y = {b}+{a}{x}", f"{f}(x)={a}{x}+{b}", True),
            (f"{f}(t) = {a}{t}+{b}", f"{f}(x) = {a}{x}+{b}", True),
            (f"{f}(x) = {a}{x}+{b}", f"{a}{x}+{b}", True),
            (f"{f}(x) = {a}{x}+{b}", f"y = {a + 1}{x}+{b}", False),
            (f"{f}({a}) = {b}", f"{f}({a + 1}) = {b}", False),
            (f"{f}'(x) = {a}{x}+{b}", f"y = {a}{x}+{b}", False),
            (f"y' = {a}{x}+{b}", f"y = {a}{x}+{b}", False),
            (f"P(A) = {b}", f"P(B) = {b}", False),
            (f"{f}(x) = {a}{x}+{b}", f"y = {a}{x}-{b}", False),
        ]
    )


# In completions


@kind("end marks", "a stated answer with a mark that ends a thought, a tag or a turn right behind it", graded=True)
def end_marks(rng):
    n = rng.randint(1, 999)
    mark = rng.choice(["</think>", "</answer>", "</s>", "<|im_end|>", "<|endoftext|>", "</think>\n", " </s>"])
    opening = rng.choice(["<think>", "", "So we add. "])
    text = (
        opening
        + rng.choice(["The answer is {}", "Answer: {}", "Final Answer: {}", "The final answer is ${}$"]).format(n)
        + mark
    )
    return rng.choice([(text, str(n), True), (text, str(n + 1), False), (rf"\boxed{{{n}}}{mark}", str(n), True)])


@kind(
    "sentences in answer tags", "sentences about a number, some with a second number, between answer tags", graded=True
)
def tags(rng):
    n, m = rng.sample(range(2, 500), 2)
    text = rng.choice(
        [
            "There are {n} divisors of {m}.",
            "Therefore, $n = {n}$",
            "Therefore, $n = {n}$.",
            "The remainder when it is divided by {m} is {n}.",
            "There are exactly {n} ways to choose {m} of them.",
            "The total is {n}",
            "The total is ${n}$ when $k={m}$.",
            "The total is {n} when $k$ is {m}.",
            "It is ${n}$, not ${m}$.",
            "So the answer is {n}.",
            "Thus the number of ways is ${n}$.",
            "Hence he has {n} apples left.",
            "{n}",
        ]
    ).format(n=n, m=m)
    return rng.choice(
        [
            (f"<answer>{text}</answer>", str(n), True),
            (f"<answer>{text}</answer>", str(n), True),
            (f"<answer>{text}</answer>", str(m), False),
        ]
    )


@kind(
    "a letter instead of the number",
    "a statement that names a letter in mathematics and then says what number it is",
    graded=True,
)
def letter_first(rng):
    n, letter = rng.randint(2, 999), rng.choice("nkxmN")
    text = rng.choice(
        [
            "The largest ${v}$ is {n}.",
            "the smallest such ${v}$ is {n}",
            "The value of ${v}$ is {n}.",
            "the minimum of ${v}$ equals {n}.",
            "${v}$ = {n}",
            "The number of ${v}$-tuples is ${n}$.",
            "the maximum value of ${v}$ is therefore {n}.",
            "${v}$ has length {n}.",
        ]
    ).format(v=letter, n=n)
    opening = rng.choice(["Final Answer: ", "The final answer is: ", "Answer: "])
    return rng.choice(
        [(opening + text, str(n), True), (opening + text, str(n + 1), False), (opening + text, letter, False)]
    )


@kind(
    "boxes with names between",
    "two or three boxes behind names, joined by commas and `and`; the last one alone",
    graded=True,
)
def named_boxes(rng):
    values = rng.sample(range(-50, 50), rng.choice([2, 2, 3]))
    names = rng.choice(
        [["y_1", "y_2", "y_3"], ["x", "y", "z"], ["a", "b", "c"], [r"\alpha", r"\beta", r"\gamma"], ["x", "x", "x"]]
    )
    parts = [rf"${name}=\boxed{{{value}}}$" for name, value in zip(names, values)]
    text = rng.choice([", ", " and ", ", and "]).join(parts)
    gold = ", ".join(map(str, values))
    return rng.choice(
        [
            (text, gold, True),
            (text, gold, True),
            (text, str(values[-1]), False),
            (text, ", ".join(map(str, values[:-1])) + f", {values[-1] + 1}", False),
        ]
    )


def gsm8k(rng):
    "A solution in the form of GSM8K: sentences with calculator marks, then `####` and the answer; and the answer."
    a, b = rng.randint(2, 400), rng.randint(2, 60)
    lines = [
        rng.choice(
            [
                "She spends ${a}*{b}=$<<{a}*{b}={c}>>{c} on them.",
                "There are {a}*{b}=<<{a}*{b}={c}>>{c} of them in total",
                "He has {c} left.",
            ]
        ).format(a=a, b=b, c=a * b)
        for _ in range(rng.randint(1, 3))
    ]
    value = rng.choice([a * b, a * b * 1000, -a, a])
    shown = rng.choice([str(value), f"{value:,}"])
    return "\n".join(lines), shown, value


@kind(
    "gsm8k marks",
    "solutions as in GSM8K: as completion, as gold answer, as both; `$`, commas, a full stop, headings",
    graded=True,
)
def gsm8k_marks(rng):
    body, shown, value = gsm8k(rng)
    solution = f"{body}\n#### {shown}"
    completion = body + rng.choice(
        ["\n#### {}", "\n####{}", "\n#### ${}", "\n#### {}.", "\n#### {}\n", " #### {}"]
    ).format(shown)
    return rng.choice(
        [
            (completion, str(value), True),
            (rf"\boxed{{{value}}}", solution, True),
            (solution, solution, True),
            (completion, solution, True),
            (completion, str(value + 1), False),
            (rf"\boxed{{{value + 1}}}", solution, False),
            (f"#### Step {value}: add\nso it goes on", str(value), False),
        ]
    )


@kind(
    "gold answers that cannot be judged",
    "gold answers that are broken off, empty, or say that there is none",
    graded=True,
)
def no_gold(rng):
    gold = rng.choice(
        [
            r"\text{",
            r"\frac{1}{",
            r"\sqrt{",
            "∎",
            "□",
            "N/A",
            "n/a",
            "NA",
            "None",
            "null",
            "Proof.",
            "Proof omitted",
            "see solution",
            "See above.",
            "-",
            "?",
            "...",
            "",
            r"\boxed{}",
            r"\text{N/A}",
            r"\blacksquare",
            "Q.E.D.",
            "unknown",
            "TBD",
            "Answers may vary.",
            "not provided",
            "$$",
        ]
    )
    answer = rng.choice([str(rng.randint(0, 99)), "x+1", r"\frac12", r"\text{yes}"])
    return rf"\boxed{{{answer}}}", gold, None
