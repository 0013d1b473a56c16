"""What the trainer must hold whatever it trains: packed or padded, with or without dead groups, killed anywhere, on a
full disk."""

import dataclasses
import errno
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import SMALL

from spurious_rlvr import logprobs as scoring
from spurious_rlvr import train as training
from spurious_rlvr.core import ConfigError, DataError, RunError
from spurious_rlvr.logprobs import completion_logprobs, microbatches
from spurious_rlvr.policy import load_policy, random_policy
from spurious_rlvr.runs import read_run
from spurious_rlvr.tasks import arithmetic_chains
from spurious_rlvr.train import (
    accumulate_gradient,
    grpo,
    make_batches,
    prepare,
    record_old_logprobs,
    sample_phase,
    signal_of,
    train,
)


def flat(policy):
    return torch.cat([tensor.flatten() for _, tensor in policy.weights()])


def one_group_is_dead(prompts, completions, group, sample, **columns):
    return [1.0 if g % 2 else float(s % 2) for g, s in zip(group, sample)]


def gradient(seed=0, **changes):
    "The gradient of the second update of a phase, whose ratio is not 1."
    config = dataclasses.replace(
        SMALL, phases=1, minibatch_size=16, trainable="all", old_logprobs="trainer", seed=seed, **changes
    )
    policy = random_policy(scale=10)
    state = prepare(policy, arithmetic_chains(20), config)
    rollouts, _ = sample_phase(state, config, training.as_reward(one_group_is_dead), 1)
    batches = make_batches(state, config, rollouts, 1)
    record_old_logprobs(state, config, batches, rollouts)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.02)
    signal, lengths = signal_of(rollouts, torch.device("cpu")), [len(r.token_ids) for r in rollouts]
    records = accumulate_gradient(state, config, batches.updates[1], signal, config.clip, lengths)
    return torch.cat([p.grad.flatten() for p in policy.model.parameters()]), sum(
        len(tokens["entropy"]) for _, tokens in records
    )


@pytest.mark.parametrize(
    "changes",
    [dict(loss_type=name) for name in ("grpo", "dr_grpo", "bnpo", "dapo")]
    + [
        dict(clip="cispo"),
        dict(clip="none"),
        dict(importance_sampling_level="sequence"),
        dict(minibatch_order="shuffled"),
    ],
    ids=str,
)
def test_dead_groups_left_out_change_no_gradient(changes):
    (whole, all_tokens), (skipped, live_tokens) = gradient(skip_zero_advantages=False, **changes), gradient(**changes)
    assert live_tokens < all_tokens and whole.norm() > 0
    assert (whole - skipped).norm() <= 1e-6 * whole.norm()


def test_dead_groups_take_part_where_they_have_a_gradient():
    for changes in (dict(beta=0.1), dict(entropy_coefficient=0.1), dict(loss_type="packed")):
        assert gradient(**changes)[1] == gradient(skip_zero_advantages=False, **changes)[1]


def test_dead_groups_stay_in_every_number():
    def run(skip):
        return list(
            grpo(
                random_policy(scale=10),
                arithmetic_chains(20),
                one_group_is_dead,
                dataclasses.replace(SMALL, phases=1, minibatch_size=16, skip_zero_advantages=skip),
            )
        )[0]

    with_them, without = run(False), run(True)
    for name in ("reward", "accuracy", "dead_groups", "clip_fraction_high", "clip_fraction_low", "updates"):
        assert without.metrics[name] == pytest.approx(with_them.metrics[name], abs=1e-6), name
    for a, b in zip(with_them.updates, without.updates):
        assert a["tokens"] == b["tokens"] and b["tokens_computed"] < a["tokens_computed"]
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-6)
    assert all(r.logprob_new is None and not any(r.clip_side) for r in without.rollouts if r.group % 2)


@pytest.mark.parametrize(
    "changes",
    [dict(loss_type=name) for name in ("grpo", "dr_grpo", "bnpo", "dapo")]
    + [
        dict(importance_sampling_level="sequence"),
        dict(clip="dual"),
        dict(beta=0.1),
        dict(entropy_coefficient=0.05),
        dict(num_iterations=2),
    ],
    ids=str,
)
@pytest.mark.parametrize("budget", [10**6, 300])
def test_packed_and_padded_give_the_same_gradient(changes, budget):
    (packed, _), (padded, _) = (
        gradient(packing=True, microbatch_tokens=budget, **changes),
        gradient(packing=False, **changes),
    )
    assert (packed - padded).norm() <= 1e-5 * padded.norm()


def test_sequences_for_flash_attention_are_cut_as_it_wants_them(monkeypatch):
    """Attention over sequences of different lengths runs on a GPU only; here a plain one stands in its place and gets
    what it would get."""
    import torch.nn.attention.varlen as varlen

    calls = []

    def plain(query, key, value, bounds, key_bounds, longest, key_longest, *, scale, window_size, enable_gqa):
        assert (
            window_size == (-1, 0)
            and bounds.dtype == torch.int32
            and torch.equal(bounds, key_bounds)
            and longest == key_longest == int(bounds.diff().max())
        )
        calls.append(len(bounds) - 1)
        heads = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(heads, 1), value.repeat_interleave(heads, 1)
        parts = [
            torch.nn.functional.scaled_dot_product_attention(
                *(x[a:b].transpose(0, 1)[None] for x in (query, key, value)), is_causal=True, scale=scale
            )[0].transpose(0, 1)
            for a, b in zip(bounds[:-1], bounds[1:])
        ]
        return torch.cat(parts)

    policy, draw = random_policy(heads=4), random.Random(0)
    shared = [draw.randrange(3, 90) for _ in range(7)]
    prompts, completions = [shared, [5, 6], shared], [[draw.randrange(3, 90) for _ in range(n)] for n in (9, 4, 17)]
    [batch] = microbatches(prompts, completions, packed=True, exact=True)
    expected, _ = completion_logprobs(policy.model, batch)
    monkeypatch.setattr(varlen, "varlen_attn", plain)

    def as_on_gpu(query, key, value, layout, scale):
        return plain(
            query,
            key,
            value,
            layout.bounds,
            layout.bounds,
            max(p for _, p in layout.buckets),
            max(p for _, p in layout.buckets),
            scale=scale,
            window_size=(-1, 0),
            enable_gqa=False,
        )

    monkeypatch.setattr(scoring, "_attend", as_on_gpu)
    found, _ = completion_logprobs(policy.model, batch)
    assert calls == [3] * policy.model.config.num_hidden_layers
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path, monkeypatch):
    accuracies = iter([0.1, 0.3, 0.9, 0.2, 0.4])
    real = training.summarise
    monkeypatch.setattr(
        training,
        "summarise",
        lambda rollouts: real(rollouts) | (dict(accuracy=next(accuracies)) if len(rollouts) == 3 else {}),
    )
    run = train(
        random_policy(scale=10),
        arithmetic_chains(20),
        "random:0.5",
        dataclasses.replace(SMALL, phases=4, checkpoint_every=3, evaluate_every=1, keep_best="chains.accuracy"),
        tmp_path / "run",
        held_out={"chains": arithmetic_chains(3, seed=1)},
        progress=False,
    )
    assert run.best_checkpoint.name == "phase-000002" and run.latest_checkpoint.name == "phase-000004"
    assert sorted(p.name for p in (run.path / "checkpoints").glob("phase-*")) == ["phase-000002", "phase-000004"]
    assert (
        load_policy(run.best_checkpoint / "policy", "chain", device="cpu").describe()["parameters"]
        == random_policy().describe()["parameters"]
    )


def test_a_best_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="the held-out sets are none"):
        train(
            random_policy(),
            arithmetic_chains(20),
            "random:0.5",
            dataclasses.replace(SMALL, evaluate_every=1, keep_best="chains.accuracy"),
            tmp_path / "run",
            progress=False,
        )
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_the_phases(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(
        random_policy(scale=10),
        arithmetic_chains(20),
        "random:0.5",
        SMALL,
        tmp_path / "run",
        trackers=["tensorboard"],
        progress=False,
    )
    found = {}
    for file in (run.path / "trackers").rglob("events*"):  # one for the settings, one for the numbers
        events = EventAccumulator(str(file))
        events.Reload()
        if "phase/reward" in events.Tags()["scalars"]:
            found[file] = [(e.step, round(e.value, 5)) for e in events.Scalars("phase/reward")]
    assert list(found.values()) == [[(n + 1, round(r, 5)) for n, r in enumerate(run.of_kind("phase")["reward"])]]
    with pytest.raises(ConfigError, match="there is no 'tensorbord'"):
        train(
            random_policy(),
            arithmetic_chains(20),
            "random:0.5",
            SMALL,
            tmp_path / "other",
            trackers=["tensorbord"],
            progress=False,
        )
    assert not (tmp_path / "other").exists()


def test_completions_without_an_end_are_pointed_out(tmp_path):
    with pytest.warns(UserWarning, match="ran into max_completion_length=2"):
        train(
            random_policy(scale=1),
            arithmetic_chains(20),
            "random:0.5",
            dataclasses.replace(SMALL, phases=1, max_completion_length=2),
            tmp_path / "run",
            progress=False,
        )


def test_a_training_that_cannot_fit_is_refused_with_advice(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "device_memory", lambda device: 2**20)
    with pytest.raises(ConfigError, match="gradient_checkpointing=True"):
        train(
            random_policy(),
            arithmetic_chains(20),
            "random:0.5",
            dataclasses.replace(SMALL, trainable="all", optimizer="adamw", learning_rate=1e-3),
            tmp_path / "run",
            progress=False,
        )
    assert not (tmp_path / "run").exists()


def test_memory_that_runs_out_says_what_to_lower(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(training, "accumulate_gradient", full)
    with pytest.raises(RunError, match="Lower microbatch_tokens"):
        train(random_policy(), arithmetic_chains(20), "random:0.5", SMALL, tmp_path / "run", progress=False)


def test_trainings_of_different_precision_follow_each_other_in_one_process(tmp_path):
    for precision in ("no", "bf16", "no"):
        [phase] = training.grpo(
            random_policy(scale=10),
            arithmetic_chains(20),
            "random:0.5",
            dataclasses.replace(SMALL, phases=1, mixed_precision=precision),
        )
        assert (phase.metrics["mismatch_max"] > 1e-3) == (precision == "bf16"), "the sampler is in float32 each time"


def test_a_reward_that_raises_leaves_nothing_behind(tmp_path):
    def broken(prompts, completions, **columns):
        return [1 / 0 for _ in completions]

    with pytest.raises(DataError, match="broken"):
        train(random_policy(), arithmetic_chains(20), broken, SMALL, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_reward_that_gives_no_number_is_pointed_out():
    def silent(prompts, completions, **columns):
        return [float("nan") for _ in completions]

    with pytest.warns(UserWarning, match="no number for any of 32 completions"):
        list(grpo(random_policy(), arithmetic_chains(20), silent, dataclasses.replace(SMALL, phases=1)))


@pytest.mark.slow
def test_compiled_layers_train_the_same_and_stay_compiled(tmp_path):
    "Every microbatch has another layout; a compiler that began anew for each would give up after eight."
    from torch._dynamo.utils import counters

    config = dataclasses.replace(SMALL, phases=3, trainable="all", microbatch_tokens=200)
    plain = train(
        random_policy(scale=10), arithmetic_chains(20), "random:0.5", config, tmp_path / "plain", progress=False
    )
    counters.clear()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        compiled = train(
            random_policy(scale=10),
            arithmetic_chains(20),
            "random:0.5",
            dataclasses.replace(config, compile=True),
            tmp_path / "compiled",
            progress=False,
        )
    assert plain.of_kind("update")["tokens"].nunique() > 1 and counters["stats"]["unique_graphs"] > 0
    ours, theirs = (load_file(run.latest_checkpoint / "policy" / "model.safetensors") for run in (plain, compiled))
    assert max((ours[name] - theirs[name]).abs().max() for name in ours) < 1e-4


# Killed and filled up, in processes of their own

SCRIPT = textwrap.dedent("""
    import dataclasses, os, resource, signal, sys, warnings, torch
    torch.set_num_threads(1); warnings.simplefilter("ignore")
    from test_engine import SMALL
    from spurious_rlvr.core import SpuriousRLVRError
    from spurious_rlvr.policy import random_policy
    from spurious_rlvr.tasks import arithmetic_chains
    from spurious_rlvr.train import train
    place, how, number = sys.argv[1:4]
    if how == "replace": # killed in the very moment before the n-th thing is moved into its place
        real, count = os.replace, 0
        def replace(*arguments):
            global count
            count += 1
            if count == int(number): os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)
        os.replace = replace
    if how == "checkpoint": # killed with half a checkpoint written
        real, count = torch.save, 0
        def save(value, path):
            global count
            count += 1
            real(value, path)
            if count == int(number): os.truncate(path, os.path.getsize(path) // 2); os.kill(os.getpid(), signal.SIGKILL)
        torch.save = save
    if how == "full": resource.setrlimit(resource.RLIMIT_FSIZE, (int(number), int(number)))
    changes = dict(phases=8, checkpoint_every=2, optimizer="adamw", learning_rate=0.01, trainable="all")
    config, held_out = dataclasses.replace(SMALL, **changes), {"chains": arithmetic_chains(3, seed=1)}
    settings = dict(held_out=held_out, progress=False, resume=os.path.exists(place + "/run.json"))
    try: train(random_policy(scale=10), arithmetic_chains(20), "random:0.5", config, place, **settings)
    except SpuriousRLVRError as error: sys.exit(str(error))
""")


def start(place, how="none", number=0, wait=True):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(place), how, str(number)],
        cwd=Path(__file__).parent,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return (process.wait(120), process.stderr.read()) if wait else process


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    place = tmp_path_factory.mktemp("undisturbed") / "run"
    assert start(place) == (0, "")
    return read_run(place)


def ends_alike(one, other):
    ours, theirs = (load_file(run.latest_checkpoint / "policy" / "model.safetensors") for run in (one, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for kind in ("update", "phase", "evaluation"):

        def plain(run):
            return run.of_kind(kind)[[c for c in run.of_kind(kind) if c != "time" and not c.startswith("seconds")]]

        assert plain(one).equals(plain(other)), kind
    assert one.rollouts().equals(other.rollouts())
    assert not list(other.path.rglob("*.partial")), "a half-written file was left"


@pytest.mark.parametrize("how, number", [("checkpoint", 1), ("checkpoint", 3), ("replace", 4), ("replace", 7)])
def test_killed_while_it_writes_and_resumed_is_the_undisturbed_run(tmp_path, undisturbed, how, number):
    assert start(tmp_path / "run", how, number)[0] == -signal.SIGKILL
    assert start(tmp_path / "run") == (0, "")
    ends_alike(undisturbed, read_run(tmp_path / "run"))


@pytest.mark.slow
def test_killed_at_many_moments_and_resumed_is_the_undisturbed_run(tmp_path, undisturbed):
    "At every place where something is moved, and at random times; some are killed twice."
    moves = 0
    for number in range(1, 60):
        code, _ = start(tmp_path / f"move{number}", "replace", number)
        if code == 0:
            break
        moves += 1
        assert start(tmp_path / f"move{number}")[0] == 0
        ends_alike(undisturbed, read_run(tmp_path / f"move{number}"))
    assert moves == 1 + 8 + 2 * 4 + 2, "run.json, rollouts, checkpoints with their pointers, evaluations"
    began, draw, times = time.monotonic(), random.Random(0), 0
    start(tmp_path / "timed")
    whole = time.monotonic() - began
    for attempt in range(12):
        place = tmp_path / f"time{attempt}"
        for _ in range(2):
            process = start(place, wait=False)
            try:
                process.wait(draw.uniform(whole / 3, whole))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                times += 1
        assert start(place)[0] == 0
        ends_alike(undisturbed, read_run(place))
    assert times > 3


def test_a_full_disk_is_one_line_and_the_rest_goes_on_elsewhere(tmp_path, undisturbed):
    "No file may grow beyond a limit under which the metrics, but not the checkpoint, still fit."
    size = (undisturbed.latest_checkpoint / "policy" / "model.safetensors").stat().st_size
    code, said = start(tmp_path / "run", "full", size // 2)
    assert (
        code == 1 and len(said.strip().splitlines()) == 1 and os.strerror(errno.EFBIG) in said and "resume=True" in said
    )
    stopped = read_run(tmp_path / "run")
    assert stopped.phases == [1, 2] and stopped.of_kind("status")["status"].iloc[-1] == "failed"
    assert start(tmp_path / "run") == (0, "")
    ends_alike(undisturbed, read_run(tmp_path / "run"))


def test_adapters_resume_bit_for_bit(tmp_path):
    config = dataclasses.replace(SMALL, trainable="lora", optimizer="adamw", learning_rate=0.01)
    whole = train(
        random_policy(scale=10), arithmetic_chains(20), "random:0.5", config, tmp_path / "whole", progress=False
    )
    train(
        random_policy(scale=10),
        arithmetic_chains(20),
        "random:0.5",
        dataclasses.replace(config, phases=2),
        tmp_path / "run",
        progress=False,
    )
    ends_alike(
        whole,
        train(
            random_policy(scale=10),
            arithmetic_chains(20),
            "random:0.5",
            config,
            tmp_path / "run",
            resume=True,
            progress=False,
        ),
    )


def test_a_policy_is_exported_from_a_run(tmp_path):
    from spurious_rlvr.runs import export_policy

    run = train(random_policy(scale=10), arithmetic_chains(20), "random:0.5", SMALL, tmp_path / "run", progress=False)
    exported = load_policy(export_policy(run, tmp_path / "policy"), "chain", device="cpu")
    ours = load_file(run.latest_checkpoint / "policy" / "model.safetensors")
    assert all(torch.equal(tensor, ours[name]) for name, tensor in exported.weights())
    with pytest.raises(RunError, match="exists already"):
        export_policy(run, tmp_path / "policy")
    with pytest.raises(RunError, match="no checkpoint 'best'; there are phase-000003; train with keep_best"):
        export_policy(run, tmp_path / "other", checkpoint="best")
    with pytest.raises(RunError, match="no checkpoint '7'"):
        export_policy(run, tmp_path / "other", checkpoint="7")
