"Problems from files and data sets: what is right loads, what is wrong is named by row and field."
import json, os
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies as st
from spurious_rlvr.core import DataError, Problem
from spurious_rlvr.grading import is_equivalent
from spurious_rlvr.tasks import TEMPLATES, Template, arithmetic_chains, chain_question, chain_steps, chain_values, load_problems

real = pytest.mark.skipif("SPURIOUS_RLVR_DATA" not in os.environ, reason="needs public data: set SPURIOUS_RLVR_DATA to a folder with benchmarks/ and train/ as JSON Lines")


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("rows, words", [
    ([{"problem": "a", "answer": "1"}, {"problem": "b"}], "row 2: no gold"),
    ([{"answer": "1"}], "row 1: no question"),
    ([{"problem": "a", "answer": ""}], "row 1: answer is empty"),
    ([{"problem": "a", "answer": ["1", "2"]}], "row 1: answer is list"),
    ([{"problem": "a", "answer": True}], "row 1: answer is bool"),
    ([{"problem": 3.5, "answer": None}], "row 1: no gold"),
    ([{"problem": "a", "answer": "1", "id": 7}, {"problem": "b", "answer": "1", "id": "7"}], "row 2: id '7' stands in .* row 1 too"),
    (['{"problem": "a", "answer": "1"'], "row 1: is not JSON"),
    (["[1, 2]"], "row 1: is list"),
])
def test_what_is_wrong_is_named(tmp_path, rows, words):
    with pytest.raises(DataError, match=words) as caught: load_problems(write(tmp_path/"set.jsonl", *rows))
    assert len(str(caught.value).splitlines()) == 1


def test_the_same_rows_in_every_format_are_the_same_problems(tmp_path):
    rows = [{"question": f"What is {i} + 1?", "answer": str(i + 1), "level": i} for i in range(5)]
    write(tmp_path/"set.jsonl", *rows)
    (tmp_path/"set.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path/"set.parquet")
    (tmp_path/"hub"/"data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path/"hub"/"data"/"train-00000-of-00001.parquet")
    sets = [load_problems(tmp_path/name) for name in ("set.jsonl", "set.json", "set.parquet", "hub")]
    assert all([(p.id, p.question, p.gold, dict(p.columns)) for p in s] == [(p.id, p.question, p.gold, dict(p.columns)) for p in sets[0]] for s in sets)


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path/"set.jsonl").write_bytes(b'\xef\xbb\xbf{"problem": "a", "answer": "1"}\n')
    assert [p.question for p in load_problems(tmp_path/"set.jsonl")] == ["a"]


def test_a_set_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(DataError, match="could not be loaded from the hub") as caught: load_problems("nobody/no-such-set")
    assert len(str(caught.value).splitlines()) == 1


def test_damaged_parquet_is_named(tmp_path):
    (tmp_path/"set.parquet").write_bytes(b"PAR1 nothing else")
    with pytest.raises(DataError, match="set.parquet: is not a readable parquet file"): load_problems(tmp_path/"set.parquet")


@given(st.integers(0, 9), st.lists(st.tuples(st.sampled_from("+-*"), st.integers(0, 9)), min_size=1, max_size=8))
def test_chains_read_back_and_are_worked_out_as_arithmetic(start, steps):
    assert chain_steps(chain_question(start, steps)) == (start, steps)
    total = start
    for operation, digit in steps: total = {"+": total + digit, "-": total - digit, "*": total * digit}[operation]
    assert chain_values(start, steps)[-1] == total % 10  # keeping the last digit at each step or at the end is the same


@given(st.text())
def test_a_question_reaches_the_prompt_letter_for_letter(text):
    for template in TEMPLATES.values():
        if not template.chat: assert text in template.render(text)


@real
@pytest.mark.parametrize("name, count", [("benchmarks/math500_half", 250), ("benchmarks/amc23_half", 20), ("benchmarks/aime24_half", 15), ("benchmarks/aime25_half", 15), ("benchmarks/amc_ttrl83_half", 42),
                                         ("train/math_ttt_half", 250), ("train/one_shot_pi1", 1), ("train/one_shot_pi13", 1)])
def test_real_sets_load(name, count):
    problems = load_problems(Path(os.environ["SPURIOUS_RLVR_DATA"])/f"{name}.jsonl")
    assert len(problems) == count and all(p.question and p.gold for p in problems)


@real
def test_a_real_set_with_an_empty_answer_is_not_loaded_silently():
    path = Path(os.environ["SPURIOUS_RLVR_DATA"])/"train"/"deepscaler_sub1209.jsonl"
    with pytest.raises(DataError, match="row 266: answer is empty"): load_problems(path)
    with pytest.warns(UserWarning, match="1 rows are left out; the first: .* row 266"): assert len(load_problems(path, faulty="skip")) == 1208


def test_a_gold_answer_given_as_a_boxed_solution_is_understood():
    assert is_equivalent("204", r"\boxed{204}") is True
