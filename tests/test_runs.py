"Run folders after crashes: whatever byte the writing stopped at, what was finished reads. And files of other tools."

import dataclasses
import gzip
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
from hypothesis import given, settings
from hypothesis import strategies as st

from spurious_rlvr.core import DataError, Rollout, RunError
from spurious_rlvr.runs import (
    create_run,
    import_evaluation,
    import_rollouts,
    read_run,
    resume_run,
    rollout_table,
)


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


# --- text that cannot be written


def test_a_run_folder_keeps_lone_surrogates_as_their_escape(tmp_path):
    writer = create_run(tmp_path / "run", config=dict(note="\ud800"))
    odd = dataclasses.replace(
        rollout(1), completion="so \ud83d", prompt="\udfff", answer="\ud800", rewards={"\ud800": 1.0}
    )
    writer.write_rollouts(1, [odd])
    writer.write_evaluation(0, "heldout", [odd])
    writer.log("status", text="\ud800")
    run = read_run(tmp_path / "run")
    for frame in (run.rollouts(), run.evaluation(0, "heldout"), import_rollouts(run.path), import_evaluation(run.path)):
        assert frame[["completion", "prompt", "answer"]].values.tolist() == [["so \\ud83d", "\\udfff", "\\ud800"]]
    assert rollout_table([{"tags\ud800": ["\ud800", "b"]}])["tags\\ud800"].to_pylist() == [["\\ud800", "b"]]


@pytest.mark.parametrize("name", ["dump.jsonl", "DUMP.JSONL", "dump.jsonl.gz", "dump.json", "dump.json.gz"])
@pytest.mark.parametrize("bare", [False, True])
def test_rollouts_and_evaluations_with_lone_surrogates_are_imported(tmp_path, name, bare):
    rows = [
        {
            "id": "\ud800",
            "prompt": "1 + 1?",
            "completion": [{"role": "assistant", "content": "2 \ud83d"}],
            "correct": True,
        },
        {"id": "b", "prompt": "2 + 2?", "completion": "\udfff 4", "correct": False},
    ]
    texts = [json.dumps(row, ensure_ascii=not bare) for row in rows]
    text = "\n".join(texts) if "jsonl" in name.lower() else '{"data": [' + ",".join(texts) + "]}"
    data = text.encode("utf-8", "surrogatepass")
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    with pytest.warns(UserWarning, match="row 1: holds a lone surrogate") as said:
        rollouts = import_rollouts(tmp_path / name)
        evaluation = import_evaluation(tmp_path / name)
    assert len(said) == 2
    for frame in (rollouts, evaluation):
        assert frame["completion"].tolist() == ["2 \\ud83d", "\\udfff 4"]
        assert frame["problem_id"].tolist() == ["\\ud800", "b"]
        frame.to_parquet(tmp_path / "again.parquet")  # as whoever keeps it would
        assert pd.read_parquet(tmp_path / "again.parquet")["completion"].tolist() == frame["completion"].tolist()


def test_a_log_of_inspect_with_lone_surrogates_and_several_targets(tmp_path):
    scores = {"match": {"value": "I", "answer": "1/2"}}
    sample = {"id": 1, "input": "Half?", "target": ["a half", "0.5"], "scores": scores}
    sample["output"] = {"completion": "\\boxed{1/2} \ud83d"}
    (tmp_path / "log.json").write_text(json.dumps({"eval": {}, "samples": [sample]}))
    assert import_evaluation(tmp_path / "log.json")["gold"].tolist() == ["a half"]
    again = import_evaluation(tmp_path / "log.json", grade=True)
    assert again["correct"].tolist() == [True] and again["completion"].tolist() == ["\\boxed{1/2} \\ud83d"]


def test_graded_again_any_of_several_golds_is_right(tmp_path):
    rows = [
        {"id": "a", "output": "\\boxed{0.5}", "gt": ["a half", "1/2"], "score": 0},
        {"id": "b", "output": "\\boxed{0.5}", "gt": '["a half", "1/2"]', "score": 0},
        {"id": "c", "output": "\\boxed{0.5}", "gt": "1/3", "score": 1},
    ]
    (tmp_path / "dump.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = import_evaluation(tmp_path / "dump.jsonl", grade=True)
    assert again["correct"].tolist() == [True, True, False] and again["gold"].tolist() == ["a half", "a half", "1/3"]


def test_a_table_of_a_spreadsheet_is_imported(tmp_path):
    (tmp_path / "dump.csv").write_text('prompt,completion,reward\n1+1?,"2, I think",1\n')
    frame = import_rollouts(tmp_path / "dump.csv")
    assert frame[["prompt", "completion"]].values.tolist() == [["1+1?", "2, I think"]]


# --- whatever stands in a file, it is read or refused in one line

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.floats()
    | st.sampled_from(["", "a", "C", "\ud800", '["1", "2"]']),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["content", "a", "value", "0"]), inner),
    max_leaves=4,
)
keys = st.sampled_from(
    "id doc_id doc resps filtered_resps filter metrics arguments target samples eval scores output input epoch error"
    " prompt completion completions reward score correct gold gts answer step sample phase advantage data".split()
)
records = st.dictionaries(keys, values, max_size=6)


@pytest.mark.filterwarnings("ignore:.*lone surrogate")
@given(st.lists(records | values, max_size=3), st.sampled_from(["jsonl", "json", "wrapped", "inspect", "harness"]))
@settings(max_examples=200, deadline=None)
def test_any_records_are_imported_or_refused_in_one_line(tmp_path_factory, rows, form):
    path = tmp_path_factory.mktemp("any") / ("dump.jsonl" if form in ("jsonl", "harness") else "dump.json")
    if form == "harness":
        rows = [{"doc_id": 1, "resps": [["a"]], "acc": 1} | row if isinstance(row, dict) else row for row in rows]
    lines = [json.dumps(row) for row in rows]
    listed = "[" + ",".join(lines) + "]"
    texts = dict(json=listed, wrapped='{"data": ' + listed + "}", inspect='{"eval": {}, "samples": ' + listed + "}")
    path.write_text(texts.get(form, "\n".join(lines)))
    for read in (import_rollouts, import_evaluation):
        try:
            read(path)
        except DataError as error:
            assert len(str(error).splitlines()) == 1 and path.name in str(error)
