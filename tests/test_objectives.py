"""Every named objective: `clipbias` computes what `policy_loss` trains, and enumeration is what simulation finds."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from spurious_rlvr import clipbias, train
from spurious_rlvr.clipbias import BanditConfig, RatioNoise, exact_phase, objective_table, simulate_bandit
from spurious_rlvr.core import ConfigError
from spurious_rlvr.objective import OBJECTIVES, objective_advantages, policy_loss, training_settings

WEIGHTED = [name for name, entry in OBJECTIVES.items() if not entry.pairwise]
SEED = 2611  # chosen before any of these numbers was seen


def one_minibatch(name, answers):
    config = BanditConfig(
        (0.5, 0.3, 0.2),
        1.0,
        minibatches=1,
        minibatch_size=16,
        num_generations=8,
        objective=name,
        answers=answers,
        seed=SEED,
    )
    layout = clipbias._Layout(config)
    old = layout.log_probabilities(layout.logits[:, None])
    shift = np.random.default_rng(SEED).normal(0, 0.5, old.shape)
    new = layout.log_probabilities(layout.logits[:, None] + shift)
    groups = clipbias._draw_groups(config, np.random.default_rng(3), np.exp(layout.to_leaves(old)))
    return config, layout, old, new, groups


def trained_gradient(name, layout, old, new, groups):  # of -loss with respect to the logits, by autograd
    logits = torch.tensor(new[:, 0], requires_grad=True)
    normal = torch.cat([logits[part].log_softmax(0) for part in layout.softmaxes])
    rewards, group_ids, paths = [], [], []
    for leaf, value, group in np.ndindex(groups.counts.shape[0], 2, groups.counts.shape[3]):
        for _ in range(groups.counts[leaf, value, 0, group, 0]):
            rewards.append(float(groups.rewards[value, 0, group, 0]))
            group_ids.append(group)
            paths.append([layout.steps_of[step, leaf] for step in range(layout.lengths[leaf])])
    tokens = torch.tensor([t for path in paths for t in path])
    index = torch.arange(len(paths)).repeat_interleave(torch.tensor([len(path) for path in paths]))
    advantages = objective_advantages(
        name, torch.tensor(rewards, dtype=torch.float64), torch.tensor(group_ids), std_epsilon=0
    )
    loss, _ = policy_loss(
        normal[tokens],
        torch.tensor(old[:, 0])[tokens],
        advantages,
        torch.ones(len(tokens)),
        rollout_index=index,
        objective=name,
        max_completion_length=layout.steps,
    )
    loss.backward()
    return -logits.grad.numpy()


@pytest.mark.parametrize("answers", [None, ((0.9, 0.1), (0.5, 0.5), (0.2, 0.8)), (None, (0.6, 0.4), (0.3, 0.7))])
@pytest.mark.parametrize("name", WEIGHTED)
def test_what_is_simulated_is_what_is_trained(name, answers):
    config, layout, old, new, groups = one_minibatch(name, answers)
    batch = clipbias._make_batch(config, layout, groups)
    tally = clipbias._Tally(np.ones(1))
    found = clipbias._gradient(config, layout, batch, 0, new, old, tally)[:, 0]
    expected = trained_gradient(name, layout, old, new, groups)
    assert np.abs(expected).max() > 1e-4
    assert np.allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_answers_of_differing_lengths_tell_apart_what_one_token_does_not():
    names = ("grpo", "gspo", "luspo", "dapo", "grpo_clip_higher")
    ends = {}
    for answers in (None, (None, (0.5, 0.3, 0.2))):
        for name in names:
            run = simulate_bandit(
                (0.6, 0.4), objective=name, learning_rate=3.0, phases=1, replicas=200, answers=answers, seed=SEED
            )
            ends[answers is None, name] = run.log_odds[1]
    alone = {name: ends[True, name] for name in names}
    assert np.allclose(alone["grpo"], alone["gspo"]) and np.allclose(alone["grpo"], alone["luspo"])
    assert np.allclose(alone["dapo"], alone["grpo_clip_higher"])
    chain = [ends[False, name] for name in names]
    for i in range(len(names)):
        for j in range(i):
            assert np.abs(chain[i] - chain[j]).max() > 1e-3, (names[i], names[j])


SMALL = dict(minibatches=2, minibatch_size=4, num_generations=4)
SETTINGS = [(name, p, rate) for name in OBJECTIVES for p in (0.2, 0.65, 0.9) for rate in (0.7, 2.0)]


def test_enumeration_and_simulation_agree_over_all_objectives():
    z = []
    for i, (name, p, rate) in enumerate(SETTINGS):
        setting = dict(prior=(p, 1 - p), objective=name, learning_rate=rate, **SMALL)
        exact = exact_phase(**setting)
        run = simulate_bandit(**setting, phases=1, replicas=2000, antithetic=True, seed=SEED + i)
        if run.log_odds_drift_se < 1e-9:  # mirrored rewards cancel to the last digit
            assert abs(run.log_odds_drift - exact.log_odds_drift) < 1e-8, (name, p, rate)
            continue
        z.append((run.log_odds_drift - exact.log_odds_drift) / run.log_odds_drift_se)
    z = np.array(z)
    assert len(SETTINGS) >= 200 and len(z) >= 180
    assert np.abs(z).max() <= 4.5
    assert 1e-3 < chi2.cdf((z**2).sum(), len(z)) < 1 - 1e-3


def test_mirrored_rewards_are_rewards_of_the_same_law_and_opposite():
    config = BanditConfig((0.6, 0.4), 1.0, antithetic=True, seed=SEED)
    layout = clipbias._Layout(config)
    old = layout.log_probabilities(np.tile(layout.logits[:, None], 40))
    counts = clipbias._draw_phase(config, layout, 1, old)
    first, second = counts.up[..., :20], counts.down[..., 20:]
    assert np.allclose(first, second) and np.abs(counts.up[..., :20] - counts.up[..., 20:]).max() > 0
    uneven = simulate_bandit((0.6, 0.4), gamma=0.2, learning_rate=1.0, phases=1, replicas=20_000, antithetic=True)
    plain = simulate_bandit((0.6, 0.4), gamma=0.2, learning_rate=1.0, phases=1, replicas=20_000)
    assert abs(uneven.log_odds_drift - plain.log_odds_drift) < 4 * math.hypot(
        uneven.log_odds_drift_se, plain.log_odds_drift_se
    )
    with pytest.raises(ConfigError, match="must be even"):
        simulate_bandit((0.6, 0.4), learning_rate=1.0, phases=1, replicas=5, antithetic=True)


def test_informed_rewards_pay_each_leaf_by_its_own_chance():
    config = BanditConfig((0.6, 0.4), 1.0, success=(0.9, 0.2), seed=SEED)
    groups = clipbias._draw_groups(config, np.random.default_rng(0), np.tile([[0.6], [0.4]], 2000))
    total = groups.counts.sum(axis=(2, 3, 4), dtype=float)
    assert total[:, 0] / total.sum(axis=1) == pytest.approx([0.9, 0.2], abs=2e-3)
    run = simulate_bandit((0.6, 0.4), learning_rate=1.0, phases=1, replicas=200, success=(0.9, 0.2))
    assert run.log_odds_drift > 10 * run.log_odds_drift_se


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if n != "rebel"])
def test_a_training_takes_every_objective(name):
    config = train.check_config(train.GRPOConfig(**training_settings(name)))
    assert config.clip == OBJECTIVES[name].clip and config.keep_advantages == OBJECTIVES[name].keep


def test_the_table_has_its_columns_and_refuses_what_is_unknown():
    table = objective_table(("grpo", "sapo"), priors=(0.65,), spreads=(0.05, 0.1), phases=3, replicas=100)
    assert {"objective", "prior", "spread", "shift", "shift_se", "wander", "phase", "entropy_shift"} <= set(table)
    assert len(table) == 8 and set(table.phase) == {1, 3}
    with pytest.raises(ConfigError, match="give one of grpo"):
        objective_table(("gpro",))
    with pytest.raises(ConfigError, match="unknown keyword"):
        objective_table(("grpo",), minibatch=3)


def test_noise_that_is_nothing_changes_nothing():
    setting = dict(prior=(0.65, 0.35), learning_rate=2.0, phases=2, replicas=50)
    plain = simulate_bandit(**setting)
    still = simulate_bandit(**setting, noise=RatioNoise(0.0))
    assert np.allclose(plain.log_odds, still.log_odds, atol=1e-12)
    assert dataclasses.replace(plain.config, noise=RatioNoise(0.1)).noise.kind == "gaussian"
