"""Run folders that older versions wrote still read: `data/old_runs` was written once and is never written again. A new
schema adds a folder."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from spurious_rlvr import runs
from spurious_rlvr.core import DataError, RunError

OLD = Path(__file__).parent / "data" / "old_runs"
FOLDERS = sorted(p.name for p in OLD.iterdir())


def test_every_schema_up_to_this_one_has_a_folder():
    numbers = {json.loads((OLD / name / "run.json").read_text()).get("schema_version", 0) for name in FOLDERS}
    assert numbers == set(range(runs.SCHEMA_VERSION + 1))


@pytest.mark.parametrize("name", FOLDERS)
def test_it_reads(name):
    run = runs.read_run(OLD / name)
    assert run.name == name and run.config["epsilon"] == 0.2
    first = run.rollouts(1)
    assert len(first) == 4 and set(first["group"]) == {0, 1} and first["completion"].str.len().gt(0).all()
    assert run.of_kind("phase")["reward"].tolist()[0] == 0.75
    assert len(runs.import_rollouts(OLD / name)) == sum(len(run.rollouts(p)) for p in run.phases)


@pytest.mark.parametrize("name", FOLDERS)
def test_it_is_shown_and_stepped_through(name, tmp_path):
    def command(*words):
        return subprocess.run(
            [sys.executable, "-c", "from spurious_rlvr.cli import main; main()", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    shown = command("show", str(OLD / name))
    assert shown.returncode == 0 and "0.75" in shown.stdout, shown.stderr
    viewed = command("view", str(OLD / name))
    assert viewed.returncode == 0 and (tmp_path / f"{name}-rollouts.html").stat().st_size > 10_000, viewed.stderr


def test_a_view_names_the_columns_that_an_old_run_lacks():
    from spurious_rlvr.clipbias import measured_tokens

    with pytest.raises((DataError, RunError), match="logprob_new|clip_side"):
        measured_tokens(runs.read_run(OLD / "unnumbered"), 1)


def test_a_setting_without_effect_in_an_old_record_does_not_stop_a_run_from_going_on(tmp_path):
    "Newer versions refuse such a setting where it is given; what is recorded already had no effect."
    from spurious_rlvr.train import GRPOConfig, recorded_config

    config = GRPOConfig(lora_rank=4, optimizer="sgd", betas=(0.5, 0.6), epsilon=0.1)
    runs.create_run(tmp_path / "old", config=dataclasses.asdict(config), reward="random:0.5")
    found = recorded_config(runs.read_run(tmp_path / "old"))
    assert (found.lora_rank, found.betas, found.epsilon) == (GRPOConfig.lora_rank, GRPOConfig.betas, 0.1)
