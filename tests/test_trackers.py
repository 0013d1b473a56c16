"Tables of completions, as W&B and Trackio get them."

import dataclasses
import json
import math
import subprocess
import sys
import types

import pytest
from small import SMALL

from spurious_rlvr import train as training
from spurious_rlvr.core import ConfigError
from spurious_rlvr.policy import random_policy
from spurious_rlvr.tasks import arithmetic_chains
from spurious_rlvr.train import completions_table, grpo, log_table, train

SHORT = dataclasses.replace(SMALL, phases=2)
HOSTILE = "<script>alert(1)</script>\ud800 __import__('os').system('x') {{7*7}} \x00"


def phase_of(reward="random:0.5 + boxed_format"):
    [phase] = grpo(random_policy(scale=10), arithmetic_chains(20), reward, dataclasses.replace(SMALL, phases=1))
    return phase


def test_a_table_has_trls_columns_and_every_group():
    phase = phase_of()
    columns = completions_table(phase.rollouts)
    assert list(columns)[:3] == ["step", "prompt", "completion"] and "advantage" in columns
    assert {"random:0.5", "boxed_format"} <= set(columns)
    assert columns["advantage"] == [r.advantage for r in phase.rollouts]
    for most in (1, 4, 6, 31):
        some = completions_table(phase.rollouts, most)
        counts = [some["group"].count(group) for group in range(4)]
        assert sum(counts) == most and max(counts) - min(counts) <= 1
    assert completions_table([]) == {name: [] for name in completions_table([])}


def test_hostile_text_is_text_and_what_is_unknown_is_nan():
    phase = phase_of()
    phase.rollouts[0].completion, phase.rollouts[0].reward, phase.rollouts[0].correct = HOSTILE, None, None
    columns = completions_table(phase.rollouts)
    assert columns["completion"][0] == HOSTILE.replace("\ud800", "\\ud800")
    assert math.isnan(columns["reward"][0]) and math.isnan(columns["correct"][0])
    assert all(isinstance(value, float) for value in columns["correct"])


def test_trackio_is_given_its_own_table(monkeypatch):
    "By its call, on a stand-in: the package does not resolve beside the tested set."
    given = []
    monkeypatch.setitem(sys.modules, "trackio", types.SimpleNamespace(Table=lambda dataframe: ("table", dataframe)))
    tracker = types.SimpleNamespace(name="trackio", log=lambda values, step: given.append((values, step)))
    log_table(tracker, completions_table(phase_of().rollouts, 3), 7)
    [(values, step)] = given
    kind, frame = values["completions"]
    assert (kind, step, len(frame)) == ("table", 7, 3) and list(frame)[:2] == ["step", "prompt"]


def test_trackers_without_tables_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="log_completions has no effect without one of wandb, trackio"):
        train(
            random_policy(),
            arithmetic_chains(20),
            "random:0.5",
            SHORT,
            tmp_path / "run",
            trackers=["tensorboard"],
            log_completions=True,
            progress=False,
        )
    assert not (tmp_path / "run").exists()


def test_no_tracker_is_imported_that_was_not_asked_for():
    code = (
        "import sys, spurious_rlvr.train; print([m for m in ('wandb', 'trackio', 'tensorboard') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_wandb_gets_the_phases_and_their_completions(tmp_path, monkeypatch):
    "A real W&B, offline; its table is read back from its own folder."
    pytest.importorskip("wandb")
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_DIR", str(tmp_path)), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(name, value)
    phases, written = [], training.write_phase

    def kept(run, phase):
        phase.rollouts[0].completion = HOSTILE.replace("\ud800", "")
        phases.append(phase)
        written(run, phase)

    monkeypatch.setattr(training, "write_phase", kept)
    train(
        random_policy(scale=10),
        arithmetic_chains(20),
        "random:0.5",
        SHORT,
        tmp_path / "run",
        trackers=["wandb"],
        log_completions=True,
        num_completions_to_log=6,
        progress=False,
    )
    tables = [json.loads(p.read_text()) for p in sorted(tmp_path.rglob("*completions*.table.json"))]
    assert len(tables) == 2
    for table in tables:
        rows = [dict(zip(table["columns"], row)) for row in table["data"]]
        [phase] = [p for p in phases if p.number == rows[0]["step"]]
        expected = completions_table(phase.rollouts, 6)
        assert [r["completion"] for r in rows] == expected["completion"]
        assert [r["reward"] for r in rows] == expected["reward"] and len(rows) == 6
