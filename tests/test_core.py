"""The trainer's core: ratios that mean what they say in every precision, order and layout; weights, settings and
attention of a lent policy; launches; numerics. Numbers of phases as version 0.1.0 made them are in data/phases.json."""

import dataclasses
import json
import math
import threading
import warnings
from pathlib import Path

import pytest
import torch
from small import SMALL as BASE

from spurious_rlvr import organisms, placement, replay
from spurious_rlvr import train as training
from spurious_rlvr.core import ConfigError, DataError, Problem, RunError
from spurious_rlvr.logprobs import TokenLogprobs, first_trained, microbatches
from spurious_rlvr.policy import load_policy, random_policy
from spurious_rlvr.rollout import Request, TransformersEngine
from spurious_rlvr.runs import read_run
from spurious_rlvr.tasks import arithmetic_chains
from spurious_rlvr.train import PRESETS, check_config, grpo, prepare, train

SMALL = dataclasses.replace(
    BASE,
    phases=2,
    old_logprobs="trainer",
    trainable="all",
    optimizer="adamw",
    learning_rate=1e-3,
    max_grad_norm=1.0,
    microbatch_tokens=300,
    checkpoint_every=0,
)


def changed(**settings):
    return dataclasses.replace(SMALL, **settings)


def run_phases(config, reward="random:0.5", policy=None):
    return list(grpo(policy or random_policy(scale=10), arithmetic_chains(20), reward, config))


# --- where nothing moves, the ratio is 1


@pytest.mark.parametrize(
    "precision, head",
    [(half, head) for half in ("bf16", "fp16", "bf16_weights") for head in ("same", "float32")] + [("no", "same")],
)
@pytest.mark.parametrize("order, packing", [("group", False), ("shuffled", True), ("group", True)])
def test_at_learning_rate_0_every_ratio_is_1(precision, head, order, packing):
    settings = dict(mixed_precision=precision, head_precision=head, minibatch_order=order, packing=packing)
    settings |= dict(learning_rate=0.0, epsilon=0.0, num_iterations=2, gradient_checkpointing=order == "shuffled")
    for phase in run_phases(changed(phases=1, **settings)):
        for rollout in phase.rollouts:
            for used in rollout.logprob_new or ():
                assert used == rollout.logprob_old
        assert {u["log_ratio_spread"] for u in phase.updates} == {0.0}
        assert not any(u["out_of_band_high"] or u["out_of_band_low"] for u in phase.updates)


@pytest.mark.parametrize("old_logprobs", ["trainer", "trainer_recut"])
def test_old_log_probabilities_come_from_the_microbatches_of_the_updates(monkeypatch, old_logprobs):
    "Roundings depend on the microbatch, strongly: only the official code's other cut sees it in the ratio."
    forward = TokenLogprobs.forward

    def rounded(self, batch, *arguments, **options):
        logprobs, entropies = forward(self, batch, *arguments, **options)
        return logprobs - 1e-3 * len(batch.rows), entropies

    monkeypatch.setattr(TokenLogprobs, "forward", rounded)
    settings = dict(
        minibatch_order="shuffled", learning_rate=0.0, phases=1, microbatch_tokens=16384, skip_zero_advantages=False
    )
    [phase] = run_phases(changed(old_logprobs=old_logprobs, **settings))
    moved = max(abs(new - old) for r in phase.rollouts for new, old in zip(r.logprob_new, r.logprob_old))
    assert moved == (0.0 if old_logprobs == "trainer" else pytest.approx(1e-3 * (24 - 8), abs=1e-5))


def test_the_noise_of_a_ratio_is_told_from_movement():
    still, moving = (
        run_phases(changed(mixed_precision="bf16", phases=1, learning_rate=rate))[0].metrics for rate in (1e-7, 1e-2)
    )
    assert still["ratio_noise_spread_float32"] < 0.1 * still["ratio_noise_spread"]
    assert moving["ratio_noise_correlation"] > 0.99 > abs(still["ratio_noise_correlation"])
    assert moving["ratio_noise_spread"] == pytest.approx(moving["ratio_noise_spread_float32"], rel=0.05)


def test_with_the_samplers_log_probabilities_movement_and_gap_stand_apart():
    config = changed(mixed_precision="bf16", old_logprobs="sampler", phases=1, learning_rate=1e-7)
    metrics = run_phases(config)[0].metrics
    assert metrics["ratio_noise_gap_spread"] < 1e-4  # this sampler computes in float32, as the yardstick does
    assert metrics["ratio_noise_spread_float32"] < 1e-3 < metrics["ratio_noise_spread"]


# --- as version 0.1.0 had it

RECORDED = json.loads((Path(__file__).parent / "data" / "phases.json").read_text())
OLD_CUT = changed(learning_rate=0.01, old_logprobs="trainer_recut", microbatch_tokens=200, checkpoint_every=2)
CASES = {
    "organism": dataclasses.replace(PRESETS["organism"], phases=2),
    "packed": OLD_CUT,
    "one_batch": dataclasses.replace(OLD_CUT, microbatch_tokens=16384, num_iterations=2),
    "padded": dataclasses.replace(OLD_CUT, packing=False, microbatch_tokens=16384),
    "shuffled": dataclasses.replace(OLD_CUT, minibatch_order="shuffled", beta=0.1, microbatch_tokens=16384),
    "lora": dataclasses.replace(OLD_CUT, trainable="lora", microbatch_tokens=16384),
}


@pytest.mark.parametrize("name", CASES)
def test_phases_are_what_they_were(name):
    """Losses and gradient norms of two phases, recorded before the core was rebuilt, with the cut of the old pass that
    was then the only one. On the machine that recorded them all weights were the same to the last bit; other
    processors round otherwise, and Adam makes a whole step of a gradient that is nearly 0."""
    policy = organisms.load("qwen-like") if name == "organism" else random_policy(scale=10)
    problems = arithmetic_chains(40 if name == "organism" else 20)
    updates = [u for phase in grpo(policy, problems, "random:0.5", CASES[name]) for u in phase.updates]
    assert [u["loss"] for u in updates] == pytest.approx(RECORDED[name]["loss"], abs=2e-4)
    assert [u["gradient_norm"] for u in updates] == pytest.approx(RECORDED[name]["norm"], rel=1e-2)


# --- half precision


def test_float16_looks_for_a_scale_and_goes_on():
    config = changed(mixed_precision="fp16", max_skipped=1, phases=6)
    state = prepare(random_policy(scale=10), arithmetic_chains(20), config)
    state.placement.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**36)
    phases = list(training.run_phases(state, training.as_reward("random:0.5"), config))
    skipped = [u["skipped"] for phase in phases for u in phase.updates]
    assert skipped[0] and not skipped[-1] and state.placement.scaler.get_scale() < 2.0**36


def test_masters_move_where_bfloat16_would_not_and_are_what_is_saved(tmp_path):
    config = changed(mixed_precision="bf16_weights", learning_rate=1e-5, checkpoint_every=1)
    policy = random_policy(scale=10)
    run = train(policy, arithmetic_chains(20), "random:0.5", config, tmp_path / "run", progress=False)
    start, end = dict(random_policy(scale=10).weights()), dict(policy.weights())
    assert {tensor.dtype for tensor in end.values()} == {torch.float32}
    moved = [not torch.equal(start[name], end[name]) for name in start]
    rounded = [torch.equal(start[name].bfloat16(), end[name].bfloat16()) for name in start]
    assert all(moved) and any(rounded)  # some moved by less than bfloat16 can show
    saved = load_policy(run.latest_checkpoint / "policy", "chain", device="cpu")
    assert all(torch.equal(tensor, end[name]) for name, tensor in saved.weights())


@pytest.mark.parametrize("precision", ["fp16", "bf16_weights"])
def test_half_precision_goes_on_where_it_was(tmp_path, precision):
    config, problems = changed(mixed_precision=precision, phases=3, checkpoint_every=1), arithmetic_chains(20)
    whole = train(random_policy(scale=10), problems, "random:0.5", config, tmp_path / "whole", progress=False)
    short = dataclasses.replace(config, phases=1)
    train(random_policy(scale=10), problems, "random:0.5", short, tmp_path / "run", progress=False)
    policy = random_policy(scale=10)
    resumed = train(policy, problems, "random:0.5", config, tmp_path / "run", progress=False, resume=True)
    assert resumed.of_kind("update")["loss"].tolist() == whole.of_kind("update")["loss"].tolist()


def test_weights_that_are_not_float32_are_not_trained(tmp_path):
    policy = random_policy()
    policy.model.bfloat16()
    with pytest.raises(ConfigError, match="small updates vanish in it .* load them with dtype=torch.float32"):
        train(policy, arithmetic_chains(20), "random:0.5", SMALL, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    assert all(p.requires_grad for p in policy.model.parameters())


def test_auto_is_float32_on_a_processor_and_what_the_launch_says(tmp_path, monkeypatch):
    config = changed(mixed_precision="auto", phases=1)
    run = train(random_policy(), arithmetic_chains(20), "random:0.5", config, tmp_path / "run", progress=False)
    assert run.config["mixed_precision"] == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    run = train(random_policy(), arithmetic_chains(20), "random:0.5", config, tmp_path / "other", progress=False)
    assert run.config["mixed_precision"] == "bf16"
    with pytest.raises(ConfigError, match="the launch asks for bf16"):
        run_phases(changed(mixed_precision="no"))


def test_a_launch_that_would_divide_gradients_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(ConfigError, match="GRADIENT_ACCUMULATION_STEPS=4, which is not followed here"):
        run_phases(SMALL)


# --- what is lent is given back


def settings_of(policy):
    model = policy.model
    return (
        model.config._attn_implementation,
        model.training,
        getattr(model, "is_gradient_checkpointing", None),
        [p.requires_grad for p in model.parameters()],
        [type(module) for module in model.modules()],
        [sorted(vars(module)) for module in model.modules() if "forward" in vars(module)],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
    )


@pytest.mark.parametrize("how", ["to its end", "left early", "failed"])
def test_a_policy_keeps_its_settings(how):
    policy = random_policy(scale=10)
    policy.model.train()
    before = settings_of(policy)
    config = changed(gradient_checkpointing=True, trainable="lm_head|model.norm", optimizer="sgd")

    def fails(prompts, completions, **columns):
        raise ValueError("no")

    phases = grpo(policy, arithmetic_chains(20), fails if how == "failed" else "random:0.5", config)
    if how == "failed":
        with pytest.raises(DataError, match="ValueError"):
            next(phases)
    elif how == "left early":
        next(phases)
        phases.close()
    else:
        list(phases)
    assert settings_of(policy) == before


def test_nothing_of_the_model_changes_while_it_computes():
    policy = random_policy()
    scorer = TokenLogprobs(policy.model)
    before = settings_of(policy)
    [batch] = microbatches([[5, 6]] * 2, [[7, 8], [9]], packed=True)
    seen = []
    handle = policy.model.base_model.layers[0].register_forward_pre_hook(
        lambda *_: seen.append(settings_of(policy)[:6])
    )
    scorer(batch)
    TransformersEngine(policy).generate([Request((5, 6), 0)], max_completion_length=3)
    handle.remove()
    assert len(seen) == 4 and all(each == before[:6] for each in seen)


# --- streaming beside training


def test_a_stream_beside_a_training_disturbs_neither():
    "300 passes and more while another thread writes completions, against the same without."
    config = changed(phases=10, prompts_per_phase=2, num_generations=4, minibatch_size=4, learning_rate=1e-4)
    config = dataclasses.replace(config, gradient_checkpointing=True)
    alone = run_phases(config)
    policy, written, stop, broken = random_policy(scale=10), [], threading.Event(), []
    engine = TransformersEngine(policy)

    def write():
        number = 0
        while not stop.is_set():
            number += 1
            try:
                tokens = list(engine.stream(Request((5, 6, 7), number), max_completion_length=12))
            except BaseException as error:  # noqa: BLE001 (told by the test)
                broken.append(error)
                return
            written.append(tokens)

    threads = [threading.Thread(target=write) for _ in range(2)]
    phases = grpo(policy, arithmetic_chains(20), "random:0.5", config)
    first = next(phases)
    [thread.start() for thread in threads]
    try:
        beside = [first, *phases]
    finally:
        stop.set()
        [thread.join() for thread in threads]
    assert not broken and len(written) >= 4
    passes = sum(len(phase.updates) for phase in beside) + sum(map(len, written))
    assert passes >= 300
    assert [u["loss"] for p in beside for u in p.updates] == [u["loss"] for p in alone for u in p.updates]
    quiet = list(TransformersEngine(policy).stream(Request((5, 6, 7), 1), max_completion_length=12))
    assert [t.token_id for t in quiet] == [
        t.token_id for t in engine.stream(Request((5, 6, 7), 1), max_completion_length=12)
    ]


# --- numerics


def test_a_reward_of_none_is_in_neither_denominator():
    "A phase in which half of each group has no reward learns what a phase without those rollouts would."

    def half(prompts, completions, sample, **columns):
        return [None if s % 2 else float(s % 4 == 0) for s in sample]

    def gradients(loss_type):
        config = changed(phases=1, minibatch_size=32, loss_type=loss_type, learning_rate=0.0, max_grad_norm=math.inf)
        policy = random_policy(scale=10)
        state = prepare(policy, arithmetic_chains(20), config)
        rollouts, _ = training.sample_phase(state, config, training.as_reward(half), 1)
        found = []
        for some in (rollouts, [r for r in rollouts if r.reward is not None]):
            batches = training.make_batches(state, config, some, 1)
            [update] = (
                [batches.updates[0]] if len(some) == 32 else [training.Update(batches.updates[0].pieces, range(16))]
            )
            signal = training.signal_of(some, torch.device("cpu"))
            training.accumulate_gradient(state, config, update, signal, "both", [len(r.token_ids) for r in some])
            found.append(torch.cat([p.grad.flatten() for p in state.placement.parameters()]))
            state.placement.optimizer.zero_grad()
        return found

    for loss_type in ("grpo", "dr_grpo", "bnpo", "dapo"):
        whole, counted = gradients(loss_type)
        assert whole.norm() > 0 and (whole - counted).norm() <= 1e-5 * whole.norm(), loss_type


def test_a_dead_update_moves_nothing():
    "Under Adam, whose momentum would."

    def at_first(prompts, completions, phase, sample, **columns):
        return [float(s % 2) if p == 1 else 1.0 for p, s in zip(phase, sample)]

    policy, seen = random_policy(scale=10), []
    config = changed(phases=2, weight_decay=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for phase in grpo(policy, arithmetic_chains(20), at_first, config):
            seen.append(torch.cat([t.flatten().clone() for _, t in policy.weights()]))
            last = phase
    assert torch.equal(seen[0], seen[1]) and last.metrics["dead_updates"] == 4
    assert not torch.equal(seen[0], torch.cat([t.flatten() for _, t in random_policy(scale=10).weights()]))
    assert math.isfinite(last.metrics["entropy"]) and last.metrics["gradient_norm"] == 0.0


def test_a_group_of_one_is_refused_where_it_cannot_learn():
    alone = dict(num_generations=1, minibatch_size=4)
    for baseline in ("group_mean", "leave_one_out"):
        with pytest.raises(ConfigError, match="a group of one has no other to be compared with"):
            run_phases(changed(**alone, baseline=baseline))
    [phase] = run_phases(changed(phases=1, **alone, baseline="batch_mean", scale_rewards="batch"))
    assert any(r.advantage for r in phase.rollouts)


def test_a_packed_loss_refuses_to_go_on_with_other_microbatches(tmp_path):
    config, problems = changed(loss_type="packed", checkpoint_every=1), arithmetic_chains(20)
    train(
        random_policy(), problems, "random:0.5", dataclasses.replace(config, phases=1), tmp_path / "a", progress=False
    )
    other = dataclasses.replace(config, microbatch_tokens=500)
    with pytest.raises(ConfigError, match="microbatch_tokens is 500 and was 300"):
        train(random_policy(), problems, "random:0.5", other, tmp_path / "a", progress=False, resume=True)


def test_deepspeed_files_of_the_first_version_are_named():
    old = object.__new__(placement.DeepSpeed)
    with pytest.raises(RunError, match="are those of version 0.1.0"):
        old.load(Path("phase-000001"), dict(optimizer=None, adapters=None, finished=1))


# --- replay in another precision, of any trained end


def test_a_replay_in_another_precision_is_read_in_float32(tmp_path):
    config = changed(phases=2, prompts_per_phase=2, checkpoint_every=1, keep_checkpoints=3, learning_rate=1e-6)
    run = train(random_policy(scale=10), arithmetic_chains(20), "random:0.5", config, tmp_path / "run", progress=False)
    settings = dict(draws=2, sides=["both"], progress=False, epsilon=3e-3)
    tables = {
        precision: replay.replay(run, 2, name=precision, mixed_precision=precision, **settings)
        for precision in ("no", "bf16", "fp16", "bf16_weights")
    }
    assert 5 * tables["no"]["log_ratio_spread"].max() < tables["bf16"]["log_ratio_spread"].min()
    for name, table in tables.items():  # so small a step leaves so small a change, whatever it was computed in
        assert table["logprob"].abs().max() < 1e-3, name
        assert table["logprob"].abs().min() > 0, name
    said = read_run(run.path).of_kind("replay").set_index("name")["old_logprobs"]
    assert said.to_dict() == dict(no="recorded", bf16="anew", fp16="anew", bf16_weights="anew")


@pytest.mark.parametrize("trainable", ["layers.1|model.norm", "layers.1", "lm_head"])
def test_a_kept_prefix_gives_what_the_whole_network_gives(tmp_path, monkeypatch, trainable):
    config = changed(phases=1, trainable=trainable, checkpoint_every=1)
    run = train(random_policy(scale=10), arithmetic_chains(20), "random:0.5", config, tmp_path / "run", progress=False)
    settings = dict(draws=2, sides=["both"], progress=False, policy=random_policy(scale=10))
    kept = replay.replay(run, 1, name="kept", **settings)
    monkeypatch.setattr(replay, "keep_prefix", lambda *_, **__: None)
    whole = replay.replay(run, 1, name="whole", **settings)
    assert kept.equals(whole)
    model = random_policy().model
    training.choose_trainable(model, trainable)
    assert first_trained(model) == {"lm_head": 2}.get(trainable, 1)


# --- truncated completions and schedules


def truncation(**settings):
    policy = random_policy(scale=10)
    config = changed(phases=1, minibatch_size=32, learning_rate=0.0, max_grad_norm=math.inf, **settings)
    state = prepare(policy, arithmetic_chains(20), config)
    rollouts, _ = training.sample_phase(state, config, training.as_reward("random:0.5"), 1)
    for r in rollouts:  # this policy hardly ends by itself
        r.finish_reason = "length" if r.sample % 4 == 0 else "stop"
    batches = training.make_batches(state, config, rollouts, 1)
    signal = training.signal_of(rollouts, torch.device("cpu"), config.mask_truncated_completions)
    lengths = [len(r.token_ids) for r in rollouts]
    training.accumulate_gradient(state, config, batches.updates[0], signal, "both", lengths)
    return rollouts, torch.cat([p.grad.flatten() for p in state.placement.parameters()])


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_truncated_completions_have_no_gradient_and_count_as_in_trl(loss_type):
    "TRL sets the mask of a truncated completion to 0: it stays one of the rollouts that `grpo` averages over."
    rollouts, found = truncation(loss_type=loss_type, mask_truncated_completions=True)
    _, everything = truncation(loss_type=loss_type)
    assert (found - everything).norm() > 1e-3 * everything.norm()
    policy, longest = random_policy(scale=10), max(len(r.token_ids) for r in rollouts)
    logprobs, mask = torch.zeros(32, longest), torch.zeros(32, longest)
    for i, r in enumerate(rollouts):
        prompt = policy.encode(r.prompt)
        logits = policy.model(torch.tensor([prompt + r.token_ids])).logits[0, len(prompt) - 1 : -1]
        n = len(r.token_ids)
        logprobs[i, :n] = logits.log_softmax(-1)[range(n), r.token_ids]
        mask[i, :n] = float(r.finish_reason == "stop")
    advantages = torch.tensor([r.advantage for r in rollouts])
    terms = torch.exp(logprobs - logprobs.detach()) * advantages[:, None] * mask
    if loss_type == "grpo":  # TRL's: a mean over each one's tokens, then over all 32
        (-(terms.sum(1) / mask.sum(1).clamp(1)).mean()).backward()
    else:  # over all tokens that are left
        (-terms.sum() / mask.sum()).backward()
    expected = torch.cat([p.grad.flatten() for p in policy.model.parameters()])
    assert (found - expected).norm() <= 1e-4 * expected.norm()


def test_a_schedule_goes_on_where_it_was(tmp_path):
    config = changed(phases=3, checkpoint_every=1, lr_scheduler_type="cosine", warmup_steps=3)
    problems = arithmetic_chains(20)
    whole = train(random_policy(scale=10), problems, "random:0.5", config, tmp_path / "a", progress=False)

    class Stop(Exception):
        pass

    def stops(prompts, completions, phase, group, sample, **columns):
        if phase[0] == 2 and not resumed:
            raise Stop
        return [float((g + s) % 2) for g, s in zip(group, sample)]

    rates = whole.of_kind("update")["learning_rate"]
    assert rates.iloc[0] == 0.0 and rates.max() <= config.learning_rate and rates.iloc[-1] < rates.iloc[4]
    resumed = False
    with pytest.raises(DataError, match="Stop"):
        train(random_policy(scale=10), problems, stops, config, tmp_path / "b", progress=False)
    resumed = True
    run = train(random_policy(scale=10), problems, stops, config, tmp_path / "b", progress=False, resume=True)
    assert run.of_kind("update")["learning_rate"].tolist() == rates.tolist()
    with pytest.raises(ConfigError, match="phases is 5 and was 3, on which lr_scheduler_type 'cosine' depends"):
        longer = dataclasses.replace(config, phases=5)
        train(random_policy(scale=10), problems, stops, longer, tmp_path / "b", progress=False, resume=True)


def test_the_penalty_of_length_is_trls():
    from trl.rewards import get_soft_overlong_punishment

    from spurious_rlvr.rewards import parse

    written = [[1] * n for n in range(0, 130, 7)]
    ours = parse("soft_overlong:100,20")([""] * len(written), [""] * len(written), completion_ids=written)
    assert ours == pytest.approx(get_soft_overlong_punishment(100, 20)(completion_ids=written))


# --- the sampler's correction


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
@pytest.mark.parametrize("low, high", [(0.5, 2.0), (0.0, 3.0)])
def test_the_correction_is_trls(mode, low, high):
    "TRL's lines, on padded tensors: the same weights."
    from spurious_rlvr.objective import mismatch_weights

    draw = torch.Generator().manual_seed(0)
    lengths, (level, kind) = [5, 1, 9], mode.split("_")
    index = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    difference = torch.randn(len(index), generator=draw)
    ours = mismatch_weights(difference, torch.zeros(len(index)), index, level=level, mode=kind, cap=high, floor=low)
    padded, mask = torch.zeros(3, 9), torch.zeros(3, 9)
    for row, part in enumerate(difference.split(lengths)):
        padded[row, : len(part)], mask[row, : len(part)] = part, 1.0
    ratio = torch.exp((padded * mask).sum(-1, keepdim=True) if level == "sequence" else padded * mask)
    outside = (ratio < low) | (ratio > high)
    ratio = torch.clamp(ratio, min=low, max=high) if kind == "truncate" else ratio.masked_fill(outside, 0.0)
    theirs = torch.cat([row[:n] for row, n in zip(ratio.expand(3, 9), lengths)])
    assert torch.allclose(ours, theirs)


@pytest.mark.parametrize("spread", [0.5, 15.0])
@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
def test_the_correction_is_verls(level, spread):
    """verl's formulas on padded tensors: log-ratios cut at 20 before they are exponentiated, truncation from above; and
    rejection, also by the geometric mean of a completion, which leaves out the same tokens."""
    from spurious_rlvr.objective import mismatch_weights

    draw, lengths, bound = torch.Generator().manual_seed(1), [5, 1, 9, 4], 20.0
    index = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))
    difference = spread * torch.randn(len(index), generator=draw)
    padded = torch.nn.utils.rnn.pad_sequence(difference.split(lengths), batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(n) for n in lengths], batch_first=True)
    whole = (padded * mask).sum(-1, keepdim=True)
    log_ratio = dict(token=padded, sequence=whole, geometric=whole / mask.sum(-1, keepdim=True))[level]
    ratio = log_ratio.clamp(-bound, bound).exp().expand_as(padded)

    def flat(values):
        return torch.cat([row[:n] for row, n in zip(values, lengths)])

    common = dict(level=level, cap=2.0)
    truncated = mismatch_weights(difference, torch.zeros(len(index)), index, mode="truncate", **common)
    assert torch.allclose(truncated, flat(ratio.clamp(max=2.0)), atol=1e-6)
    masked = mismatch_weights(difference, torch.zeros(len(index)), index, mode="mask", floor=0.5, **common)
    kept = flat((ratio >= 0.5) & (ratio <= 2.0))
    assert torch.equal(masked != 0, kept) and torch.allclose(masked[kept], flat(ratio)[kept])


def test_a_correction_says_how_often_it_acted():
    config = changed(mixed_precision="bf16", sampler_correction="icepop", sampler_floor=0.9999, sampler_cap=1.0001)
    metrics = run_phases(dataclasses.replace(config, phases=1))[0].metrics
    assert 0.5 < metrics["corrected_share"] <= 1.0  # bfloat16 against float32, in an interval that holds hardly any
    wide = dataclasses.replace(config, sampler_floor=0.01, sampler_cap=100.0, phases=1)
    assert run_phases(wide)[0].metrics["corrected_share"] == 0.0
    with pytest.raises(ConfigError, match="sampler_floor is 0.5 and has no effect without sampler_correction"):
        run_phases(changed(sampler_floor=0.5))


def test_the_clips_report_says_whether_it_was_rounding(tmp_path):
    from spurious_rlvr.clipbias import clip_report

    said = {}
    for precision in ("bf16", "no"):
        config = changed(mixed_precision=precision, phases=1, learning_rate=1e-7)
        place = tmp_path / precision
        run = train(random_policy(scale=10), arithmetic_chains(20), "random:0.5", config, place, progress=False)
        said[precision] = str(clip_report(run))
    assert "Movement or rounding" in said["bf16"] and "in float32" in said["bf16"]
    assert "rounding" not in said["no"]


def often_the_same(completions, problem_id, sample, **_):
    "Tells the completions of half of the problems apart."
    return [float(number % 2) if int(name) % 2 else 0.5 for name, number in zip(problem_id, sample)]


def test_dead_groups_are_sampled_anew_and_the_same_after_a_resume(tmp_path):
    problems = [Problem(f"{i} + 1 = ?", "2", str(i)) for i in range(16)]
    config = dataclasses.replace(SMALL, phases=3, dynamic_sampling=2)
    whole = train(random_policy(scale=10), problems, often_the_same, config, tmp_path / "a", progress=False)
    begun = dataclasses.replace(config, phases=2)
    train(random_policy(scale=10), problems, often_the_same, begun, tmp_path / "b", progress=False)
    resumed = train(
        random_policy(scale=10), problems, often_the_same, config, tmp_path / "b", progress=False, resume=True
    )
    columns = ["group", "sample", "problem_id", "token_ids", "advantage"]
    for phase in (1, 2, 3):
        rows, again = whole.rollouts(phase), resumed.rollouts(phase)
        assert len(rows) == 32 and rows["group"].nunique() == 4  # a phase has its size
        assert rows[columns].astype(str).equals(again[columns].astype(str))
        assert (rows.groupby("group")["problem_id"].nunique() == 1).all()
        odd = rows["problem_id"].astype(int) % 2 == 1
        assert (rows.loc[odd, "advantage"] != 0).all() and (rows.loc[~odd, "group"] >= 8).all()  # tried three times
    plain = train(random_policy(scale=10), problems, often_the_same, SMALL, tmp_path / "c", progress=False).of_kind(
        "phase"
    )
    facts = whole.of_kind("phase")
    assert facts["dead_groups"].sum() < plain["dead_groups"].sum() and (facts["left_out_groups"] > 0).any()
    live = plain["dead_groups"].iloc[0] * 4  # groups of the first phase that were dead at first
    assert facts["left_out_groups"].iloc[0] * 4 >= live


def test_sampling_anew_is_bounded_and_counts_every_toss():
    problems = [Problem(f"{i} + 1 = ?", "2", str(i)) for i in range(4)]
    config = dataclasses.replace(SMALL, phases=1, dynamic_sampling=2)
    [phase] = grpo(random_policy(), problems, lambda completions, **_: [1.0] * len(completions), config)
    assert phase.metrics["dead_groups"] == 1 and phase.metrics["left_out_groups"] == 2 and len(phase.rollouts) == 32
    assert sorted({r.group for r in phase.rollouts}) == [8, 9, 10, 11]
    rare = dataclasses.replace(config, num_generations=4, minibatch_size=4)
    [phase] = grpo(random_policy(), problems, "random:0.1", rare)
    tossed = 16 * (1 + phase.metrics["left_out_groups"])
    share = phase.metrics["rate_random:0.1"] * tossed
    assert share == pytest.approx(round(share)) and tossed > 16
    with pytest.raises(ConfigError, match="without a baseline of the group"):
        check_config(dataclasses.replace(config, baseline="batch_mean"))
