"""The clip measured on a run: what the readers say against what is known by construction, from bandits written as run
folders and from small real runs. Seeds were fixed before the first look."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from spurious_rlvr import clipbias
from spurious_rlvr.clipbias import (
    by_probability,
    clip_report,
    code_tokens,
    gradient_mass,
    measured_tokens,
    over_phases,
    predicted_against_observed,
    replay_against_runs,
    replay_effects,
)
from spurious_rlvr.core import ConfigError, Rollout, RunError, keyed_rng
from spurious_rlvr.objective import CLIPS
from spurious_rlvr.runs import create_run, read_run


def rollout(
    phase=1,
    group=0,
    sample=0,
    update=0,
    *,
    old=(-1.0, -1.0),
    new=None,
    side=None,
    outside=None,
    advantage=1.0,
    **further,
):
    old, n = list(old), len(old)
    return Rollout(
        phase,
        group,
        sample,
        "p",
        "",
        further.pop("completion", "x"),
        "",
        further.pop("token_ids", list(range(n))),
        old,
        "stop",
        reward=further.pop("reward", 1.0),
        advantage=advantage,
        update=update,
        logprob_old=old,
        logprob_new=list(old if new is None else new),
        clip_side=[0] * n if side is None else side,
        out_of_band=[0] * n if outside is None else outside,
        entropy=[0.0] * n,
        **further,
    )


def make_run(path, rollouts, phase=1, **config):
    writer = create_run(
        path, config=dict(clip="both", epsilon=0.2, epsilon_high=None, loss_type="grpo", learning_rate=1.0) | config
    )
    for number in sorted({r.phase for r in rollouts}):
        writer.write_rollouts(number, [r for r in rollouts if r.phase == number])
    return read_run(path)


# --- the pull is the derivative of the objective


@pytest.mark.parametrize(
    "settings",
    [
        dict(loss_type=loss_type, clip=c, importance_sampling_level=level)
        for loss_type in ("grpo", "dr_grpo", "dapo", "bnpo")
        for c in CLIPS
        for level in ("token", "sequence")
    ],
)
def test_kept_pull_is_the_derivative_that_autograd_gives(tmp_path, settings):
    torch = pytest.importorskip("torch")
    from spurious_rlvr.objective import policy_loss

    rng = keyed_rng(0, "pull")
    lengths, rows = [3, 1, 5, 2], []
    old = [rng.normal(-1.5, 0.5, n).tolist() for n in lengths]
    new = [[o + d for o, d in zip(values, rng.normal(0, 0.3, len(values)))] for values in old]
    advantages = torch.tensor([1.0, -1.0, 0.5, -0.25], dtype=torch.float64)
    index = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))
    flat = torch.tensor(sum(new, []), dtype=torch.float64, requires_grad=True)
    loss, stats = policy_loss(
        flat,
        torch.tensor(sum(old, []), dtype=torch.float64),
        advantages,
        torch.ones(len(flat)),
        rollout_index=index,
        max_completion_length=8,
        **settings,
    )
    loss.backward()
    sides, weights = (stats[name].split(lengths) for name in ("clip_side", "gradient_weight"))
    for i in range(4):
        seen = dict(side=sides[i].tolist(), advantage=advantages[i].item())
        if CLIPS[settings["clip"]].whole:
            seen["gradient_weight"] = weights[i].tolist()
        rows.append(rollout(sample=i, old=old[i], new=new[i], **seen))
    tokens = measured_tokens(make_run(tmp_path / "run", rows, max_completion_length=8, **settings), 1)
    kept = tokens["pull"] * (tokens["clip_side"] == 0)
    assert np.allclose(kept, -flat.grad, rtol=1e-5, atol=1e-7)  # the table keeps log-probabilities in single precision


def test_bins_are_those_of_the_objective():
    objective = pytest.importorskip("spurious_rlvr.objective")
    assert clipbias.PROBABILITY_BINS == objective.PROBABILITY_BINS


def test_rollouts_used_twice_are_measured_at_each_use(tmp_path):
    twice = [
        rollout(
            sample=i, update=2 + i, new=[[-1.0, -1.0], [-1.0, -0.5]], side=[[0, 0], [0, 1]], outside=[[0, 0], [0, 1]]
        )
        for i in range(2)
    ]
    for r in twice:
        r.entropy = [[0.0, 0.0], [0.0, 0.0]]
    tokens = measured_tokens(make_run(tmp_path / "run", twice, num_iterations=2), 1)
    assert len(tokens) == 8 and sorted(tokens["update"].unique()) == [
        0,
        1,
        2,
        3,
    ]  # two updates for each pass; the table names the last
    assert tokens[tokens.use == 0].clip_side.sum() == 0 and tokens[tokens.use == 1].clip_side.tolist() == [0, 1, 0, 1]


def test_a_rollout_without_a_reward_pulls_nothing(tmp_path):
    run = make_run(
        tmp_path / "run", [rollout(sample=0), rollout(sample=1, advantage=0.0, reward=None)], loss_type="dapo"
    )
    tokens = measured_tokens(run, 1)
    assert tokens.pull.tolist() == [0.5, 0.5, 0, 0]  # two tokens count, not four


@pytest.mark.parametrize("iterations", [1, 2])
def test_dead_groups_that_were_left_out_are_counted_and_not_measured(tmp_path, iterations):
    pytest.importorskip("torch")
    from spurious_rlvr import organisms, train

    config, found = (
        dataclasses.replace(
            train.PRESETS["organism"],
            phases=1,
            prompts_per_phase=8,
            num_generations=4,
            minibatch_size=8,
            num_iterations=iterations,
        ),
        {},
    )
    for skip in (True, False):
        run = train.train(
            organisms.load("qwen-like"),
            organisms.training_problems(),
            "ground_truth",
            dataclasses.replace(config, skip_zero_advantages=skip),
            tmp_path / str(skip),
            progress=False,
        )
        assert 0 < run.of_kind("phase")["dead_groups"].iloc[0] < 1
        found[skip] = measured_tokens(run, 1)
    key = ["update", "group", "sample", "position"]
    both = found[True].merge(found[False], on=key, suffixes=("", "_all"), validate="one_to_one")
    assert len(both) == len(found[True]) < len(found[False])
    assert (
        np.allclose(both["pull"], both["pull_all"], rtol=1e-4, atol=1e-9)
        and (both["clip_side"] == both["clip_side_all"]).all()
    )
    rest = found[False].merge(found[True][key], on=key, how="left", indicator=True)
    assert not rest.loc[rest["_merge"] == "left_only", "pull"].any(), "what was left out pulled nothing"


# --- which tokens are code


def test_code_tokens_with_tokens_that_cut_across_spans():
    pieces = ["Let: ```py", "thon\nx", " = 2 +", " 2\n``", "`\nDone ", "it", ""]

    def decode(ids):
        return "".join(pieces[i] for i in ids)

    text = "".join(pieces)
    [span] = clipbias.code_spans(text)
    assert text[span.start : span.end] == "x = 2 + 2\n"
    assert code_tokens(text, range(7), decode).tolist() == [False, True, True, True, False, False, False]


def test_code_tokens_where_decoding_alone_differs_from_decoding_together():
    "As SentencePiece tokenizers do: a word's leading space is dropped at the beginning of what is decoded."
    words = ["▁say", "▁```python", "\nx", "▁=", "▁1", "\n```", "▁end"]

    def decode(ids):
        return "".join(words[i] for i in ids).replace("▁", " ").removeprefix(" ")

    text = decode(range(7))
    assert code_tokens(text, range(7), decode).tolist() == [
        False,
        False,
        True,
        True,
        True,
        True,
        False,
    ]  # the fence's line break is code's last character


def test_the_decoder_comes_from_the_checkpoint_or_is_asked_for(tmp_path):
    run = make_run(tmp_path / "run", [rollout()])
    with pytest.raises(RunError, match="give decode="):
        gradient_mass(run)
    assert gradient_mass(run, decode=lambda ids: "").index.tolist() == [False]


def test_measuring_imports_no_torch(tmp_path):
    make_run(
        tmp_path / "run",
        [rollout(phase=p, group=g, writes_code=bool(g % 2), update=u) for p in (1, 2) for g in range(4) for u in (0,)],
    )
    code = f"""import sys
from spurious_rlvr.runs import read_run
from spurious_rlvr import clipbias
run = read_run({str(tmp_path / "run")!r})
clipbias.clip_report(run), clipbias.by_probability(run), clipbias.predicted_against_observed(run)
clipbias.gradient_mass(run, by='writes_code')
import tokenizers
assert not {{'torch', 'transformers', 'datasets', 'vllm'}} & set(sys.modules), 'a heavy package was imported'"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the report's rules

OUT_UP, OUT_DOWN = dict(new=[-1.0, -0.5], outside=[0, 1]), dict(new=[-1.0, -1.5], outside=[0, -1])
RULES = [
    (dict(clip="none"), [dict(update=1, **OUT_UP)], "there was no clip"),
    (dict(clip="pi_weighted"), [dict(update=1, **OUT_UP)], "there was no clip"),
    (dict(clip="reinforce"), [dict(update=1, **OUT_UP)], "there was no clip"),
    (dict(clip="cispo"), [dict(update=0), dict(update=1, new=[-1.0, -0.9])], r"stayed inside \[0.8, 1.2\]"),
    (dict(clip="cispo"), [dict(update=0, advantage=0.0), dict(update=1, advantage=0.0, **OUT_UP)], "every advantage"),
    (dict(epsilon=math.inf), [dict(update=1, **OUT_UP)], "no end that could be reached"),
    (dict(epsilon=1.0, epsilon_high=math.inf), [dict(update=1, **OUT_UP)], "no end that could be reached"),
    (dict(), [dict(update=0)], "each phase made one update"),
    (dict(learning_rate=0.0), [dict(update=0), dict(update=1)], "the learning rate was 0"),
    (dict(), [dict(update=0, advantage=0.0), dict(update=1, advantage=0.0, **OUT_UP)], "every advantage was 0"),
    (dict(), [dict(update=0), dict(update=1, new=[-1.0, -0.9])], r"stayed inside \[0.8, 1.2\]"),
    (
        dict(),
        [dict(update=0), dict(update=1, advantage=-1.0, **OUT_UP), dict(update=1, advantage=1.0, **OUT_DOWN)],
        "2 token uses left the interval, all where the clip removes nothing",
    ),
]


@pytest.mark.parametrize("config, rows, reason", RULES, ids=[reason for *_, reason in RULES])
def test_the_top_line_says_why_clipping_could_not_have_mattered(tmp_path, config, rows, reason):
    report = clip_report(make_run(tmp_path / "run", [rollout(sample=i, **row) for i, row in enumerate(rows)], **config))
    assert not report.could_matter
    assert pd.Series([report.headline]).str.contains("cannot have mattered.*" + reason).item() and str(
        report
    ).startswith("run: the clip cannot")
    assert report.by_side.tokens.sum() == 0


def test_a_rule_about_settings_must_hold_in_every_phase(tmp_path):
    "A run that switches its clip off half way is not a run without a clip."
    rows = [rollout(phase=p, sample=u, update=u) for p in (1, 2) for u in (0, 1)]
    assert (
        "stayed inside" in clip_report(make_run(tmp_path / "switched", rows, changes={"2": dict(clip="none")})).headline
    )
    assert (
        "no clip"
        in clip_report(make_run(tmp_path / "off", rows, clip="both", changes={"1": dict(clip="none")})).headline
    )


def test_one_removed_gradient_is_enough_to_matter(tmp_path):
    "Also where the rules' conditions nearly hold: the record decides."
    rows = [
        rollout(sample=0),
        rollout(sample=1, update=1, side=[0, 1], advantage=2.0, **OUT_UP),
        rollout(sample=2, update=1, side=[0, -1], advantage=-1.0, **OUT_DOWN),
    ]
    report = clip_report(make_run(tmp_path / "run", rows))
    assert report.could_matter and "could have mattered" in report.headline
    assert report.by_side.tokens.to_dict() == {"high": 1, "low": 1}
    assert math.isclose(report.by_side.push["high"], -2 * math.exp(0.5) / 4, rel_tol=1e-5) and math.isclose(
        report.by_side.push["low"], 1 * math.exp(-0.5) / 4, rel_tol=1e-5
    )
    mass = gradient_mass(read_run(tmp_path / "run"), decode=lambda ids: "").iloc[0]
    assert math.isclose(mass.push, report.by_side.push.sum()) and math.isclose(
        mass.kept + mass.removed_high + mass.removed_low, 1
    )


def test_bins_hold_every_token_once(tmp_path):
    logs = np.log([0.005, 0.02, 0.1, 0.3, 0.6, 0.9, 0.97, 1.0])
    frame = by_probability(
        make_run(
            tmp_path / "run", [rollout(old=logs, side=[0, 1, 0, -1, 0, 0, 0, 0], outside=[0, 1, 0, -1, 0, 0, 0, 0])]
        )
    )
    assert frame.tokens.tolist() == [1, 1, 1, 1, 1, 1, 2]  # 1 belongs to the last
    assert (
        frame.clip_fraction_high.tolist() == [0, 1, 0, 0, 0, 0, 0]
        and frame.out_of_band_low[3] == 1
        and frame.largest_ratio[5] == 1.25
    )


def test_missing_columns_are_named(tmp_path):
    writer = create_run(tmp_path / "run", config={})
    writer.write_rollouts(1, [dataclasses.replace(rollout(), clip_side=None, logprob_new=None)])
    with pytest.raises(RunError, match="logprob_new, clip_side"):
        clip_report(read_run(tmp_path / "run"))
    with pytest.raises(RunError, match="no finished phase"):
        over_phases(read_run(tmp_path / "run"))
    with pytest.raises(RunError, match="no rollouts yet"):
        by_probability(read_run(create_run(tmp_path / "empty", config={}).path))


# --- replays


def replay_table(clip_effect, wander, draws=40, phase=1):
    "A made-up replay: every side moves by +/- wander, and the clipped side by its effect on top."
    rng, rows = keyed_rng(3, "table"), []
    for draw in range(draws):
        moved, noise = rng.normal(0, wander), rng.normal(0, 0.1)
        for sign in (1, -1):
            for side in ("both", "none"):
                rows.append(
                    dict(
                        phase=phase,
                        draw=draw,
                        sign=sign,
                        side=side,
                        log_odds_writes_code=sign * moved + (clip_effect + noise) * (side == "both"),
                        entropy=math.nan,
                        skipped=0,
                    )
                )
    return pd.DataFrame(rows)


def test_pairs_remove_the_wander_from_the_effect_and_its_interval():
    calm, wild = (replay_effects(replay_table(0.2, wander)).iloc[0] for wander in (0.0, 50.0))
    assert math.isclose(calm.effect, wild.effect, abs_tol=1e-9) and math.isclose(calm.low, wild.low, abs_tol=1e-9)
    assert calm.low < 0.2 < calm.high and calm.draws == 40 and calm.high - calm.low < 0.1
    assert replay_effects(replay_table(0.2, 0.0)).measure.tolist() == [
        "log_odds_writes_code"
    ]  # what is not defined throughout is left out


def share_run(path, shares, count=400):  # writes_code in the given shares, phase by phase
    return make_run(
        path,
        [
            rollout(phase=phase, group=i // 20, sample=i % 20, writes_code=i < share * count)
            for phase, share in enumerate(shares, 1)
            for i in range(count)
        ],
    )


def test_effects_of_several_replays_are_interpolated_and_summed(tmp_path):
    runs = [share_run(tmp_path / str(i), [0.5] * 6) for i in range(2)]
    tables = [replay_table(0.1, 0.0, phase=2), replay_table(0.3, 0.0, phase=4)]
    effects = [replay_effects(t).effect[0] for t in tables]
    found = replay_against_runs(tables, runs, runs).predicted.diff().iloc[1:]
    assert np.allclose(found, [effects[0], effects[0], sum(effects) / 2, effects[1], effects[1]])


def test_the_remainder_is_observed_minus_predicted_with_both_errors(tmp_path):
    treated, control = (
        [share_run(tmp_path / f"{name}{i}", [0.5, share]) for i, share in enumerate(shares)]
        for name, shares in (("t", (0.6, 0.7)), ("c", (0.5, 0.5)))
    )
    last = replay_against_runs(replay_table(0.2, 0.0), treated, control).iloc[-1]
    observed = np.mean([math.log((280 + 0.5) / (120 + 0.5)), math.log((240 + 0.5) / (160 + 0.5))])
    assert math.isclose(last.observed, observed) and math.isclose(last.unexplained, last.observed - last.predicted)
    widths = [last[f"{name}_high"] - last[f"{name}_low"] for name in ("predicted", "observed", "unexplained")]
    assert math.isclose(widths[2], math.hypot(*widths[:2]))
    with pytest.raises(ConfigError, match="same seeds"):
        replay_against_runs(replay_table(0.2, 0.0), treated[:1], control)


# --- predicted against observed


def bandit_run(path, epsilon=0.2, phases=12, updates=8, size=16, learning_rate=2.0, prior=0.7, drift=0.0):
    """Two actions, GRPO without scaling; `drift` moves the logit after each phase by something that no gradient
    explains."""
    rng, z, rows = keyed_rng(1, "bandit"), math.log(prior / (1 - prior)), []
    for phase in range(1, phases + 1):
        old = expit(z)
        for update in range(updates):
            shows, rewards, new = rng.random(size) < old, rng.integers(0, 2, size), expit(z)
            advantages, ratio = rewards - rewards.mean(), np.where(shows, new / old, (1 - new) / (1 - old))
            side = ((ratio > 1 + epsilon) & (advantages > 0)).astype(int) - (
                (ratio < 1 - epsilon) & (advantages < 0)
            ).astype(int)
            z += (
                2 * learning_rate * np.mean(np.where(side == 0, ratio * advantages * np.where(shows, 1 - new, -new), 0))
            )
            for i in range(size):
                before, after = (math.log(p if shows[i] else 1 - p) for p in (old, new))
                rows.append(
                    rollout(
                        phase,
                        update,
                        i,
                        update,
                        old=[before],
                        new=[after],
                        side=[int(side[i])],
                        advantage=float(advantages[i]),
                        writes_code=bool(shows[i]),
                    )
                )
        z += drift
    return make_run(path, rows, epsilon=epsilon)


def test_on_a_bandit_the_response_is_twice_the_learning_rate_and_the_line_fits(tmp_path):
    account = predicted_against_observed(bandit_run(tmp_path / "run"), behaviors=("writes_code",)).iloc[0]
    assert (
        abs(account.response / 4 - 1) < 0.1 and account.fit > 0.9
    )  # the share that weighs the pulls is the phase's, and drifts within it
    assert account.predicted != 0 and account.unexplained_low < account.unexplained < account.unexplained_high


def test_without_a_clip_nothing_is_predicted(tmp_path):
    accounts = predicted_against_observed(bandit_run(tmp_path / "run", epsilon=math.inf), behaviors=("writes_code",))
    assert (accounts.predicted.dropna() == 0).all() and np.allclose(
        (accounts.observed - accounts.unexplained).dropna(), 0
    )


def test_what_no_gradient_explains_is_left_unexplained(tmp_path):
    """Beyond the clip and the pulls as drawn, the account has nothing left for the calm run, and the planted 11 x .3
    for the other; margin: four errors of the observed shift."""
    calm, moved = (
        predicted_against_observed(
            bandit_run(tmp_path / name, drift=drift, prior=0.3), behaviors=("writes_code",)
        ).iloc[0]
        for name, drift in (("calm", 0.0), ("moved", 0.3))
    )
    assert abs(calm.unexplained - calm.drawn) < 4 * calm.observed_se < 2
    assert abs(moved.unexplained - moved.drawn - 3.3) < 4 * moved.observed_se < 2
    assert moved.unexplained_low > 0
