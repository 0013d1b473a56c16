"Problems from files and data sets: what is right loads, what is wrong is named by row and field."

import json
import os
import re
from decimal import Context, Decimal
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spurious_rlvr.core import ConfigError, DataError
from spurious_rlvr.grading import grade, is_equivalent
from spurious_rlvr.tasks import (
    BENCHMARKS,
    TEMPLATES,
    WORKED_EXAMPLES,
    benchmark_name,
    chain_question,
    chain_steps,
    chain_values,
    few_shot,
    get_benchmark,
    get_protocol,
    grid_templates,
    load_problems,
    random_calculations,
)

real = pytest.mark.skipif(
    "SPURIOUS_RLVR_DATA" not in os.environ,
    reason="needs public data: set SPURIOUS_RLVR_DATA to a folder with benchmarks/ and train/ as JSON Lines",
)


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "rows, words",
    [
        ([{"problem": "a", "answer": "1"}, {"problem": "b"}], "row 2: no gold"),
        ([{"answer": "1"}], "row 1: no question"),
        ([{"problem": "a", "answer": ""}], "row 1: answer is empty"),
        ([{"problem": "a", "answer": ["1", "2"]}], "row 1: answer is list"),
        ([{"problem": "a", "answer": True}], "row 1: answer is bool"),
        ([{"problem": 3.5, "answer": None}], "row 1: no gold"),
        (
            [{"problem": "a", "answer": "1", "id": 7}, {"problem": "b", "answer": "1", "id": "7"}],
            "row 2: id '7' stands in .* row 1 too",
        ),
        (['{"problem": "a", "answer": "1"'], "row 1: is not JSON"),
        (["[1, 2]"], "row 1: is list"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, rows, words):
    with pytest.raises(DataError, match=words) as caught:
        load_problems(write(tmp_path / "set.jsonl", *rows))
    assert len(str(caught.value).splitlines()) == 1


def test_the_same_rows_in_every_format_are_the_same_problems(tmp_path):
    rows = [{"question": f"What is {i} + 1?", "answer": str(i + 1), "level": i} for i in range(5)]
    write(tmp_path / "set.jsonl", *rows)
    (tmp_path / "set.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set.parquet")
    (tmp_path / "hub" / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    sets = [load_problems(tmp_path / name) for name in ("set.jsonl", "set.json", "set.parquet", "hub")]
    assert all(
        [(p.id, p.question, p.gold, dict(p.columns)) for p in s]
        == [(p.id, p.question, p.gold, dict(p.columns)) for p in sets[0]]
        for s in sets
    )


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "set.jsonl").write_bytes(b'\xef\xbb\xbf{"problem": "a", "answer": "1"}\n')
    assert [p.question for p in load_problems(tmp_path / "set.jsonl")] == ["a"]


def test_a_set_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(DataError, match="could not be loaded from the hub") as caught:
        load_problems("nobody/no-such-set")
    assert len(str(caught.value).splitlines()) == 1


def test_damaged_parquet_is_named(tmp_path):
    (tmp_path / "set.parquet").write_bytes(b"PAR1 nothing else")
    with pytest.raises(DataError, match="set.parquet: is not a readable parquet file"):
        load_problems(tmp_path / "set.parquet")


@given(st.integers(0, 9), st.lists(st.tuples(st.sampled_from("+-*"), st.integers(0, 9)), min_size=1, max_size=8))
def test_chains_read_back_and_are_worked_out_as_arithmetic(start, steps):
    assert chain_steps(chain_question(start, steps)) == (start, steps)
    total = start
    for operation, digit in steps:
        total = {"+": total + digit, "-": total - digit, "*": total * digit}[operation]
    assert chain_values(start, steps)[-1] == total % 10  # keeping the last digit at each step or at the end is the same


@given(st.text())
def test_a_question_reaches_the_prompt_letter_for_letter(text):
    for template in TEMPLATES.values():
        if not template.chat:
            assert text in template.render(text)


@real
@pytest.mark.parametrize(
    "name, count",
    [
        ("benchmarks/math500_half", 250),
        ("benchmarks/amc23_half", 20),
        ("benchmarks/aime24_half", 15),
        ("benchmarks/aime25_half", 15),
        ("benchmarks/amc_ttrl83_half", 42),
        ("train/math_ttt_half", 250),
        ("train/one_shot_pi1", 1),
        ("train/one_shot_pi13", 1),
    ],
)
def test_real_sets_load(name, count):
    problems = load_problems(Path(os.environ["SPURIOUS_RLVR_DATA"]) / f"{name}.jsonl")
    assert len(problems) == count and all(p.question and p.gold for p in problems)


@real
def test_a_real_set_with_an_empty_answer_is_not_loaded_silently():
    path = Path(os.environ["SPURIOUS_RLVR_DATA"]) / "train" / "deepscaler_sub1209.jsonl"
    with pytest.raises(DataError, match="row 266: answer is empty"):
        load_problems(path)
    with pytest.warns(UserWarning, match="1 rows are left out; the first: .* row 266"):
        assert len(load_problems(path, faulty="skip")) == 1208


def test_a_gold_answer_given_as_a_boxed_solution_is_understood():
    assert is_equivalent("204", r"\boxed{204}") is True


# --- benchmarks, protocols, templates, calculations


@pytest.mark.parametrize(
    "spelt, name",
    [
        ("MATH-500", "math500"),
        ("math_500", "math500"),
        ("AIME 2024", "aime24"),
        ("aime-2025", "aime25"),
        ("AMC", "amc"),
        ("amc23", "amc23"),
        ("Minerva", "minerva"),
    ],
)
def test_a_benchmark_may_be_spelt_as_people_spell_it(spelt, name):
    assert benchmark_name(spelt) == name and get_benchmark(spelt) is BENCHMARKS[name]


def test_the_papers_protocol_is_greedy_on_math500_and_sampled_elsewhere():
    for name in BENCHMARKS:
        protocol = get_protocol("paper", name)
        assert (protocol.temperature, protocol.samples) == (
            (0.0, 1) if name == "math500" else (0.6, 8)
        ) and protocol.max_completion_length == 3072
        assert protocol.convention == BENCHMARKS[name].convention and protocol.rules == BENCHMARKS[name].rules
    with pytest.raises(ConfigError, match="samples is 0 .*temperature is -1"):
        get_protocol("greedy", samples=0, temperature=-1)


PAPER = {  # Shao et al., Table 4, system and user message
    "qwen_math": (r"Please reason step by step, and put your final answer within \boxed{}.", "{question}"),
    "math_problem": ("You are a helpful Assistant.", "Math Problem: {question}"),
    "simplerl_zoo": (
        "You are a helpful Assistant.",
        "{question}\nPlease reason step by step, and put your final answer within \\boxed{}.",
    ),
    "sober": (
        None,
        (
            "Solve the following math problem efficiently and clearly. The last line of your response should be of the"
            " following format: 'Therefore, the final answer is: $\\boxed{ANSWER}$. I hope it is correct' (without"
            " quotes) where ANSWER is just the final number or expression that solves the problem. Think step by step"
            " before answering.\n\n{question}"
        ),
    ),
    "lorem_ipsum": (
        "Lorem ipsum dolor sit amet, consectetuer adipiscing elit.",
        (
            "Ut purus elit, vestibulum ut, placerat ac, adipiscing vitae, felis. Curabitur dictum gravida mauris. Nam"
            " arcu libero, nonummy eget, consectetuer id, vulputate a, magna. Donec vehicula augue eu neque."
            " Pellentesque habitant morbi tristique senectus et netus et malesuada fames ac turpis egestas. Mauris ut"
            " leo. Cras viverra metus rhoncus sem. Nulla et lectus vestibulum urna fringilla ultrices. Phasellus eu"
            " tellus sit amet tortor gravida placerat.\n\n{question}"
        ),
    ),
}


def test_the_papers_prompts_are_given_to_the_letter():
    class Chat:
        chat_template = "there is one"

        def apply_chat_template(self, messages, **_):
            return repr(messages)

    for name, (system, user) in PAPER.items():
        expected = ([] if system is None else [{"role": "system", "content": system}]) + [
            {"role": "user", "content": user.replace("{question}", "1 + {1}?")}
        ]
        assert TEMPLATES[name].render("1 + {1}?", Chat()) == repr(expected)
    assert [t.name for t in grid_templates(Chat())][:5] == list(PAPER)
    plain = {t.name: t.render("1 + 1?") for t in grid_templates()}  # without a chat template: the same words
    for name, (system, user) in PAPER.items():
        assert (system or "") in plain[f"{name}_plain"] and user.replace("{question}", "1 + 1?") in plain[
            f"{name}_plain"
        ]


@given(st.text(), st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=3))
@settings(deadline=None)
def test_worked_examples_and_question_stand_as_given(question, examples):
    if any("{question}" in text for pair in examples for text in pair):
        return
    prompt = few_shot(examples).render(question)
    assert prompt.endswith("Problem: " + question + "\nSolution:") and all(
        q in prompt and s in prompt for q, s in examples
    )


def test_the_worked_examples_answer_right_in_the_format_that_is_graded():
    golds = ["42", "7", r"\frac{1}{3}", "24"]
    assert [grade(solution, gold).correct for (_, solution), gold in zip(WORKED_EXAMPLES, golds)] == [True] * 4


def worked_out(question):  # by Python's own arithmetic on the question's text
    text = (
        re.fullmatch(r"Evaluate the expression: \$(.+)\$\. .*", question)[1]
        .replace(r"\times", "*")
        .replace(r"\div", "/")
        .replace("^", "**")
    )
    text = re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"(Fraction(\1) / \2)", text)
    return eval(
        re.sub(r"(?<![\w(])(\d+)(?!\w)|(?<=\()(\d+)(?= )", lambda m: f"Fraction({m[0]})", text), {"Fraction": Fraction}
    )  # our own generator's text


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=60)
def test_calculations_have_the_value_they_say(seed):
    for problem in random_calculations(4, seed, steps=(1, 20)) + random_calculations(2, seed, steps=(19, 20)):
        value = worked_out(problem.question)
        assert float(value) == problem.columns["value"] and abs(value) <= 10**6
        expression = problem.question.split("$")[1]
        assert (
            sum(expression.count(sign) for sign in (" + ", " - ", " \\times ", " \\div ")) == problem.columns["steps"]
        )


def test_a_calculations_answer_may_be_given_as_a_decimal():
    for problem in random_calculations(100, seed=9):
        assert is_equivalent(format(Context(prec=8).create_decimal(as_decimal(problem)), "f"), problem.gold) is True, (
            problem.gold
        )


def as_decimal(problem):
    value = worked_out(problem.question)
    return Context(prec=60).divide(Decimal(value.numerator), Decimal(value.denominator))
