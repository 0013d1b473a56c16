"Run folders after crashes: whatever byte the writing stopped at, what was finished reads."

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pandas as pd
import pytest

from spurious_rlvr.core import Rollout, RunError
from spurious_rlvr.runs import create_run, import_rollouts, read_run, resume_run


def rollout(phase, sample=0):
    return Rollout(
        phase=phase,
        group=0,
        sample=sample,
        problem_id="p",
        prompt="1+1?",
        completion="\\boxed{2}",
        gold="2",
        token_ids=[4, 1],
        logprob_sampler=[-0.1, -0.2],
        finish_reason="stop",
        reward=1.0,
        rewards={"ground_truth": 1.0},
    )


def write_phases(path, phases):
    writer = create_run(path, config=dict(epsilon=0.2))
    for phase in range(1, phases + 1):
        writer.write_rollouts(phase, [rollout(phase), rollout(phase, 1)])
        writer.log("phase", phase=phase, reward=phase / 10)
    return writer


def test_metrics_cut_off_at_every_byte_still_read(tmp_path):
    write_phases(tmp_path / "run", 3)
    whole = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for length in range(len(whole) + 1):
        (tmp_path / "run" / "metrics.jsonl").write_bytes(whole[:length])
        finished = sum(end - 1 <= length for end in ends)  # a line is whole without its line break too
        metrics = read_run(tmp_path / "run").metrics
        assert len(metrics) == finished
        if finished:
            assert metrics["reward"].tolist() == [p / 10 for p in range(1, finished + 1)]


def test_a_torn_line_does_not_swallow_the_next(tmp_path):
    write_phases(tmp_path / "run", 1)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "phase", "phase": 2, "rew')
    resume_run(tmp_path / "run").log("phase", phase=2, reward=0.5)
    assert read_run(tmp_path / "run").of_kind("phase")["phase"].tolist() == [1, 2]


def test_bytes_that_are_no_text_are_passed_over(tmp_path):
    write_phases(tmp_path / "run", 1)
    with (tmp_path / "run" / "metrics.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\x00\n")
    assert len(read_run(tmp_path / "run").metrics) == 1


def test_a_damaged_table_is_named(tmp_path):
    write_phases(tmp_path / "run", 2)
    table = tmp_path / "run" / "rollouts" / "phase-000002.parquet"
    table.write_bytes(table.read_bytes()[:-20])
    assert len(read_run(tmp_path / "run").rollouts(1)) == 2
    with pytest.raises(RunError, match="phase-000002.parquet: cannot be read"):
        read_run(tmp_path / "run").rollouts(2)


def test_columns_of_a_newer_writer_pass_through_and_a_newer_schema_is_refused(tmp_path):
    write_phases(tmp_path / "run", 1)
    frame = pd.read_parquet(tmp_path / "run" / "rollouts" / "phase-000001.parquet").assign(shape_of_things="x")
    frame.to_parquet(tmp_path / "run" / "rollouts" / "phase-000002.parquet")
    assert (
        read_run(tmp_path / "run").rollouts()["shape_of_things"].tolist() == [None, None, "x", "x"]
        or read_run(tmp_path / "run").rollouts()["shape_of_things"].isna().sum() == 2
    )
    settings = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(settings | {"schema_version": 99}))
    with pytest.raises(RunError, match="newer version"):
        read_run(tmp_path / "run")


WRITER = textwrap.dedent("""
    import sys
    from test_runs import rollout
    from spurious_rlvr.runs import create_run
    writer = create_run(sys.argv[1])
    print("ready", flush=True)
    for phase in range(1, 10**6):
        writer.write_rollouts(phase, [rollout(phase, sample) for sample in range(8)])
        with writer.checkpoint(phase) as folder: (folder/"weights").write_text(str(phase) * 1000)
        writer.log("phase", phase=phase)
""")


@pytest.mark.parametrize("attempt", range(6))
def test_killed_at_any_moment_everything_finished_reads(tmp_path, attempt):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "run")], stdout=subprocess.PIPE, cwd=os.path.dirname(__file__)
    )
    process.stdout.readline()
    time.sleep(0.02 + random.Random(attempt).random() * 0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = read_run(tmp_path / "run")
    finished = run.of_kind("phase")["phase"].astype(int).tolist() if not run.metrics.empty else []
    assert finished == list(range(1, len(finished) + 1))
    assert set(finished) <= set(run.phases) and len(run.phases) <= len(finished) + 1
    for phase in run.phases:
        assert len(run.rollouts(phase)) == 8
    if finished:
        assert (run.latest_checkpoint / "weights").read_text() in (
            str(finished[-1]) * 1000,
            str(finished[-1] + 1) * 1000,
        )


def test_a_table_that_trl_wrote_twice_is_read_once(tmp_path):
    frame = pd.DataFrame(
        dict(step=1, prompt=["1 + 1?"] * 2, completion=["2", "2"], accuracy_reward=[1.0, 1.0], advantage=[0.0, 0.0])
    )
    for number, table in enumerate([frame, frame.assign(step=2), frame.assign(step=3, completion=["2", "3"])], 1):
        table.to_parquet(tmp_path / f"completions_{number:05d}.parquet")
    with pytest.warns(UserWarning, match="1 of 3 files repeat the one before"):
        found = import_rollouts(tmp_path)
    assert found["completion"].tolist() == ["2", "2", "2", "3"]
