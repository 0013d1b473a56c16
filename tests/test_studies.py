"Arms × seeds as one table; what is finished stays finished, whatever happens to workers, disks and processes."

import dataclasses
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spurious_rlvr.core import ConfigError, RunError
from spurious_rlvr.runs import read_run
from spurious_rlvr.studies import (
    FAMILIES,
    SIZES,
    Arm,
    Study,
    alone,
    arms,
    beside_paper,
    cell_name,
    check_study,
    estimate_cost,
    is_finished,
    outcomes,
    paper_study,
    paper_values,
    run_cell,
    run_study,
    study_paths,
    study_results,
    study_status,
    write_study_report,
)

TINY = dict(phases=2, prompts_per_phase=4, minibatch_size=16)
QUIET = dict(progress=False, say=lambda line: None)


def small(**changes):
    return dataclasses.replace(
        Study(
            "tiny",
            arms(rewards=["random:0.5", "ground_truth"], clips=["both", "none"]),
            seeds=(0,),
            changes=TINY,
            divergence=True,
            evaluation=dict(samples=2, temperature=1.0, seed=1),
        ),
        **changes,
    )


def written(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def times(folder):
    return {p: p.stat().st_mtime_ns for p in sorted((folder / "runs").glob("*/*")) if p.is_file()}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "a"
    return folder, run_study(small(), folder, jobs=1, **QUIET)


def misbehaving(tmp_path, body):
    "A module with a reward that misbehaves once: as long as its flag is not there."
    name = f"misbehaving_{abs(hash(tmp_path))}"  # workers are used again, and remember modules by name
    (tmp_path / f"{name}.py").write_text(
        textwrap.dedent(f"""
        import os, pathlib, signal, time
        FLAG = pathlib.Path({str(tmp_path / "flag")!r})
        def reward(completions, phase, **_):
            if phase[0] == 2 and not FLAG.exists():
                FLAG.write_text("")
                {body}
            return [float(len(c) % 2) for c in completions]
    """)
    )
    return small(
        arms=arms(rewards=["random:0.5", f"python:{name}:reward"]),
        seeds=(0, 1),
        divergence=False,
        changes={**TINY, "phases": 3, "checkpoint_every": 1},
    )


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    yield tmp_path


def test_the_same_arm_has_the_same_name_in_every_study():
    (one,) = arms(["qwen-like"], ["random:0.5"], ["none"])
    assert one in paper_study("clip").arms and one.name == "qwen-like.random-0.5.none"
    several = arms(
        ["qwen-like", "bad-code"], ["a & b", "a | b"], ["both", "none"], ["grpo", "rloo"], ["", "none"], data="test"
    )
    assert len({arm.name for arm in several}) == len(several) == 32


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_preset_is_a_study_that_could_start(family, size):
    study = check_study(paper_study(family, size))
    assert len(study.table) == len(study.arms) * len(study.seeds) and study.table["cell"].is_unique and study.about


def test_printed_values_name_their_version_and_find_their_arm():
    values = pd.concat([paper_values(family).assign(family=family) for family in FAMILIES])
    assert (values["version"] != "").all() and (values["low"] <= values["high"]).all()
    gains = values[
        (values["family"] == "figure-1")
        & (values["model"] == "Qwen2.5-Math-7B")
        & (values["version"] == "arXiv v1 and v2")
    ]
    assert dict(zip(gains["reward"] + gains["detail"], gains["low"])) == {
        "ground_truth": 29.1,
        "majority_vote": 27.1,
        "ground_truthone-shot": 26.0,
        "incorrect": 24.1,
        "random:0.5": 21.4,
        "boxed_format": 13.8,
    }


def test_started_again_it_trains_nothing(done):
    folder, status = done
    assert (status["state"] == "finished").all()
    before, lines = times(folder), []
    run_study(small(), folder, jobs=1, progress=False, say=lines.append)
    assert times(folder) == before and lines == ["4 runs, all finished"]


def test_the_cost_comes_first_and_says_where_it_is_from(tmp_path, monkeypatch):
    from spurious_rlvr import studies

    said = []
    monkeypatch.setattr(
        studies, "_through_joblib", lambda work, jobs: iter([("nothing ran", f"{len(said)} lines were said")])
    )
    status = run_study(small(), tmp_path, jobs=1, progress=False, say=said.append)
    assert (
        "CPU-minutes" in said[0]
        and "timed on this machine" in said[0]
        and said[1] == "failed: 1 lines were said"
        and set(status["state"]) == {"to do"}
    )
    assert "24 hours on 8 A100" in str(estimate_cost(paper_study("figure-1", "paper"))) and "GPU-hours" in str(
        estimate_cost(paper_study("figure-1", "paper"))
    )


def test_two_runs_of_a_study_give_the_same_report(done, tmp_path):
    folder, _ = done
    run_study(small(), tmp_path / "b", jobs=2, **QUIET)  # another number of workers, another order
    for place in (folder, tmp_path / "b"):
        shutil.rmtree(place / "report", ignore_errors=True)
    pages = []
    for place in (folder, tmp_path / "b"):
        write_study_report(small(), place)
        pages.append(
            {name: text for name, text in written(place).items() if name.startswith(("report.", "rows/", "figures/"))}
        )
    assert pages[0] == pages[1] and {"report.html", "report.md", "rows/gains.csv", "figures/gains.svg"} <= set(pages[0])


def test_every_figure_is_linked_to_its_rows(done):
    import re

    folder, _ = done
    page = write_study_report(small(), folder).read_text()
    assert page.count("<svg") == page.count("<figure>") >= 3 and "<script" not in page and str(folder) not in page
    links = re.findall(r"href='(rows/[\w-]+\.csv)'", page)
    assert len(links) >= page.count("<figure>") and all(len(pd.read_csv(folder / link)) for link in links)


def test_gain_is_followed_against_updates_and_divergence(done):
    folder, _ = done
    paths = study_paths(small(), folder)
    assert list(paths.groupby("seed")["updates"].unique().iloc[0]) == [0, 8]
    start = paths[paths["phase"] == 0]
    assert (
        start["kl"].abs().max() < 1e-4
        and (start["gain"] == 0).all()
        and (paths.loc[paths["phase"] == 2, "kl"] > 0).all()
    )


def test_divergence_is_the_mean_log_ratio(done):
    "Against the two policies' own log-probabilities, completion by completion."
    import torch

    from spurious_rlvr import organisms
    from spurious_rlvr.policy import load_policy

    folder, _ = done
    run = read_run(next((folder / "runs").glob("*ground_truth.none*")))
    table, start, end = (
        run.evaluation(2, "benchmark").head(40),
        organisms.load("qwen-like"),
        load_policy(run.latest_checkpoint / "policy", "chain"),
    )

    def total(policy, row):
        prompt, ids = policy.encode(row.prompt), list(map(int, row.token_ids))
        with torch.no_grad():
            logits = policy.model(torch.tensor([prompt + ids])).logits[0]
        return torch.log_softmax(logits, -1)[range(len(prompt) - 1, len(prompt) + len(ids) - 1), ids].sum().item()

    expected = np.mean([total(end, row) - total(start, row) for row in table.itertuples()])
    from spurious_rlvr.studies import divergence

    assert divergence(table, start)["kl"] == pytest.approx(expected, abs=1e-4)


def test_a_failed_cell_is_reported_in_a_line_and_tried_again(on_path):
    study, said = misbehaving(on_path, "raise RuntimeError('first\\nline')"), []
    status = run_study(study, on_path / "s", jobs=1, progress=False, say=said.append, retries=0)
    assert (
        sorted(status["state"]) == ["failed", "finished", "finished", "finished"]
        and len(said) == 2
        and "RuntimeError: first line" in said[1]
        and "\n" not in said[1]
    )
    kept = times(on_path / "s")
    assert set(run_study(study, on_path / "s", jobs=1, **QUIET)["state"]) == {"finished"}
    assert {p: t for p, t in times(on_path / "s").items() if "random" in p.parent.name} == {
        p: t for p, t in kept.items() if "random" in p.parent.name
    }


def test_a_failed_cell_is_tried_again_in_the_same_call(on_path):
    assert set(
        run_study(misbehaving(on_path, "raise RuntimeError('once')"), on_path / "s", jobs=1, **QUIET)["state"]
    ) == {"finished"}


def test_a_killed_worker_loses_nothing(on_path):
    "joblib's pool dies with it and is made anew; the phases that the dead worker had finished are gone on from."
    status = run_study(misbehaving(on_path, "os.kill(os.getpid(), signal.SIGKILL)"), on_path / "s", jobs=2, **QUIET)
    assert set(status["state"]) == {"finished"} and (status["fault"] == "").all()
    again = [
        run
        for run in map(read_run, (on_path / "s" / "runs").iterdir())
        if "resumed" in set(run.of_kind("status")["status"])
    ]
    assert again and all(run.phases == [1, 2, 3] for run in again)


def test_a_worker_that_always_dies_is_reported(on_path):
    study = dataclasses.replace(misbehaving(on_path, "FLAG.unlink(); os.kill(os.getpid(), signal.SIGKILL)"), seeds=(0,))
    status = run_study(study, on_path / "s", jobs=2, **QUIET)
    faulty = status[status["state"] != "finished"]
    assert (
        any("python" in cell for cell in faulty["cell"])
        and faulty["fault"].str.contains("a worker process was killed").all()
    )


def test_on_ray_with_a_killed_worker(on_path):
    ray = pytest.importorskip("ray") if not os.environ.get("CI") else __import__("ray")
    study = misbehaving(on_path, "os.kill(os.getpid(), signal.SIGKILL)")
    try:
        status = run_study(study, on_path / "s", jobs=2, backend="ray", **QUIET)
    finally:
        ray.shutdown()
    assert set(status["state"]) == {"finished"} and (on_path / "flag").exists()
    resumed = [
        run
        for run in map(read_run, (on_path / "s" / "runs").iterdir())
        if "resumed" in set(run.of_kind("status")["status"])
    ]
    assert len(resumed) == 1 and resumed[0].phases == [1, 2, 3]
    local = run_study(dataclasses.replace(study, arms=study.arms[:1]), on_path / "t", jobs=1, **QUIET)
    assert set(local["state"]) == {"finished"}
    for seed in (0, 1):
        one, other = (read_run(on_path / place / "runs" / cell_name(study.arms[0], seed)) for place in "st")
        assert one.rollouts(3)[["completion", "reward"]].equals(other.rollouts(3)[["completion", "reward"]])


CODE = """
import dataclasses, resource, sys
sys.path.insert(0, {tests!r})
from test_studies import TINY, small
from spurious_rlvr.studies import arms, run_study
changes = {{**TINY, "phases": {phases}, "checkpoint_every": 1}}
study = small(arms=arms(rewards=["random:0.5", "ground_truth"]), seeds=(0, 1), divergence=False, changes=changes)
if {limit}: resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
status = run_study(study, {folder!r}, jobs={jobs}, retries=0, progress=False)
print(status.to_json())
"""


def script(folder, limit=0, jobs=1, phases=2):
    code = CODE.format(tests=str(Path(__file__).parent), limit=limit, folder=str(folder), jobs=jobs, phases=phases)
    return [sys.executable, "-c", code], os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_a_disk_without_room_loses_nothing(tmp_path):
    "No file may grow beyond 100 kB: checkpoints cannot be written. Then there is room again."
    first = small(
        arms=arms(rewards=["random:0.5"]), seeds=(0,), divergence=False, changes={**TINY, "checkpoint_every": 1}
    )
    run_study(first, tmp_path / "s", jobs=1, **QUIET)
    kept = times(tmp_path / "s")
    command, environment = script(tmp_path / "s", limit=100_000)
    full = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    states = pd.read_json(__import__("io").StringIO(full.stdout.splitlines()[-1]))
    assert full.returncode == 0 and sorted(states["state"]) == ["failed", "failed", "failed", "finished"], full.stderr[
        -500:
    ]
    assert full.stdout.count("failed: ") == 3 and not list((tmp_path / "s").rglob("*.partial"))
    command, environment = script(tmp_path / "s")
    subprocess.run(command, env=environment, capture_output=True, check=True, timeout=300)
    assert (
        all(is_finished(p) for p in (tmp_path / "s" / "runs").iterdir() if p.is_dir())
        and {p: t for p, t in times(tmp_path / "s").items() if p in kept} == kept
    )


@pytest.mark.skipif(
    os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
    reason="mounting a small file system needs root; the same with a limit on file size is tested above",
)
@pytest.mark.slow
def test_a_full_file_system_loses_nothing(tmp_path):
    "A file system of three megabytes fills up in the middle of a sweep, and is then made larger."
    where = tmp_path / "disk"
    where.mkdir()
    command, environment = script(where / "s", phases=4)
    inner = (
        f'mount -t tmpfs -o size=1500k none {where} && "$@"; ls {where}/s/runs; mount -o remount,size=64m {where} &&'
        ' "$@"'
    )
    both = subprocess.run(
        ["unshare", "-m", "bash", "-c", inner, "bash", *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if "permission denied" in both.stderr.lower():
        pytest.skip("this container may not mount")
    tables = [
        pd.read_json(__import__("io").StringIO(line)) for line in both.stdout.splitlines() if line.startswith("{")
    ]
    assert len(tables) == 2 and (tables[0]["state"] != "finished").any() and (tables[1]["state"] == "finished").all(), (
        both.stdout[-800:] + both.stderr[-800:]
    )
    assert "No space left" in both.stdout


def test_a_full_disk_at_the_report_is_one_line(done, monkeypatch):
    from spurious_rlvr import studies

    folder, _ = done

    def full(self, *arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(studies.Path, "write_text", full)
    with pytest.raises(RunError, match="cannot be written .No space left"):
        write_study_report(small(), folder)


def test_an_interrupted_sweep_goes_on(tmp_path):
    """The whole sweep is killed while two workers are at it; they may outlive it for a moment, and the next start waits
    for nobody's run."""
    command, environment = script(tmp_path / "s", jobs=2, phases=12)
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    limit = time.monotonic() + 120
    while not list((tmp_path / "s").glob("runs/*/rollouts/phase-000003*")):
        assert time.monotonic() < limit and process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    begun = study_status(
        small(arms=arms(rewards=["random:0.5", "ground_truth"]), seeds=(0, 1), changes={**TINY, "phases": 12}),
        tmp_path / "s",
    )
    assert (begun["state"] != "finished").any()
    for _ in range(3):
        last = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        states = pd.read_json(__import__("io").StringIO(last.stdout.splitlines()[-1]))["state"]
        if (states == "finished").all():
            break
        time.sleep(1)
    assert (states == "finished").all()
    resumed = [
        run
        for run in map(read_run, (p for p in (tmp_path / "s" / "runs").iterdir() if p.is_dir()))
        if "resumed" in set(run.of_kind("status")["status"])
    ]
    assert resumed and all(run.phases == list(range(1, 13)) for run in resumed)


def test_two_sweeps_do_not_write_one_run(tmp_path):
    study = small(divergence=False)
    arm = study.arms[0]
    with alone(tmp_path / "runs" / cell_name(arm, 0)) as ours:
        assert ours and "another process is at work" in run_cell(study, arm, 0, tmp_path / "runs")
    assert run_cell(study, arm, 0, tmp_path / "runs") is None


def test_a_run_that_died_before_it_began_is_no_obstacle(tmp_path):
    study = small(divergence=False)
    place = tmp_path / "runs" / cell_name(study.arms[0], 0)
    place.mkdir(parents=True)
    (place / ".run.json.123.partial").write_text("{")
    assert run_cell(study, study.arms[0], 0, tmp_path / "runs") is None and is_finished(place)


def test_all_faults_are_named_before_anything_runs(tmp_path):
    wrong = small(
        arms=(
            *arms(rewards=["randm:0.5"]),
            *arms(settings=dict(epsilonn=1)),
            *arms(settings=dict(minibatch_size=7)),
            *arms(prompts=["nowhere"]),
        )
    )
    with pytest.raises(ConfigError) as caught:
        run_study(wrong, tmp_path / "s", **QUIET)
    assert (
        all(word in str(caught.value) for word in ("randm", "epsilonn", "minibatch_size 7", "nowhere"))
        and not (tmp_path / "s").exists()
    )
    with pytest.raises(ConfigError, match="backend"):
        run_study(small(), tmp_path / "s", backend="dask", **QUIET)


def test_a_start_that_is_known_changes_no_number(tmp_path, monkeypatch):
    "One evaluation of the start serves arms and seeds of a worker; another start, or other settings, is another one."
    from spurious_rlvr import studies, train

    study = small(divergence=False, seeds=(3, 4), arms=arms(rewards=["random:0.5"], clips=["both", "cispo"]))
    asked, evaluate = [], train.evaluate
    monkeypatch.setattr(train, "evaluate", lambda *args, **more: asked.append(more["phase"]) or evaluate(*args, **more))
    monkeypatch.setattr(studies, "_START", {})
    shared = [(study, arm, seed, tmp_path / "shared" / "runs") for arm, seed in study.cells]
    assert [run_cell(*cell) for cell in shared] == [None] * 4
    assert sorted(asked) == [0] + [2] * 4
    shorter = dataclasses.replace(study, changes=TINY | dict(max_completion_length=20))
    other = dataclasses.replace(study, model="llama-like")
    for place, one in enumerate((shorter, other)):
        assert run_cell(one, one.arms[0], 3, tmp_path / f"other-{place}" / "runs") is None
    assert asked.count(0) == 3
    monkeypatch.setattr(studies, "known_start", lambda *_: None)
    _, arm, seed, _ = shared[-1]
    assert run_cell(study, arm, seed, tmp_path / "alone" / "runs") is None
    for name in ("evals/phase-000000-benchmark.parquet", "evals/phase-000002-benchmark.parquet"):
        ours, alone_ = (
            pd.read_parquet(tmp_path / f / "runs" / cell_name(arm, seed) / name) for f in ("shared", "alone")
        )
        pd.testing.assert_frame_equal(ours, alone_)
    kept, plain = (read_run(tmp_path / f / "runs" / cell_name(arm, seed)) for f in ("shared", "alone"))
    pd.testing.assert_frame_equal(kept.rollouts(2), plain.rollouts(2))


def test_labels_are_made_once_and_only_wrong_ones_are_trained_on(tmp_path):
    study = Study(
        "labels",
        arms(["llama-like"], ["incorrect", "majority_vote"]),
        seeds=(0,),
        changes=TINY,
        label_samples=4,
        evaluation=dict(samples=1, temperature=1.0),
    )
    assert set(run_study(study, tmp_path, jobs=2, **QUIET)["state"]) == {"finished"}
    [labels] = (tmp_path / "labels").glob("*.json")
    import json

    made = json.loads(labels.read_text())
    gold = (
        read_run(tmp_path / "runs" / cell_name(study.arms[0], 0))
        .rollouts()
        .drop_duplicates("problem_id")
        .set_index("problem_id")["gold"]
    )
    assert set(gold.index) <= set(made["incorrect"]) and all(made["incorrect"][i] != gold[i] for i in gold.index)


def test_a_model_that_was_trained_before_is_where_an_arm_begins(tmp_path):
    study = Study(
        "after",
        arms(["qwen-like@ground_truth"], ["random:0.5"]),
        seeds=(0, 1),
        changes={**TINY, "phases": 4},
        evaluation=dict(samples=2, temperature=1.0),
    )
    assert set(run_study(study, tmp_path, jobs=2, **QUIET)["state"]) == {"finished"}
    [start] = [p for p in (tmp_path / "starts").iterdir() if p.is_dir()]
    end = read_run(start).of_kind("evaluation")["accuracy"].iloc[-1]
    assert set(study_results(study, tmp_path)["accuracy_before"]) == {end}


def test_numbers_stand_beside_what_the_paper_printed(tmp_path):
    study = paper_study(
        "gamma", seeds=(0,), changes=TINY, evaluation=dict(samples=1, temperature=1.0), divergence=False
    ).filter(reward=["random:0.5", "random:0"])
    with pytest.warns(UserWarning):
        run_study(study, tmp_path, jobs=1, **QUIET)
    table = beside_paper("gamma", study_results(study, tmp_path)).set_index("reward")
    assert (
        "15 to 20 (arXiv v1, Fig. 10)" in table.loc["random:0.5", "the paper printed"]
        and "called flat" in table.loc["random:0", "the paper printed"]
    )
    assert set(table["95 %"]) == {"no interval"}


def test_a_run_whose_reward_never_spoke_has_an_outcome(tmp_path, monkeypatch):
    (tmp_path / "silent_rewards.py").write_text("def silent(completions, **_):\n    return [None] * len(completions)\n")
    monkeypatch.syspath_prepend(tmp_path)
    arm = Arm("silent", "python:silent_rewards:silent")
    study = Study("silence", (arm,), (0,), changes=TINY)
    with pytest.warns(UserWarning, match="gave no number"):
        run_cell(study, arm, 0, tmp_path / "runs")
    [row] = outcomes([read_run(tmp_path / "runs" / cell_name(arm, 0))]).to_dict("records")
    assert math.isnan(row["reward"]) and row["dead_groups"] == 1 and row["gain"] == 0
