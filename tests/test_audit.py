"Is this gain real? The audit's arms, its words, what exists already, and the scorecard."

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from spurious_rlvr import audit as audits
from spurious_rlvr import studies
from spurious_rlvr.audit import (
    FAMILIES,
    AuditPlan,
    audit,
    audit_evaluations,
    audit_study,
    check_words,
    claims,
    clip_words,
    gain_parts,
    gain_words,
    group_signals,
    judge,
    limits,
    paper_words,
    probe_words,
    read_source,
    scorecard,
    signal_shares,
    signal_words,
    try_reward,
    two_families,
)
from spurious_rlvr.core import ConfigError, RunError
from spurious_rlvr.rewards import parse
from spurious_rlvr.runs import read_run

TINY = dict(phases=2, prompts_per_phase=4, minibatch_size=32)
SILENT = dict(progress=False, say=lambda line: None)


def written(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(Path(folder).rglob("*"))
        if p.is_file()
        and p.relative_to(folder).parts[0] in ("report.html", "report.md", "rows", "figures", "summary.json", "probes")
    }


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit") / "a"
    return audit("ground_truth", quick=True, changes=TINY, out=folder, jobs=2, **SILENT), folder


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_module.py").write_text(
        textwrap.dedent("""
        def my_reward(completions, gold, **_): return [float(g in c) for c, g in zip(completions, gold)]
        def raises(completions, **_): return [1 / 0 for _ in completions]
        def too_few(completions, **_): return [1.0]
        def nested(completions, **_): return [[1.0] for _ in completions]
        def same(completions, **_): return [1.0 for _ in completions]
    """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_module", None)


def gains_of(user, permuted, random, majority=None, families=("a", "b"), **changes):
    "A table of gains as `audit_gains` makes it, from given numbers."
    given = dict(user=user, permuted=permuted, random=random) | ({} if majority is None else dict(majority=majority))
    rows = [
        dict(
            family=family,
            role=role,
            clip=clip,
            seed=seed,
            gain_best=value,
            gain_same_cell=value,
            gain_default=value,
            gain_start_right=value,
            gain_start_wrong=2 * value,
            problems_start_right=70,
            problems_start_wrong=58,
            clip_fraction_high=0.01,
            clip_fraction_low=0.02,
            updates_per_phase=8,
            reward=0.5,
            dead_groups=0.1,
        )
        | changes
        for family in families
        for role, values in given.items()
        for clip in ("both", "none")
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def grid(base, best):
    return pd.DataFrame(
        [
            dict(prompt="p", rules="default", temperature=0.0, budget=24, default=False, accuracy=best),
            dict(prompt="own", rules="default", temperature=1.0, budget=24, default=True, accuracy=base),
        ]
    )


def test_the_arms_are_those_that_were_promised():
    study = audit_study(AuditPlan("boxed_format & ~mentions_python", FAMILIES["organism"]))
    table = study.table[study.table["seed"] == 0]
    for model in FAMILIES["organism"]:
        rows = table[table["model"] == model]
        assert sorted(rows.groupby("reward")["clip"].apply(lambda c: tuple(sorted(c))).items()) == sorted(
            {
                "boxed_format & ~mentions_python": ("both", "none"),
                "permuted(boxed_format & ~mentions_python)": ("both",),
                "random:0.5": ("both",),
                "online_majority": ("both",),
                "where_live(online_majority(), boxed_format() & ~mentions_python())": ("both",),
                "majority_vote": ("both",),
                "boxed_format": ("both",),
                "incorrect": ("both",),
            }.items()
        )
    assert len(study.seeds) == audits.compare.DEFAULT_SEEDS and len(study.table) == 9 * 2 * len(study.seeds)


def test_a_second_family_is_added():
    assert two_families(["Qwen/Qwen2.5-Math-7B", "Qwen/Qwen2.5-7B"], "paper")[-1] == "meta-llama/Llama-3.1-8B-Instruct"
    assert two_families(["meta-llama/Llama-3.1-8B"], "paper")[-1] == "Qwen/Qwen2.5-Math-7B"
    assert two_families(["qwen-like", "leaked"], "organism") == ("qwen-like", "leaked")


@pytest.mark.parametrize(
    "name, complaint",
    [
        ("raises", "ZeroDivisionError"),
        ("too_few", "1 values for 16"),
        ("nested", "must give numbers or None"),
        ("missing", "has no missing"),
    ],
)
def test_a_reward_that_cannot_work_is_refused_before_anything_is_made(module, name, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        audit(f"my_module:{name}", out=module / "a", **SILENT)
    assert "\n" not in str(caught.value).split("\n    ")[0] and not (module / "a").exists()


def test_a_constant_reward_is_pointed_at(module):
    assert (
        try_reward("python:my_module:same", audits_problems()).constant
        and not try_reward("python:my_module:my_reward", audits_problems()).constant
    )
    said = []
    audit("my_module:same", dry=True, out=module / "a", say=said.append)
    assert any("nothing is learnt" in line for line in said) and not (module / "a").exists()


def audits_problems():
    from spurious_rlvr.organisms import training_problems

    return training_problems(4)


def test_settings_that_cannot_be_are_refused(tmp_path):
    for changes, complaint in (
        (dict(size="huge"), "size"),
        (dict(margin=2), "margin"),
        (dict(seeds=1), "at least 2"),
        (dict(models=["no such model"]), "no model 'no such model'"),
        (dict(changes=dict(epsilonn=1)), "epsilonn"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            audit("ground_truth", out=tmp_path / "a", **SILENT, **changes)
        assert not list(tmp_path.glob("a/runs/*"))


def test_a_rehearsal_makes_no_claims(quick):
    result, folder = quick
    text = (folder / "report.md").read_text() + result.report.read_text()
    assert (
        result.outcome is None
        and "makes no" not in result.words["verdict"][0]
        or "it makes none" in result.words["verdict"][0]
    )
    for word in ("survives", "elicits", "matched by a null", "Cannot tell", "told apart", "Shown:"):
        assert word not in text.split("Rules")[0]
    assert "survives" not in json.dumps(result.words)
    for heading in ("For a paper", "Elicitation and design", "Noise budget"):  # each step is gone through all the same
        assert heading in text
    assert json.loads((folder / "summary.json").read_text())["outcome"] is None


def test_the_page_links_every_figure_to_its_rows_and_is_text_only(quick):
    result, folder = quick
    page = result.report.read_text()
    links = re.findall(r"href='(rows/[\w-]+\.csv)'", page)
    assert page.count("<svg") == page.count("<figure>") >= 1 and "<script" not in page and str(folder) not in page
    assert set(links) >= {"rows/gains.csv", "rows/arms.csv", "rows/base-grid.csv", "rows/probes.csv"} and all(
        len(pd.read_csv(folder / link)) for link in links
    )
    assert not [a for a in re.findall(r"https?://[^\s\"'<>]+", page) if not a.startswith("http://www.w3.org/")]
    markdown = (folder / "report.md").read_text()
    assert all(link in markdown for link in links) and all(
        (folder / figure).exists() for figure in re.findall(r"\((figures/[\w-]+\.svg)\)", markdown)
    )


@pytest.mark.slow
def test_two_audits_give_the_same_report(quick, tmp_path):
    _, folder = quick
    audit("ground_truth", quick=True, changes=TINY, out=tmp_path / "b", jobs=1, **SILENT)
    assert written(folder) == written(tmp_path / "b")


def test_started_again_nothing_is_trained_and_another_audit_is_refused(quick):
    result, folder = quick
    before = {p: p.stat().st_mtime_ns for p in folder.glob("runs/*/metrics.jsonl")}
    audit("ground_truth", quick=True, changes=TINY, out=folder, **SILENT)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    with pytest.raises(RunError, match="another study"):
        audit("boxed_format", quick=True, changes=TINY, out=folder, **SILENT)


def test_the_permuted_null_has_the_user_s_rates_dead_groups_and_advantages(quick):
    "In the first phase, in which both arms have the same policy and random streams."
    _, folder = quick
    for model in FAMILIES["organism"]:
        user, null = (
            read_run(folder / "runs" / f"{model}.{role}.both-seed0").rollouts(1) for role in ("user", "permuted")
        )
        assert user["completion"].equals(null["completion"])
        for _, (a, b) in enumerate(zip(user.groupby("group"), null.groupby("group"))):
            assert sorted(a[1]["reward"]) == sorted(b[1]["reward"])
            assert np.allclose(sorted(a[1]["advantage"]), sorted(b[1]["advantage"]))


def test_the_user_s_own_module_from_the_command_line(module):
    out = subprocess.run(
        [
            sys.executable,
            "-c",
            "from spurious_rlvr.cli import main; main()",
            "audit",
            "--reward",
            "my_module:my_reward",
            "--model",
            "qwen-like",
            "--quick",
            "--out",
            "a",
            "--jobs",
            "2",
            *(part for name, value in TINY.items() for part in ("--set", f"{name}={value}")),
        ],
        cwd=module,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert out.returncode == 0, out.stderr[-1500:]
    assert (
        "llama-like is added" in out.stdout
        and "CPU-minutes" in out.stdout
        and (module / "a" / "report.html").exists()
        and "python:my_module:my_reward" in (module / "a" / "report.html").read_text()
    )


def test_the_command_line_says_what_is_wrong_in_a_line(tmp_path):
    from typer.testing import CliRunner

    from spurious_rlvr.cli import app

    for arguments in (
        ["audit"],
        ["audit", "--reward", "no_module:f", "--out", str(tmp_path / "x")],
        ["audit", "--from-evals", "user"],
        ["study", "figure-7"],
        ["scorecard", "nonsense"],
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2 and len(result.output.strip().splitlines()) <= 3
    listed = CliRunner().invoke(app, ["study"]).output
    assert all(name in listed for name in studies.FAMILIES)
    dry = (
        CliRunner()
        .invoke(app, ["study", "gamma", "--dry-run", "--only", "seed=0", "--out", str(tmp_path / "y")])
        .output
    )
    assert "random:0.001" in dry and "5 runs to do" in dry and not (tmp_path / "y").exists()


STEADY = np.array([0.012, -0.008, 0.004, -0.011, 0.007, -0.002, 0.003, -0.005])  # mean 0


def test_verdicts_come_from_the_paired_difference():
    rng = np.random.default_rng(0)
    luck, noise = rng.normal(0, 0.1, 6), lambda: rng.normal(0, 0.002, 6)
    user, null = 0.2 + luck + noise(), 0.05 + luck + noise()  # each alone is hardly told from 0, their difference is
    assert judge(gains_of(user, null, null + noise()), 0.02).outcome == "beats the nulls"
    assert judge(gains_of(user, null, null + noise(), null + noise()), 0.02).outcome == "survives as design"
    assert judge(gains_of(null + noise(), null, null + noise()), 0.02).outcome == "matched by a null"
    assert judge(gains_of(0.2 + luck, luck[::-1].copy() + 0.1, luck), 0.02).outcome == "cannot tell"


def planted(design, elicitation=0.2, scatter=1.0):
    "Gains whose differences to the majority have a known mean and spread."
    null = 0.01 * np.sin(np.arange(8))
    majority = elicitation + null + 0.001 * np.cos(np.arange(8))
    return gains_of(majority + design + scatter * STEADY, null, null[::-1].copy(), majority)


@pytest.mark.parametrize(
    "design, elicitation, share, outcome",
    [
        (0.1, 0.2, 0.4, "survives as design"),
        (0.1, 0.2, 0.05, "survives as design"),  # the threshold itself is enough
        (0.1, 0.2, 0.049, "design cannot be told apart"),
        (0.1, 0.2, math.nan, "design cannot be told apart"),  # no live group
        (0.0, 0.2, 0.4, "elicits"),
        (-0.1, 0.2, 0.4, "elicits"),  # the majority did better
        (0.0, 0.0, 0.4, "matched by a null"),
        (0.0, 0.0, 0.01, "matched by a null"),  # the nulls come first
        (0.1, -0.1, 0.4, "matched by a null"),  # above the majority only since the majority unlearns
    ],
)
def test_planted_gains_get_the_verdict_that_was_planted(design, elicitation, share, outcome):
    found = judge(planted(design, elicitation), 0.02, shares=dict(a=share, b=share))
    assert found.outcome == outcome and set(found.families.values()) == {outcome}
    assert ("survives" in found.words[0]) == (outcome == "survives as design")


def test_a_verdict_turns_where_its_interval_does():
    "Against the majority: Student's limits with 8 seeds, and 5 % of two families by Holm and Hochberg."
    error = float(np.std(STEADY, ddof=1)) / math.sqrt(8)
    for design, outcome in (
        (stats.t.ppf(0.975, 7) * error + 1e-6, "survives as design"),
        (stats.t.ppf(0.975, 7) * error - 1e-6, None),
    ):
        found = judge(planted(design), 0.002, shares=dict(a=1.0, b=1.0))  # a margin too small to be shown
        assert found.outcome == (outcome or "cannot tell")
        if outcome is None:
            assert (
                "Cannot tell design from elicitation" in found.words[0]
                and "seeds an arm would settle" in found.words[0]
            )
    wide = 2.5 * error  # so wide that being within the margin and being above 0 are far apart
    within = 0.02 - stats.t.ppf(0.975, 7) * wide  # two one-sided tests at 5 %, Holm over two families
    for design, outcome in ((within - 1e-6, "elicits"), (within + 1e-6, "cannot tell")):
        assert judge(planted(design, scatter=2.5), 0.02, shares=dict(a=1.0, b=1.0)).outcome == outcome


def test_one_family_without_design_takes_the_verdict_away():
    mixed = pd.concat([planted(d).query("family == @f") for f, d in (("a", 0.1), ("b", 0.0))], ignore_index=True)
    found = judge(mixed, 0.02, shares=dict(a=0.5, b=0.5))
    assert found.outcome == "elicits" and found.families == dict(a="survives as design", b="elicits")
    assert "in b" in found.words[0]
    found = judge(mixed, 0.02, shares=dict(a=0.01, b=0.5))
    assert found.outcome == "design cannot be told apart" and "1.0 % in a" in found.words[0]


def test_the_parts_add_up_exactly():
    rng = np.random.default_rng(1)
    table = gains_of(*rng.normal(0, 0.1, (4, 8)))
    for column in ("gain_best", "gain_start_right", "gain_start_wrong"):
        for of in gain_parts(table, column).values():
            by_seed = {part: np.array(effect.differences) for part, effect in of.items()}
            summed = by_seed["null"] + by_seed["elicitation"] + by_seed["design"]
            np.testing.assert_allclose(summed, by_seed["total"], atol=1e-15)
            assert of["total"].mean == pytest.approx(of["null"].mean + of["elicitation"].mean + of["design"].mean)
    assert gain_parts(table)["a"]["design"].mean * 2 == pytest.approx(
        gain_parts(table, "gain_start_wrong")["a"]["design"].mean
    )
    assert not gain_parts(table.assign(gain_start_right=np.nan), "gain_start_right")


def rollouts_with(*groups):
    "Groups of (answer, user's reward) pairs, as a run stores them."
    return pd.DataFrame(
        [
            dict(phase=1, group=g, sample=i, completion="" if answer is None else rf"\boxed{{{answer}}}", reward=paid)
            for g, group in enumerate(groups)
            for i, (answer, paid) in enumerate(group)
        ]
    )


def test_groups_differ_where_advantages_do():
    rollouts = rollouts_with(
        [(7, 1.0), (7, 1.0), (3, 0.0)],  # alike
        [(7, 2.0), (7, 2.0), (3, 0.0)],  # alike, since the group's spread is divided out
        [(7, 0.0), (3, 1.0), (3, 1.0)],  # alike: the majority is right
        [(7, 1.0), (3, 0.0), (3, 0.0)],  # the majority is wrong
        [(5, 0.0), (3, 0.0), (3, 0.0)],  # all wrong: the majority alone is live
        [(7, 1.0), (7, 1.0), (7, 0.0)],  # the reward alone is live
        [(7, 1.0), (7, 1.0), (7, 1.0)],  # dead under both
        [(None, np.nan), (7, 1.0), (7, 0.0)],  # an undecided completion
    )
    found = group_signals(rollouts, parse("online_majority"), std_epsilon=0.0)
    assert found["differ"].tolist() == [False, False, False, True, True, True, False, True]
    assert found["user_live"].tolist() == [True, True, True, True, False, True, False, True]
    assert found["majority_live"].tolist() == [True] * 5 + [False, False, True]
    unscaled = group_signals(rollouts, parse("online_majority"), scale_rewards="none")
    assert unscaled["differ"].tolist() == [False, True, False, True, True, True, False, True]
    shuffled = group_signals(rollouts.sample(frac=1, random_state=0), parse("online_majority"), std_epsilon=0.0)
    pd.testing.assert_frame_equal(shuffled, found)


def test_shares_are_of_live_groups():
    rows = [
        dict(family="a", seed=s, groups=100, live=50, differ=d, only_majority=1, only_user=0)
        for s, d in enumerate((2, 4))
    ]
    rows.append(dict(family="b", seed=0, groups=100, live=0, differ=0, only_majority=0, only_user=0))
    shares = signal_shares(pd.DataFrame(rows))
    assert shares["a"] == pytest.approx(0.06) and math.isnan(shares["b"])
    words = signal_words(pd.DataFrame(rows))
    assert "6.0 % of 100 live groups (of 200)" in words[0] and "no group was live" in words[1]


def test_a_check_that_decides_otherwise_is_named():
    table = planted(0.1)
    live = table[table["role"] == "majority"].assign(role="majority-live", gain_best=lambda f: f["gain_best"] + 0.1)
    lines = check_words(pd.concat([table, live]), 0.02, dict(a=1.0, b=1.0), "survives as design")
    assert "live groups only, the verdict would have been: elicits" in lines[0] and "not known" in lines[1]


def test_the_paragraph_has_the_numbers():
    table, plan = planted(0.1), AuditPlan("ground_truth", ("a", "b"), seeds=tuple(range(8)))
    config = studies.cell_config(
        audit_study(AuditPlan("ground_truth", ("qwen-like",))), studies.Arm("x", "random:0.5"), 0
    )
    text = paper_words(plan, config, gain_parts(table), dict(a=0.25, b=0.5), "survives as design")
    assert all(
        part in text for part in ("ground_truth", "8 training runs", "+10.0 [", "25.0 % (a)", "survives as design")
    )
    quick = paper_words(dataclasses.replace(plan, quick=True), config, gain_parts(table), {}, "survives as design")
    assert quick.startswith("Rehearsal, not to be quoted") and "survives" not in quick


def test_words_follow_their_rules():
    zero, five = [0.0] * 6, [0.05, 0.06, 0.04, 0.05, 0.07, 0.05]
    table = gains_of(five, zero, zero)
    assert any("no room" in line for line in gain_words(table, 0.02, {f: grid(0.5, 0.99) for f in "ab"}))
    assert not any("no room" in line for line in gain_words(table, 0.02, {f: grid(0.5, 0.9) for f in "ab"}))
    taken = gain_words(table.assign(gain_best=[-0.1, 0.1] * (len(table) // 2)), 0.02, {f: grid(0.5, 0.9) for f in "ab"})
    assert any("not shown once the base model may choose its prompt" in line for line in taken)
    assert all("could have mattered" in line for line in clip_words(table))
    assert all("cannot have mattered: one update" in line for line in clip_words(table.assign(updates_per_phase=1)))
    assert all(
        "cannot have mattered: no token" in line
        for line in clip_words(table.assign(clip_fraction_high=0.0, clip_fraction_low=0.0))
    )
    probes = pd.DataFrame(
        [dict(family="a", probe="exact match", flagged=True), dict(family="b", probe="exact match", flagged=False)]
    )
    assert "learnt by heart" in probe_words(probes)[0] and "no probe is flagged" in probe_words(probes)[1]


def results(tmp_path, name, rate, seed, problems=60):
    rng = np.random.default_rng(seed)
    path = tmp_path / f"{name}-{seed}.jsonl"
    path.write_text(
        "".join(
            json.dumps(dict(problem_id=f"p{i}", correct=bool(rng.random() < rate), completion="text")) + "\n"
            for i in range(problems)
        )
    )
    return f"{name}={path}"


def test_one_checkpoint_speaks_for_itself_only(tmp_path):
    found = audit_evaluations(
        [results(tmp_path, "before", 0.3, 0), results(tmp_path, "user", 0.9, 1)], out=tmp_path / "a"
    )
    assert found.outcome is None and found.words["verdict"][0].startswith("No verdict")
    assert any("this checkpoint, not this method" in line for line in found.words["effects"])
    assert any("one training run is one draw" in line for line in found.words["cannot"]) and any(
        "there is no null" in line for line in found.words["cannot"]
    )
    page = (tmp_path / "a" / "report.html").read_text()
    assert "What cannot" in page and str(tmp_path) not in page


def test_runs_with_nulls_get_a_verdict(tmp_path):
    texts = [
        results(tmp_path, "before", 0.3, 0),
        *(
            results(tmp_path, role, rate, seed)
            for role, rate in (("user", 0.9), ("random", 0.3), ("permuted", 0.3))
            for seed in range(1, 7)
        ),
    ]
    found = audit_evaluations(texts, out=tmp_path / "a")
    assert (
        found.outcome == "beats the nulls"
        and not any("one training run" in line for line in found.words["cannot"])
        and any("one" in line and "family" in line for line in found.words["cannot"])
    )
    assert "there is no majority arm" in found.words["verdict"][1] and not found.words["parts"]
    told = " ".join(found.words["cannot"])
    assert "the part of elicitation: there is no result of majority" in told
    assert "the part of design: there is no result of majority (train one with online_majority)" in told
    assert any("the part of null, on 6 pairs" in line for line in found.words["can"])
    again = written(tmp_path / "a")
    audit_evaluations(texts, out=tmp_path / "b")
    assert written(tmp_path / "b") == again


def test_runs_with_a_majority_say_what_is_design(tmp_path):
    rates = dict(user=0.9, random=0.3, permuted=0.3, majority=0.6)
    texts = [results(tmp_path, "before", 0.3, 0)]
    texts += [results(tmp_path, role, rate, seed) for role, rate in rates.items() for seed in range(1, 7)]
    found = audit_evaluations(texts, out=tmp_path / "a")
    assert found.outcome == "survives as design" and "design" in found.words["parts"][0]
    assert sum("the part of" in line for line in found.words["can"]) == 3
    assert any("in how many training groups" in line for line in found.words["cannot"])
    assert "was not counted" in found.words["verdict"][-1]
    few = audit_evaluations([t for t in texts if not t.startswith("random")], out=tmp_path / "b")
    assert not few.words["parts"] and any(
        "the part of null: there is no result of random" in c for c in few.words["cannot"]
    )


def test_checkpoints_and_run_folders_that_exist(quick, tmp_path):
    _, folder = quick
    runs = [folder / "runs" / f"qwen-like.{role}.both-seed{seed}" for role in ("user", "permuted") for seed in (0, 1)]
    found = audit_evaluations(
        [f"user={runs[0]}", f"user={runs[1]}", f"permuted={runs[2]}", f"permuted={runs[3]}"], out=tmp_path / "a"
    )
    assert found.verdict is not None and any("before" in line for line in found.words["effects"])
    checkpoint = read_run(runs[0]).latest_checkpoint / "policy"
    found = audit_evaluations(
        [f"user={checkpoint}"], held_out="chains:8:11", template="chain", protocol="organism", out=tmp_path / "b"
    )
    assert found.outcome is None and any("no gain" in line for line in found.words["cannot"])
    with pytest.raises(ConfigError, match="give the benchmark"):
        audit_evaluations([f"user={checkpoint}"], out=tmp_path / "c")


def test_what_cannot_be_read_or_compared_is_one_line(tmp_path):
    one = results(tmp_path, "user", 0.5, 0)
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(dict(problem_id="elsewhere", correct=True)) + "\n")
    for sources, complaint in (
        ([f"before={other}"], "no result of the user"),
        (["user"], "write ROLE=PATH"),
        (["user=nowhere.jsonl"], "does not exist"),
        ([one, f"before={other}"], "no problem in common"),
        (["hero=x"], "write ROLE=PATH"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            audit_evaluations(sources, out=tmp_path / "a")


def test_limits_by_rule():
    can, cannot = limits({"m": dict(user=3, before=1, random=1)}, False)
    assert (
        any("the method at this setting" in line for line in can)
        and any("a verdict against random: it needs at least two" in line for line in cannot)
        and any("hold none" in line for line in cannot)
    )
    assert read_source("user@m=" + __file__).family == "m"


@pytest.mark.parametrize(
    "names", [("needs-the-clip", "clipped-weight", "rounding"), pytest.param((), marks=pytest.mark.slow)]
)
def test_every_disputed_claim_has_its_experiment(tmp_path, names):
    cards = claims()
    assert list(cards) == [
        "needs-the-clip",
        "contamination",
        "baseline-prompt",
        "incorrect-labels",
        "code-reasoning",
        "entropy",
        "seeds",
        "reachability",
        "divergence-mask",
        "soft-gate",
        "clipped-weight",
        "negative-feedback",
        "rounding",
        "sgd-suffices",
    ]
    for card in cards.values():
        assert card.says and card.arms and card.on_gpus.startswith("spurious-rlvr ") and card.beyond
        family = re.match(r"spurious-rlvr study (\S+) --size (\S+)", card.on_gpus)
        if family:
            studies.paper_study(*family.groups())
    found = scorecard(tmp_path / "s", names, seeds=2, changes=TINY, jobs=2, **SILENT)
    assert set(found) == set(names or cards) and all(finding.words for finding in found.values())
    for finding in found.values():
        for effect in finding.effects:
            [line] = [
                w
                for w in finding.words
                if re.match(rf"(Shown|Not shown): {re.escape(effect.name)}( is (above|below) 0)? \(", w)
            ]
            assert line.startswith("Shown" if effect.shown else "Not shown")
    page = (tmp_path / "s" / "report.html").read_bytes()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("runs/*/metrics.jsonl")}
    scorecard(tmp_path / "s", names, seeds=2, changes=TINY, jobs=2, **SILENT)
    assert (tmp_path / "s" / "report.html").read_bytes() == page and {p: p.stat().st_mtime_ns for p in before} == before
