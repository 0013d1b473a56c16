"""Every clip by its name: loss and gradient are what its entry claims, and whatever reads the name takes it or refuses
it. A clip made here alone shows what a new one takes."""

import dataclasses

import numpy as np
import pytest
import torch
from test_clip_measured import make_run, rollout

from spurious_rlvr import clipbias, organisms, train
from spurious_rlvr.clipbias import clip_report, measured_tokens
from spurious_rlvr.core import ConfigError, RunError
from spurious_rlvr.objective import (
    CLIPS,
    Clip,
    ClipOption,
    TokenTerms,
    clip_bounds,
    clip_sides,
    find_clip,
    policy_loss,
    register_clip,
    token_objective,
)

NAMES = list(CLIPS)  # as the package has them
TOKENS, WORDS = 400, 7


def draw(seed=0):
    "Logits of a small softmax for each token, the tokens drawn, log-probabilities of the old policy, and advantages."
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(TOKENS, WORDS, generator=generator, dtype=torch.float64).requires_grad_()
    drawn = torch.randint(WORDS, (TOKENS,), generator=generator)
    chosen = logits.detach().log_softmax(-1)[torch.arange(TOKENS), drawn]
    old = chosen + 0.8 * torch.randn(TOKENS, generator=generator, dtype=torch.float64)
    return logits, drawn, old, torch.randn(TOKENS, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_weight_times_advantage_times_score(name):
    logits, drawn, old, advantages = draw()
    logprobs = logits.log_softmax(-1)[torch.arange(TOKENS), drawn]
    loss, tokens = policy_loss(
        logprobs,
        old,
        advantages,
        torch.ones(TOKENS),
        rollout_index=torch.arange(TOKENS),
        epsilon=0.2,
        epsilon_high=0.3,
        clip=name,
    )
    loss.backward()
    new, bounds = logprobs.detach().numpy(), clip_bounds(0.2, 0.3, name)
    ratio = np.exp(new - old.numpy())
    terms = TokenTerms(np, ratio, advantages.numpy(), new, old.numpy(), *bounds, find_clip(name)[1])
    score = np.eye(WORDS)[drawn] - logits.detach().softmax(-1).numpy()
    expected = -(CLIPS[name].weight(terms) * advantages.numpy())[:, None] * score / TOKENS
    assert np.allclose(logits.grad.numpy(), expected, rtol=1e-10, atol=1e-14)
    assert np.abs(expected).max() > 0
    removed = (np.abs(expected) == 0).all(axis=1)
    assert (removed == (tokens["clip_side"].numpy() != 0)).all()
    assert removed.any() == (CLIPS[name].effect == "removes")


@pytest.mark.parametrize("name", NAMES)
def test_numpy_and_torch_give_the_same_weight_and_objective(name):
    entry, (_, _, old, advantages) = CLIPS[name], draw(1)
    new = old + 0.5 * torch.randn(TOKENS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    parts, found = ((new - old).exp(), advantages, new, old), []
    for xp, arrays in ((torch, parts), (np, [p.numpy() for p in parts])):
        terms = TokenTerms(xp, *arrays, *clip_bounds(0.2, 0.3, name), find_clip(name)[1])
        found.append([np.asarray(f(terms)) for f in (entry.weight, entry.uncut, entry.objective) if f])
    for ours, theirs in zip(*found):
        assert np.allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_an_effect_is_what_the_weight_does(name):
    entry, (_, _, old, advantages) = CLIPS[name], draw(3)
    ratio = torch.linspace(0.2, 5, TOKENS, dtype=torch.float64)
    terms = TokenTerms(
        torch, ratio, advantages, old + ratio.log(), old, *clip_bounds(0.2, 0.3, name), find_clip(name)[1]
    )
    weight, uncut = entry.weight(terms), entry.uncut(terms)
    differs = weight != uncut
    if entry.effect == "removes":
        assert differs.any() and (weight[differs] == 0).all()
    if entry.effect == "shrinks":
        assert differs.any() and (weight > 0).all()
    sides, _ = clip_sides(ratio, advantages, clip=name, bounds=(terms.low, terms.high))
    assert (sides[ratio < 1] <= 0).all() and (sides[ratio > 1] >= 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_clipbias_reads_every_clip_from_a_run(tmp_path, name):
    "Ratios beyond both ends, for both signs: what is said of the clip is what its entry says."
    values = [(sign, shift) for sign in (1.0, -1.0) for shift in (0.5, -0.5, 1.5)]
    ratio = torch.tensor([shift for _, shift in values], dtype=torch.float64).exp()
    advantages = torch.tensor([sign for sign, _ in values], dtype=torch.float64)
    sides, outside = clip_sides(ratio, advantages, clip=name, bounds=clip_bounds(0.2, None, name))
    rows = [
        rollout(sample=i, update=i % 2, old=[-2.0], new=[-2.0 + shift], side=[int(sides[i])], outside=[int(outside[i])])
        for i, (_, shift) in enumerate(values)
    ]
    old = torch.full_like(ratio, -2.0)
    terms = TokenTerms(
        torch, ratio, advantages, old + ratio.log(), old, *clip_bounds(0.2, None, name), find_clip(name)[1]
    )
    weights = CLIPS[name].weight(terms).tolist() if CLIPS[name].whole else [None] * len(rows)
    for row, advantage, weight in zip(rows, advantages.tolist(), weights):
        row.advantage = advantage
        row.gradient_weight = None if weight is None else [weight]
    report = clip_report(make_run(tmp_path / "run", rows, clip=name))
    assert report.could_matter == (CLIPS[name].effect != "none"), report.headline
    words = dict(removes="it removed gradients", shrinks="it changed the weight of", none="there was no clip")
    assert words[CLIPS[name].effect] in report.headline


@pytest.mark.parametrize("name", NAMES)
def test_the_bandit_takes_a_side_or_says_which_there_are(name):
    settings = dict(prior=(0.7, 0.3), learning_rate=1.0, minibatches=2, minibatch_size=8, num_generations=8, replicas=4)
    if name in ("both", "high", "low", "none"):
        assert clipbias.clip_bias(sides=(name,), **settings).index.tolist() == [name]
    else:
        with pytest.raises(ConfigError, match="choose from both, high, low, none"):
            clipbias.clip_bias(sides=(name,), **settings)


@pytest.mark.parametrize("name", NAMES)
def test_a_config_takes_every_clip_and_refuses_what_it_has_not(name):
    own = {key: option.default + 1 for key, option in CLIPS[name].options.items()}
    assert train.check_config(train.GRPOConfig(clip=name, clip_options=own)).clip_options == own
    with pytest.raises(ConfigError, match=f"has no setting 'strength'; it has {', '.join(own) or 'none'}"):
        train.check_config(train.GRPOConfig(clip=name, clip_options=dict(own, strength=1.0)))


def test_what_is_wrong_with_a_clip_is_said_with_all_else_that_is_wrong():
    wrong = train.GRPOConfig(clip="dual", clip_options=dict(dual_constant=0.5), temperature=0.0)
    with pytest.raises(ConfigError, match="dual_constant of clip 'dual' is 0.5 and must be a number above 1") as error:
        train.check_config(wrong)
    assert "temperature is 0.0" in str(error.value)
    with pytest.raises(ConfigError, match="clip_options is 3"):
        train.check_config(train.GRPOConfig(clip_options=3))


def test_a_clips_own_setting_reaches_the_loss():
    logprobs, old = torch.tensor([0.0], requires_grad=True), torch.tensor([-1.5])  # a ratio of 4.48
    settings = dict(rollout_index=torch.zeros(1, dtype=torch.long), clip="dual")
    for constant, expected in ((None, 3.0), (2.0, 2.0), (100.0, float(np.exp(1.5)))):
        options = None if constant is None else dict(dual_constant=constant)
        loss, _ = policy_loss(logprobs, old, torch.tensor([-1.0]), torch.ones(1), clip_options=options, **settings)
        assert abs(loss.item() - expected) < 1e-5
    with pytest.raises(ConfigError, match="clip 'both' has no setting 'dual_constant'"):
        token_objective(logprobs, logprobs, torch.ones(1), clip="both", clip_options=dict(dual_constant=2.0))


def test_clipbias_refuses_a_clip_that_it_does_not_know(tmp_path):
    run = make_run(tmp_path / "run", [rollout(sample=i, update=i) for i in range(2)], clip="velvet")
    for ask in (clip_report, clipbias.by_probability, clipbias.predicted_against_observed):
        with pytest.raises(RunError, match="its clip 'velvet' is not known here.*known are both, high") as error:
            ask(run, 1) if ask is not clipbias.predicted_against_observed else measured_tokens(run, 1)
        assert "\n" not in str(error.value)
    late = make_run(tmp_path / "late", [rollout(phase=p) for p in (1, 2)], changes={"2": dict(clip="velvet")})
    with pytest.raises(RunError, match="velvet"):
        clip_report(late)
    odd = make_run(tmp_path / "odd", [rollout()], clip="dual", clip_options=dict(strength=3))
    with pytest.raises(RunError, match="has no setting 'strength'"):
        clip_report(odd)


@pytest.fixture
def softened():
    "A clip of this test alone: beyond the interval a share of the ratio is kept. It takes one entry."

    def weight(terms):
        beyond = (terms.ratio > terms.high) | (terms.ratio < terms.low)
        return terms.xp.where(beyond, terms.options["share"] * terms.ratio, terms.ratio)

    share = ClipOption(0.5, 0.0, "what is kept of a weight beyond the interval")
    yield register_clip(
        Clip("softened", "sg[ρ or share ρ] A log π", "this test", weight, "shrinks", options={"share": share})
    )
    del CLIPS["softened"]


def test_a_new_clip_takes_one_entry(softened, tmp_path):
    config = dataclasses.replace(
        train.PRESETS["organism"],
        phases=2,
        prompts_per_phase=4,
        num_generations=8,
        minibatch_size=8,
        epsilon=0.02,
        clip=softened.name,
        clip_options={"share": 0.25},
        compare_gradients=True,
    )
    runs = {
        name: train.train(
            organisms.load("qwen-like"),
            organisms.training_problems(),
            "random:0.5",
            dataclasses.replace(config, clip=name, clip_options=options),
            tmp_path / name,
            progress=False,
        )
        for name, options in (("softened", {"share": 0.25}), ("none", {}))
    }
    run = runs["softened"]
    assert run.config["clip"] == "softened" and run.config["clip_options"] == {"share": 0.25}
    assert train.recorded_config(run).clip_options == {"share": 0.25}
    tokens = measured_tokens(run, 1)
    share = (tokens["pull"] / tokens["pull_unclipped"])[tokens["advantage"] != 0].round(6)
    assert set(share.unique()) == {0.25, 1.0}
    assert (share == 0.25).sum() == ((tokens["out_of_band"] != 0) & (tokens["advantage"] != 0)).sum()
    report = clip_report(run)
    assert report.could_matter and "it changed the weight of" in report.headline
    assert 0 < run.of_kind("update")["gradient_norm_ratio"].min() < 1
    assert (tokens["clip_side"] == 0).all()
    ratios = [clipbias.measured_tokens(r, 1)["ratio"].to_numpy() for r in runs.values()]
    assert len(ratios[0]) != len(ratios[1]) or not np.array_equal(*ratios), "the new clip trained another policy"
    with pytest.raises(ConfigError, match="there is a clip 'softened' already"):
        register_clip(softened)


def test_a_run_of_a_clip_that_is_gone_is_refused(tmp_path, softened):
    run = make_run(tmp_path / "run", [rollout()], clip="softened")
    assert clip_report(run).could_matter is False
    entry = CLIPS.pop("softened")
    try:
        with pytest.raises(RunError, match="'softened' is not known here"):
            clip_report(run)
    finally:
        CLIPS["softened"] = entry
