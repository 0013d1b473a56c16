"Problems from files and data sets: what is right loads, what is wrong is named by row and field."

import csv
import dataclasses
import gzip
import io
import json
import os
import re
import time
import warnings
from decimal import Context, Decimal
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pace import PATIENCE

from spurious_rlvr.core import ConfigError, DataError
from spurious_rlvr.grading import grade, is_equivalent
from spurious_rlvr.tasks import (
    BENCHMARKS,
    MATH_SETS,
    TEMPLATES,
    WORKED_EXAMPLES,
    Template,
    benchmark_name,
    chain_question,
    chain_steps,
    chain_values,
    few_shot,
    final_answer,
    get_benchmark,
    get_protocol,
    get_template,
    golds_of,
    grid_templates,
    load_problems,
    random_calculations,
    recorded_template,
    writable,
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
        ([{"problem": "a", "answer": []}], "row 1: answer is an empty list"),
        ([{"problem": "a", "answer": ["1", {"b": 2}]}], r"row 1: answer \[1\] is dict"),
        ([{"problem": "a", "answer": "notfound"}], "row 1: answer is 'notfound', which stands for a problem without"),
        ([{"problem": "a", "answer": "1" + "0" * 5000}, '{"problem": 1' + "0" * 5000 + "}"], "row 2: holds a value"),
        ([{"problem": "a", "answer": True}], "row 1: answer is bool"),
        ([{"problem": 3.5, "answer": None}], "row 1: no gold"),
        (
            [{"problem": "a", "answer": "1", "id": 7}, {"problem": "b", "answer": "1", "id": "7"}],
            "row 2: id '7' stands in .* row 1 too, with another problem",
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
    (tmp_path / "wrapped.json").write_text(json.dumps({"version": 1, "data": rows}, indent=1))
    (tmp_path / "named.json").write_text(json.dumps({"tags": ["maths"], "quiz": rows}))
    (tmp_path / "lines.json").write_text((tmp_path / "set.jsonl").read_text())
    (tmp_path / "SET.JSONL").write_text((tmp_path / "set.jsonl").read_text())
    (tmp_path / "set.jsonl.gz").write_bytes(gzip.compress((tmp_path / "set.jsonl").read_bytes()))
    (tmp_path / "set.Json.GZ").write_bytes(gzip.compress((tmp_path / "set.json").read_bytes()))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set.parquet")
    (tmp_path / "hub" / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    names = "set.jsonl set.json wrapped.json named.json lines.json SET.JSONL set.jsonl.gz set.Json.GZ set.parquet hub"
    sets = [load_problems(tmp_path / name) for name in names.split()]
    assert all(
        [(p.id, p.question, p.gold, dict(p.columns)) for p in s]
        == [(p.id, p.question, p.gold, dict(p.columns)) for p in sets[0]]
        for s in sets
    )


@pytest.mark.parametrize(
    "separator, name", [(",", "set.csv"), (";", "set.CSV"), ("\t", "set.tsv"), (",", "set.csv.gz")]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_read_as_what_was_written(tmp_path, separator, name, end):
    cells = ["a, b; c", 'say "two"', "over\nlines", "\u2028 and \x85", "\tx", "x" * 200_000, "=1+1", "½"]
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, lineterminator=end)
    writer.writerows([["question", "answer", "level"], *([cell, str(i), ""] for i, cell in enumerate(cells))])
    data = text.getvalue().encode("utf-8-sig")
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    problems = load_problems(tmp_path / name)
    assert [(p.question, p.gold, p.columns) for p in problems] == [
        (cell, str(i), {"level": ""}) for i, cell in enumerate(cells)
    ]


@pytest.mark.parametrize(
    "name, data, words",
    [
        ("a.csv", b"question,answer\na,1\nb\n", "row 2: has 1 cells for 2 columns"),
        ("a.csv", b"question,answer\na,\xff\n", "a.csv: is not UTF-8"),
        ("a.csv", b'question,answer\n"a"b,1\n', "line 2: is not CSV"),
        ("a.csv", b"", "holds no problems"),
        ("a.csv.gz", b"question,answer\n", "cannot be unpacked"),
        ("a.json.gz", gzip.compress(b"[]", mtime=0)[:-9], "cannot be unpacked"),
        ("a.jsonl.gz", gzip.compress(b"{}" * 9000, mtime=0)[:-12], "cannot be unpacked"),
        ("a.json", b'{"question": "a", "answer": "1"}', "not one object with none in it"),
        ("a.json", b'{"a": [{}], "b": [{}]}', "several: a, b; keep one"),
        ("a.json", b"3", "must hold a list of objects, not int"),
        ("a.json", b"[" * 200_000, "nested too deeply"),
        ("a.txt", b"a", "give a .jsonl"),
        ("a.parquet.gz", b"a", "give a .jsonl"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        load_problems(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1 and name in str(caught.value)


@given(st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.parquet"]), st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_load_or_are_refused_in_one_line(tmp_path_factory, name, data):
    path = tmp_path_factory.mktemp("bytes") / name
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        load_problems(path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_cell_of_parquet_that_is_no_text_is_named(tmp_path):
    good, bad = (
        pa.array(["a", "b", "c"]),
        pa.Array.from_buffers(pa.binary(), 3, pa.array([b"1", b"\xff", b"3"]).buffers()),
    )
    pq.write_table(pa.table({"question": good, "answer": bad.cast(pa.string(), safe=False)}), tmp_path / "set.parquet")
    with pytest.raises(DataError, match="set.parquet row 2: answer cannot be read"):
        load_problems(tmp_path / "set.parquet")


# --- rows that repeat a problem


def repeated(rows, times):
    "Rows as verl's one-shot files and DAPO's set hold them: alike but for their place."
    return [
        {
            "data_source": "math_dapo",
            "prompt": [{"role": "user", "content": question}],
            "reward_model": {"ground_truth": gold, "style": "rule"},
            "extra_info": {"index": str(i)},
        }
        for i, (question, gold) in enumerate(rows * times)
    ]


@pytest.mark.parametrize(
    "rows, times", [([("1 + 1?", "2")], 128), ([(f"{i} + 1?", str(i + 1)) for i in range(30)], 100)]
)
def test_rows_that_repeat_a_problem_are_kept_once_and_counted(tmp_path, rows, times):
    pq.write_table(pa.Table.from_pylist(repeated(rows, times)), tmp_path / "train.parquet")
    with pytest.warns(UserWarning) as said:
        problems = load_problems(tmp_path / "train.parquet")
    assert [(p.question, p.gold) for p in problems] == rows
    assert len(said) == 1 and str(said[0].message) == (
        f"{tmp_path}/train.parquet: {len(rows) * (times - 1)} rows repeat a problem and are left out; {len(rows)}"
        f" problems are kept; the first repeat: {tmp_path}/train.parquet row {len(rows) + 1}"
    )


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("12"), st.sampled_from(["", "x", "y"])), min_size=1))
def test_every_row_is_a_problem_a_repeat_or_refused(tmp_path_factory, rows):
    path = write(
        tmp_path_factory.mktemp("rows") / "set.jsonl",
        *({"question": q, "answer": a} | ({"id": i} if i else {}) for q, a, i in rows),
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        problems = load_problems(path, faulty="skip")
    counts = [int(re.search(r"jsonl: (\d+) rows", str(w.message))[1]) for w in said]
    assert len(problems) + sum(counts) == len(rows)
    assert len({p.id for p in problems}) == len({(p.question, p.gold) for p in problems}) == len(problems)


def test_no_id_is_spoken_of_where_none_was_given(tmp_path):
    rows = [{"question": "a", "answer": "1"}, {"question": "a", "answer": "2"}, {"question": "a", "answer": "1"}]
    with pytest.warns(UserWarning, match="1 rows repeat") as said:
        assert len(load_problems(write(tmp_path / "set.jsonl", *rows))) == 2
    assert " id" not in str(said[0].message).replace(str(tmp_path), "")


# --- text that cannot be written


def test_lone_surrogates_become_their_escape_wherever_they_stand(tmp_path):
    rows = [{"question": "what \ud800 is", "answer": "1", "tags": ["\udfff"]}, {"question": "b", "answer": "2"}]
    write(tmp_path / "escaped.jsonl", *rows)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "bare.jsonl").write_bytes(text.encode("utf-8", "surrogatepass"))
    (tmp_path / "set.csv").write_bytes("question,answer\nwhat \ud800 is,1\n".encode("utf-8", "surrogatepass"))
    for name in ("escaped.jsonl", "bare.jsonl", "set.csv"):
        with pytest.warns(UserWarning, match="row 1: holds a lone surrogate"):
            problems = load_problems(tmp_path / name)
        assert problems[0].question == r"what \ud800 is"
        problems[0].question.encode()
    assert load_problems(write(tmp_path / "pair.jsonl", {"question": "😀", "answer": "1"}))[0].question == "😀"


@given(st.recursive(st.text(st.characters()) | st.integers(), lambda inner: st.lists(inner, max_size=3), max_leaves=5))
def test_writable_text_can_be_written_and_is_left_alone(value):
    mended = writable(value)
    json.dumps(mended, ensure_ascii=False).encode()
    assert writable(mended) == mended


# --- the sets that people use


WORKED = "She sold 48 / 2 = <<48/2=24>>24.\nIn all 1,000 + 24.\n#### 1,024"
VERL = {"data_source": "x", "ability": "math", "extra_info": {"index": 0}}
ROWS = {  # one row in each set's form, question and golds as they must come out
    "openai/gsm8k": ({"question": "Q", "answer": WORKED}, ["1024"]),
    "DigitalLearningGmbH/MATH-lighteval": (
        {"problem": "Q", "level": "Level 5", "type": "Algebra", "solution": r"So $x=\boxed{\frac{1}{2}}$."},
        [r"\frac{1}{2}"],
    ),
    "HuggingFaceH4/MATH-500": (
        {"problem": "Q", "solution": r"\boxed{2}", "answer": "2", "subject": "Algebra", "level": 2, "unique_id": "u"},
        ["2"],
    ),
    "agentica-org/DeepScaleR-Preview-Dataset": (
        {"problem": "Q", "answer": "-\\frac{2}{3}", "solution": "s"},
        [r"-\frac{2}{3}"],
    ),
    "BytedTsinghua-SIA/DAPO-Math-17k": (
        VERL
        | {
            "prompt": [{"content": "Q", "role": "user"}],
            "reward_model": {"ground_truth": "34", "style": "rule-lighteval"},
        },
        ["34"],
    ),
    "open-r1/DAPO-Math-17k-Processed": (
        VERL
        | {"prompt": "Q", "solution": "34", "source_prompt": [{"content": "Solve. Q", "role": "user"}]}
        | {"reward_model": {"ground_truth": "34", "style": "rule-lighteval"}},
        ["34"],
    ),
    "SynthLabsAI/Big-Math-RL-Verified": (
        {"problem": "Q", "answer": "18", "source": "gsm8k", "domain": ["Algebra"], "llama8b_solve_rate": 0.4},
        ["18"],
    ),
    "AI-MO/NuminaMath-CoT": (
        {"source": "cn_k12", "problem": "Q", "solution": r"\boxed{1}, no: $\boxed{10^{-2}}$", "messages": []},
        ["10^{-2}"],
    ),
    "AI-MO/NuminaMath-1.5": ({"problem": "Q", "solution": "s", "answer": "C", "problem_type": "Algebra"}, ["C"]),
    "open-r1/OpenR1-Math-220k": (
        {"problem": "Q", "solution": "s", "answer": "16", "uuid": "u", "generations": ["g"], "messages": []},
        ["16"],
    ),
    "Open-Reasoner-Zero/orz_math_57k_collection": (
        {"0": {"from": "human", "value": "Q"}, "1": {"from": "assistant", "ground_truth": {"value": "720"}}},
        ["720"],
    ),
    "Open-Reasoner-Zero/orz_math_72k_collection_extended": (
        {"0": {"from": "human", "value": "Q"}, "1": {"from": "assistant", "ground_truth": {"value": "2"}, "value": ""}},
        ["2"],
    ),
    "Skywork/Skywork-OR1-RL-Data": (
        VERL
        | {
            "prompt": [{"content": "Q", "role": "user"}],
            "reward_model": {"ground_truth": '["1/2", "0.5"]', "style": "rule"},
        },
        ["1/2", "0.5"],
    ),
    "math-ai/aime24": ({"id": 60, "problem": "Q", "solution": r"\boxed{204}", "url": "u"}, [r"\boxed{204}"]),
    "math-ai/aime25": ({"problem": "Q", "answer": "70", "id": "0"}, ["70"]),
    "HuggingFaceH4/aime_2024": ({"id": 60, "problem": "Q", "solution": "s", "answer": "204", "year": "2024"}, ["204"]),
    "Maxwell-Jia/AIME_2024": ({"ID": "2024-II-4", "Problem": "Q", "Solution": "s", "Answer": 33}, ["33"]),
    "di-zhang-fdu/AIME_1983_2024": ({"ID": "1983-1", "Year": 1983, "Question": "Q", "Answer": "60"}, ["60"]),
    "math-ai/minervamath": ({"question": "Q", "answer": "1.6"}, ["1.6"]),
    "math-ai/olympiadbench": (
        {"id": 1, "question": "Q", "solution": ["s"], "final_answer": ["2"], "is_multiple_answer": False, "unit": None},
        ["2"],
    ),
    "Hothan/OlympiadBench": (
        {"id": 1, "question": "Q", "solution": ["s"], "final_answer": ["$1$", "$2$"], "is_multiple_answer": True},
        ["1, 2"],
    ),
}


@pytest.mark.parametrize("name", MATH_SETS)
def test_a_row_of_each_known_set_is_read_by_its_name_and_as_a_file(name, tmp_path, monkeypatch):
    row, golds = ROWS[name]
    asked = []

    def load_dataset(*names, split):
        asked.append((*names, split))
        return [row]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    (by_name,) = load_problems(name)
    (from_file,) = load_problems(write(tmp_path / "set.jsonl", row))
    assert asked == [(name, MATH_SETS[name].config, MATH_SETS[name].split)]
    assert [(p.question, golds_of(p)) for p in (by_name, from_file)] == [("Q", golds)] * 2
    assert by_name.id == from_file.id


def test_every_known_set_has_a_row_here_and_gsm8k_is_a_benchmark(monkeypatch):
    assert set(ROWS) == set(MATH_SETS)
    monkeypatch.setattr(
        "datasets.load_dataset", lambda *names, split: [ROWS["openai/gsm8k"][0] | {"asked": [*names, split]}]
    )
    (problem,) = load_problems("GSM8K")
    assert problem.gold == "1024" and problem.columns == {"worked": WORKED, "asked": ["openai/gsm8k", "main", "test"]}
    assert load_problems("openai/gsm8k", split="test")[0].columns["asked"] == ["openai/gsm8k", "main", "test"]


def test_pairs_as_a_file_of_lists(tmp_path):
    pair = ROWS["Open-Reasoner-Zero/orz_math_57k_collection"][0]
    (tmp_path / "orz.json").write_text(json.dumps([[pair["0"], pair["1"]]]))
    assert [(p.question, p.gold) for p in load_problems(tmp_path / "orz.json")] == [("Q", "720")]


@given(st.text(), st.sampled_from(["#### 7", "#### 7 ", "text\n#### 7\n", "#### 6\n#### 7", "\t####7"]))
def test_what_stands_after_the_marks_is_the_answer(before, end):
    assert final_answer(before.replace("#", "") + "\n" + end) == "7"


def test_a_hostile_solution_costs_little():
    began = time.perf_counter()
    for text in (r"\boxed{" * 100_000, r"\boxed{1}" * 100_000, "{" * 500_000 + r"\boxed{1}", "####" * 200_000):
        final_answer(text, solution=True)
    assert time.perf_counter() - began < 5 * PATIENCE


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
    with pytest.warns(UserWarning) as said:
        problems = load_problems(path, faulty="skip")
    assert len(problems) == 1206  # of 1,209: one is empty, and one stands there three times
    assert [str(w.message).replace(f"{path.parent}/", "") for w in said] == [
        "deepscaler_sub1209.jsonl: 2 rows repeat a problem and are left out; 1206 problems are kept; the first repeat:"
        " deepscaler_sub1209.jsonl row 781",
        "deepscaler_sub1209.jsonl: 1 rows are left out; the first: deepscaler_sub1209.jsonl row 266: answer is empty",
    ]


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
            (0.0, 1) if name in ("math500", "gsm8k") else (0.6, 8)
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


def test_bare_text_begins_with_bos_where_the_tokenizer_would_write_it(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<s>", "[UNK]", "Q:", "2?"])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    silent = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", unk_token="[UNK]")
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    writing = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", unk_token="[UNK]")
    plain = Template("plain", "Q: {question}", chat=False)

    def read(template, tokenizer):
        return tokenizer.encode(template.render("2?", tokenizer), add_special_tokens=False)

    assert read(plain, writing) == writing.encode("Q: 2?") == [0, 2, 3]
    assert read(plain, silent) == read(dataclasses.replace(plain, bos=False), writing) == [2, 3]
    assert read(dataclasses.replace(plain, bos=True), silent) == [0, 2, 3]
    assert plain.recorded(writing)["bos"] is True and "bos" not in plain.recorded(silent)
    assert read(recorded_template(plain.recorded(writing)), silent) == [0, 2, 3]  # as it was, whatever reads it
    (tmp_path / "mine.json").write_text('{"name": "mine", "user": "Q: {question}", "chat": false, "bos": false}')
    assert read(get_template(str(tmp_path / "mine.json")), writing) == [2, 3]
    with pytest.raises(ConfigError, match="has no BOS token"):
        dataclasses.replace(plain, bos=True).render("2?", None)
    with pytest.raises(ConfigError, match="leave bos out"):
        Template("chat", bos=True)
    with pytest.raises(DataError, match="bos are true or false"):
        recorded_template(dict(name="mine", chat=False, bos="yes"))


def test_a_run_from_before_there_was_a_choice_was_asked_without_bos():
    from types import SimpleNamespace

    from spurious_rlvr.evaluate import recorded_prompt

    old = dict(name="r1", user="{question}", system=None, prefix="", chat=False, stop=[])
    run = SimpleNamespace(settings=dict(model=dict(template="r1", prompt=old)), path="old")
    assert recorded_prompt(run).bos is False
