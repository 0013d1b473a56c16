"The same run in one, two and four processes, with whole weights, FSDP2 and DeepSpeed ZeRO, over gloo on the CPU."

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from spurious_rlvr.placement import computes_on_cpu
from spurious_rlvr.policy import load_policy, random_policy
from spurious_rlvr.runs import read_run
from spurious_rlvr.train import GRPOConfig, own_engine, settle_precision

ENVIRONMENT = {
    "ddp": {},
    "fsdp": dict(ACCELERATE_USE_FSDP="true"),
    "zero2": dict(ACCELERATE_USE_DEEPSPEED="true", ACCELERATE_DEEPSPEED_ZERO_STAGE="2"),
    "zero3": dict(ACCELERATE_USE_DEEPSPEED="true", ACCELERATE_DEEPSPEED_ZERO_STAGE="3"),
}


def launch(place, kind, processes, phases=3, trainable="all", *more):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(processes),
        "process_layout.py",
        str(place),
        str(phases),
        trainable,
        *more,
    ]
    result = subprocess.run(
        command,
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | dict(OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="true") | ENVIRONMENT[kind],
    )
    assert result.returncode == 0, result.stderr[-3000:]
    said = [json.loads(line) for line in result.stdout.splitlines() if line.startswith('{"processes"')]
    assert said[0]["processes"] == processes
    return read_run(place)


def weights(run):
    return load_file(run.latest_checkpoint / "policy" / "model.safetensors")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return {
        trainable: launch(tmp_path_factory.mktemp("alone") / "run", "ddp", 1, 3, trainable)
        for trainable in ("all", "lora")
    }


def same_run(one, other):
    "The same data and rewards; weights that differ by rounding only, against how far they moved."
    start, ours, theirs = dict(random_policy(scale=10).weights()), weights(one), weights(other)

    def distance(a, b):
        return sum(((a[name] - b[name]).double() ** 2).sum() for name in a).sqrt().item()

    moved = distance(ours, start)
    assert moved > 0.1 and distance(ours, theirs) <= 1e-3 * moved
    columns = ["phase", "group", "sample", "problem_id", "reward", "update"]
    assert one.rollouts()[columns].values.tolist() == other.rollouts()[columns].values.tolist()
    for name in ("loss", "tokens", "entropy", "clip_fraction_high", "gradient_norm"):
        assert other.of_kind("update")[name].to_numpy() == pytest.approx(
            one.of_kind("update")[name].to_numpy(), rel=5e-3, abs=5e-3
        ), name
    assert one.of_kind("evaluation")["accuracy"].tolist() == other.of_kind("evaluation")["accuracy"].tolist()
    assert other.rollouts()["logprob_new"].notna().all()


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_make_the_same_run(tmp_path, alone, kind):
    same_run(alone["all"], launch(tmp_path / "run", kind, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, processes, trainable",
    [
        ("ddp", 4, "all"),
        ("fsdp", 4, "all"),
        ("zero2", 2, "all"),
        ("zero3", 2, "all"),
        ("zero2", 4, "all"),
        ("zero3", 4, "all"),
        ("ddp", 2, "lora"),
        ("fsdp", 2, "lora"),
        ("zero3", 2, "lora"),
    ],
)
def test_every_layout_makes_the_same_run(tmp_path, alone, kind, processes, trainable):
    same_run(alone[trainable], launch(tmp_path / "run", kind, processes, 3, trainable))


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(ENVIRONMENT))
def test_every_layout_goes_on_where_it_was(tmp_path, kind):
    whole = launch(tmp_path / "whole", kind, 2)
    launch(tmp_path / "run", kind, 2, 2)
    resumed = launch(tmp_path / "run", kind, 2, 3, "all", "resume")
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    assert resumed.of_kind("update")["loss"].tolist() == whole.of_kind("update")["loss"].tolist()


def test_adapters_are_trained_alone_and_saved_merged(alone):
    "What a LoRA run leaves is a plain model: the base, moved by what the adapters learnt, by matrices of low rank."
    start, end = dict(random_policy(scale=10).weights()), weights(alone["lora"])
    assert set(start) == set(end)
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert moved and all("_proj.weight" in name for name in moved)
    name = next(iter(moved))
    assert torch.linalg.matrix_rank((end[name] - start[name]).double(), rtol=1e-4) <= 16
    loaded = load_policy(alone["lora"].latest_checkpoint / "policy", "chain", device="cpu")
    assert not hasattr(loaded.model, "peft_config")


@pytest.mark.parametrize(
    ("processes", "asked", "gpu", "device", "on_cpu"),
    [
        ("2", "fsdp", True, "cpu", False),  # a model that will lie in parts waits in ordinary memory
        ("2", "fsdp", False, "cpu", True),
        ("1", "fsdp", True, "cpu", True),  # one process has no parts
        ("2", "ddp", True, "cpu", True),  # what is on the CPU stays there, unless it waits
        ("2", "zero3", True, "cpu", True),
        ("2", "ddp", True, "cuda", False),
    ],
)
def test_a_training_runs_where_the_policy_is_or_waits_for(monkeypatch, processes, asked, gpu, device, on_cpu):
    for name, value in (dict(WORLD_SIZE=processes) | ENVIRONMENT[asked]).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert computes_on_cpu(torch.device(device)) == on_cpu


def test_a_policy_that_waits_for_its_gpu_computes_as_one_does(monkeypatch):
    for name, value in (dict(WORLD_SIZE="2") | ENVIRONMENT["fsdp"]).items():
        monkeypatch.setenv(name, value)
    assert settle_precision(GRPOConfig(), torch.device("cpu")).mixed_precision == "no"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert settle_precision(GRPOConfig(), torch.device("cpu")).mixed_precision == "bf16"


@pytest.mark.parametrize(("old", "dtype"), [("trainer", torch.bfloat16), ("sampler", torch.float32)])
def test_what_serves_as_the_old_policy_is_not_rounded(monkeypatch, old, dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    place = SimpleNamespace(num_processes=1, device=torch.device("cuda"))
    assert own_engine(random_policy(), place, GRPOConfig(old_logprobs=old)).dtype == dtype


def test_fsdp_takes_a_layer_at_a_time(monkeypatch):
    "No call hands more than a layer, or what is outside all layers, to the device."
    import torch.distributed.fsdp._fully_shard._fsdp_init as torchs

    from spurious_rlvr.logprobs import TokenLogprobs
    from spurious_rlvr.placement import Sharded

    taken, policy = [], random_policy()
    weights = sum(p.numel() for p in policy.model.parameters())
    layers = policy.model.model.layers
    move = torchs._move_states_to_device
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)

    def noted(parameters, buffers, device):
        taken.append(sum(p.numel() for p in parameters))
        return move(parameters, buffers, device)

    monkeypatch.setattr(torchs, "_move_states_to_device", noted)
    settings = SimpleNamespace(
        mixed_precision="no",
        trainable="all",
        optimizer="sgd",
        learning_rate=1.0,
        betas=(0.9, 0.95),
        weight_decay=0.0,
    )
    try:
        Sharded(TokenLogprobs(policy.model), SimpleNamespace(device=torch.device("cpu"), num_processes=1), settings)
    finally:
        torch.distributed.destroy_process_group()
    assert len(taken) == len(layers) + 1 and sum(taken) == weights and max(taken) < 0.6 * weights
