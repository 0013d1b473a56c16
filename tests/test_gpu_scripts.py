"""The scripts of benchmarks/gpu without a GPU: they refuse in one line, write after every case, and their rehearsals
run the same code and claim nothing. What is carried to a machine without a network arrives whole or is refused."""

import importlib
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks" / "gpu"
CASES = {  # some of each script's cases
    "correctness": ["qwen2, packed as in training, bfloat16", "learning rate 0, bf16", "masters"],
    "update_speed": ["0.5b, bf16, 16384 tokens", "0.5b, bf16_weights, 16384 tokens", "best"],
    "sampler_speed": ["0.5b", "1.5b", "0.5b, mismatch"],
    "memory": ["7b, adamw_bf16, 16384 tokens, checkpointing", "0.5b, adamw, 16384 tokens"],
    "real_model": ["smollm2-135m, ratios", "smollm2-135m, noise, bf16", "smollm2-135m, replay of phase 0"],
    "phase_against_trl": ["ours", "trl_tuned", "trl_default", "speedup"],
    "clip_binds": ["learning rate 0.01, clip both", "learning rate 0.01, clip none"],
    "organism_demo": ["seed 0", "intervals"],
}
QUICK = ["update_speed", "sampler_speed", "memory", "clip_binds"]
LONG = ["correctness", "real_model", "phase_against_trl", "organism_demo"]
GIVEN = {"update_speed": ["--shapes", "0.5b"]}


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
    assert result["rehearsal"].startswith("This is a rehearsal") and "machine" not in result
    assert {"torch", "python", "spurious_rlvr"} <= result["versions"].keys()
    assert set(CASES[name]) <= result["figures"].keys()
    claimed = [leaf for leaf in figures_of(result["figures"]) if leaf is not None and not isinstance(leaf, str)]
    assert not claimed, "a rehearsal claims a figure"
    failed = [words for words, held in result["checks"].items() if held is False]
    assert result["checks"] and not failed
    assert result["finished"] and not result["left_out"]


@pytest.mark.parametrize("name", CASES)
def test_refuses_without_a_gpu(name, monkeypatch, capsys):
    script, common = load(name), load("common")
    monkeypatch.setattr(common, "find_gpu", lambda: None)
    with pytest.raises(SystemExit) as ended:
        script.main([])
    said = capsys.readouterr()
    assert ended.value.code == 2 and said.out == "" and len(said.err.splitlines()) == 1
    assert "needs one NVIDIA GPU" in said.err and "--rehearse" in said.err


def test_a_script_refuses_in_one_line():
    hidden = os.environ | dict(CUDA_VISIBLE_DEVICES="")
    done = subprocess.run([sys.executable, FOLDER / "memory.py"], capture_output=True, text=True, env=hidden)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1, done
    assert done.stderr.startswith("memory.py: needs one NVIDIA GPU")


@pytest.mark.parametrize("name", QUICK)
def test_rehearsal(name, one_process, tmp_path, capsys):
    load(name).main(["--rehearse", "--json", str(tmp_path / "rehearsal.json"), *GIVEN.get(name, [])])
    check_rehearsal(json.loads((tmp_path / "rehearsal.json").read_text()), name)
    assert "checks hold" in capsys.readouterr().out


def real_model_or_skip():
    from spurious_rlvr.core import NotAvailable
    from spurious_rlvr.policy import fetch_model

    try:
        fetch_model(load("carry").MODEL)
    except NotAvailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_long_rehearsal(name, tmp_path):
    if name == "real_model":
        real_model_or_skip()
    command = [sys.executable, FOLDER / f"{name}.py", "--rehearse", "--json", tmp_path / "rehearsal.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    check_rehearsal(json.loads((tmp_path / "rehearsal.json").read_text()), name)


def test_a_killed_script_leaves_the_cases_before(tmp_path):
    "The first case is in the file while the second is under way, and nothing half written is beside it."
    place = tmp_path / "rehearsal.json"
    command = [sys.executable, FOLDER / "clip_binds.py", "--rehearse", "--json", place]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        told = process.stdout.readline()
    finally:
        process.kill()
        process.wait()
    result = json.loads(place.read_text())
    assert told.startswith("learning rate 0.01, clip both: tried")
    assert not result["finished"] and list(result["figures"]) == CASES["clip_binds"][:1]
    assert {path.name for path in tmp_path.iterdir()} <= {"rehearsal.json", ".rehearsal.json"}


def rehearsed(tmp_path, **more):
    from types import SimpleNamespace

    given = dict(rehearse=True, json=str(tmp_path / "rehearsal.json"), ends=time.monotonic() + 60)
    return load("common").Result(SimpleNamespace(**given | more), "a thing", {})


def test_a_case_that_fails_is_a_finding_and_no_end(tmp_path):
    result = rehearsed(tmp_path)
    result.case("broken", lambda: 1 / 0)
    result.case("sound", lambda: (dict(seconds=1.0), {"holds": True, "asks for the hardware": None}))
    written = json.loads((tmp_path / "rehearsal.json").read_text())
    assert written["checks"] == {
        "broken: comes to its end": False,
        "sound: holds": True,
        "sound: asks for the hardware": None,
    }
    assert written["figures"]["broken"]["ended"].startswith("ZeroDivisionError")
    assert written["figures"]["sound"] == dict(seconds=None, seconds_of_the_case=None)


def test_no_case_begins_when_the_time_is_up(tmp_path):
    result, begun = rehearsed(tmp_path, ends=time.monotonic() - 1), []
    result.case("late", lambda: begun.append(1))
    assert not begun and result.end()["left_out"] == {"late": "the time was up"}


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


def test_a_result_names_its_machine_and_keeps_its_figures(tmp_path, monkeypatch):
    "What a real run writes, with a made-up GPU and the CPU's arithmetic."
    from types import SimpleNamespace

    common = load("common")
    known = dict(gpu="NVIDIA H200", peak_tflops=989)
    monkeypatch.setattr(common, "machine", lambda given: known)
    given = SimpleNamespace(rehearse=False, json=str(tmp_path / "gpu_x.json"), ends=time.monotonic() + 60)
    result = common.Result(given, "a thing", dict(shape="7b"))
    measured = dict(seconds=common.spread([1.0, 3.0, 2.0]), broken=float("nan"))
    result.case("7b", lambda: (measured, {"fast": common.there(given, 1 > 0)}))
    result.end()
    written = json.loads((tmp_path / "gpu_x.json").read_text())
    figures = written["figures"]["7b"]
    assert figures["seconds"] == dict(median=2.0, low=1.0, high=3.0, repeats=3) and figures["broken"] is None
    assert written["machine"] == known and "rehearsal" not in written
    assert written["checks"] == {"7b: fast": True} and written["finished"]


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


def test_end_tokens_give_long_tailed_lengths_in_any_engine():
    "Random weights end a completion about once in as many steps as asked for, and no longer at one length."
    import numpy as np

    from spurious_rlvr.core import keyed_seed
    from spurious_rlvr.rollout import Request, TransformersEngine

    common = load("common")
    policy = common.end_often(common.random_policy(common.shape_of("0.5b", True), "cpu"), 8)
    with_seeds = [Request((3, 4, 5), keyed_seed(0, "lengths", k)) for k in range(256)]
    written = TransformersEngine(policy).generate(with_seeds, max_completion_length=64)
    lengths = np.array([len(completion.token_ids) for completion in written])
    assert 5 < lengths.mean() < 12 and lengths.std() > 0.6 * lengths.mean() and lengths.max() > 20


def test_sharpened_weights_are_as_sure_as_a_trained_model():
    import torch

    common = load("common")
    policy = common.sharpen(common.random_policy(common.shape_of("0.5b", True), "cpu"))
    logits = policy.model(torch.arange(3, 67)[None]).logits
    assert logits.std(-1).mean().item() == pytest.approx(5, rel=0.01)
    assert logits.softmax(-1).max(-1).values.mean() > 0.2


# What is carried


def packed(folder, names, whole):
    "A folder as `carry.py gather` leaves it."
    carry = load("carry")
    folder.mkdir(parents=True)
    for name, content in names.items():
        (folder / name).write_bytes(content)
    sums = [f"{carry.sha256(folder / name)}  {name}\n" for name in names]
    (folder / "sums.txt").write_text("".join([*sums, f"{whole}  model.whl\n"]))


def test_parts_that_arrive_in_two_calls_make_the_model(tmp_path, monkeypatch, capsys):
    import hashlib
    from types import SimpleNamespace

    carry, made = load("carry"), []
    monkeypatch.setattr(carry, "fetch", lambda place, index: made.append((index / "model.whl").read_bytes()))
    whole = hashlib.sha256(b"one and two").hexdigest()
    for number, content in ((1, b"one and "), (2, b"two")):
        packed(tmp_path / str(number), {f"model.whl.{number}of2": content}, whole)
        carry.join(SimpleNamespace(folder=tmp_path / str(number), to=tmp_path / "place"))
        assert f"{number} of 2 parts" in capsys.readouterr().out
    assert made == [b"one and two"]


def test_what_did_not_arrive_whole_is_refused(tmp_path):
    from types import SimpleNamespace

    carry = load("carry")
    packed(tmp_path / "1", {"model.whl.1of1": b"something"}, "0" * 64)
    given = SimpleNamespace(folder=tmp_path / "1", to=tmp_path / "place")
    with pytest.raises(SystemExit, match="the parts do not make model.whl"):
        carry.join(given)
    (tmp_path / "1" / "model.whl.1of1").write_bytes(b"somethinG")
    with pytest.raises(SystemExit, match="did not arrive whole"):
        carry.join(given)


def test_all_that_the_scripts_need_is_there_or_carried():
    "The package's requirements and TRL's, as far as they are pinned; notebooks' widgets alone stay at home."
    from importlib.metadata import distribution

    from packaging.requirements import Requirement

    carry, lacking, seen = load("carry"), set(), set()
    known = {carry.plain(name) for name in carry.HELD}

    def walk(wanted, extras=()):
        name = carry.plain(wanted.name)
        there = dict(python_version="3.12", python_full_version="3.12.3")
        if name in seen or name in known:
            return
        if wanted.marker and not any(wanted.marker.evaluate(there | dict(extra=extra)) for extra in ("", *extras)):
            return
        seen.add(name)
        lacking.add(name)
        for one in distribution(name).requires or ():
            walk(Requirement(one), wanted.extras)

    widgets = {"ipywidgets", "anywidget"}
    for requirement in map(Requirement, distribution("spurious-rlvr").requires):
        if carry.plain(requirement.name) not in widgets:
            walk(requirement)
    for name in ("gguf", "trl"):
        walk(Requirement(name))
    assert lacking == {carry.plain(name) for name in carry.CARRIED}


def test_a_rehearsal_lacks_what_the_machine_lacks(tmp_path):
    command = [sys.executable, FOLDER / "carry.py", "pretend", tmp_path, "--to", tmp_path / "nowhere"]
    subprocess.run(command, check=True)
    asked = "import importlib.util as u; print([n for n in {} if u.find_spec(n)])"
    names = ["nbdev", "fastcore", "IPython", "ipywidgets", "jupyterlab", "ray", "playwright", "wandb", "vllm"]
    names += ["torch", "transformers", "pyarrow", "math_verify", "trl"]
    # apart from the checkout, in which an installation for developers leaves what it knows of the package
    apart = dict(capture_output=True, text=True, cwd=tmp_path, env=os.environ | dict(PYTHONPATH=str(tmp_path)))
    told = subprocess.run([sys.executable, "-c", asked.format(names)], **apart)
    assert told.stdout.strip() == str(names[-5:]), told.stderr
    version = "import importlib.metadata as m; m.version('spurious-rlvr')"
    assert "PackageNotFoundError" in subprocess.run([sys.executable, "-c", version], **apart).stderr


# The order and the shares


def told_minutes(tmp_path, *given):
    "What `run_all.sh` tells each script, which is not run."
    stub, told = tmp_path / "python", tmp_path / "told"
    stub.write_text(f'#!/bin/sh\necho "$@" >> {told}\n')
    stub.chmod(0o755)
    environment = os.environ | dict(PYTHON=str(stub), RESULTS=str(tmp_path / "results"), CARRIED=str(tmp_path / "none"))
    told.unlink(missing_ok=True)
    subprocess.run(["bash", FOLDER / "run_all.sh", *given], check=True, env=environment, capture_output=True)
    words = [line.split() for line in told.read_text().splitlines()]
    return {Path(line[0]).stem: float(line[line.index("--minutes") + 1]) for line in words}


def test_eight_minutes_are_shared_by_worth(tmp_path):
    minutes = told_minutes(tmp_path)
    assert list(minutes) == list(CASES)
    shares = dict(correctness=1, update_speed=3, sampler_speed=1.5, memory=1, real_model=2)
    assert {name: minutes[name] for name in shares} == pytest.approx(
        {n: s * 8 / 8.5 for n, s in shares.items()}, rel=0.05
    )


@pytest.mark.parametrize("asked,first,last", [("24", 2, 2), ("4", 0.47, 0.47), ("10", 1, 1)])
def test_shares_grow_and_shrink_with_the_minutes(asked, first, last, tmp_path):
    minutes = told_minutes(tmp_path, asked)
    assert [minutes[name] for name in ("correctness", "organism_demo")] == pytest.approx([first, last], rel=0.05)


def test_named_scripts_alone_run_and_leave_room_for_what_comes_then(tmp_path):
    minutes = told_minutes(tmp_path, "4.5", "real_model", "phase_against_trl", "clip_binds")
    assert minutes == pytest.approx(dict(real_model=2, phase_against_trl=1.5, clip_binds=1), rel=0.05)


def test_an_unknown_script_is_refused():
    done = subprocess.run(["bash", FOLDER / "run_all.sh", "8", "speed"], capture_output=True, text=True)
    assert done.returncode == 2 and "no script speed" in done.stderr
