"""Movement or rounding: ratios read in several precisions are those of the model itself, pulls are inner products of
gradients, nothing is left changed, and what the tables say of a bandit's tokens is what the bandit's theory says."""

import dataclasses
import math
import pathlib

import numpy as np
import pandas as pd
import pytest
import torch
from small import SMALL

from spurious_rlvr import clipbias, replay, train
from spurious_rlvr.core import ConfigError
from spurious_rlvr.logprobs import TokenLogprobs
from spurious_rlvr.policy import random_policy
from spurious_rlvr.rewards import as_reward
from spurious_rlvr.tasks import arithmetic_chains

CONFIG = dataclasses.replace(SMALL, learning_rate=1e-3, optimizer="adamw", mixed_precision="no")


@pytest.fixture
def prepared():
    state = train.prepare(random_policy(scale=10), arithmetic_chains(20), CONFIG)
    rollouts, _ = train.sample_phase(state, CONFIG, as_reward("random:0.5"), 1)
    for rollout in rollouts:
        rollout.writes_code = sum(rollout.token_ids) % 2 == 0
    yield state, rollouts, train.signal_of(rollouts, torch.device("cpu"))
    state.borrowed.close()


def test_nothing_is_left_changed(prepared):
    state, rollouts, signal = prepared
    before = {name: tensor.clone() for name, tensor in state.policy.model.state_dict().items()}
    replay.read_ratios(state, CONFIG, rollouts, signal)
    assert all(torch.equal(before[name], tensor) for name, tensor in state.policy.model.state_dict().items())
    assert not state.placement.optimizer.state and all(p.grad is None for p in state.placement.parameters())


def test_an_interrupt_leaves_the_weights_as_they_were(prepared, monkeypatch):
    state, rollouts, signal = prepared
    before = {name: tensor.clone() for name, tensor in state.policy.model.state_dict().items()}
    made, update = [], replay.make_update

    def interrupted(*args, **settings):
        made.append(update(*args, **settings))
        raise KeyboardInterrupt

    monkeypatch.setattr(replay, "make_update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replay.read_ratios(state, CONFIG, rollouts, signal, behaviors=())
    assert made and all(torch.equal(before[n], tensor) for n, tensor in state.policy.model.state_dict().items())


def test_the_float32_ratio_is_that_of_a_step_made_by_hand(prepared):
    state, rollouts, signal = prepared
    table = replay.read_ratios(state, CONFIG, rollouts, signal, behaviors=())
    used = train.plan_updates(len(rollouts), CONFIG, 1)[0]
    read = table.groupby(["group", "sample"]).ngroups
    assert read == len(rollouts) - len(used) and set(table["token"]) == set(range(6))
    batches = train.make_batches(state, CONFIG, rollouts, 1, live=set(range(len(rollouts))))
    later = [piece for update in batches.updates[1:] for piece in update.pieces]

    def scored():
        found = {}
        for piece in later:
            logprobs, _ = TokenLogprobs(state.policy.model)(piece.batch)
            for place, values in train.by_row(piece, logprobs.detach()):
                rollout = rollouts[place]
                found |= {(rollout.group, rollout.sample, t): v for t, v in enumerate(values)}
        return pd.Series(found)

    before = scored()
    lengths = [len(r.token_ids) for r in rollouts]
    train.make_update(state, CONFIG, batches.updates[0], signal, "none", lengths)
    moved = scored() - before
    told = table.set_index(["group", "sample", "token"])["log_ratio float32/float32"].reindex(moved.index)
    assert moved.abs().max() > 1e-3
    np.testing.assert_allclose(told, moved, atol=2e-6)
    np.testing.assert_allclose(
        table.set_index(["group", "sample", "token"])["probability"].reindex(before.index), np.exp(before), rtol=1e-5
    )


def test_a_pull_is_an_inner_product_of_gradients(prepared):
    state, rollouts, _ = prepared
    pieces = train.cut_pieces(state, CONFIG, rollouts, range(16))
    shows = np.array([r.writes_code for r in rollouts])
    direction = replay.behavior_score(state, CONFIG, pieces, shows)
    [piece] = train.cut_pieces(state, CONFIG, rollouts, range(16, 20))
    [told] = replay.token_pulls(state, CONFIG, [piece], direction)
    logprobs, _ = state.placement.module(piece.batch, CONFIG.temperature)
    parameters = state.placement.parameters()
    for token in range(0, len(logprobs), 5):
        gradients = torch.autograd.grad(logprobs[token], parameters, retain_graph=True, allow_unused=True)
        product = sum(float((g * d).sum()) for g, d in zip(gradients, direction) if g is not None)
        assert told[token] == pytest.approx(product, rel=2e-2, abs=2e-2 * np.abs(told).max())


def test_the_behaviours_gradient_raises_it(prepared):
    state, rollouts, _ = prepared
    pieces = train.cut_pieces(state, CONFIG, rollouts, range(len(rollouts)))
    shows = np.array([r.writes_code for r in rollouts])
    direction = replay.behavior_score(state, CONFIG, pieces, shows)
    changes = np.zeros(len(rollouts))
    for piece, pulls in zip(pieces, replay.token_pulls(state, CONFIG, pieces, direction)):
        for place, values in train.by_row(piece, torch.from_numpy(pulls)):
            changes[place] = sum(values)
    assert changes[shows].mean() > changes[~shows].mean()


def test_half_precision_sees_what_float32_does_not(prepared):
    state, rollouts, signal = prepared
    tiny = dataclasses.replace(CONFIG, learning_rate=1e-9)
    spread = replay.read_ratios(state, tiny, rollouts, signal, behaviors=()).filter(like="log_ratio").std()
    assert spread["log_ratio float32/float32"] < 1e-5
    with pytest.raises(ConfigError, match="leave none"):
        replay.read_ratios(state, CONFIG, rollouts, signal, updates=4)


def bandit_tokens(prior, size, n, seed):
    "Samples of a policy of two actions whose logits are read with an error."
    rng, logits = np.random.default_rng(seed), np.log(prior)
    actions = (rng.uniform(size=n) > prior[0]).astype(int)
    noisy = logits + size * rng.normal(size=(n, 2))
    seen = noisy[np.arange(n), actions] - np.logaddexp(noisy[:, 0], noisy[:, 1])
    columns = {"group": np.arange(n) // 16, "sample": np.arange(n) % 16, "probability": np.take(prior, actions)}
    pulls = np.where(actions == 0, 1 - prior[0], -prior[0]) / (prior[0] * (1 - prior[0]))
    ratios = {"log_ratio bf16/bf16": seen - logits[actions], "pull writes_code": pulls * prior[0] * (1 - prior[0])}
    return pd.DataFrame(columns | ratios), actions


@pytest.mark.parametrize("prior", [0.65, 0.9, 0.35])
def test_the_removed_weight_is_what_the_bandits_theory_says(prior):
    """With two actions the expected change of a logit is -½ E|A| π (D - mean D); seven standard errors, since D is a
    mean of rare events."""
    policy, size, n = np.array([prior, 1 - prior]), 0.2, 400_000
    tokens, actions = bandit_tokens(policy, size, n, 0)
    weight = clipbias.removed_weight(tokens["log_ratio bf16/bf16"].to_numpy())
    d = np.array([weight[actions == a].mean() for a in (0, 1)])
    drift = -0.5 * policy * (d - policy @ d)  # a coin's advantages, divided by their spread, are 1 and -1
    errors = np.array([weight[actions == a].std() / math.sqrt((actions == a).sum()) for a in (0, 1)])
    settings = dict(gamma=0.5, num_generations=1000, minibatch_size=1000)
    theory = clipbias.noise_pull(tuple(policy), clipbias.RatioNoise(size), **settings)
    assert theory[0] != 0
    np.testing.assert_allclose(drift, theory, atol=7 * 0.5 * float(policy @ errors))


def test_clusters_widen_an_interval():
    "The same values, each eight times in its own group: the interval stays; taken as independent it would shrink."
    values = np.random.default_rng(1).normal(size=40)
    alone = clipbias.ratio_of_sums(values, np.ones(40), np.arange(40))
    repeated = clipbias.ratio_of_sums(values.repeat(8), np.ones(320), np.arange(40).repeat(8))
    as_if = clipbias.ratio_of_sums(values.repeat(8), np.ones(320), np.arange(320))
    np.testing.assert_allclose(alone, repeated)
    assert as_if[2] - as_if[1] < 0.5 * (alone[2] - alone[1])


def test_intervals_cover_as_often_as_they_say():
    "Groups of 20 tokens that share an error, 400 tables: 95 % are to be covered, within three standard errors."
    covered = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=(25, 1)) + rng.normal(size=(25, 20))
        _, low, high = clipbias.ratio_of_sums(values.ravel(), np.ones(500), np.arange(25).repeat(20))
        covered += low <= 0 <= high
    assert abs(covered / 400 - 0.95) < 0.035


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    "A run with one stored phase."
    config = dataclasses.replace(CONFIG, phases=1, learning_rate=3e-3, checkpoint_every=0)
    path = tmp_path_factory.mktemp("masks") / "run"
    return train.train(random_policy(scale=10), arithmetic_chains(20), "random:0.5", config, path, progress=False)


def redone(run, name, sides, **changes):
    policy = random_policy(scale=10)
    table = replay.replay(run, 1, 3, sides, policy=policy, name=name, progress=False, **changes)
    return {side: part.drop(columns="side").reset_index(drop=True) for side, part in table.groupby("side")}


def test_a_mask_of_the_same_precision_is_the_clip_itself(stored):
    found = redone(stored, "same", ("both", "both@float32/float32", "none"), epsilon=0.02)
    own, masked = found["both"], found["both@float32/float32"]
    assert own["clip_fraction_high"].min() > 0.01 and own["clip_fraction_low"].min() > 0.01
    assert not np.allclose(own["logprob"], found["none"]["logprob"])
    for name in ("clip_fraction_high", "clip_fraction_low"):
        np.testing.assert_allclose(masked[name], own[name], atol=2e-3)  # a token on the very bound
    np.testing.assert_allclose(masked["logprob"], own["logprob"], rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(masked["entropy"], own["entropy"], rtol=2e-2, atol=1e-6)


def test_a_shuffled_mask_removes_as_many_and_others(stored):
    found = redone(stored, "shuffled", ("both@float32/float32", "both@float32/float32 shuffled"), epsilon=0.02)
    own, shuffled = found["both@float32/float32"], found["both@float32/float32 shuffled"]
    removed = [part["clip_fraction_high"] + part["clip_fraction_low"] for part in (own, shuffled)]
    assert removed[0].min() > 0.02
    # what is removed moves the policy, and so what is removed in the updates after it
    np.testing.assert_allclose(removed[0], removed[1], rtol=0.5)
    assert not np.allclose(own["logprob"], shuffled["logprob"])


def test_a_mask_of_bfloat16_removes_where_nothing_moved(stored):
    "At a learning rate that moves nothing to a bound, float32 removes nothing and bfloat16's mask does."
    rate = dict(learning_rate=1e-7, epsilon=2e-5)
    found = redone(stored, "rounding", ("both", "both@bf16/bf16", "none"), **rate)
    assert found["both"]["clip_fraction_high"].max() == 0
    assert found["both@bf16/bf16"]["clip_fraction_high"].max() > 0


def test_sides_that_are_none_are_refused(stored):
    with pytest.raises(ConfigError, match="is no precision"):
        redone(stored, "unknown", ("both@bf17/bf16",))


def test_what_home_says_of_a_real_model_is_what_the_committed_tokens_say():
    root = pathlib.Path(__file__).resolve().parent.parent
    tokens = pd.read_parquet(root / "benchmarks" / "results" / "real_rounding.parquet")
    some = tokens[tokens["prompt"] == "code likely"]
    [said] = [line for line in (root / "README.md").read_text().split("\n") if "A real model" in line]
    used, exact = (clipbias.rounding_table(some, name).loc["all"] for name in ("bf16/bf16", "float32/float32"))
    assert f"{100 * (used['above'] + used['below']):.1f} % of the tokens" in said
    assert exact["above"] == exact["below"] == 0 and "0.0 % in float32" in said and "body and output layer" in said
    words = clipbias.rounding_sentence(some, minibatch_size=16)
    assert words.partition(": the clip ")[2] in said and "one, and small" in said
    for part in ("acts on rounding", "pushes towards likely tokens", "No push on writes_code is shown"):
        assert part in words and part in said
