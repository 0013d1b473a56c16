"""The bandit against a slow per-sample reference, against numerical gradients and against its own enumeration;
and what the clip-bias laboratory must hold, each with its margin. Seeds were fixed before the first look."""

import math
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from pace import PATIENCE
from scipy.special import chdtrc

from spurious_rlvr import clipbias
from spurious_rlvr.clipbias import (
    ARMS,
    BanditConfig,
    advantage_moments,
    clip_bias,
    clip_map,
    clip_pull,
    entropy_pull,
    exact_phase,
    sign_changes,
    simulate_bandit,
)
from spurious_rlvr.core import ConfigError, keyed_rng

SEED = 13
SMALL = dict(
    prior=(0.7, 0.3), learning_rate=1.0, minibatches=3, minibatch_size=4, num_generations=4
)  # enumerable in a moment
BINDS = dict(prior=(0.7, 0.3), learning_rate=2.0)  # 8 minibatches of 64, the clip binds


# --- a slow reference: one sample at a time, written from the definitions alone


def softmax(logits):
    exps = [math.exp(z - max(logits)) for z in logits]
    return [e / sum(exps) for e in exps]


def draw_minibatch(rng, old, gamma, size, group_size, scale_rewards):
    samples = []
    for _ in range(size // group_size):
        actions = [int(rng.choice(len(old), p=old)) for _ in range(group_size)]
        rewards = [1.0 if rng.random() < gamma else 0.0 for _ in range(group_size)]
        mean = sum(rewards) / group_size
        std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (group_size - 1))
        for action, reward in zip(actions, rewards):
            advantage = reward - mean
            if scale_rewards == "group":
                advantage = 0.0 if std == 0 else advantage / std
            samples.append((action, advantage))
    return samples


def climb(logits, old, samples, low, high, uses):
    new, gradient = softmax(logits), [0.0] * len(old)
    for action, advantage in samples:
        ratio = new[action] / old[action]
        removed = 1 if advantage > 0 and ratio > high else -1 if advantage < 0 and ratio < low else 0
        uses.append((removed, math.log(ratio)))
        if removed:
            continue
        for k in range(len(old)):
            gradient[k] += advantage * ratio * ((k == action) - new[k]) / len(samples)
    return gradient


def reference(
    rng,
    prior,
    learning_rate,
    *,
    epsilon=0.2,
    epsilon_high=None,
    minibatches=8,
    minibatch_size=64,
    num_generations=16,
    num_iterations=1,
    gamma=0.5,
    scale_rewards="none",
    optimizer="sgd",
    phases=1,
):
    "One replica: log-odds after every phase, and the first phase's uses as (removed side, log-ratio)."
    low, high = 1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high)
    logits, first, second, steps = [math.log(p) for p in prior], [0.0] * len(prior), [0.0] * len(prior), 0
    log_odds, first_uses = [], None
    for _ in range(phases):
        old, uses = softmax(logits), []
        batches = [
            draw_minibatch(rng, old, gamma, minibatch_size, num_generations, scale_rewards) for _ in range(minibatches)
        ]
        for samples in batches * num_iterations:
            gradient, steps = climb(logits, old, samples, low, high, uses), steps + 1
            for k, g in enumerate(gradient):
                if optimizer == "sgd":
                    logits[k] += learning_rate * g
                if optimizer == "momentum":
                    first[k] = 0.9 * first[k] + g
                    logits[k] += learning_rate * first[k]
                if optimizer == "adam":
                    first[k], second[k] = 0.9 * first[k] + 0.1 * g, 0.999 * second[k] + 0.001 * g * g
                    logits[k] += (
                        learning_rate * first[k] / (1 - 0.9**steps) / (math.sqrt(second[k] / (1 - 0.999**steps)) + 1e-8)
                    )
        first_uses = first_uses or uses
        p = softmax(logits)[0]
        log_odds.append(math.log(p / (1 - p)))
    return log_odds, first_uses


REFERENCE_SETTINGS = {
    "two actions, both sides": dict(prior=(0.7, 0.3), learning_rate=3.0),
    "three actions, both sides": dict(prior=(0.5, 0.3, 0.2), learning_rate=3.0),
    "upper only": dict(prior=(0.7, 0.3), learning_rate=3.0, epsilon=math.inf, epsilon_high=0.2),
    "lower only": dict(prior=(0.7, 0.3), learning_rate=3.0, epsilon=0.2, epsilon_high=math.inf),
    "unequal sides, three actions": dict(prior=(0.2, 0.5, 0.3), learning_rate=3.0, epsilon=0.1, epsilon_high=0.3),
    "no clip": dict(prior=(0.8, 0.2), learning_rate=3.0, epsilon=math.inf),
    "divided by the standard deviation": dict(prior=(0.7, 0.3), learning_rate=1.5, scale_rewards="group", gamma=0.3),
    "two passes": dict(prior=(0.7, 0.3), learning_rate=2.0, num_iterations=2),
    "momentum": dict(prior=(0.4, 0.6), learning_rate=1.5, optimizer="momentum"),
    "Adam": dict(prior=(0.7, 0.3), learning_rate=0.1, optimizer="adam"),
    "all at once": dict(
        prior=(0.5, 0.3, 0.2),
        learning_rate=0.1,
        optimizer="adam",
        num_iterations=2,
        scale_rewards="group",
        epsilon=0.1,
        epsilon_high=0.2,
    ),
}


@pytest.mark.parametrize("name", REFERENCE_SETTINGS)
def test_agrees_with_a_slow_reference(name):
    setting = dict(minibatches=3, minibatch_size=8, num_generations=4) | REFERENCE_SETTINGS[name]
    replicas, many = 1000, 40_000
    run = simulate_bandit(**setting, phases=2, replicas=many, seed=SEED)
    found = [reference(keyed_rng(SEED, "reference", name, i), **setting, phases=2) for i in range(replicas)]
    log_odds, uses = (
        np.array([f[0] for f in found]),
        np.array([f[1] for f in found]),
    )  # (replicas, 2), (replicas, uses, 2)
    start = math.log(setting["prior"][0] / (1 - setting["prior"][0]))
    side, log_ratio = uses[..., 0], uses[..., 1]
    per_replica = {  # measured on each replica of the reference -> what the engine says
        "drift": (log_odds[:, 0] - start, run.log_odds_drift),
        "log-odds": (log_odds[:, 1], run.log_odds_mean[1]),
        "probability": (1 / (1 + np.exp(-log_odds[:, 1])), run.mean[1]),
        "above .9": ((log_odds[:, 1] > math.log(9)) * 1.0, run.fixated_high[1]),
        "upper": ((side == 1).mean(axis=1), run.clip_fraction_high[0]),
        "lower": ((side == -1).mean(axis=1), run.clip_fraction_low[0]),
        "spread": (((log_ratio - log_ratio.mean()) ** 2).mean(axis=1), run.log_ratio_spread[0] ** 2),
    }
    for what, (values, expected) in per_replica.items():
        se = values.std(ddof=1) / replicas**0.5 * (1 + replicas / many) ** 0.5
        assert abs(values.mean() - expected) <= 4 * se + 1e-12, what
    assert run.log_odds_drift_se == pytest.approx(log_odds[:, 0].std(ddof=1) / many**0.5, rel=0.25)


# --- the gradient against numerical derivatives of the objective, sample by sample


def objective(config, layout, logits, old, leaf, reward, advantages):
    new = layout.log_probabilities(logits[:, None])[:, 0]
    log_ratio = new - old
    if config.estimator == "rebel":
        summed, total = layout.paths.T @ log_ratio, 0.0
        for group in range(len(leaf) // config.num_generations):
            members = range(group * config.num_generations, (group + 1) * config.num_generations)
            total -= (
                sum(
                    (((summed[leaf[i]] - summed[leaf[j]]) / config.eta - (reward[i] - reward[j])) ** 2)
                    for i in members
                    for j in members
                    if i < j
                )
                * config.eta
                / 2
                / config.num_generations
            )
        return total / len(leaf) / layout.steps
    low, high = config.clip_range
    total = 0.0
    for i, advantage in enumerate(advantages):
        for token in np.flatnonzero(layout.paths[:, leaf[i]]):
            ratio = math.exp(log_ratio[token])
            total += (
                min(ratio * advantage, min(max(ratio, low), high) * advantage)
                if config.estimator in ("grpo", "ppo")
                else advantage * new[token]
            ) / layout.steps
    return total / len(leaf)


def sample_advantages(config, reward):
    grouped = reward.reshape(-1, config.num_generations)
    if config.estimator == "grpo":
        centred = grouped - grouped.mean(axis=1, keepdims=True)
        if config.scale_rewards == "group":
            std = grouped.std(axis=1, ddof=1, keepdims=True)
            centred = np.where(std > 0, centred / np.where(std > 0, std, 1), 0)
        return centred.ravel()
    if config.estimator == "rloo":
        return np.array([r - np.delete(group, i).mean() for group in grouped for i, r in enumerate(group)])
    if config.estimator == "rebel":
        return np.zeros(reward.size)
    return reward - (config.expected_reward if config.baseline is None else config.baseline)


@pytest.mark.parametrize("answers", [None, ((0.6, 0.4), (0.2, 0.3, 0.5), (1.0,))])
@pytest.mark.parametrize(
    "arm", [*ARMS.values(), dict(estimator="grpo", reward="gaussian"), dict(estimator="ppo", baseline=0.2, whiten=True)]
)
def test_gradient_is_the_derivative_of_the_objective(arm, answers):
    config = BanditConfig(
        (0.5, 0.3, 0.2),
        1.0,
        epsilon=0.15,
        epsilon_high=0.25,
        minibatches=1,
        minibatch_size=12,
        num_generations=4,
        gamma=0.4,
        answers=answers,
        eta=0.7,
        **arm,
    )
    layout, rng = clipbias._Layout(config), keyed_rng(SEED, "gradient", str(arm), str(answers))
    leaves, clipped = layout.paths.shape[1], 0
    for _ in range(5):
        old = layout.log_probabilities(layout.logits[:, None])
        logits = layout.logits + 0.4 * rng.standard_normal(len(layout.logits))
        leaf = rng.integers(leaves, size=12)
        reward = rng.standard_normal(12) if config.reward == "gaussian" else (rng.random(12) < 0.5) * 1.0
        counts = np.zeros((leaves, 4, 1, 3, 1))  # every sample has a value of its own
        for i in range(12):
            counts[leaf[i], i % 4, 0, i // 4, 0] = 1
        groups = clipbias._Groups(reward.reshape(3, 4).T[:, None, :, None].copy(), counts)
        tally = clipbias._Tally(np.ones(1))
        new = layout.log_probabilities(logits[:, None])
        gradient = clipbias._gradient(config, layout, clipbias._make_batch(config, layout, groups), 0, new, old, tally)[
            :, 0
        ]
        advantages = sample_advantages(config, reward)
        if config.whiten:
            advantages = (advantages - advantages.mean()) / advantages.std()

        def value(z):
            return objective(config, layout, z, old[:, 0], leaf, reward, advantages)

        numeric = [(value(logits + step) - value(logits - step)) / 2e-6 for step in 1e-6 * np.eye(len(logits))]
        np.testing.assert_allclose(gradient, numeric, atol=2e-8)
        clipped += tally.high + tally.low
    assert (clipped > 0) == (config.estimator in ("grpo", "ppo"))  # the clip was there to be tested


# --- enumeration against simulation


def random_settings(count):
    rng, settings = keyed_rng(SEED, "settings"), []
    while len(settings) < count:

        def pick(*choices):
            return choices[rng.integers(len(choices))]

        p = float(rng.uniform(0.15, 0.85))
        prior, answers = pick(
            ((p, 1 - p), None),
            ((p, 1 - p), None),
            ((0.2 + 0.4 * p, 0.5 - 0.4 * p, 0.3), None),
            ((p, 1 - p), ((0.9, 0.1), (0.5, 0.5))),
        )
        size, optimizer = pick(2, 3, 4), pick("sgd", "sgd", "momentum", "adam")
        estimator = pick("grpo", "grpo", "grpo", "ppo", "rloo", "rebel", "reinforce")
        setting = dict(
            prior=prior,
            answers=answers,
            num_generations=size,
            minibatch_size=size * pick(1, 2),
            minibatches=pick(1, 2, 3, 4),
            num_iterations=pick(1, 1, 2),
            estimator=estimator,
            scale_rewards=pick("none", "group") if estimator == "grpo" else "none",
            baseline=pick(None, 0.0),
            gamma=pick(0.2, 0.5, 0.7),
            epsilon=pick(0.05, 0.2, 0.5, math.inf),
            epsilon_high=pick(None, 0.1, 0.28, math.inf),
            optimizer=optimizer,
            learning_rate=float(rng.uniform(0.5, 3)) * (0.1 if optimizer == "adam" else 1),
            whiten=pick(False, False, True),
            step=pick("update", "phase"),
        )
        config = BanditConfig(**setting)
        try:
            limit, clipbias._ROW_LIMIT = clipbias._ROW_LIMIT, 20_000
            clipbias._check_enumerable(config, clipbias._Layout(config), clipbias.Faults("test"))
        except ConfigError:
            continue
        finally:
            clipbias._ROW_LIMIT = limit
        settings.append(setting)
    return settings


def test_enumeration_agrees_with_simulation_over_120_settings():
    z, z_mean, replicas = [], [], 20_000
    for i, setting in enumerate(random_settings(120)):
        exact, run = exact_phase(**setting), simulate_bandit(**setting, phases=1, replicas=replicas, seed=SEED + i)
        z.append((run.log_odds_drift - exact.log_odds_drift) / (exact.log_odds_sd / replicas**0.5))
        z_mean.append((run.mean[0] - exact.mean) / run.se[0])
        for side in (
            "high",
            "low",
        ):  # a removed use moves a fraction by at most one over the uses of a replica: a loose bound on its error
            fraction = getattr(exact, f"clip_fraction_{side}")
            assert (
                abs(getattr(run, f"clip_fraction_{side}")[0] - fraction) <= 4.5 * (fraction / replicas) ** 0.5 + 1e-12
            )
        assert run.log_ratio_spread[0] == pytest.approx(exact.log_ratio_spread, rel=0.05, abs=1e-9)
    assert max(map(abs, z)) <= 4.5 and max(map(abs, z_mean)) <= 4.5
    tail = chdtrc(len(z), sum(value**2 for value in z))
    assert 0.001 < tail < 0.999


# --- what the laboratory must hold


@pytest.mark.parametrize("arm", ARMS)
def test_no_shift_on_the_first_update(arm):
    exact = exact_phase(**SMALL | dict(minibatches=1), **ARMS[arm], epsilon=0.01)
    assert abs(exact.log_odds_drift) < 1e-14 and exact.clip_fraction_high == exact.clip_fraction_low == 0


@pytest.mark.parametrize(
    "change",
    [
        {},
        dict(scale_rewards="group"),
        dict(estimator="ppo"),
        dict(optimizer="momentum"),
        dict(gamma=0.1),
        dict(whiten=True),
        dict(answers=((0.8, 0.2), (0.5, 0.5)), num_generations=2, minibatch_size=2),
    ],
)
def test_no_expected_shift_without_a_clip(change):
    assert abs(exact_phase(**SMALL | change, epsilon=math.inf).log_odds_drift) < 1e-14
    three = exact_phase(
        **SMALL
        | change
        | dict(prior=(0.5, 0.3, 0.2), minibatches=2, num_generations=2, minibatch_size=2)
        | (dict(answers=((0.8, 0.2), (0.5, 0.5), (1.0,))) if "answers" in change else {}),
        epsilon=math.inf,
    )
    assert abs(three.logit_shift).max() < 1e-14


def test_gaussian_rewards_have_no_shift_without_a_clip_and_one_with_it():
    bias = clip_bias(**BINDS, reward="gaussian", seed=SEED, replicas=4000)
    assert abs(bias.unclipped_shift.iloc[0]) < 4 * bias.unclipped_shift_se.iloc[0]
    assert (
        bias.clip_bias["high"] > 6 * bias.clip_bias_se["high"] and bias.clip_bias["low"] < -6 * bias.clip_bias_se["low"]
    )


def test_unclipped_adam_shifts():
    small = exact_phase(**SMALL | dict(learning_rate=0.1), optimizer="adam", epsilon=math.inf)
    assert abs(small.log_odds_drift) > 1e-3 and small.clip_fraction_high == small.clip_fraction_low == 0
    run = simulate_bandit(
        (0.7, 0.3),
        learning_rate=0.1,
        epsilon=math.inf,
        optimizer="adam",
        minibatches=3,
        minibatch_size=4,
        num_generations=4,
        phases=1,
        replicas=40_000,
        seed=SEED,
    )
    assert abs(run.log_odds_drift - small.log_odds_drift) < 4 * run.log_odds_drift_se


def test_a_second_pass_shifts_without_a_clip():
    assert abs(exact_phase(**SMALL, num_iterations=2, epsilon=math.inf).log_odds_drift) > 1e-2


@pytest.mark.parametrize("arm", ["RLOO", "REINFORCE, centred"])
def test_rloo_and_centred_reinforce_have_no_shift(arm):
    assert abs(exact_phase(**SMALL, **ARMS[arm]).log_odds_drift) < 1e-14
    run = simulate_bandit(**BINDS, **ARMS[arm], phases=10, replicas=4000, seed=SEED)
    assert abs(run.log_odds_mean[-1] - run.log_odds[0, 0]) < 4 * run.log_odds_se[-1]


def test_uncentred_reinforce_has_a_pull_of_its_own():
    assert exact_phase(**SMALL, **ARMS["REINFORCE"], epsilon=math.inf).log_odds_drift > 5e-3


@pytest.mark.parametrize("scale_rewards, rate", [("none", 2.0), ("group", 1.0)])
def test_directions_of_the_sides(scale_rewards, rate):
    setting = dict(learning_rate=rate, scale_rewards=scale_rewards, seed=SEED, replicas=4000)
    above, below = clip_bias((0.7, 0.3), **setting), clip_bias((0.3, 0.7), **setting)
    for bias, sign in ((above, 1), (below, -1)):
        z, z_entropy = sign * bias.clip_bias / bias.clip_bias_se, bias.entropy_bias / bias.entropy_bias_se
        assert z["high"] > 6 and z["low"] < -6 and z["both"] > 4
        assert z_entropy["high"] < -6 and z_entropy["low"] > 6
        assert (bias.clip_fraction_high["low"], bias.clip_fraction_low["high"]) == (0, 0)


@pytest.mark.parametrize("side", [{}, dict(epsilon=math.inf, epsilon_high=0.2), dict(epsilon_high=math.inf)])
def test_below_one_half_the_signs_reverse_exactly(side):
    for p in (0.55, 0.7, 0.9):
        one, other = (
            exact_phase(**SMALL | dict(prior=(p, 1 - p)), **side),
            exact_phase(**SMALL | dict(prior=(1 - p, p)), **side),
        )
        assert one.log_odds_drift == pytest.approx(-other.log_odds_drift, abs=1e-13)
        assert one.entropy == pytest.approx(other.entropy, abs=1e-13)
    assert abs(exact_phase(**SMALL | dict(prior=(0.5, 0.5)), **side).log_odds_drift) < 1e-14


def test_the_clip_acts_through_the_second_update_on():
    "Two updates: the whole shift is the expected pull at the second, over the paths that the first can take."
    setting = SMALL | dict(minibatches=2, learning_rate=2.0)
    config = BanditConfig(**setting)
    layout = clipbias._Layout(config)
    old = layout.log_probabilities(layout.logits[:, None])
    expected = 0.0
    for weights, groups in clipbias._enumerate_groups(BanditConfig(**setting | dict(minibatches=1)), old[:, 0]):
        one = BanditConfig(**setting | dict(minibatches=1))
        ends = clipbias._run_phase(
            one,
            layout,
            clipbias._make_batch(one, layout, groups),
            np.tile(old, len(weights)),
            old,
            clipbias._Optimizer(one),
            clipbias._Tally(weights),
        )
        for weight, new in zip(weights, np.exp(layout.log_probabilities(ends)).T):
            pull = sum(clip_pull((0.7, 0.3), new, mu=advantage_moments(4)[0]))
            expected += weight * config.step_size * (pull[0] - pull[1])
    assert abs(expected) > 1e-3
    assert exact_phase(**setting).log_odds_drift == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize(
    "optimizer, rate, least, most", [("sgd", 1.0, -0.05, 0.05), ("momentum", 1.0, 0.6, 0.75), ("adam", 0.1, 0.4, 1.0)]
)
def test_the_optimizer_remembers_the_last_phase(optimizer, rate, least, most):
    "One update a phase: momentum carries .9 of the first step into the second, a correlation of .9 / sqrt(1.81) = .67."
    run = simulate_bandit(
        (0.5, 0.5),
        learning_rate=rate,
        minibatches=1,
        optimizer=optimizer,
        phases=2,
        replicas=10_000,
        keep="all",
        seed=SEED,
    )
    assert least < np.corrcoef(np.diff(run.log_odds, axis=0))[0, 1] < most


def test_spread_is_the_standard_deviation_of_the_log_ratio():
    old, new = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.2, 0.7])
    exact = exact_phase(old, start=new, learning_rate=1.0, minibatches=1, minibatch_size=2, num_generations=2)
    log_ratio = np.log(new / old)
    assert exact.log_ratio_spread == pytest.approx(math.sqrt(old @ log_ratio**2 - (old @ log_ratio) ** 2), abs=1e-12)


def test_entropy_pull_is_the_small_step_limit():
    for old, new in (((0.7, 0.3), (0.62, 0.38)), ((0.7, 0.3), (0.78, 0.22)), ((0.5, 0.3, 0.2), (0.38, 0.42, 0.2))):
        step = dict(start=new, learning_rate=1e-4, minibatches=1, minibatch_size=4, num_generations=4)
        clipped, unclipped = exact_phase(old, **step), exact_phase(old, **step, epsilon=math.inf)
        predicted = sum(entropy_pull(old, new, learning_rate=1e-4, mu=advantage_moments(4)[0]))
        assert clipped.entropy - unclipped.entropy == pytest.approx(predicted, rel=1e-3)


def test_net_effect_on_entropy_changes_sign_along_the_prior():
    grid = clip_map({"prior": [0.55, 0.65, 0.75, 0.85, 0.95]}, learning_rate=2.0, replicas=4000, seed=SEED)
    z = (grid.entropy_bias / grid.entropy_bias_se).to_list()
    assert z[0] > 4 and z[3] < -4
    assert len(sign_changes(grid, "prior", "entropy_bias", beyond=2)) == 1


# --- maps, streams, and the parts around them


def test_maps_share_their_streams_and_agree_with_clip_bias():
    frame = clip_map(
        {"epsilon": [0.1, 0.2], "prior": [0.3, 0.7]}, sides=("both", "high"), learning_rate=2.0, replicas=500, seed=SEED
    )
    for row in frame.itertuples():
        alone = clip_bias(
            (row.prior, 1 - row.prior), epsilon=row.epsilon, learning_rate=2.0, replicas=500, seed=SEED, sides=row.side
        ).iloc[0]
        assert row.clip_bias == pytest.approx(alone.clip_bias, abs=1e-12) and row.entropy_bias == pytest.approx(
            alone.entropy_bias, abs=1e-12
        )


def test_exact_maps_are_differences_of_exact_phases():
    frame = clip_map(
        {"prior": [0.6, 0.8]}, exact=True, sides=("low",), **{k: v for k, v in SMALL.items() if k != "prior"}
    )
    setting = SMALL | dict(prior=(0.8, 0.2))
    clipped, unclipped = exact_phase(**setting, epsilon_high=math.inf), exact_phase(**setting, epsilon=math.inf)
    assert frame.clip_bias[1] == pytest.approx(clipped.log_odds_drift - unclipped.log_odds_drift, abs=1e-15)
    assert frame.entropy_bias[1] == pytest.approx(clipped.entropy - unclipped.entropy, abs=1e-15)


def test_the_clip_does_not_touch_the_streams():
    wide = simulate_bandit(**BINDS, epsilon=50.0, phases=3, replicas=200, keep="all", seed=SEED)  # never binds
    without = simulate_bandit(**BINDS, epsilon=math.inf, phases=3, replicas=200, keep="all", seed=SEED)
    assert (wide.log_odds == without.log_odds).all() and without.log_odds.shape == (4, 200)
    rates = [
        clipbias._draw_groups(
            BanditConfig((0.7, 0.3), 1.0, epsilon=e), keyed_rng(SEED, "x"), np.tile([[0.7], [0.3]], 50)
        ).counts
        for e in (0.1, 9.0)
    ]
    assert (rates[0] == rates[1]).all()
    assert (
        simulate_bandit(**BINDS, phases=1, replicas=50, seed=1).log_odds
        != simulate_bandit(**BINDS, phases=1, replicas=50, seed=2).log_odds
    ).any()


@pytest.mark.parametrize("gamma", [0, 1])
def test_constant_rewards_do_nothing(gamma):
    run = simulate_bandit(**BINDS, gamma=gamma, scale_rewards="group", phases=2, replicas=50)
    assert (run.log_odds == run.log_odds[0]).all() and run.clip_fraction_high.max() == 0


def test_a_thousandth_of_rewards_still_moves_the_policy():
    assert simulate_bandit(**BINDS, gamma=0.001, phases=5, replicas=500).log_odds[-1].std() > 0


def test_extreme_settings_stay_finite():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for change in (
            dict(learning_rate=1000.0),
            dict(epsilon=0.0),
            dict(epsilon=math.inf, learning_rate=100.0),
            dict(prior=(1 - 1e-12, 1e-12)),
            dict(learning_rate=50.0, optimizer="adam", epsilon=math.inf),
            dict(num_generations=64, minibatch_size=512),
        ):
            run = simulate_bandit(**BINDS | change, phases=5, replicas=200)
            assert all(np.isfinite(run.to_frame()[name]).all() for name in run.to_frame())


def test_epsilon_zero_lets_the_first_update_through():
    run = simulate_bandit(**BINDS, epsilon=0.0, minibatches=1, phases=1, replicas=500)
    assert run.clip_fraction_high[0] == run.clip_fraction_low[0] == 0 and run.log_odds[-1].std() > 0


def test_a_lower_clip_from_one_on_cannot_bind():
    run = simulate_bandit((0.7, 0.3), learning_rate=8.0, epsilon=1.0, epsilon_high=0.2, phases=2, replicas=300)
    assert run.clip_fraction_low.max() == 0 < run.clip_fraction_high.min()


def test_groups_larger_than_a_byte():
    run = simulate_bandit(
        (0.7, 0.3),
        learning_rate=1.0,
        minibatches=1,
        minibatch_size=300,
        num_generations=300,
        phases=1,
        replicas=2000,
        epsilon=math.inf,
    )
    variance = 4 * 0.7 * 0.3 * advantage_moments(300)[1] / 300
    assert run.log_odds[1].var(ddof=1) == pytest.approx(variance, rel=4 * (2 / 1999) ** 0.5)


@pytest.mark.parametrize(
    "change, part",
    [
        (dict(prior=(0.7, 0.7)), "sum to 1"),
        (dict(prior=(1.0, 0.0)), "positive"),
        (dict(prior=None), "prior is None"),
        (dict(gamma=-0.1), "gamma"),
        (dict(epsilon=-1), "epsilon"),
        (dict(epsilon="0.2"), "epsilon"),
        (dict(epsilon_high=math.nan), "epsilon_high"),
        (dict(minibatches=0), "minibatches"),
        (dict(minibatch_size=20), "not a multiple"),
        (dict(optimizer="adamw"), "optimizer"),
        (dict(phases=1.5), "phases"),
        (dict(replicas=1), "replicas"),
        (dict(learning_rate=math.inf), "learning_rate"),
        (dict(keep="some"), "keep"),
        (dict(epsilon_low=0.2), "unknown keyword epsilon_low"),
        (dict(estimator="ppo", scale_rewards="group"), "belongs to estimator"),
        (dict(answers=((1.0,),)), "answers"),
    ],
)
def test_bad_input_is_refused(change, part):
    with pytest.raises(ConfigError, match=part):
        simulate_bandit(**BINDS | dict(phases=1, replicas=10) | change)


def test_all_faults_come_in_one_line():
    with pytest.raises(ConfigError) as caught:
        simulate_bandit((0.5, 0.6), learning_rate=-1, gamma=2, phases=0, replicas=0)
    message = str(caught.value)
    assert "\n" not in message and all(
        word in message for word in ("phases", "replicas", "prior", "learning_rate", "gamma")
    )


def test_enumeration_refuses_what_it_cannot_do():
    with pytest.raises(ConfigError, match="rows"):
        exact_phase((0.7, 0.3), learning_rate=1.0)
    with pytest.raises(ConfigError, match="Gaussian"):
        exact_phase(**SMALL, reward="gaussian")


def test_a_run_shows_itself():
    run = simulate_bandit(**BINDS, phases=3, replicas=100)
    assert list(run.to_frame().phase) == [1, 2, 3] and "expected shift" in repr(run) and "<table>" in run._repr_html_()


def test_imports_are_light():
    code = (
        "import sys, spurious_rlvr.clipbias; print([m for m in ('torch', 'transformers', 'fastcore', 'nbdev',"
        " 'matplotlib', 'scipy.stats') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_ten_thousand_replicas_and_fifty_phases_take_seconds():
    "A change that makes it several times slower is caught here; benchmarks/bandit.py measures it on a quiet machine."
    start = time.process_time()
    simulate_bandit(**BINDS, phases=50, replicas=10_000)
    assert time.process_time() - start <= 20 * PATIENCE
