"""Rewards: what holds for all of them (properties), over processes, and inside TRL's own trainer."""

import collections
import copy
import itertools
import json
import os
import pickle
import re
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest
import scipy.stats
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pace import PATIENCE

from spurious_rlvr import rewards
from spurious_rlvr.core import ConfigError, DataError, Problem, keyed_rng
from spurious_rlvr.rewards import as_reward, boxed_format, parse, permuted, random, realised_rate

pytestmark = pytest.mark.filterwarnings("ignore:reward .* carries no signal")


def half(prompts, completions, **columns):
    "A function in TRL's form, at the top level of a module."
    return [0.5] * len(completions)


def plan(phases, groups, samples, seed=0):
    "The columns that the trainer passes, one row for each completion."
    rows = [
        dict(seed=seed, phase=phase, group=group, sample=sample)
        for phase, group, sample in itertools.product(range(1, phases + 1), range(groups), range(samples))
    ]
    return rows, lambda chosen: {name: [row[name] for row in chosen] for name in rows[0]}


def called(reward, rows, columns, texts=None):
    texts = texts or {}

    def key(row):
        return (row["phase"], row["group"], row["sample"])

    values = reward(["?"] * len(rows), [texts.get(key(row), "") for row in rows], **columns(rows))
    return dict(zip(map(key, rows), values))


# Reading and writing

numbers = st.floats(-1e9, 1e9, allow_nan=False)
leaves = st.one_of(
    st.sampled_from(
        [boxed_format(), rewards.mentions_python(), rewards.writes_code(), rewards.no_repetition(), rewards.length()]
    ),
    st.builds(random, st.floats(0, 1), stream=st.integers(0, 3)),
    st.builds(lambda a, b: rewards.uniform(min(a, b), max(a, b)), st.floats(0, 1), st.floats(0, 1)),
    st.builds(rewards.length, st.integers(1, 10**6), st.sampled_from(["tokens", "characters"])),
    st.builds(rewards.no_repetition, times=st.integers(2, 20), shortest=st.integers(1, 5)),
    st.builds(
        lambda rules, convention: rewards.ground_truth(*rules, convention=convention),
        st.lists(st.sampled_from(["boxed", "stated", "last_number"]), unique=True),
        st.sampled_from(["math", "aime"]),
    ),
    st.sampled_from(
        [
            rewards.matches("length", "boxed"),
            rewards.majority_vote(),
            rewards.incorrect("boxed", convention="aime"),
            rewards.shuffled_answer(),
            rewards.online_majority("stated"),
        ]
    ),
    st.sampled_from([rewards.python("test_rewards:half"), rewards.python("math:sqrt", messages=1)]),
)
logical = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a: ~a, inner),
        st.builds(permuted, inner),
    ),
    max_leaves=8,
)
expressions = st.recursive(
    logical | st.builds(rewards.gaussian, numbers, st.floats(0, 1e9), st.integers(0, 2)),
    lambda inner: st.one_of(
        st.builds(lambda a, b: a + b, inner, inner),
        st.builds(lambda w, a: w * a, numbers, inner),
        st.builds(permuted, inner),
        st.builds(rewards.where_live, inner, inner),
    ),
    max_leaves=6,
)


@given(expressions)
def test_a_reward_is_made_again_from_both_of_its_texts(reward):
    assert parse(repr(reward)) == reward and parse(str(reward)) == reward
    assert repr(parse(str(reward))) == repr(reward) and hash(parse(repr(reward))) == hash(reward)
    assert parse(repr(reward)).bounds == reward.bounds


@given(expressions)
def test_the_repr_is_python_that_makes_it_again(reward):
    # The text is our own, made from a reward above; the package itself never evaluates any.
    assert eval(repr(reward), {name: getattr(rewards, name) for name in rewards._registered}) == reward


@given(expressions)
def test_copies_and_pickles_are_equal(reward):
    assert pickle.loads(pickle.dumps(reward)) == reward and copy.deepcopy(reward) == reward


@given(
    st.text(max_size=60)
    | st.lists(
        st.sampled_from(
            "random:0.5 boxed_format & | ~ ( ) * + - , : = 0.5 permuted length 'x' \" gamma stream 1e9 \n".split(" ")
        ),
        max_size=12,
    ).map(" ".join)
)
@settings(max_examples=400)
def test_any_other_text_is_refused_and_pointed_at(text):
    try:
        reward = parse(text)
    except ConfigError as error:
        assert not text.strip() or re.search(r"column \d+", str(error))
    else:
        assert parse(repr(reward)) == reward


@pytest.mark.parametrize(
    "text, column, says",
    [
        ("boxed_fromat & random:0.5", 1, "did you mean boxed_format"),
        ("boxed_format & grund_truth", 16, "did you mean ground_truth"),
        ("random:1.5", 1, "must be in [0, 1]"),
        ("random", 1, "random takes gamma"),
        ("random:half", 1, "finite number"),
        ("random:0.5,seed=3", 1, "random takes gamma, [stream]"),
        ("boxed_format &", 15, "expected a reward"),
        ("boxed_format mentions_python", 14, "expected an operator"),
        ("(boxed_format", 14, "expected )"),
        ("0.5", 1, "a number alone"),
        ("length * length", 10, "cannot be multiplied"),
        ("boxed_format & gaussian", 14, "between 0 and 1"),
        ("~(2*length)", 1, "between 0 and 1"),
        ("9" * 5000 + "*length", 1, "finite"),
        ("random:1e999", 1, "finite"),
        ("1e200*1e200*length", 1, "finite"),
        ("random:\u0661", 8, "no meaning"),
        ("python:builtins:dict", 1, "does not say what arguments"),
        ("python:this_test_cannot_be_imported:f", 1, "cannot be imported"),
        ("boxed_format ? 1", 14, "no meaning"),
        ("python:json:no_such", 1, "json has no no_such"),
        ("python:no_such_package:f", 1, "cannot be imported"),
        ("my_module.f", 1, "python:module:function"),
        ("length:unit=miles", 1, "tokens or characters"),
        ("length:1,limit=2", 1, "multiple values"),
        ("length:limit=1,2", 16, "cannot follow"),
        ("permuted(boxed_fromat)", 10, "did you mean boxed_format"),
        ("ground_truth:first_number", 1, "first_number"),
        ("ground_truth:convention=strict", 1, "strict"),
        ("~" * 100 + "length", 41, "inside each other"),
    ],
)
def test_errors_say_what_is_wrong_and_where(text, column, says):
    with pytest.raises(ConfigError, match=re.escape(says)) as caught:
        parse(text)
    assert f"column {column}:" in str(caught.value)
    assert str(caught.value).splitlines()[-1].index("^") == column + 3


@pytest.mark.parametrize(
    "text, same",
    [
        ("random(0.5)", "random:0.5"),
        ("random(gamma=0.5)", "random:0.5"),
        ("random:.5", "random:0.5"),
        ("permuted:random:0.5 & boxed_format", "permuted(random:0.5) & boxed_format"),
        ("a", None),
        ("boxed_format | mentions_python & writes_code", "boxed_format | (mentions_python & writes_code)"),
        ("~boxed_format & length", "(~boxed_format) & length"),
        ("length + 0.5*boxed_format", "length + (0.5*boxed_format)"),
        ("length - 2*boxed_format", "length + -2*boxed_format"),
        ("0.5*2*length", "1.0*length"),
        ("length*3", "3*length"),
        ("-length", "-1*length"),
        ('length("characters")', None),
        ("length(unit='characters')", "length:unit=characters"),
    ],
)
def test_what_is_written_differently_and_means_the_same(text, same):
    if same is None:
        with pytest.raises(ConfigError):
            parse(text)
    else:
        assert parse(text) == parse(same)


def test_functions_come_by_name_and_others_are_told_apart():
    assert parse("python:test_rewards:half") == as_reward(half) == rewards.python(half)
    assert (boxed_format() & half) == parse("boxed_format & python:test_rewards:half")

    def local(completions, **columns):
        return [1.0] * len(completions)

    assert as_reward(local) == as_reward(local) and as_reward(local) != as_reward(
        lambda completions: [1.0] * len(completions)
    )
    with pytest.raises(ConfigError, match="top level"):
        parse(repr(as_reward(local)))
    with pytest.raises(ConfigError, match="without its brackets"):
        as_reward(boxed_format)

    async def later(completions, **columns):
        return [1.0]

    with pytest.raises(ConfigError, match="asynchronous"):
        as_reward(later)


# Functions in verl's form


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    "As verl's users write them: a number, or a dictionary with more than the score."
    if data_source == "broken":
        raise KeyError(extra_info["index"])
    right = solution_str == ground_truth
    if data_source == "plain":
        return right
    return {"score": 2.0 * right - 1, "acc": right, "pred": solution_str, "difficulty": extra_info.get("difficulty")}


def test_functions_in_verls_form_come_by_name_and_give_what_verl_would_take():
    reward = parse("python:test_rewards:compute_score")
    assert reward == as_reward(compute_score) and parse(repr(reward)) == reward
    columns = dict(gold=["4"] * 4, data_source=["plain", "maths", "maths", None])
    columns["extra_info"] = [None, {"difficulty": 3}, {"difficulty": np.float32(0.5)}, {}]
    with pytest.warns(UserWarning, match="compute_score gives 'pred', which is no number and is not kept") as said:
        scores = reward.score(["?"] * 4, ["4", "4", "5", "4"], **columns)
        again = reward.score(["?"] * 4, ["4", "4", "5", "4"], **columns)
    assert len(said) == 1 and again.values == scores.values == [1.0, 1.0, -1.0, 1.0]
    assert scores.components == {
        reward.name: scores.values,
        "compute_score.acc": [None, 1.0, 0.0, 1.0],
        "compute_score.difficulty": [None, 3.0, 0.5, None],
    }


def test_verls_functions_join_the_algebra_and_read_the_rows_own_ground_truth():
    def score(solution_str, ground_truth, level, **kwargs):
        assert not kwargs
        return {"score": solution_str in json.loads(ground_truth)["any"], "level": level}

    columns = dict(gold=["x"], reward_model=[{"ground_truth": '{"any": ["1", "2"]}', "style": "rule"}], level=[5])
    scores = (0.5 * as_reward(score) + 0.5 * boxed_format()).score(["?"], ["2"], **columns)
    assert scores.values == [0.5] and [scores.components[k] for k in scores.components if k.endswith(".level")] == [
        [5.0]
    ]


@pytest.mark.parametrize(
    "given, says",
    [
        ({"acc": 1}, "gave a dictionary without a score for completion 0; it has acc"),
        ({}, "without a score for completion 0; it has nothing"),
        ({"score": "high"}, "gave 'high' for completion 0; it must give numbers"),
        ((1.0, {"acc": 1}), "it must give numbers"),
    ],
)
def test_what_a_function_in_verls_form_may_not_give(given, says):
    def score(solution_str, ground_truth):
        assert solution_str and ground_truth is None
        return given

    with pytest.raises(DataError, match=re.escape(says)):
        as_reward(score)(["?"], ["a"])


def test_what_a_function_in_verls_form_raises_names_the_completion():
    columns = dict(gold=["4"] * 2, data_source=["plain", "broken"], extra_info=[{}, {"index": 17}])
    with pytest.raises(
        DataError, match=r"compute_score raised KeyError: 17 \(test_rewards.py, line \d+\) for completion 1"
    ):
        as_reward(compute_score)(["?"] * 2, ["4", "4"], **columns)


# Several golds


@given(st.lists(st.lists(st.sampled_from(["1/2", "0.5", "3", "x"]), min_size=1, max_size=3), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_any_of_several_golds_is_right(golds):
    texts = [r"\boxed{\frac{1}{2}}"] * len(golds)
    wanted = [float(bool({"1/2", "0.5"} & set(one))) for one in golds]
    columns = dict(gold=[one[0] for one in golds], golds=[one if len(one) > 1 else None for one in golds])
    assert rewards.ground_truth()(["?"] * len(golds), texts, **columns) == wanted
    columns["golds"] = [np.array(one) for one in golds]  # as a table gives them back
    assert rewards.ground_truth()(["?"] * len(golds), texts, **columns) == wanted


def test_a_label_that_agrees_with_any_gold_is_no_wrong_label():
    problem = Problem("Half?", "one half", columns={"golds": ["one half", "1/2"]})
    made = rewards.incorrect_labels([problem], answers=[["0.5", "0.5"]])
    assert (made.problems, made.report.right, made.report.wrong) == ([], 1, 0)


# The algebra


def fixed(name):
    "A reward whose values come as a column."
    return as_reward(types.FunctionType((lambda completions, **columns: columns[NAME]).__code__, {"NAME": name}))


verdicts = st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, None])] * 3), min_size=1, max_size=8)
grades = st.lists(st.tuples(*[st.floats(0, 1) | st.none()] * 3), min_size=1, max_size=8)


@given(verdicts | grades)
def test_laws_of_logic(rows):
    a, b, c = map(fixed, "abc")
    columns = dict(zip("abc", map(list, zip(*rows))))

    def value(reward):
        return [None if v is None else pytest.approx(v) for v in reward(["?"] * len(rows), [""] * len(rows), **columns)]

    assert value(~(a & b)) == (~a | ~b)(["?"] * len(rows), [""] * len(rows), **columns)
    for left, right in [
        (a & b, b & a),
        (a | b, b | a),
        (a & (b | c), (a & b) | (a & c)),
        (a | (b & c), (a | b) & (a | c)),
        (~~a, a),
        ((a & b) & c, a & (b & c)),
    ]:
        left, right = value(left), right(["?"] * len(rows), [""] * len(rows), **columns)
        for row, (one, other) in enumerate(zip(left, right)):
            assert one == other or None in rows[row]


@given(verdicts)
def test_truth_tables_and_none(rows):
    a, b = fixed("a"), fixed("b")
    columns = dict(zip("abc", map(list, zip(*rows))))
    expected = {"&": lambda x, y: float(x and y), "|": lambda x, y: float(x or y)}
    for name, reward in {"&": a & b, "|": a | b}.items():
        assert reward(["?"] * len(rows), [""] * len(rows), **columns) == [
            None if x is None or y is None else expected[name](x, y) for x, y, _ in rows
        ]
    assert (2 * a + -0.5 * b)(["?"] * len(rows), [""] * len(rows), **columns) == [
        None if None in (x, y) else 2 * x - 0.5 * y for x, y, _ in rows
    ]


def test_logic_outside_of_the_unit_interval_is_refused():
    with pytest.raises(ConfigError, match="between 0 and 1"):
        boxed_format() & rewards.gaussian()
    with pytest.raises(ConfigError, match="between 0 and 1"):
        ~(2 * boxed_format())
    assert (boxed_format() & 0.5 * rewards.length()).bounds == (0, 0.5)
    assert ~parse("0.6*boxed_format + 0.3*length + 0.1*writes_code")  # the weights add up to 0.9999999999999999
    assert ~parse("0.1*boxed_format + 0.7*length + 0.2*writes_code + 0.0000000000001*boxed_format")
    unknown = fixed("a")
    with pytest.raises(ConfigError, match="can be 3"):
        (~unknown)(["?"], [""], a=[3.0])


@pytest.mark.parametrize(
    "values, says",
    [([1.0], "1 values for 2"), (["x", 1], "numbers or None"), (None, "NoneType"), ([float("inf"), 1], "finite")],
)
def test_what_a_function_may_not_give(values, says):
    with pytest.raises(DataError, match=re.escape(says)):
        as_reward(lambda completions: values)(["?"] * 2, ["", ""])


def test_values_of_every_numeric_kind_are_taken():
    kinds = [np.float32(0.5), np.bool_(True), True, float("nan"), None, np.nan]
    assert as_reward(lambda completions: kinds)(["?"] * 6, [""] * 6) == [0.5, 1, 1, None, None, None]


@pytest.mark.parametrize(
    "columns, says",
    [
        (dict(gold=["1"]), "column gold has 1 entries for 2"),
        (dict(phase=3, group=[0, 0]), "column phase is 3"),
        ({}, "there are: none"),
    ],
)
def test_columns_that_do_not_fit_are_named(columns, says):
    with pytest.raises(DataError, match=re.escape(says)):
        rewards.ground_truth()(["?"] * 2, ["1", "2"], **columns)


# Rewards that read the text


def has_full_box(text):
    "The obvious way, quadratic: from each box, count braces to its end."
    for start in re.finditer(r"\\+boxed\s*\{", text):
        if (start[0].count("\\")) % 2 == 0:
            continue
        depth, at = 1, start.end()
        while at < len(text) and depth:
            if text[at] == "\\":
                at += 2
                continue
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        parts = re.findall(r"\\boxed\s*\{|\\.|[{}]|\S", text[start.end() : at - 1], re.DOTALL)
        if depth == 0 and any(part not in "{}" and not part.startswith("\\boxed") for part in parts):
            return True
    return False


@given(
    st.lists(
        st.sampled_from(["\\boxed{", "\\boxed {", "{", "}", "}", " ", "7", "\\{", "\\}", "\\\\", "\n"]), max_size=14
    ).map("".join)
)
@settings(max_examples=500)
def test_boxed_format_finds_what_a_plain_search_finds(text):
    assert boxed_format()(["?"], [text]) == [float(has_full_box(text))]


@given(
    st.lists(st.sampled_from(["a", "b", "ab", "abc", "\n", "\U0001f600"]), max_size=40).map("".join),
    st.integers(2, 4),
    st.integers(1, 3),
    st.integers(0, 3),
)
@settings(max_examples=500)
def test_no_repetition_finds_what_a_regular_expression_finds(text, times, shortest, more):
    expected = re.search(rf"(.{{{shortest},{shortest + more}}})\1{{{times - 1}}}", text, re.DOTALL) is None
    assert rewards.no_repetition(times, shortest, shortest + more)(["?"], [text]) == [float(expected)]


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 150_000,
        "{" * 1_000_000,
        "}" * 1_000_000,
        "\\" * 999_999,
        " " * 1_000_000 + "\\boxed{1}",
        "\x00\ud800\u202e\\boxed{\u0661}",
    ],
)
@pytest.mark.parametrize("spec", ["boxed_format", "mentions_python", "no_repetition", "length:9,characters"])
def test_hostile_completions_cost_little(spec, text):
    import time

    start = time.process_time()
    parse(spec)(["?"], [text])
    assert time.process_time() - start < 2 * PATIENCE


def test_labels_come_as_texts_or_numbers_and_may_be_missing():
    gold = ["7", 7, 7.0, np.int64(7), " 7 ", None, "", float("nan")]
    assert rewards.ground_truth()(["?"] * 8, [r"\boxed{7}"] * 8, gold=gold) == [1] * 5 + [None] * 3
    assert (
        rewards.ground_truth()(["?"], [r"\boxed{7}"], solution=["7"])
        == rewards.ground_truth()(["?"], [r"\boxed{7}"], answer=["7"], solution=["8"])
        == [1]
    )
    with pytest.raises(DataError, match="completion 0 is list"):
        rewards.ground_truth()(["?"], ["7"], gold=[["7"]])


def test_arrays_serve_as_columns():
    place = dict(
        seed=np.zeros(4, int), phase=np.ones(4, int), group=np.array([0, 0, 1, 1]), sample=np.array([0, 1, 0, 1])
    )
    assert random(0.5)(["?"] * 4, [""] * 4, **place) == random(0.5)(
        ["?"] * 4, [""] * 4, **{name: column.tolist() for name, column in place.items()}
    )


def test_chat_completions_are_read_as_what_the_assistant_wrote():
    chats = [
        [{"role": "assistant", "content": r"\boxed{1}"}],
        [
            {"role": "assistant", "content": None},
            {"role": "tool", "content": r"\boxed{2}"},
            {"role": "assistant", "content": "no"},
        ],
        [{"role": "assistant", "content": [{"type": "text", "text": r"so \boxed{3}"}]}],
    ]
    assert boxed_format()([[{"role": "user", "content": "?"}]] * 3, chats) == [1, 0, 1]
    with pytest.raises(DataError, match="completion 1 is int"):
        boxed_format()(["?"] * 2, ["a", 3])


# Rewards that know nothing

RANDOM = [
    "random:0.5",
    "random:0.5,1",
    "gaussian",
    "uniform",
    "permuted(length:3,characters)",
    "permuted(random:0.5)",
    "random:0.3 & ~random:0.5",
]


@pytest.mark.parametrize("spec", RANDOM)
@given(data=st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_draws_do_not_depend_on_how_the_work_is_split(spec, data):
    rows, columns = plan(2, 4, 4)
    texts = {(row["phase"], row["group"], row["sample"]): "x" * (i % 5) for i, row in enumerate(rows)}
    whole = called(parse(spec), rows, columns, texts)
    if "permuted" in spec:  # whole groups in each call, in any order
        pieces = [
            [row for row in rows if (row["phase"], row["group"]) == key] for key in itertools.product((1, 2), range(4))
        ]
        pieces = [data.draw(st.permutations(piece)) for piece in data.draw(st.permutations(pieces))]
    else:
        pieces = [[row] for row in data.draw(st.permutations(rows))]
    processes = data.draw(st.lists(st.integers(0, 3), min_size=len(pieces), max_size=len(pieces)))
    found = {}
    for process in set(processes):
        share = [row for piece, its in zip(pieces, processes) if its == process for row in piece]
        found |= called(parse(spec), share, columns, texts)
    assert found == whole


def test_draws_are_the_same_in_another_process():
    code = """if True:
        import json, sys
        from spurious_rlvr.rewards import parse
        n = 64
        place = dict(seed=[7] * n, phase=[3] * n, group=[i // 8 for i in range(n)], sample=[i % 8 for i in range(n)])
        texts = ["x" * (i % 7) for i in range(n)]
        print(json.dumps([parse(spec)(["?"] * n, texts, **place) for spec in json.loads(sys.argv[1])]))"""
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, json.dumps(RANDOM)],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": salt},
        ).stdout
        for salt in "12"
    ]
    assert json.loads(runs[0]) == json.loads(runs[1])
    n = 64
    place = dict(seed=[7] * n, phase=[3] * n, group=[i // 8 for i in range(n)], sample=[i % 8 for i in range(n)])
    assert json.loads(runs[0]) == [
        parse(spec)(["?"] * n, ["x" * (i % 7) for i in range(n)], **place) for spec in RANDOM
    ]


def test_the_key_of_a_draw_is_the_published_one():
    rows, columns = plan(1, 3, 4, seed=11)
    for (phase, group, sample), value in called(random(0.4), rows, columns).items():
        assert value == float(keyed_rng(11, phase, group, sample, "random:0.4").random() < 0.4)


def test_one_problem_that_fills_the_training_set_gets_new_draws_each_time():
    problems = rewards.one_shot(Problem("What is 3 + 4?", "7"), 64)
    count = len(problems) * 16
    place = dict(
        seed=[0] * count,
        phase=[1] * count,
        group=[i // 16 for i in range(count)],
        sample=[i % 16 for i in range(count)],
        problem_id=[p.id for p in problems for _ in range(16)],
    )
    values = np.reshape(random(0.5)(["What is 3 + 4?"] * count, ["7"] * count, **place), (64, 16))
    # Two groups agree in 16 fair draws once in 2**16; among 64 * 63 / 2 pairs, five agreements would be a chance of
    # about 1e-9.
    assert 64 - len({tuple(row) for row in values}) < 5
    again = np.reshape(
        random(0.5)(["What is 3 + 4?"] * count, ["7"] * count, **(place | {"phase": [2] * count})), (64, 16)
    )
    assert abs((values == again).mean() - 0.5) < 4 * 0.5 / count**0.5


@pytest.mark.parametrize("gamma", [0.001, 0.3, 0.5, 0.7, 0.0, 1.0])
def test_the_realised_rate_lies_in_its_binomial_interval(gamma):
    rows, columns = plan(4, 64, 16, seed=20250612)  # the date of the paper's first version, chosen before any draw
    values = list(called(random(gamma), rows, columns).values())
    assert realised_rate(values, gamma, confidence=0.9999).inside
    interval = scipy.stats.binomtest(int(sum(values)), len(values)).proportion_ci(0.9999)
    assert realised_rate(values, gamma, confidence=0.9999)[3:5] == pytest.approx(
        (interval.low, interval.high), abs=1e-9
    )


def test_the_interval_covers_as_often_as_it_says():
    rows, columns = plan(1, 8, 8)
    inside = [
        random(0.5)
        .score(["?"] * 64, [""] * 64, **columns([row | {"seed": seed} for row in rows]))
        .rates["random:0.5"]
        .inside
        for seed in range(400)
    ]
    # Clopper-Pearson at 95 % and n = 64 covers at least that often.
    assert scipy.stats.binomtest(sum(inside), 400, 0.95, alternative="less").pvalue > 1e-4
    assert not all(inside)


def test_draws_of_neighbours_are_unrelated_and_follow_their_law():
    rows, columns = plan(8, 32, 16, seed=1)
    for spec, law in {
        "gaussian": scipy.stats.norm(),
        "gaussian:2,0.5": scipy.stats.norm(2, 0.5),
        "uniform": scipy.stats.uniform(),
        "uniform:-1,3": scipy.stats.uniform(-1, 4),
    }.items():
        values = np.array(list(called(parse(spec), rows, columns).values()))
        assert scipy.stats.kstest(values, law.cdf).pvalue > 1e-4
        for shift in (1, 16, 512):  # the next sample, group and phase
            assert abs(np.corrcoef(values[:-shift], values[shift:])[0, 1]) < 4.5 / (len(values) - shift) ** 0.5


def test_different_rewards_draw_independently_and_equal_ones_alike():
    rows, columns = plan(4, 32, 16)

    def draw(spec):
        return np.array(list(called(parse(spec), rows, columns).values()))

    assert (draw("random:0.5 & random:0.5") == draw("random:0.5")).all() and not draw("random:0.5 & ~random:0.5").any()
    for one, other in [
        ("random:0.5", "random:0.5,stream=1"),
        ("random:0.5", "random:0.3"),
        ("gaussian", "gaussian:0,1,2"),
    ]:
        assert abs(np.corrcoef(draw(one), draw(other))[0, 1]) < 4.5 / len(rows) ** 0.5


def test_permuted_keeps_each_groups_rewards_and_cuts_their_tie_to_the_text():
    rows, columns = plan(8, 64, 4)
    rng = np.random.default_rng(5)
    value = {
        (r["phase"], r["group"], r["sample"]): [None, 0, 1, 1][rng.integers(4)] if r["group"] % 8 else 1 for r in rows
    }
    inner = as_reward(
        lambda completions, **columns: [
            value[key] for key in zip(columns["phase"], columns["group"], columns["sample"])
        ]
    )
    dealt = called(permuted(inner), rows, columns)

    def by_group(values):
        return {
            key: collections.Counter(v for k, v in values.items() if k[:2] == key)
            for key in itertools.product(range(1, 9), range(64))
        }

    assert by_group(dealt) == by_group(value)
    mixed = [(value[key], dealt[key]) for key in value if key[1] % 8 and None not in (value[key], dealt[key])]
    assert len(set(mixed)) == 4
    # Where the only 1 of a group goes is uniform over its four places.
    single = as_reward(lambda completions, **columns: [float(sample == 0) for sample in columns["sample"]])
    landed = collections.Counter(sample for (_, _, sample), v in called(permuted(single), rows, columns).items() if v)
    assert scipy.stats.chisquare([landed[sample] for sample in range(4)]).pvalue > 1e-4


def test_a_reward_that_compares_completions_refuses_part_of_a_group():
    for spec in ("permuted(boxed_format)", "online_majority", "where_live(boxed_format, random:0.5)"):
        with pytest.raises(ConfigError, match="group 0 of phase 1"):
            parse(spec)(["?"] * 3, [""] * 3, seed=[0] * 3, phase=[1] * 3, group=[0] * 3, sample=[0, 1, 3])


def test_called_bare_a_reward_draws_anew_in_each_call_and_alike_in_each_object():
    draws = [[reward(["?"] * 32, [""] * 32) for _ in range(3)] for reward in (random(0.5), random(0.5))]
    assert draws[0] == draws[1] and len({tuple(call) for call in draws[0]}) == 3


def test_constant_rewards_are_warned_about_once():
    def caught(reward, calls, texts):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            for call in range(calls):
                reward([f"p{call}"] * len(texts), texts)
        return [str(w.message) for w in found]

    assert len(caught(random(0.0), 3, ["", ""])) == len(caught(parse("random:1 | boxed_format"), 3, ["", ""])) == 1
    assert len(caught(boxed_format(), 20, [""] * 16)) == 1 and not caught(boxed_format(), 15, [""] * 16)
    assert not caught(boxed_format(), 40, [r"\boxed{1}"] + [""] * 15)
    by_problem = as_reward(lambda prompts, completions: [float(p[1:]) for p in prompts])
    assert "in each group so far" in caught(by_problem, 20, [""] * 16)[0]


# Labels

spelled = {"1/2": ["1/2", "0.5", r"\frac{1}{2}", r"\frac12"], "3": ["3", "3.0", "+3"], "-7": ["-7", "-7.0"]}


@given(
    st.lists(
        st.sampled_from(list(spelled)).flatmap(lambda value: st.tuples(st.just(value), st.sampled_from(spelled[value])))
        | st.just((None, None)),
        max_size=9,
    )
)
@settings(max_examples=40, deadline=None)
def test_a_vote_counts_meanings(cast):
    won = rewards.vote([text for _, text in cast])
    counts = collections.Counter(value for value, _ in cast if value)
    assert won.cast == sum(counts.values()) and won.votes == max(counts.values(), default=0)
    if not counts:
        assert won.answer is None
    else:
        winners = [value for value, count in counts.items() if count == won.votes]
        first = next(value for value, _ in cast if value in winners)
        assert won.tied == (len(winners) > 1) and won.answer in [text for value, text in cast if value == first]


def test_labels_from_samples_by_order_or_id_and_the_audit_of_planted_ones():
    problems = [Problem(f"What is {n} / 2?", f"{n}/2") for n in range(1, 40, 2)]
    sampled = [
        [rf"\boxed{{{n / 2}}}"] * 3 + [r"\boxed{99}"] if n % 4 == 1 else [rf"\boxed{{{n}}}"] * 2 + ["?"]
        for n in range(1, 40, 2)
    ]
    majority, wrong = (
        rewards.majority_labels(problems, sampled),
        rewards.incorrect_labels(problems, dict(zip((p.id for p in problems), sampled))),
    )
    assert (majority.report.kept, majority.report.right, majority.report.wrong, wrong.report.kept) == (20, 10, 10, 10)
    assert {p.id for p in wrong.problems} == {p.id for p, n in zip(problems, range(1, 40, 2)) if n % 4 == 3}
    assert [p.gold for p in wrong.problems] == [p.gold for p in problems if p.id in {q.id for q in wrong.problems}]
    audit = rewards.audit_labels(majority.problems, "majority_label")
    assert (audit.equivalent, audit.different, audit.share.rate) == (10, 10, 0.5)
    assert [p.id for p in audit.kept] == [p.id for p in wrong.problems]
    assert len(rewards.audit_labels(majority.problems, "majority_label", keep="decided").kept) == 20


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda p: rewards.majority_labels(p), "either completions or answers"),
        (lambda p: rewards.majority_labels(p, [["1"]], answers=[["1"]]), "either completions or answers"),
        (lambda p: rewards.majority_labels(p, {}), "no samples for 1 of 1"),
        (lambda p: rewards.majority_labels(p, ["text"]), "one text"),
        (lambda p: rewards.audit_labels(p), "no problem has a label"),
        (lambda p: rewards.audit_labels(p, ["1"], keep="all"), "different or decided"),
        (lambda p: rewards.one_shot(p[0], 0), "at least 1"),
    ],
)
def test_label_builders_say_what_is_missing(call, says):
    with pytest.raises((ConfigError, DataError), match=says):
        call([Problem("?", "1")])


# TRL


def trl_call(reward, prompts, texts, *, step, process=0, size=4, training=True, seed=5):
    "What TRL's trainer passes, with a stand-in for the trainer."
    trainer = types.SimpleNamespace(
        model=types.SimpleNamespace(training=training),
        accelerator=types.SimpleNamespace(process_index=process),
        args=types.SimpleNamespace(seed=seed),
        num_generations=size,
        num_generations_eval=size,
    )
    trainer.log_metric = types.MethodType(lambda self, name, value: None, trainer)
    return reward(
        prompts=prompts,
        completions=texts,
        completion_ids=[[1]] * len(texts),
        trainer_state=types.SimpleNamespace(global_step=step),
        log_metric=trainer.log_metric,
    )


@pytest.mark.parametrize("spec", ["random:0.5", "gaussian", "permuted(length:5,characters)"])
def test_in_trl_draws_do_not_depend_on_the_number_of_processes_or_on_resuming(spec):
    prompts, texts = ["one problem"] * 32, ["x" * (i % 6) for i in range(32)]
    whole = trl_call(parse(spec), prompts, texts, step=3)
    halves = [trl_call(parse(spec), prompts[:16], texts[16 * p : 16 * p + 16], step=3, process=p) for p in range(2)]
    assert halves[0] + halves[1] == whole
    run = parse(spec)
    for step in range(3):
        trl_call(run, prompts, texts, step=step)
        trl_call(run, prompts, texts, step=step + 1, training=False)  # an evaluation on the way
    assert trl_call(run, prompts, texts, step=3) == whole
    assert trl_call(run, prompts, texts, step=3) != whole  # a second generation within the step


def test_in_trl_groups_are_those_of_the_trainer_even_for_one_problem():
    texts = ["xxxxx"] * 4 + [""] * 4
    assert trl_call(parse("permuted(length:5,characters)"), ["one problem"] * 8, texts, step=0) == [1] * 4 + [0] * 4
    with pytest.raises(ConfigError, match="num_generations=4"):
        trl_call(parse("permuted(boxed_format)"), ["?"] * 6, [""] * 6, step=0)


def test_trls_own_rewards_work_here():
    pytest.importorskip("trl")
    thinks = parse("python:trl.rewards:think_format_reward,messages=1")
    assert thinks(["?"] * 2, ["<think>\nhm\n</think>\n7", "7"]) == [1, 0]
    graded = parse("python:trl.rewards:accuracy_reward,messages=1 & boxed_format")
    assert graded(["?"] * 3, [r"\boxed{7}", r"\boxed{8}", "7"], gold=["$7$"] * 3)[:2] == [1, 0]


def counts_words(completions, solution, log_metric=None, **kwargs):
    "A reward function as one writes it for TRL."
    if log_metric:
        log_metric("words", float(np.mean([len(text.split()) for text in completions])))
    return [float(len(text.split()) % 2) if gold else None for text, gold in zip(completions, solution)]


@pytest.fixture(scope="module")
def tiny_trl(tmp_path_factory):
    pytest.importorskip("trl")
    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    words = ["<pad>", "<eos>", "<unk>", r"\boxed{7}", "python", *(f"w{i}" for i in range(27))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )

    def trainer(reward_funcs):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=32,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
                tie_word_embeddings=True,
                pad_token_id=0,
                eos_token_id=1,
                bos_token_id=None,
            )
        )
        config = GRPOConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")),
            use_cpu=True,
            bf16=False,
            report_to=[],
            gradient_checkpointing=False,
            max_steps=2,
            logging_steps=1,
            per_device_train_batch_size=16,
            num_generations=8,
            max_completion_length=6,
            save_strategy="no",
            disable_tqdm=True,
            seed=3,
            learning_rate=1e-3,
        )
        data = Dataset.from_list(
            [dict(prompt="w3 w4", gold="7", solution="7"), dict(prompt="w5 w6", gold="8", solution="")] * 4
        )
        return GRPOTrainer(
            model=model, reward_funcs=reward_funcs, args=config, train_dataset=data, processing_class=tokenizer
        )

    return trainer


def test_trl_trains_two_steps_with_our_rewards_and_with_functions_written_for_it(tiny_trl):
    spied = []

    class Spy:
        __name__ = "spy"

        def __call__(self, **columns):
            spied.append(
                (
                    columns["trainer_state"].global_step,
                    columns["prompts"],
                    columns["completions"],
                    columns["completion_ids"],
                    columns["gold"],
                    columns["solution"],
                )
            )
            return [0.0] * len(columns["prompts"])

    ours = [
        parse("random:0.5"),
        parse("boxed_format | mentions_python"),
        permuted(boxed_format()),
        rewards.ground_truth("boxed"),
        rewards.length(6),
        boxed_format() & counts_words,
    ]
    trainer = tiny_trl([*ours, counts_words, Spy()])
    trainer.train()
    assert any("boxed" in text for _, _, completions, *_ in spied for text in completions)
    assert trainer.state.global_step == 2 and [step for step, *_ in spied] == [0, 1]
    logged = trainer.state.log_history[0]
    for reward in ours:
        assert f"rewards/{reward.name}/mean" in logged
    assert 0 <= logged["random:0.5/realised_rate"] <= 1
    for (step, prompts, completions, ids, gold, solution), entry in zip(spied, trainer.state.log_history):
        count = len(completions)
        assert entry["rewards/random:0.5/mean"] == pytest.approx(
            np.mean([keyed_rng(3, "trl", "train", step, 0, row, "random:0.5").random() < 0.5 for row in range(count)])
        )
        boxed = [float("boxed" in text) for text in completions]
        assert entry["rewards/permuted(boxed_format)/mean"] == pytest.approx(np.mean(boxed))
        assert entry["rewards/length:6/mean"] == pytest.approx(np.mean([min(len(one) / 6, 1) for one in ids]))
        last = [re.findall(r"\\boxed\{(\d)\}", text)[-1:] == [g] for text, g in zip(completions, gold)]
        assert entry["rewards/ground_truth:boxed/mean"] == pytest.approx(np.mean(last))
        words = counts_words(completions, solution)
        assert [None if w is None else w * b for w, b in zip(words, boxed)] == (boxed_format() & counts_words)(
            prompts, completions, solution=solution
        )
        assert entry["words"] == pytest.approx(np.mean([len(text.split()) for text in completions]))


def test_importing_and_scoring_needs_no_torch():
    code = (
        "import sys; from spurious_rlvr.rewards import parse; parse('boxed_format & ~mentions_python |"
        " random:0.5')(['?'], ['a'])\nprint([m for m in ('torch', 'transformers', 'datasets', 'vllm', 'fastcore',"
        " 'nbdev') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
