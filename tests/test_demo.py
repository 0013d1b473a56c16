"The main job from end to end, at a fraction of its size."

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from spurious_rlvr.core import RunError
from spurious_rlvr.demo import Demo, demo
from spurious_rlvr.runs import read_run
from spurious_rlvr.studies import CLIPS

TINY = Demo(seeds=(0, 1), changes=dict(phases=2, prompts_per_phase=4, minibatch_size=16))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "demo"
    return demo(folder, plan=TINY, jobs=2, progress=False)


def test_it_leaves_runs_figures_and_one_report(made):
    folder = made.parent
    assert {p.name for p in (folder / "runs").iterdir()} == {
        f"{reward}-{clip}-seed{seed}" for reward in ("random", "truth") for clip in CLIPS for seed in (0, 1)
    }
    assert all(
        len(read_run(p).phases) == 2 and read_run(p).evaluations == [(0, "benchmark"), (2, "benchmark")]
        for p in (folder / "runs").iterdir()
    )
    assert all(
        (folder / name).stat().st_size
        for name in ("bandit.png", "paths.png", "contrasts.png", "outcomes.csv", "summary.json")
    )


def test_the_report_needs_nothing_else(made):
    page = made.read_text()
    assert page.count("<svg") == 3 and "<script" not in page and "<link" not in page and "src=" not in page
    assert not [a for a in re.findall(r"https?://[^\s\"'<>]+", page) if not a.startswith("http://www.w3.org/")]


def test_every_claim_follows_its_interval(made):
    summary = json.loads((made.parent / "summary.json").read_text())
    assert len(summary["effects"]) == 3
    for effect, words in zip(summary["effects"], summary["words"]["contrasts"]):
        assert words.startswith("Shown: " if effect["low"] > 0 or effect["high"] < 0 else "Not shown: ")
    for words, drift in zip(summary["words"]["bandit"], summary["bandit"].values()):
        low, high = (drift["log_odds_drift"] + s * 1.96 * drift["log_odds_drift_se"] for s in (-1, 1))
        assert ("towards the likelier" in words) == (low > 0) and ("away from" in words) == (high < 0)


def test_arms_of_one_seed_share_everything_but_the_clip(made):
    for reward in ("random", "truth"):
        first = [read_run(made.parent / "runs" / f"{reward}-{clip}-seed1").rollouts(1) for clip in CLIPS]
        for other in first[1:]:
            assert first[0][["problem_id", "completion", "reward"]].equals(
                other[["problem_id", "completion", "reward"]]
            )


def test_started_again_it_does_nothing_twice_and_writes_the_same(made):
    before, times = made.read_bytes(), {p: p.stat().st_mtime_ns for p in made.parent.glob("runs/*/metrics.jsonl")}
    demo(made.parent, plan=TINY, progress=False)
    assert {p: p.stat().st_mtime_ns for p in times} == times and made.read_bytes() == before


def test_another_study_is_not_written_over(made):
    with pytest.raises(RunError, match="holds another study"):
        demo(made.parent, quick=True, progress=False)
    stranger = made.parent / "runs"
    with pytest.raises(RunError, match="holds no study"):
        demo(stranger, quick=True, progress=False)


@pytest.mark.slow
def test_an_interrupted_demo_goes_on(tmp_path):
    code = (
        f"from spurious_rlvr.demo import Demo, demo; demo({str(tmp_path / 'demo')!r}, plan=Demo(seeds=(0,),"
        " rewards={'random': 'random:0.5'}, changes=dict(phases=6)), jobs=1, progress=False)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    limit = time.monotonic() + 90
    while not list((tmp_path / "demo").glob("runs/random-both-*/rollouts/*")):
        assert time.monotonic() < limit and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "demo" / "report.html").exists()
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert (tmp_path / "demo" / "report.html").exists()
    assert pd.read_csv(tmp_path / "demo" / "outcomes.csv")["arm"].nunique() == 4


def test_quick_and_full_demo_stand_in_folders_of_their_own(monkeypatch, tmp_path):
    from typer.testing import CliRunner

    from spurious_rlvr import demo as demonstration
    from spurious_rlvr.cli import app

    folders = []
    monkeypatch.setattr(
        demonstration, "demo", lambda folder, **options: folders.append(str(folder)) or Path("nowhere/report.html")
    )
    for arguments in (["demo"], ["demo", "--quick"], ["demo", "--quick", "--out", "mine"]):
        CliRunner().invoke(app, arguments)
    assert len(set(folders)) == 3 and folders[2] == "mine"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        demo(tmp_path / "file" / "demo", quick=True, progress=False)


def test_a_run_that_never_writes_code_has_a_summary_and_an_outcome(tmp_path):
    "Its accuracy within code is nowhere in the metrics."
    from spurious_rlvr.cli import summary
    from spurious_rlvr.policy import random_policy
    from spurious_rlvr.studies import outcomes
    from spurious_rlvr.tasks import arithmetic_chains
    from spurious_rlvr.train import GRPOConfig, train

    config = GRPOConfig(
        phases=1, prompts_per_phase=2, num_generations=4, minibatch_size=4, max_completion_length=4, learning_rate=1e-3
    )
    run = train(
        random_policy(scale=10),
        arithmetic_chains(8),
        "random:0.5",
        config,
        tmp_path / "run",
        held_out={"chains": arithmetic_chains(2, seed=1)},
        progress=False,
        describe=dict(arm="random-both", seed=0),
    )
    assert "NaN" in summary(run)
    [row] = outcomes([run]).to_dict("records")
    assert (
        pd.isna(row["accuracy_code"])
        and row["code_share"] == 0
        and row["gain_by_share"] + row["gain_by_skill"] == pytest.approx(row["gain"])
    )
