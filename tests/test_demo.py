"The main job from end to end, at a fraction of its size."

import csv
import dataclasses
import html
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spurious_rlvr.compare import holm, paired_effect
from spurious_rlvr.core import ConfigError, RunError
from spurious_rlvr.demo import (
    COIN_CLIPS,
    LABELS,
    Demo,
    agreement_in_words,
    answer,
    claim_graph,
    claim_in_words,
    claims,
    demo,
    gate_in_words,
    graphical_test,
    grid_in_words,
    looks_table,
    organism_in_words,
)
from spurious_rlvr.runs import read_run

TINY = Demo(seeds=(0, 1), truth_seeds=1, changes=dict(phases=2, prompts_per_phase=4, minibatch_size=16))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "demo"
    return demo(folder, plan=TINY, jobs=2, progress=False)


def test_it_leaves_runs_figures_and_one_report(made):
    folder = made.parent
    coin = {f"random-{clip}-seed{seed}" for clip in COIN_CLIPS for seed in (0, 1)}
    assert {p.name for p in (folder / "runs").iterdir()} == coin | {"truth-both-seed0"}
    assert all(
        len(read_run(p).phases) == 2 and read_run(p).evaluations == [(0, "benchmark"), (2, "benchmark")]
        for p in (folder / "runs").iterdir()
    )
    assert all(
        (folder / name).stat().st_size
        for name in ("exact.png", "gains.png", "bandit.png", "paths.png", "outcomes.csv", "summary.json")
    )


def test_the_report_needs_nothing_else_and_says_what_its_figures_show(made):
    page = made.read_text()
    assert page.count("<svg") >= 4 and "<script" not in page and "<link" not in page and "src=" not in page
    assert page.count("<svg") == len(re.findall(r'<svg role="img" aria-label="[^"]{20,}"', page))
    assert not [a for a in re.findall(r"https?://[^\s\"'<>]+", page) if not a.startswith("http://www.w3.org/")]


def test_the_first_screen_has_the_answer_before_any_detail(made):
    words = json.loads((made.parent / "summary.json").read_text())["words"]
    page = html.unescape(made.read_text())
    first = page[: page.index("<details")]
    assert first.count("<svg") == 2 and first.index(words["answer"]) < first.index("<svg")
    for part in ("bandit", "organism", "real", "grid"):
        assert words[part] and words[part] in first
    assert all(sentence in page[len(first) :] for sentence in words["gains"] + words["clip"])


def test_every_claim_follows_its_interval(made):
    summary = json.loads((made.parent / "summary.json").read_text())
    found, words = summary["claims"], summary["words"]["gains"] + summary["words"]["clip"]
    assert [c["kind"] for c in found] == ["gain"] * 5 + ["clip"] * 4
    for claim, said in zip(found, words, strict=True):
        low, high = (
            math.nan if v in (None, "nan") else float(v) for v in (claim["effect"][n] for n in ("low", "high"))
        )
        assert ("raised" in said or "ended above" in said) == (low > 0)
        assert ("lowered" in said or "ended below" in said) == (high < 0)
        assert ("not read" in said) == math.isnan(low)
    for name, shift in summary["bandit"].items():
        [said] = [
            part
            for part in summary["words"]["bandit"].removesuffix(".").partition("pushes ")[2].split("; ")
            if re.search(rf"\b{LABELS[name]}\b", part)
        ]
        assert said.startswith("towards") == (shift["low"] > 0) and said.startswith("away") == (shift["high"] < 0)


def frame_of(differences):
    "Outcomes with these gains: {clip: (seeds,)}."
    return pd.DataFrame(
        dict(arm=f"random-{clip}", seed=seed, accuracy=0.5 + gain, accuracy_before=0.5)
        for clip, gains in differences.items()
        for seed, gain in enumerate(gains)
    )


def test_a_graph_in_which_everyone_hands_to_everyone_is_holms():
    rng = np.random.default_rng(0)
    for _ in range(200):
        effects = [paired_effect(str(i), rng.normal(0.8 * (i % 3), 1, 8), np.zeros(8)) for i in range(5)]
        names = [e.name for e in effects]
        hands = {a: {b: 0.25 for b in names if b != a} for a in names}
        tested = graphical_test({e.name: e.p_value for e in effects}, dict.fromkeys(names, 0.2), hands)
        decided = {name for name, (p, _) in tested.items() if p <= 0.05}
        assert decided == {e.name for e in holm(effects) if e.p_value <= 0.05}
        for effect in holm(effects):
            if effect.name in decided:
                assert tested[effect.name][0] == pytest.approx(effect.p_value)


@pytest.mark.parametrize("true", [set(), {"high"}, {"high", "none"}, set(COIN_CLIPS) - {"both"}])
def test_any_false_finding_is_as_rare_as_promised(true):
    """p-values of arms that truly gain are tiny, all others uniform: the chance of any false finding among gains and
    clip claims is at most 5 % (4,000 tries, three standard errors)."""
    rng, weights_hands = np.random.default_rng(1), claim_graph(COIN_CLIPS)
    wrong = 0
    for _ in range(4000):
        p = {key: rng.uniform() for key in weights_hands[0]}
        p |= {f"gain {clip}": 1e-9 for clip in true}
        tested = graphical_test(p, *weights_hands)
        wrong += any(q <= 0.05 and key not in {f"gain {clip}" for clip in true} for key, (q, _) in tested.items())
    assert wrong / 4000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)


def test_a_clip_claim_waits_for_its_arm_and_an_interval_agrees_with_its_decision():
    rng = np.random.default_rng(2)
    for _ in range(50):
        gains = {clip: rng.normal(rng.choice([-0.2, 0, 0.2]), 0.2, 14) for clip in COIN_CLIPS}
        found = {(c.kind, c.arm): c for c in claims(frame_of(gains))}
        for (kind, arm), claim in found.items():
            assert (claim.effect.p_value <= 0.05) == (claim.effect.shown != 0)
            if kind == "clip":
                assert claim.read == (found["gain", arm].effect.shown != 0)
                assert claim.effect.mean == pytest.approx(np.mean(gains[arm] - gains["none"]))
            assert (claim.up, claim.down) == (
                np.sum(np.array(claim.effect.differences) > 0),
                np.sum(np.array(claim.effect.differences) < 0),
            )


def test_arms_of_one_seed_share_everything_but_the_clip(made):
    first = [read_run(made.parent / "runs" / f"random-{clip}-seed1").rollouts(1) for clip in COIN_CLIPS]
    for other in first[1:]:
        assert first[0][["problem_id", "completion", "reward"]].equals(other[["problem_id", "completion", "reward"]])


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
        " truth_seeds=0, changes=dict(phases=6)), jobs=1, progress=False)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    limit = time.monotonic() + 90
    while not list((tmp_path / "demo").glob("runs/random-*/rollouts/*")):
        assert time.monotonic() < limit and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "demo" / "report.html").exists()
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert (tmp_path / "demo" / "report.html").exists()
    assert pd.read_csv(tmp_path / "demo" / "outcomes.csv")["arm"].nunique() == 5


def test_quick_and_full_demo_stand_in_folders_of_their_own(monkeypatch, tmp_path):
    from typer.testing import CliRunner

    from spurious_rlvr import demo as demonstration
    from spurious_rlvr.cli import app

    folders = []
    monkeypatch.setattr(
        demonstration, "demo", lambda folder, **options: folders.append(str(folder)) or Path("nowhere/report.html")
    )
    for arguments in (["--quick", "--out", "mine"], [], ["--quick"], ["--seed-base", "2000"], ["--organism", "leaked"]):
        CliRunner().invoke(app, ["demo", *arguments])
    assert len(set(folders)) == 5 and folders[0] == "mine"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        demo(tmp_path / "file" / "demo", quick=True, progress=False)


def test_an_organism_in_a_folder_is_asked_as_those_that_ship(made, tmp_path):
    from spurious_rlvr import organisms
    from spurious_rlvr.policy import random_policy

    organisms.load("qwen-like").save(tmp_path / "mine")
    plan = dataclasses.replace(TINY, organism=str(tmp_path / "mine"), seeds=(1,), clips=("high", "none"), truth_seeds=0)
    report = demo(tmp_path / "demo", plan=plan, jobs=1, progress=False)
    first, ours = (read_run(p.parent / "runs" / "random-high-seed1").rollouts(2) for p in (made, report))
    assert first[["prompt", "completion", "reward"]].equals(ours[["prompt", "completion", "reward"]])
    random_policy(scale=10).save(tmp_path / "other")
    with pytest.raises(ConfigError, match="not an organism"):
        demo(tmp_path / "refused", plan=dataclasses.replace(plan, organism=str(tmp_path / "other")))
    assert not (tmp_path / "refused").exists()


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


ROOT = Path(__file__).resolve().parent.parent
LOOKS = sorted((ROOT / "benchmarks" / "results").glob("demo_*.json"))


@pytest.mark.parametrize("place", LOOKS, ids=[p.stem for p in LOOKS])
def test_a_committed_look_says_what_its_own_runs_say(place):
    look = json.loads(place.read_text())
    frame, words = pd.DataFrame(look["runs"]), look["words"]
    found = claims(frame[frame["arm"] != "truth-both"])
    assert words["answer"] == answer(found)
    assert words["organism"] == organism_in_words(found, look["organism_name"])
    assert words["gate"] == gate_in_words(frame)
    for ours, kept, said in zip(found, look["claims"], words["gains"] + words["clip"], strict=True):
        assert (ours.kind, ours.arm, ours.up, ours.down) == tuple(kept[n] for n in ("kind", "arm", "up", "down"))
        low, high = (float("nan" if v is None else v) for v in (kept["effect"][n] for n in ("low", "high")))
        assert (ours.effect.low, ours.effect.high) == pytest.approx((low, high), abs=1e-4, nan_ok=True)
        assert claim_in_words(ours).partition(" (")[0] == said.partition(" (")[0]
    seeds = set(frame["seed"])
    assert len(seeds) == 14 and min(seeds) >= 1000 and len(frame) == 5 * 14 + 4


def test_what_home_and_the_demos_page_say_is_what_was_committed():
    home, page = (ROOT / "README.md").read_text(), (ROOT / "nbs" / "23_demo.ipynb").read_text()
    shown = json.loads(page)["cells"]
    printed = "".join(
        text
        for cell in shown
        for out in cell.get("outputs", ())
        for text in out.get("text", ())
        if cell["cell_type"] == "code"
    )
    assert {"demo_base1000", "demo_base2000"} <= {place.stem for place in LOOKS}
    looks = {place.stem: json.loads(place.read_text())["words"] for place in LOOKS}
    for words in looks.values():
        assert words["organism"] in printed and words["answer"] in printed
        assert all(sentence in printed for sentence in [words["gate"], *words["gains"], *words["clip"]])
    names = dict(
        demo_base1000="seeds from 1000", demo_base2000="seeds from 2000", demo_second="another pretraining draw"
    )
    kept = {names[place.stem]: json.loads(place.read_text()) for place in LOOKS}
    kept = {name: kept[name] for name in names.values()}
    for said in (agreement_in_words(kept), looks_table(kept)):
        assert said in home and said in printed
    grid = grid_in_words(pd.read_csv(ROOT / "benchmarks" / "results" / "demo_grid.csv", keep_default_na=False))
    assert grid in home and grid in printed


def test_the_committed_grid_is_the_one_that_was_run():
    "The table on the demo's page, which the slow cell left, and the file are the same."
    cells = json.loads((ROOT / "nbs" / "23_demo.ipynb").read_text())["cells"]
    [left] = [c for c in cells if "GRID = {" in "".join(c["source"])]
    rows = re.findall(r"<tr.*?</tr>", "".join(left["outputs"][0]["data"]["text/html"]), re.DOTALL)
    table = [[html.unescape(v) for v in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)] for row in rows]
    with (ROOT / "benchmarks" / "results" / "demo_grid.csv").open() as lines:
        kept = list(csv.reader(lines))
    assert [list(column) for column in zip(*[row for row in table if row])] == kept
