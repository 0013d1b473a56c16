"""The scripts of benchmarks/gpu without a GPU: they refuse in one line, and their rehearsals run the same code and
claim nothing."""

import importlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks" / "gpu"
SCRIPTS = ["correctness", "memory", "update_speed", "rollout_speed", "phase_against_trl", "clip_binds"]
KEYS = {
    "correctness": ["attention", "masters", "resume"],
    "memory": ["microbatches", "full_state"],
    "update_speed": ["0.5b"],
    "clip_binds": ["runs"],
    "rollout_speed": ["throughput", "weights"],
    "phase_against_trl": ["ours", "trl_default", "trl_tuned", "speedup_over_trl_default", "speedup_over_trl_tuned"],
}
GIVEN = {
    "correctness": ["--demo", "skip"],
    "update_speed": ["--shapes", "0.5b"],
    "rollout_speed": ["--engine", "transformers"],
}


def load(name):
    sys.path[:0] = [str(FOLDER)]
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture
def one_process():
    "The rehearsals of this process leave accelerate and the packages' functions as they were."
    from accelerate.state import AcceleratorState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    warnings.resetwarnings()


def figures_of(value):
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in figures_of(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in figures_of(item)]
    return [value]


def check_rehearsal(result, name):
    assert (
        result["rehearsal"].startswith("This is a rehearsal")
        and "machine" not in result
        and {"torch", "python"} <= result["versions"].keys()
    )
    assert list(KEYS[name]) == [key for key in result["figures"] if key in KEYS[name]]
    assert all(leaf is None or isinstance(leaf, str) for leaf in figures_of(result["figures"])), (
        "a rehearsal claims a figure"
    )
    assert result["checks"] and all(result["checks"].values()), [
        words for words, held in result["checks"].items() if not held
    ]


@pytest.mark.parametrize("name", SCRIPTS)
def test_refuses_without_a_gpu(name):
    done = subprocess.run(
        [sys.executable, FOLDER / f"{name}.py"],
        capture_output=True,
        text=True,
        env=os.environ | dict(CUDA_VISIBLE_DEVICES=""),
        timeout=60,
    )
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1, done
    assert (
        done.stderr.startswith(f"{name}.py: needs one NVIDIA GPU")
        and "GiB" in done.stderr
        and "--rehearse" in done.stderr
    )


@pytest.mark.parametrize("name", ["memory", "update_speed", "clip_binds"])
def test_rehearsal(name, one_process, tmp_path, capsys):
    load(name).main(["--rehearse", "--json", str(tmp_path / "rehearsal.json"), *GIVEN.get(name, [])])
    result = json.loads((tmp_path / "rehearsal.json").read_text())
    check_rehearsal(result, name)
    assert json.loads(capsys.readouterr().out) == result


@pytest.mark.slow
@pytest.mark.parametrize("name", ["correctness", "rollout_speed", "phase_against_trl"])
def test_long_rehearsal(name, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            FOLDER / f"{name}.py",
            "--rehearse",
            "--json",
            tmp_path / "rehearsal.json",
            *GIVEN.get(name, []),
        ],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    check_rehearsal(json.loads((tmp_path / "rehearsal.json").read_text()), name)


@pytest.mark.parametrize(
    "place", [FOLDER.parent / "results" / "x.json", FOLDER.parent / "results" / "deeper" / "x.json", "gpu_memory.json"]
)
def test_a_rehearsal_never_lands_among_results(place, capsys):
    with pytest.raises(SystemExit) as ended:
        load("memory").main(["--rehearse", "--json", str(place)])
    assert ended.value.code == 2 and "a rehearsal is no result" in capsys.readouterr().err


@pytest.mark.parametrize(
    "gpu,refused",
    [
        (dict(name="NVIDIA H200", memory_gib=139.8, capability=(9, 0)), False),
        (dict(name="NVIDIA A100-SXM4-80GB", memory_gib=79.2, capability=(8, 0)), False),
        (dict(name="NVIDIA H100 80GB HBM3", memory_gib=79.2, capability=(9, 0)), False),
        (dict(name="Tesla V100-SXM2-32GB", memory_gib=32, capability=(7, 0)), True),
        (dict(name="NVIDIA GeForce RTX 4090", memory_gib=24, capability=(8, 9)), True),
        (dict(name="NVIDIA A100-SXM4-40GB", memory_gib=39.4, capability=(8, 0)), True),
    ],
)
def test_the_hardware_is_what_is_stated(gpu, refused, monkeypatch, capsys):
    common = load("common")
    monkeypatch.setattr(common, "find_gpu", lambda: gpu)
    if not refused:
        assert common.check_gpu(75, True) == gpu
        return
    with pytest.raises(SystemExit):
        common.check_gpu(75, True)
    assert gpu["name"] in capsys.readouterr().err


def test_peaks_are_of_the_right_card():
    peak = load("common").peak_of
    assert [
        peak(name)[0]
        for name in (
            "NVIDIA H100 80GB HBM3",
            "NVIDIA H100 PCIe",
            "NVIDIA H100 NVL",
            "NVIDIA H200",
            "NVIDIA H200 NVL",
            "NVIDIA A100 80GB PCIe",
            "Tesla T4",
        )
    ] == [989, 756, 835, 989, 835, 312, None]
    assert all("data sheet" in source for _, _, source in load("common").PEAKS)


def test_a_result_names_its_machine_and_keeps_its_figures(tmp_path, monkeypatch, capsys):
    "What a real run writes, with a made-up GPU and the CPU's arithmetic."
    from types import SimpleNamespace

    common = load("common")
    product = common.matrix_product
    monkeypatch.setattr(
        common, "matrix_product", lambda options: product(SimpleNamespace(rehearse=True, device="cpu", repeats=2))
    )
    options = SimpleNamespace(
        rehearse=False,
        out=sys.stdout,
        json=str(tmp_path / "gpu_x.json"),
        gpu=dict(name="NVIDIA H200", memory_gib=139.8, capability=(9, 0)),
    )
    result = common.report(
        options,
        "a thing",
        dict(shape="7b"),
        dict(seconds=common.spread([1.0, 3.0, 2.0]), broken=float("nan")),
        dict(fast=1 > 0),
    )
    written = json.loads((tmp_path / "gpu_x.json").read_text())
    assert (
        result.keys() == written.keys()
        and "rehearsal" not in written
        and written["figures"] == dict(seconds=dict(median=2.0, low=1.0, high=3.0, repeats=3), broken=None)
    )
    assert (
        written["machine"]["peak_tflops"] == 989
        and written["machine"]["capability"] == "9.0"
        and written["machine"]["matrix_product_tflops"]["median"] > 0
        and written["checks"] == dict(fast=True)
    )


def test_operations_are_those_that_torch_counts():
    """The formula of the peak's share against torch's own counter, forward and backward, on a model without anything
    else."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from spurious_rlvr.plan import Shape

    common = load("common")
    shape, prompt, completion = Shape("small", 64, 2, 4, 2, 128, 256, False), 10, 30
    policy = common.random_policy(shape, "cpu")
    policy.model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counted:
        policy.model(input_ids=torch.arange(3, 3 + prompt + completion)[None], use_cache=False).logits.sum().backward()
    squares = (
        6 * shape.layers * shape.hidden * (prompt + completion) ** 2
    )  # eager attention computes the masked half, too
    expected = (
        common.model_flops(shape, [(prompt, [completion])]) + squares + 6 * shape.vocabulary * shape.hidden * prompt
    )
    assert counted.get_total_flops() == pytest.approx(expected, rel=0.02)


def test_forced_lengths_have_the_mean_that_is_stated():
    import numpy as np

    common = load("common")
    lengths = np.array([common.forced_length(800, 3072, "test", i) for i in range(4000)])
    assert lengths.min() >= 1 and lengths.max() == 3072 and abs(lengths.mean() - 800) < 5 * lengths.std() / 4000**0.5
