"""Replaying a stored phase: it redoes what training did, leaves everything as it was, and its antithetic pairs cancel
what they must. Seeds were fixed before the first look; margins are stated beside each assertion."""

import dataclasses
import math
import time

import numpy as np
import pytest
import torch
from pace import PATIENCE
from small import SMALL as BASE

from spurious_rlvr import organisms, replay, train
from spurious_rlvr.core import ConfigError, RunError
from spurious_rlvr.logprobs import first_trained
from spurious_rlvr.policy import load_policy, random_policy
from spurious_rlvr.rewards import as_reward
from spurious_rlvr.tasks import arithmetic_chains

SMALL = dataclasses.replace(BASE, phases=2, learning_rate=3.0, keep_checkpoints=5)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def small_run(path, **settings):
    return train.train(
        random_policy(scale=10),
        arithmetic_chains(20),
        "random:0.5",
        dataclasses.replace(SMALL, **settings),
        path,
        progress=False,
    )


@pytest.fixture(scope="module")
def run(place):
    return small_run(place / "small")


def at_start(
    run, phase, policy
):  # a state at the start of a phase, its settings, rollouts and updates, and the advantages that it had
    config, rollouts = train.recorded_config(run).at(phase), replay.stored_rollouts(run, phase)
    state = replay.state_of_start(policy, run.checkpoint(phase - 1), rollouts, config)
    redoing = replay.prepare_redoing(state, rollouts, rollouts, config, phase)
    return redoing, config, rollouts, train.signal_of(rollouts, torch.device("cpu"))


def test_what_was_masked_in_training_is_masked_when_redone(place):
    "Completions that ran into the limit were not learnt from; a redoing that did would end at other log-probabilities."
    run = small_run(place / "masked", mask_truncated_completions=True)
    redoing, config, rollouts, _ = at_start(run, 2, load_policy(run.checkpoint(1) / "policy"))
    ended = {r.finish_reason for r in rollouts}
    assert ended == {"stop", "length"}
    for masked, same in ((True, True), (False, False)):
        _, made = replay.redo(redoing, train.signal_of(rollouts, torch.device("cpu"), masked), config.clip)
        assert (replay._redo_gap(rollouts, made) < 1e-5) == same
    drawn = replay.redraw(rollouts, config, as_reward("random:0.5"), 3)
    assert drawn.masked.tolist() == [r.finish_reason == "length" for r in rollouts]


def weights(policy):
    return {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- a replay redoes what training did

CASES = {
    "last layer": {},
    "all weights": dict(trainable="all"),
    "adam": dict(trainable="all", optimizer="adamw", learning_rate=3e-3),
    "twice, shuffled": dict(num_iterations=2, minibatch_order="shuffled"),
    "whitened, packed": dict(whiten=True, loss_type="packed"),
    "divergence": dict(beta=0.1, old_logprobs="trainer"),
    "grad norm": dict(max_grad_norm=0.05, loss_type="dapo", epsilon_high=0.4),
}


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES.keys())
def test_redone_with_its_own_advantages_a_phase_ends_at_the_weights_of_the_run(place, settings):
    run = small_run(place / f"case {len(list(place.iterdir()))}", **settings)
    for phase in (1, 2):
        policy = random_policy(scale=10)
        redoing, config, _, recorded = at_start(run, phase, policy)
        replay.redo(redoing, recorded, config.clip)
        ended = load_policy(run.checkpoint(phase) / "policy", "chain", device="cpu")
        moved = max(
            (a - b).abs().max().item()
            for a, b in zip(random_policy(scale=10).model.parameters(), ended.model.parameters())
        )
        gap = max((a - b).abs().max().item() for a, b in zip(policy.model.parameters(), ended.model.parameters()))
        assert (
            moved > 1e-3 and gap <= 1e-3 * moved
        )  # three digits and more: rounding differs, since the parts before the last norm are computed once


def test_the_cached_tail_gives_what_the_whole_network_gives(run, monkeypatch):
    settings = dict(draws=3, policy=random_policy(scale=10), progress=False)
    cached = replay.replay(run, 1, name="cached", **settings)
    monkeypatch.setattr(replay, "keep_prefix", lambda *_, **__: None)
    whole = replay.replay(run, 1, name="whole", **settings)
    assert np.allclose(
        cached.select_dtypes("number"), whole.select_dtypes("number"), atol=1e-4, rtol=1e-3, equal_nan=True
    )


def test_the_tail_is_cached_only_where_nothing_before_it_is_trained():
    model = random_policy().model
    for trainable, cached in [
        ("lm_head|model.norm", True),
        ("lm_head", True),
        ("all", False),
        ("layers.1", True),
        ("layers.0", False),
        ("lm_head|embed_tokens", False),
    ]:
        train.choose_trainable(model, trainable)
        assert (first_trained(model) is not None) == cached, trainable
    tied = random_policy(tied=True).model
    train.choose_trainable(tied, "lm_head|embed_tokens|model.norm")
    assert first_trained(tied) is None
    train.choose_trainable(tied, "layers.1|model.norm")  # the head is frozen with the embedding
    assert first_trained(tied) == 1


# --- everything is left as it was


@pytest.mark.parametrize("phase", [1, 2])
def test_the_policy_that_was_lent_is_left_bit_for_bit(run, phase):
    policy = random_policy(scale=10)
    policy.model.train()
    next(policy.model.parameters()).requires_grad_(False)
    before, flags = weights(policy), [p.requires_grad for p in policy.model.parameters()]
    replay.replay(run, phase, draws=2, policy=policy, name=f"lent{phase}", progress=False)
    assert same(before, weights(policy)) and flags == [p.requires_grad for p in policy.model.parameters()]
    assert policy.model.training and all(p.grad is None for p in policy.model.parameters())


def test_an_error_half_way_leaves_the_policy_and_writes_nothing(run, monkeypatch):
    policy, calls, real = random_policy(scale=10), [], replay.redo

    def breaks(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    before, replays = weights(policy), run.replays
    monkeypatch.setattr(replay, "redo", breaks)
    with pytest.raises(KeyboardInterrupt):
        replay.replay(run, 1, draws=2, policy=policy, name="broken", progress=False)
    assert same(before, weights(policy)) and run.replays == replays


@pytest.mark.parametrize("phase", [1, 2])
def test_weights_and_adam_are_restored_bit_for_bit_between_redoings(place, phase):
    path = place / "adam"
    run = (
        train.read_run(path)
        if path.exists()
        else small_run(path, trainable="all", optimizer="adamw", learning_rate=3e-3)
    )
    policy = random_policy(scale=10)
    redoing, config, _, recorded = at_start(run, phase, policy)
    state = redoing.state

    def moments():
        return [
            {
                k: v.clone() if isinstance(v, torch.Tensor) else v
                for k, v in state.placement.optimizer.state.get(p, {}).items()
            }
            for p in policy.model.parameters()
        ]

    snapshot, before, before_moments = replay.Snapshot(state), weights(policy), moments()
    assert any(before_moments) == (phase == 2)  # phase 2 starts with Adam's moments, phase 1 with none
    first, _ = replay.redo(redoing, recorded, "both")
    after = weights(policy)
    assert not same(before, after)
    snapshot.restore()
    restored = moments()
    assert same(before, weights(policy))
    assert all(
        a.keys() == b.keys() and all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a)
        for a, b in zip(before_moments, restored)
    )
    second, _ = replay.redo(redoing, recorded, "both")
    assert first == second and same(after, weights(policy))  # the same start, the same end


# --- what the pairs must do


def test_all_sides_are_the_same_where_a_phase_makes_one_update(place):
    with pytest.warns(UserWarning, match="one update per phase"):
        run = small_run(place / "one", minibatch_size=32)
        table = replay.replay(run, 1, draws=2, policy=random_policy(scale=10), progress=False)
    columns = table.columns.difference(["side"])
    for side in ("both", "high", "low"):
        assert (
            table[table.side == side][columns]
            .reset_index(drop=True)
            .equals(table[table.side == "none"][columns].reset_index(drop=True))
        )


def test_pairs_cancel_the_first_order(run):
    """At a small step the shifts of A and -A are opposite, and what is left of their sum is second order: a tenth of
    the step leaves a tenth of each and a hundredth of the sum."""
    alone, left = {}, {}
    for rate in (0.02, 0.002):  # far below the run's own
        table = replay.replay(
            run,
            1,
            draws=6,
            sides=["none"],
            policy=random_policy(scale=10),
            name=f"rate{rate}",
            progress=False,
            learning_rate=rate,
        )
        signs = table.pivot(index="draw", columns="sign", values="entropy")
        alone[rate], left[rate] = np.abs(signs[1] - signs[-1]).mean(), np.abs(signs[1] + signs[-1]).mean()
    assert 0.07 < alone[0.002] / alone[0.02] < 0.14 and 0.003 < left[0.002] / left[0.02] < 0.03
    assert left[0.002] < 0.1 * alone[0.002]


def test_draws_are_keyed(run):
    tables = [
        replay.replay(
            run,
            1,
            draws=3,
            sides=["both", "none"],
            policy=random_policy(scale=10),
            name=f"keyed{i}",
            seed=seed,
            progress=False,
        )
        for i, seed in enumerate((0, 0, 1))
    ]
    assert tables[0].equals(tables[1])
    assert not np.isclose(tables[0].entropy, tables[2].entropy).any()
    more = replay.replay(
        run, 1, draws=4, sides=["both", "none"], policy=random_policy(scale=10), name="keyed3", progress=False
    )
    assert more[more.draw < 3].reset_index(drop=True).equals(tables[0])  # further draws leave the first as they were


def test_without_a_step_nothing_changes(run):
    table = replay.replay(
        run, 1, draws=2, policy=random_policy(scale=10), name="still", progress=False, learning_rate=0.0
    )
    measured = [
        n
        for n in table
        if n.startswith(("share_", "log_odds_", "contrast_"))
        or n in ("logprob", "entropy", "token_probability", "log_ratio_spread")
    ]
    assert np.abs(table[measured].to_numpy()).max() < 1e-5


def test_another_phase_can_be_measured_on(run):
    other = replay.replay(run, 2, draws=2, measured_on=1, name="other", progress=False)
    own = replay.replay(run, 2, draws=2, name="own", progress=False)
    assert (other.clip_fraction_high == own.clip_fraction_high).all() and not np.isclose(
        other.entropy, own.entropy
    ).any()  # the same updates, seen elsewhere
    assert run.of_kind("replay").set_index("name").measured_on["other"] == 1


# --- what it refuses


def test_a_missing_start_is_named(place):
    run = small_run(place / "kept one", keep_checkpoints=1, phases=3)
    with pytest.raises(RunError, match="needs the checkpoint after phase 1; only phase 1 can be replayed"):
        replay.replay(run, 2, progress=False)
    with pytest.raises(RunError, match="give it as policy="):
        replay.replay(run, 1, progress=False)
    with pytest.raises(RunError, match="needs the reference"):
        replay.replay(small_run(place / "beta", beta=0.1), 2, progress=False)
    with pytest.raises(RunError, match="no rollouts of phase 9"):
        replay.replay(run, 9, progress=False)


def test_a_reward_that_is_not_random_and_settings_that_cannot_change_are_refused(run):
    with pytest.raises(ConfigError, match="give a random reward"):
        replay.replay(run, 2, reward="boxed_format", name="x", progress=False)
    with pytest.raises(ConfigError, match="optimizer cannot be changed"):
        replay.replay(run, 2, name="x", progress=False, optimizer="adamw")
    with pytest.raises(ConfigError, match="'upper' is no clip"):
        replay.replay(run, 2, sides=["upper"], name="x", progress=False)


def test_a_run_under_any_reward_can_be_replayed_with_a_random_one(place):
    run = train.train(
        random_policy(scale=10),
        arithmetic_chains(20),
        {1: "boxed_format", 2: "ground_truth"},
        SMALL,
        place / "scheduled",
        progress=False,
    )
    with pytest.raises(ConfigError, match="give reward="):
        replay.replay(run, 2, progress=False)
    assert len(replay.replay(run, 2, draws=2, reward="random:0.5", progress=False)) == 2 * 2 * 4


def test_a_function_that_only_the_run_folder_names_is_not_called(run, tmp_path):
    import json
    import shutil

    shutil.copytree(run.path, tmp_path / "copy")
    settings = json.loads((tmp_path / "copy" / "run.json").read_text()) | dict(reward="python('os:system')")
    (tmp_path / "copy" / "run.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="cannot be read back; give reward="):
        replay.replay(tmp_path / "copy", 2, name="x", progress=False)


# --- organisms


@pytest.fixture(scope="module")
def organism(place):
    config = dataclasses.replace(train.PRESETS["organism"], phases=1)
    return train.train(
        organisms.load("qwen-like"),
        organisms.training_problems(),
        "random:0.5",
        config,
        place / "organism",
        progress=False,
    )


@pytest.mark.slow
def test_a_replay_of_one_organism_phase_with_64_draws_takes_at_most_60_seconds_on_one_core(organism):
    began = time.process_time()
    table = replay.replay(organism, 1, 64, policy=organisms.load("qwen-like"), progress=False)
    assert time.process_time() - began <= 60 * PATIENCE
    assert len(table) == 64 * 2 * 4 and table.skipped.sum() == 0


def test_the_implied_share_of_code_is_what_the_new_policy_writes(organism):
    "The weighted estimate from old completions against completions that the moved policy writes: |z| <= 4."
    policy = organisms.load("qwen-like")
    redoing, config, rollouts, _ = at_start(organism, 1, policy)
    gauge = redoing.gauge
    draw = replay.redraw(rollouts, config, train.as_reward("random:0.5"), seed=5)
    replay.redo(redoing, draw, "both")
    found = gauge.measure()
    old = gauge.shows["writes_code"]
    problems = {p.id: p for p in organisms.training_problems()}
    asked = [problems[r.problem_id] for r in rollouts if r.sample == 0]
    fresh = np.array(
        [
            r.writes_code
            for r in train.measure(
                train.sample_rollouts(
                    policy,
                    redoing.state.engine,
                    asked,
                    num_generations=64,
                    max_completion_length=24,
                    temperature=1.0,
                    seed=77,
                    phase=1,
                )
            )
        ]
    )
    groups = fresh.reshape(len(asked), -1)
    change = np.exp(gauge.per_rollout(gauge.read()[0] - gauge.logprobs))
    share = (change * old).sum() / change.sum()
    error = math.sqrt((change**2 * (old - share) ** 2).sum()) / change.sum()  # of the weighted estimate
    error = math.hypot(error, math.sqrt((groups.mean(1) * (1 - groups.mean(1))).sum() / groups.shape[1]) / len(asked))
    assert math.isclose(share - old.mean(), found["share_writes_code"], abs_tol=1e-6)
    assert abs(share - fresh.mean()) <= 4 * error and abs(found["share_writes_code"]) > 0
