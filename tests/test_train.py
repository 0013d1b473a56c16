"Training as processes: interrupted, killed, two of them."

import dataclasses
import inspect
import json
import os
import re
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

from spurious_rlvr.core import ConfigError, DataError, RunError
from spurious_rlvr.policy import random_policy
from spurious_rlvr.rewards import soft_overlong
from spurious_rlvr.rollout import VLLMEngine, VLLMServerEngine
from spurious_rlvr.runs import read_run
from spurious_rlvr.tasks import Template, arithmetic_chains
from spurious_rlvr.train import GRPOConfig, grpo, train

PREPARED = textwrap.dedent("""
    import dataclasses, sys, torch
    torch.set_num_threads(1)
    from test_train import SMALL
    from spurious_rlvr.policy import random_policy
    from spurious_rlvr.tasks import arithmetic_chains
    from spurious_rlvr.train import grpo, train
""")
SCRIPT = PREPARED + textwrap.dedent("""
    config = dataclasses.replace(SMALL, phases=int(sys.argv[2]))
    settings = dict(progress=False, resume=len(sys.argv) > 3)
    train(random_policy(scale=10), arithmetic_chains(20), "random:0.5", config, sys.argv[1], **settings)
""")


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        cwd=Path(__file__).parent,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for(condition, seconds=90):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.02)


def weights(run):
    return load_file(run.latest_checkpoint / "policy" / "model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    place = tmp_path_factory.mktemp("undisturbed") / "run"
    assert start(place, 12).wait() == 0
    return read_run(place)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_and_resumed_is_the_run_that_was_never_stopped(tmp_path, undisturbed, how):
    process = start(tmp_path / "run", 12)
    wait_for(lambda: len(list((tmp_path / "run" / "rollouts").glob("phase-*"))) >= 3)
    process.send_signal(how)
    process.wait()
    stopped = read_run(tmp_path / "run")
    kept = stopped.of_kind("phase")["phase"].astype(int).tolist()
    assert len(kept) >= 2 and kept == list(range(1, len(kept) + 1)) and set(kept) <= set(stopped.phases)
    assert len(kept) < 12, "the run was over before it could be stopped"
    if how == signal.SIGINT:
        assert stopped.of_kind("status")["status"].iloc[-1] == "interrupted"
    assert start(tmp_path / "run", 12, "resume").wait() == 0
    resumed = read_run(tmp_path / "run")
    for name, tensor in weights(undisturbed).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    for kind in ("update", "phase"):
        timed = [c for c in undisturbed.of_kind(kind) if c == "time" or c.startswith("seconds")]
        assert undisturbed.of_kind(kind).drop(columns=timed).equals(resumed.of_kind(kind).drop(columns=timed))
    assert undisturbed.rollouts().equals(resumed.rollouts())


def test_an_evaluation_that_was_cut_off_is_made_up_for(tmp_path, monkeypatch):
    """The last checkpoint stands before the last evaluation; a run that was stopped between them must not end without
    it."""
    import spurious_rlvr.train as module

    held_out, config, made = (
        {"chains": arithmetic_chains(4, seed=1)},
        dataclasses.replace(SMALL, phases=2),
        module.evaluate,
    )

    def stop(*arguments, phase, **options):
        if phase == 2:
            raise KeyboardInterrupt
        return made(*arguments, phase=phase, **options)

    monkeypatch.setattr(module, "evaluate", stop)

    def begin(**options):
        return train(
            random_policy(scale=10),
            arithmetic_chains(20),
            "random:0.5",
            config,
            tmp_path / "run",
            held_out=held_out,
            progress=False,
            **options,
        )

    with pytest.raises(KeyboardInterrupt):
        begin()
    assert read_run(tmp_path / "run").of_kind("evaluation")["phase"].tolist() == [0]
    monkeypatch.setattr(module, "evaluate", made)
    assert begin(resume=True).of_kind("evaluation")["phase"].tolist() == [0, 2]
    lines = len(begin(resume=True).metrics)
    assert len(begin(resume=True).of_kind("evaluation")) == 2 and lines + 2 == len(
        read_run(tmp_path / "run").metrics
    )  # two status lines and nothing else


@pytest.mark.parametrize(
    "other, words",
    [
        (dict(reward="random:0.9"), r"the reward is random\(0.9\) and was random\(0.5\)"),
        (dict(config=dict(clip="low", seed=3)), "clip is 'low' and was 'both'; seed is 3 and was 0"),
        (dict(problems=arithmetic_chains(21)), "the problems are others"),
    ],
    ids=["reward", "config", "problems"],
)
def test_another_experiment_does_not_go_on_in_the_same_folder(tmp_path, other, words):
    given = dict(reward="random:0.5", problems=arithmetic_chains(20))

    def begin(reward, problems, config=None, **options):
        return train(
            random_policy(scale=10),
            problems,
            reward,
            dataclasses.replace(SMALL, **{"phases": 1, **(config or {})}),
            tmp_path / "run",
            progress=False,
            **options,
        )

    begin(**given)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=words):
        begin(**(given | other), resume=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert begin(**given, config=dict(phases=2), resume=True).phases == [1, 2]


def test_a_folder_that_exists_is_refused_before_the_policy_is_touched(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="exists already"):
        train(None, arithmetic_chains(20), "random:0.5", SMALL, tmp_path / "run", progress=False)


def test_two_processes_make_the_same_run(tmp_path, undisturbed):
    script = tmp_path / "two.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        + PREPARED
        + textwrap.dedent("""
            import json
            from accelerate import PartialState
            policy = random_policy(scale=10)
            phases = list(grpo(policy, arithmetic_chains(20), "random:0.5", dataclasses.replace(SMALL, phases=3)))
            if PartialState().is_main_process:
                assert PartialState().num_processes == 2
                torch.save(policy.model.state_dict(), sys.argv[1])
                print(json.dumps([[(r.problem_id, r.group, r.sample, r.reward) for r in p.rollouts] for p in phases]))
            PartialState().wait_for_everyone()  # a process that leaves while the other still talks to it aborts
            PartialState().destroy_process_group()
        """)
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        str(script),
        str(tmp_path / "two.pt"),
        "3",
    ]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    policy = random_policy(scale=10)
    alone = list(grpo(policy, arithmetic_chains(20), "random:0.5", SMALL))
    together = json.loads(result.stdout.strip().splitlines()[-1])
    assert together == [[[r.problem_id, r.group, r.sample, r.reward] for r in p.rollouts] for p in alone]
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    start_weights, moved = random_policy(scale=10).model.state_dict(), False
    for name, tensor in policy.model.state_dict().items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4)
        moved |= not torch.allclose(tensor, start_weights[name], atol=1e-2)
    assert moved


def test_updates_do_not_depend_on_how_microbatches_are_cut():
    def after(token_budget, **changes):
        policy = random_policy(scale=10)
        list(
            grpo(
                policy,
                arithmetic_chains(20),
                "random:0.5",
                dataclasses.replace(SMALL, phases=1, microbatch_tokens=token_budget, **changes),
            )
        )
        return torch.cat([p.flatten() for p in policy.model.state_dict().values()])

    start = torch.cat([p.flatten() for p in random_policy(scale=10).model.state_dict().values()])
    for loss_type in ("grpo", "dr_grpo", "dapo"):
        whole, cut = after(10**6, loss_type=loss_type), after(150, loss_type=loss_type)
        assert (whole - cut).norm() <= 1e-4 * (whole - start).norm()  # rounding only, over four updates


def test_old_logprobs_of_the_engine_are_the_trainers():
    "The transformers engine in float32 may stand in for the trainer's own pass."

    def updates(source):
        [phase] = grpo(
            random_policy(scale=10),
            arithmetic_chains(20),
            "random:0.5",
            dataclasses.replace(SMALL, phases=1, old_logprobs=source),
        )
        return phase

    trainer, sampler = updates("trainer"), updates("sampler")
    assert trainer.metrics["mismatch_max"] < 1e-4
    for a, b in zip(trainer.updates, sampler.updates):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        dict(loss_type="packed"),
        dict(whiten=True),
        dict(minibatch_order="shuffled"),
        dict(num_iterations=2),
        dict(importance_sampling_level="sequence"),
        dict(beta=0.1),
        dict(entropy_coefficient=0.01),
        dict(sampler_correction="sequence-mask", old_logprobs="trainer"),
        dict(clip="pi_weighted"),
        dict(clip="cispo"),
        dict(clip="dual"),
        dict(clip="reinforce"),
        dict(baseline="leave_one_out"),
        dict(optimizer="adamw", learning_rate=1e-3),
        dict(compare_gradients=True),
        dict(trainable="all", gradient_checkpointing=True, learning_rate=0.1),
        dict(changes={2: {"clip": "none"}}),
    ],
    ids=str,
)
def test_every_choice_trains(changes):
    policy = random_policy(scale=10)
    before = torch.cat([p.flatten().clone() for p in policy.model.state_dict().values()])
    phases = list(grpo(policy, arithmetic_chains(20), "random:0.5", dataclasses.replace(SMALL, phases=2, **changes)))
    after = torch.cat([p.flatten() for p in policy.model.state_dict().values()])
    assert torch.isfinite(after).all() and not torch.equal(before, after)
    assert all(u["clip_fraction_high"] == u["clip_fraction_low"] == 0 for p in phases for u in p.updates[:1])
    if changes.get("compare_gradients"):
        assert phases[0].updates[0]["gradient_cosine"] == pytest.approx(1, abs=1e-4)
    if changes.get("num_iterations"):
        assert len(phases[0].updates) == 8 and len(phases[0].rollouts[0].clip_side) == 2


def test_the_table_of_settings_names_what_there_is():
    "Each row of the reference page's table begins with settings of a configuration, an engine, a template or `train`."
    page = json.loads((Path(__file__).parent.parent / "nbs" / "13_train.ipynb").read_text())
    [table] = [text for c in page["cells"] if "| setting | TRL's name |" in (text := "".join(c["source"]))]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")][2:]
    known = {f.name for f in dataclasses.fields(GRPOConfig)} | {f.name for f in dataclasses.fields(Template)}
    for callable_ in (train, VLLMEngine, VLLMServerEngine, soft_overlong):
        known |= {*inspect.signature(callable_).parameters, callable_.__name__}
    for row in rows:
        names = [re.split("[=:]", name)[0] for name in re.findall("`([^`]+)`", row)]
        assert names and set(names) <= known, row
    off = {name for row in rows for name in re.findall("`([^`]+)`", row)}
    assert {"dynamic_sampling", "sampler_correction", "score_while_sampling"} <= off


def test_one_update_per_phase_says_that_the_clip_cannot_bind():
    with pytest.warns(UserWarning, match="clip never binds"):
        [phase] = grpo(
            random_policy(scale=10),
            arithmetic_chains(20),
            "random:0.5",
            dataclasses.replace(SMALL, phases=1, minibatch_size=32),
        )
    assert phase.updates[0]["out_of_band_high"] == 0


def test_a_gradient_that_is_not_finite_is_skipped_and_then_stops_the_run(tmp_path):
    policy = random_policy(scale=10)
    loop = grpo(policy, arithmetic_chains(20), "random:0.5", dataclasses.replace(SMALL, phases=5, max_skipped=3))
    next(loop)
    with torch.no_grad():
        policy.model.model.norm.weight[0] = float("nan")
    with pytest.raises(RunError, match="3 updates in a row"):
        list(loop)


def test_left_out_rollouts_change_nothing():
    "A rollout whose reward is None takes part in no gradient."

    def some(prompts, completions, sample, **columns):
        return [None if s == 0 else float(s % 2) for s in sample]

    [phase] = grpo(random_policy(scale=10), arithmetic_chains(20), some, dataclasses.replace(SMALL, phases=1))
    assert all((r.advantage == 0) == (r.reward is None) for r in phase.rollouts) and phase.metrics["rewarded"] == 28


BAD = [
    (dict(reward="randm:0.5"), "random"),
    (dict(reward="random:1.5"), "gamma"),
    (dict(config=dict(epsilon=-1.0)), "epsilon"),
    (dict(config=dict(minibatch_size=12)), "minibatch_size"),
    (dict(config=dict(prompts_per_phase=3, minibatch_size=16)), "minibatch_size"),
    (dict(problems=[]), "problems"),
    (dict(config=dict(phases=None)), "phases"),
    (dict(config=dict(temperature=0.0)), "temperature"),
    (dict(config=dict(trainable="no such part")), "finds no parameter"),
]


@pytest.mark.parametrize("wrong, word", BAD, ids=lambda v: str(v)[:30])
def test_bad_input_is_one_line_before_any_work(tmp_path, wrong, word):
    config = dataclasses.replace(SMALL, **wrong.get("config", {}))
    with pytest.raises((ConfigError, DataError), match=word) as caught:
        train(
            random_policy(),
            wrong.get("problems", arithmetic_chains(20)),
            wrong.get("reward", "random:0.5"),
            config,
            tmp_path / "run",
            progress=False,
        )
    assert "\n    " in str(caught.value) or len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_an_interrupt_ends_in_one_line_and_keeps_what_is_finished(tmp_path):
    calls = []

    def interrupted(completions, **_):
        calls.append(len(completions))
        if len(calls) > 2:  # the first call is the trial before the start
            raise KeyboardInterrupt
        return [float(len(completion) % 2) for completion in completions]

    with pytest.raises(KeyboardInterrupt, match="its finished phases are kept") as caught:
        train(random_policy(scale=10), arithmetic_chains(20), interrupted, SMALL, tmp_path / "run", progress=False)
    assert len(caught.traceback) <= 3 and caught.value.__suppress_context__ | (caught.value.__context__ is None)
    run = read_run(tmp_path / "run")
    assert run.of_kind("status")["status"].iloc[-1] == "interrupted" and len(run.phases) == 1


def test_a_start_says_what_a_phase_is_and_warns_of_days(tmp_path, capsys, monkeypatch):
    from spurious_rlvr import train as training

    def begin(name):
        train(random_policy(scale=10), arithmetic_chains(20), "random:0.5", SMALL, tmp_path / name)
        return capsys.readouterr().err

    said = begin("quick")
    assert f"a phase is {SMALL.prompts_per_phase} prompts × {SMALL.num_generations} completions of at most" in said
    assert "float32 on the CPU" in said and "by a step timed now" in said and said.count("quick: a phase") == 1
    monkeypatch.setattr(training, "phase_seconds", lambda state, config: (1e5, 1e5))
    with pytest.warns(UserWarning, match="takes up to .* days"):
        begin("slow")


def test_timing_a_step_changes_nothing(tmp_path):
    runs = [
        train(
            random_policy(scale=10), arithmetic_chains(20), "random:0.5", SMALL, tmp_path / str(shown), progress=shown
        )
        for shown in (True, False)
    ]
    assert runs[0].rollouts()["completion"].tolist() == runs[1].rollouts()["completion"].tolist()
    assert runs[0].of_kind("update")["loss"].tolist() == runs[1].of_kind("update")["loss"].tolist()


def test_evaluations_that_there_will_not_be_and_problems_in_both_sets_are_said(tmp_path):
    with pytest.raises(ConfigError, match="evaluate_every is 1 and has no effect"):
        often = dataclasses.replace(SMALL, evaluate_every=1)
        train(random_policy(), arithmetic_chains(20), "random:0.5", often, tmp_path / "no", progress=False)
    problems = arithmetic_chains(20)
    with pytest.warns(UserWarning, match="3 of 3 problems of the held-out set same"):
        held_out = {"same": problems[:3]}
        train(random_policy(), problems, "random:0.5", SMALL, tmp_path / "run", held_out=held_out, progress=False)
