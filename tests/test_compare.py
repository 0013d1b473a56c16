"Statistics against references from scratch, properties over many inputs, and a small part of the calibration."

import itertools
import json
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from spurious_rlvr import compare
from spurious_rlvr.behavior import BEHAVIORS
from spurious_rlvr.compare import (
    CHECKPOINT,
    DEFAULT_SEEDS,
    FIXED,
    POPULATION,
    Scores,
    accuracy_effect,
    behavior_screen,
    checkpoint_effect,
    combine_verdicts,
    crossed_effect,
    gain_ratio,
    holm,
    label_strategy,
    paired_effect,
    score_problems,
    seeds_needed,
    split_strategies,
    strategy_table,
    switch_table,
    verdict,
)
from spurious_rlvr.core import ConfigError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import calibration

gains = st.lists(st.floats(-0.5, 0.5).map(lambda v: round(v, 3)), min_size=3, max_size=8)


def answers(rng, problems=12, samples=3, kinds=("a", "b", "c")):
    return pd.DataFrame(
        dict(
            problem_id=np.repeat([f"p{i}" for i in range(problems)], samples),
            completion=rng.choice(list(kinds), problems * samples),
            correct=rng.random(problems * samples) < 0.5,
        )
    )


# verdicts


@settings(max_examples=60, deadline=None)
@given(gains, st.integers(0, 10_000))
def test_a_verdict_follows_its_intervals_and_nothing_else(user, seed):
    null = np.random.default_rng(seed).normal(0, 0.1, len(user))
    found = verdict(user, null)
    if math.isnan(found.effect.low):
        assert found.outcome == "cannot tell"
    elif found.effect.low > 0:
        assert found.outcome == "survives"
    elif found.effect.high < 0 or -0.02 < found.equivalence[0] and found.equivalence[1] < 0.02:
        assert found.outcome == "matched by a null"
    else:
        assert found.outcome == "cannot tell" and found.seeds_range[0] <= found.seeds_needed <= found.seeds_range[1]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 10_000))
def test_the_whole_survives_exactly_where_every_lower_bound_does(families, nulls, seed):
    rng = np.random.default_rng(seed)
    comparisons = {
        f"f{i}": {f"n{j}": (rng.normal(0.06, 0.05, 6), rng.normal(0, 0.01, 6)) for j in range(nulls)}
        for i in range(families)
    }
    found = combine_verdicts(comparisons)
    assert (found.outcome == "survives") == (
        found.table["low"] > 0
    ).all()  # Hochberg's procedure and the rule in words agree
    alone = [verdict(*pair).p_survives for rows in comparisons.values() for pair in rows.values()]
    order = np.argsort(
        alone
    )  # Hochberg from its definition: reject the k smallest for the largest k with p(k) <= alpha / (m - k + 1)
    m = len(alone)
    passing = [k for k in range(1, m + 1) if alone[order[k - 1]] <= 0.025 / (m - k + 1)]
    rejected = set(order[: max(passing, default=0)].tolist())
    assert {i for i, outcome in enumerate(found.table["outcome"]) if outcome == "survives"} == rejected
    for family, outcome in found.families.items():
        rows = found.table[found.table["family"] == family]["outcome"]
        assert (outcome == "survives") == (rows == "survives").all()


def test_one_significant_and_the_other_not_is_no_verdict():
    user, null = (
        np.array([0.06, 0.09, 0.03, 0.07, 0.02, 0.08]),
        np.array([0.10, -0.06, 0.12, -0.03, 0.09, 0.05]),
    )  # the first alone is above 0, the second alone is not
    assert paired_effect("", user, np.zeros(6)).shown == 1 and paired_effect("", null, np.zeros(6)).shown == 0
    assert verdict(user, null).outcome == "cannot tell"


def test_the_number_of_seeds_does_what_it_says():
    rng, sd = np.random.default_rng(0), 0.03
    n = seeds_needed(sd, 0.02, margin=0.02)
    for truth, wanted in ((0.02, "survives"), (0.0, "matched by a null")):
        draws = rng.normal(truth, sd, (1500, n))

        def half(level):
            return stats.t.ppf(level, n - 1) * draws.std(axis=1, ddof=1) / math.sqrt(n)

        hits = draws.mean(axis=1) > half(0.975) if wanted == "survives" else abs(draws.mean(axis=1)) + half(0.95) < 0.02
        assert stats.binom.cdf(hits.sum(), 1500, 0.8) > 0.001


@settings(max_examples=80, deadline=None)
@given(gains, st.integers(0, 10_000), st.floats(-4, 4))
def test_fiellers_set_is_what_a_paired_test_keeps(user, seed, candidate):
    assume(any(user))  # no gain in any run: there is no ratio
    null = np.random.default_rng(seed).normal(0.05, 0.1, len(user))
    ratio = gain_ratio(null, user)
    inside = dict(
        bounded=ratio.low <= candidate <= ratio.high, outside=not ratio.low < candidate < ratio.high, everything=True
    )[ratio.kind]
    p_value = stats.ttest_1samp(null - candidate * np.array(user), 0).pvalue
    if abs(p_value - 0.05) > 1e-6:
        assert inside == (p_value > 0.05)
    if ratio.kind != "bounded":
        assert "no bounds" in ratio.words


@pytest.mark.parametrize(
    "bad",
    [
        lambda: verdict([0.1, 0.2], [0.1]),
        lambda: verdict([], []),
        lambda: verdict([0.1, 0.2], [0.1, 0.1], margin=-0.01),
        lambda: combine_verdicts({}),
        lambda: combine_verdicts({"a": {}}),
        lambda: gain_ratio([0.1], [0.1]),
        lambda: seeds_needed(0.1, 0),
        lambda: seeds_needed(0.1, 0.1, power=1.0),
    ],
)
def test_bad_input_is_one_line(bad):
    with pytest.raises(ConfigError) as error:
        bad()
    assert "\n" not in str(error.value)


# intervals


def test_the_crossed_interval_is_the_textbook_one():
    rng = np.random.default_rng(1)
    table = rng.normal(size=(5, 1)) + rng.normal(size=(1, 9)) + rng.normal(size=(5, 9))
    long = pd.DataFrame([dict(run=r, problem=p, y=table[r, p]) for r in range(5) for p in range(9)])
    grand = long.y.mean()
    squares = {
        name: sum(len(g) * (g.y.mean() - grand) ** 2 for _, g in long.groupby(name)) for name in ("run", "problem")
    }
    left = ((long.y - grand) ** 2).sum() - squares["run"] - squares["problem"]
    a, b, c = squares["run"] / 4, squares["problem"] / 8, left / 32
    v = a + b - c
    df = max(v**2 / (a**2 / 4 + b**2 / 8 + c**2 / 32), 4)
    half = stats.t.ppf(0.975, df) * math.sqrt(v / 45)
    effect = crossed_effect("x", table)
    np.testing.assert_allclose([effect.mean, effect.low, effect.high], [grand, grand - half, grand + half])
    assert effect.estimand == POPULATION and effect.n == 5


def test_each_estimand_is_named_and_one_run_gives_words():
    ids, rng = ("p", "q", "r"), np.random.default_rng(2)
    many, one = Scores(ids, rng.random((4, 3)), np.full((4, 3), 8)), Scores(ids, rng.random((1, 3)), np.full((1, 3), 8))
    assert [accuracy_effect("", many, many, estimand=e).estimand for e in (FIXED, POPULATION)] == [
        FIXED,
        POPULATION,
    ] and checkpoint_effect("", one).estimand == CHECKPOINT
    for estimand in (FIXED, POPULATION):
        lone, same = (
            accuracy_effect("", one, one, estimand=estimand),
            accuracy_effect("", many, many, estimand=estimand),
        )
        assert math.isnan(lone.low) and "one training run" in lone.note and "one training run" in str(lone)
        assert math.isnan(same.low) and math.isnan(same.p_value) and "same difference" in same.note
    greedy = dict(samples=np.ones((1, 3), dtype=int))
    assert "one sample a problem" in accuracy_effect("", many, Scores(ids, np.array([[0.0, 1.0, 1.0]]), **greedy)).note


def test_different_problems_are_refused():
    rng = np.random.default_rng(3)
    with pytest.raises(ConfigError, match="p11"):
        score_problems([answers(rng), answers(rng, problems=11)])
    with pytest.raises(ConfigError, match="different problems"):
        accuracy_effect("", score_problems([answers(rng)]), score_problems([answers(rng, problems=11)]))
    assert (score_problems([answers(rng).assign(correct=None)]).mean == 0).all()  # undecided counts as wrong


def test_holm_passes_over_what_has_no_p_value():
    rng = np.random.default_rng(4)
    three = [paired_effect("", rng.normal(m, 1, 8), np.zeros(8)) for m in (3, 0, 1)]
    assert [e.p_value for e in holm([*three, paired_effect("", [1.0] * 3, [0.0] * 3)])[:3]] != [
        e.p_value for e in three
    ]
    assert math.isnan(holm([*three, paired_effect("", [1.0] * 3, [0.0] * 3)])[3].p_value)


# strategies


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_switch_tables_are_what_counting_all_pairs_gives(seed, samples):
    rng = np.random.default_rng(seed)
    before, after = answers(rng, 5, samples), answers(rng, 5, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = switch_table(before, after, str)
    for label, row in table.iterrows():
        a, b = label.split("->")
        share = gain = null_share = null_gain = 0.0
        for problem, first in before.groupby("problem_id"):
            first, second = list(first.itertuples()), list(after[after.problem_id == problem].itertuples())
            for pairs, is_null in (
                ([(x, y) for x in first for y in second], False),
                (list(itertools.permutations(first, 2)), True),
            ):
                hits = [(x, y) for x, y in pairs if (x.completion, y.completion) == (a, b)]
                part, change = (
                    len(hits) / len(pairs) / 5,
                    sum(int(y.correct) - int(x.correct) for x, y in hits) / len(pairs) / 5,
                )
                if is_null:
                    null_share, null_gain = null_share + part, null_gain + change
                else:
                    share, gain = share + part, gain + change
        np.testing.assert_allclose(
            [row.share, row.gain, row.null_share, row.null_gain], [share, gain, null_share, null_gain], atol=1e-12
        )
    np.testing.assert_allclose(table["gain"].sum(), after.correct.mean() - before.correct.mean(), atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_identities_hold_for_any_answers(seed):
    rng = np.random.default_rng(seed)
    before, after = answers(rng), answers(rng)
    table = strategy_table(before, str)
    np.testing.assert_allclose(
        [table["share"].iloc[:-1].sum(), table["contribution"].iloc[:-1].sum()], [1, before.correct.mean()]
    )
    split = split_strategies(before, after, str)
    np.testing.assert_allclose(
        [split["total"], split["share"] + split["skill"]],
        [after.correct.mean() - before.correct.mean(), split["total"]],
        atol=1e-12,
    )


def test_where_nothing_is_gained_nothing_is_shared_out():
    rng = np.random.default_rng(5)
    before = answers(rng)
    with pytest.warns(UserWarning, match="mean nothing"):
        table = switch_table(before, before.assign(correct=False), str)
    assert table["contribution"].isna().all()


def test_every_registered_behaviour_is_a_strategy():
    texts = [
        "```python\nprint(7)\n```\nLet's verify: \\boxed{7}",
        "The answer is 7. " + "It follows from counting on fingers. " * 5,
        "Wait, no. 因此 so \\boxed{8}",
    ]
    rollouts = pd.DataFrame(dict(problem_id=["p", "q", "r"] * 2, completion=texts * 2, correct=[True, False] * 3))
    for name in BEHAVIORS:
        labels = label_strategy(rollouts, name)
        assert labels.notna().all() and len(labels.cat.categories) == 2
        assert strategy_table(rollouts, name)["n"].iloc[:-1].sum() == 6


# the screen


def test_the_screen_controls_false_discoveries_as_benjamini_and_hochberg_say():
    rng, names = np.random.default_rng(6), list(BEHAVIORS)

    def evaluation():
        return pd.DataFrame(rng.random((240, len(names))) < 0.4, columns=names).assign(
            problem_id=np.repeat(np.arange(30), 8)
        )

    changes = behavior_screen(evaluation(), {"null": [evaluation() for _ in range(4)]}).changes
    p, m = changes["p_value"].to_numpy(), len(changes)
    ranked = np.sort(p)
    expected = [min(min(1.0, m * ranked[k] / (k + 1)) for k in range(m) if ranked[k] >= value) for value in p]
    np.testing.assert_allclose(changes["q_value"], expected)


def test_the_screens_slope_is_not_pulled_down_by_luck_in_the_prior():
    names, priors, misses = list(BEHAVIORS), np.linspace(-1, 1, len(BEHAVIORS)), 0
    for trial in range(100):
        rng = np.random.default_rng([7, trial])

        def evaluation():
            return pd.DataFrame(rng.random((240, len(names))) < 1 / (1 + np.exp(-priors)), columns=names).assign(
                problem_id=np.repeat(np.arange(60), 4)
            )

        misses += behavior_screen(evaluation(), {"null": [evaluation() for _ in range(4)]}).slopes["null"].shown != 0
    assert misses <= stats.binom.ppf(0.999, 100, 0.05)


# calibration: a small part here; all of it is `python benchmarks/calibration.py`

acceptable = calibration.faults


def part(repeats):
    singles = [
        row for which in ((1, 0.0), (8, 0.05)) for row in calibration.one_setting("single", 0.02, which, repeats)
    ]
    return dict(
        repeats=repeats,
        single_intervals=singles,
        audits=calibration.one_setting("audit", 0.02, ("25 points over all nulls but one", DEFAULT_SEEDS), repeats),
    )


def test_a_part_of_the_calibration_holds():
    assert not acceptable(part(200))


def test_the_calibration_would_notice_normal_instead_of_student_intervals(monkeypatch):
    narrow = compare._effect
    monkeypatch.setattr(
        compare, "_effect", lambda name, mean, error, df, n, **more: narrow(name, mean, error, 1e9, n, **more)
    )
    found = acceptable(
        dict(repeats=2000, single_intervals=calibration.one_setting("single", 0.15, (1, 0.0), 2000), audits=[])
    )
    assert any(fault.startswith("fixed benchmark") for fault in found)


def test_the_calibration_would_notice_problems_taken_for_runs(monkeypatch):
    monkeypatch.setattr(
        calibration,
        "accuracy_effect",
        lambda name, a, b, **more: paired_effect(name, a.mean.mean(axis=0), b.mean.mean(axis=0)),
    )
    assert (
        len(
            acceptable(
                dict(repeats=100, single_intervals=calibration.one_setting("single", 0.15, (1, 0.0), 100), audits=[])
            )
        )
        == 2
    )


def test_the_committed_calibration_holds_and_is_the_one_of_this_code():
    result = json.loads(calibration.RESULT.read_text())
    assert result["repeats"] >= 2000 and result["seeds"] == DEFAULT_SEEDS and not acceptable(result)
    assert (
        {row["between_runs"] for row in result["audits"]}
        == {row["between_runs"] for row in result["single_intervals"]}
        == {0.0, 0.02, 0.15}
    )
    assert result["organisms"]["pairs"] >= 100
    assert any(row["audit"] == "5 points over every null" and row["seeds"] == DEFAULT_SEEDS for row in result["audits"])
