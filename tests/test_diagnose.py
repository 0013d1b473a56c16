"Faults that were planted are found, clean runs are left alone, and whatever a file holds is only looked at."

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rollout_files as files

from spurious_rlvr import diagnose, organisms, train
from spurious_rlvr.core import ConfigError, DataError, keyed_rng
from spurious_rlvr.diagnose import RULES, SEVERITIES, lint_reward, read_table, seeds, what_if
from spurious_rlvr.runs import read_run

FIXED_IDS = """dead_groups phantom_advantages group_of_one grader_false_negatives grader_false_positives
unreadable_golds clip_could_bind clip_fraction ratio_noise behavior_drift majority_explains truncation repetition
duplicates repeated_completions contamination""".split()
BAD = ("fault", "warning")
SHORT = dataclasses.replace(
    train.PRESETS["organism"], phases=6, prompts_per_phase=16, num_generations=8, minibatch_size=32, learning_rate=0.1
)


def trained(folder, reward="ground_truth", **changes):
    config = dataclasses.replace(SHORT, **changes)
    train.train(organisms.load("qwen-like"), organisms.training_problems(96), reward, config, folder, progress=False)
    return read_run(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "base")


@pytest.fixture(scope="module")
def frame(run):
    return run.rollouts()


# ------------------------------------------------------------------ planted faults


@pytest.mark.parametrize("form", ["run folder", "TRL"])
@pytest.mark.parametrize("id, plant", [(id, f) for id, several in files.FAULTS.items() for f in several])
def test_a_planted_fault_is_found(tmp_path, run, frame, form, id, plant):
    planted = plant(frame)
    if form == "TRL":
        path = files.to_trl(planted, tmp_path / "trl", extra=files.LOGPROBS if plant is files.bf16 else ())
    else:
        path = files.to_run_folder(run, planted, tmp_path / "run")
    found = diagnose.diagnose(path)
    assert found.format == form
    assert found[id].severity == ("fault" if RULES[id].family in ("signal", "grader", "bookkeeping") else "warning")
    others = {f.id for f in found.of("fault")} - {id}
    allowed = (
        {"dead_groups"} if plant in (files.rounding,) else {"not_a_number"} if plant is files.duplicates else set()
    )
    assert others <= allowed, found.sentences()


def test_one_update_a_phase_is_found(tmp_path):
    one = trained(tmp_path / "one", phases=3, minibatch_size=128)
    assert diagnose.diagnose(one)["clip_could_bind"].severity == "warning"
    as_trl = files.to_trl(one.rollouts(), tmp_path / "trl", updates=1)
    assert diagnose.diagnose(as_trl)["clip_could_bind"].severity == "warning"
    several = files.to_trl(one.rollouts(), tmp_path / "more", updates=4)
    assert diagnose.diagnose(several)["clip_could_bind"].severity == "ok"


def test_where_the_clip_acts_is_told_by_the_old_probability(frame):
    found = diagnose.diagnose(frame)["clip_fraction"]
    kept = frame[frame["clip_side"].notna()]
    side, old = (np.concatenate([np.ravel(row) for row in kept[name]]) for name in ("clip_side", "logprob_old"))
    bins = found.details["by_probability"]
    assert sum(b["tokens"] for b in bins) == len(side) and any(b["above"] + b["below"] > 0 for b in bins)
    for b in bins:
        inside = (np.exp(old) >= b["from"]) & (np.exp(old) < b["to"] + 1e-6 * (b["to"] == 1))
        assert b["tokens"] == inside.sum()
        assert b["above"] == (side[inside] == 1).mean() and b["below"] == (side[inside] == -1).mean()
    assert "Most often where π_old is" in found.sentence
    assert diagnose.diagnose(frame.drop(columns=["logprob_old"]))["clip_fraction"].details["by_probability"] == []


def test_the_planted_rows_are_the_ones_behind_it(frame):
    planted = files.truncated(frame)
    found = diagnose.diagnose(planted)["truncation"]
    cut = planted["finish_reason"].eq("length").to_numpy()
    assert found.rows and cut[found.rows].all()
    assert found.low < cut.mean() < found.high
    twice = files.duplicates(frame)
    found = diagnose.diagnose(twice)["duplicates"]
    assert abs(found.value - 0.4 / 1.4) < 0.02
    keys = list(zip(twice["phase"], twice["group"], twice["sample"]))
    assert all(keys[row] in keys[:row] for row in found.rows)


def test_seeds_that_repeat_are_found_with_and_without_log_probabilities(frame):
    def repeated(part):  # the second half of each group repeats the first
        halves = part.sort_values("sample")
        first = halves.iloc[: len(halves) // 2]
        return pd.concat([first, first.assign(sample=first["sample"] + len(first))])

    early = frame[frame["phase"] <= 4]
    twice = pd.concat([repeated(part) for _, part in early.groupby(["phase", "group"])], ignore_index=True)
    assert diagnose.diagnose(twice)["repeated_completions"].severity == "fault"
    texts = twice.drop(columns=[*files.LOGPROBS, "entropy", "clip_side", "out_of_band", "token_ids"])
    assert diagnose.diagnose(texts)["repeated_completions"].severity == "fault"
    assert diagnose.diagnose(frame)["repeated_completions"].severity == "ok"  # equal texts, as often as they should be


def test_a_temperature_that_does_not_fit_is_found(tmp_path, frame):
    assert diagnose.diagnose(frame)["temperature"].severity == "unknown"  # entropies of mixed groups alone are a choice
    whole = trained(tmp_path / "whole", phases=3, skip_zero_advantages=False).rollouts()
    assert diagnose.diagnose(whole)["temperature"].severity in ("ok", "note")
    hot = whole.assign(entropy=[2.0 * v for v in whole["entropy"]])
    assert diagnose.diagnose(hot)["temperature"].severity == "fault"


def test_golds_that_cannot_be_judged_and_false_positives_are_found(frame):
    golds = [f"proof {i // 8}" if i // 8 % 3 == 0 else g for i, g in enumerate(frame["gold"])]
    assert diagnose.diagnose(frame.assign(gold=golds))["unreadable_golds"].severity in BAD
    wrong = frame["correct"].eq(False) & (keyed_rng(0, "fp").random(len(frame)) < 0.6)
    paid = frame.assign(reward=np.where(wrong, 1.0, frame["reward"])).drop(columns="reward_ground_truth")
    found = diagnose.diagnose(paid)["grader_false_positives"]
    assert found.severity == "fault" and abs(found.value - 0.6) < 0.1


def test_a_reward_that_pays_the_majority_is_a_warning(frame):
    wrong = np.arange(len(frame)) // 8 % 2 == 0  # of half of the groups the most frequent answer is not the gold one
    answers = np.where(keyed_rng(0, "majority").random(len(frame)) < 0.7, "1", "2")
    gold = np.where(wrong, "2", "1")
    table = pd.DataFrame(
        dict(phase=frame["phase"], group=frame["group"], prompt=frame["prompt"], gold=gold)
        | dict(completion=[f"\\boxed{{{a}}}" for a in answers], reward=(answers == "1").astype(float))
    )
    found = diagnose.diagnose(table)["majority_explains"]
    assert found.severity == "warning" and found.low > 0.1
    honest = table.assign(reward=(answers == gold).astype(float))
    assert diagnose.diagnose(honest)["majority_explains"].severity in ("ok", "note")


def test_benchmark_problems_in_training_are_found(tmp_path, frame):
    words = "Ada has {} apples and gives two of them to each of her friends until none are left at all"
    table = frame.assign(prompt=[words.format(n) for n in frame["problem_id"]])
    bench = tmp_path / "bench.jsonl"
    bench.write_text(json.dumps(dict(problem=table["prompt"].iloc[0], answer="1")))
    found = diagnose.diagnose(table, benchmarks=[bench])["contamination"]
    assert found.severity == "warning"
    bench.write_text(json.dumps(dict(problem="Something else that nobody was ever asked in this training at all")))
    assert diagnose.diagnose(table, benchmarks=[bench])["contamination"].severity == "ok"
    assert diagnose.diagnose(table)["contamination"].severity == "unknown"


# ------------------------------------------------------------------ formats


def test_what_is_common_to_the_formats_is_the_same(tmp_path, run, frame):
    tables = {
        "run folder": read_table(run),
        "TRL": read_table(files.to_trl(frame, tmp_path / "trl")),
        "verl": read_table(files.to_verl(frame, tmp_path / "verl")),
        "prime-rl": read_table(files.to_prime(frame, tmp_path / "prime")),
        "prime-rl, traces": read_table(files.to_prime_traces(frame, tmp_path / "traces")),
    }
    for name, table in tables.items():
        assert table.format == name.partition(",")[0]
        assert table.frame["completion"].tolist() == frame["completion"].tolist()
        assert table.frame["gold"].tolist() == frame["gold"].tolist()
        assert table.frame["_group"].nunique() == 6 * 16
        assert np.allclose(table.frame["reward"], frame["reward"])
        assert np.allclose(table.frame["advantage"], frame["advantage"], atol=1e-5)
    found = {name: diagnose.diagnose(table) for name, table in tables.items()}
    values = {name: (d["dead_groups"].value, round(d["phantom_advantages"].value, 9)) for name, d in found.items()}
    assert len(set(values.values())) == 1
    assert not any(d.of("fault") for d in found.values())


def test_traces_hold_the_tokens_of_the_last_branch(tmp_path, frame):
    table = read_table(files.to_prime_traces(frame, tmp_path / "traces"))
    for name in ("token_ids", "logprob_sampler"):
        assert all(np.allclose(theirs, ours) for theirs, ours in zip(table.frame[name], frame[name]))
    assert table.frame["finish_reason"].tolist() == frame["finish_reason"].tolist()
    repeats = diagnose.diagnose(table)["repeated_completions"]
    assert np.isclose(repeats.value, diagnose.diagnose(frame)["repeated_completions"].value)


@pytest.mark.parametrize("write", [files.to_prime_traces, files.to_prime, files.to_open_instruct])
def test_a_record_of_another_shape_is_read_or_refused_by_its_place(tmp_path, frame, write):
    folder = write(frame.head(16), tmp_path / "as written")
    lines = [line for file in folder.rglob("*rollouts*.jsonl") for line in file.read_text().splitlines()]
    records, path, refused = [json.loads(line) for line in lines], tmp_path / "other.jsonl", 0
    for name in records[0]:
        for bad in (None, 5, "x", [], {"a": 1}, [1], float("inf")):
            path.write_text("\n".join(json.dumps(r if i != 3 else r | {name: bad}) for i, r in enumerate(records)))
            try:
                read_table(path)
            except DataError as error:
                assert "\n" not in str(error) and "other.jsonl" in str(error)
                refused += 1
    assert refused or write is files.to_prime  # prime-rl's earlier files hold nothing that must be there


def test_a_csv_says_what_json_says(tmp_path, frame):
    columns = ["phase", "group", "sample", "prompt", "completion", "gold", "reward", "reward_ground_truth", "correct"]
    frame[columns].to_csv(tmp_path / "r.csv", index=False)
    frame[columns].to_json(tmp_path / "r.jsonl", orient="records", lines=True)
    first, second = (diagnose.diagnose(tmp_path / f"r.{kind}").as_json() for kind in ("csv", "jsonl"))
    assert first == second


def test_validation_of_verl_is_no_training(tmp_path, frame):
    folder = files.to_verl(frame.assign(phase=frame["phase"] - 1), tmp_path / "verl")
    found = diagnose.diagnose(folder)
    assert {found[id].severity for id in ("dead_groups", "group_of_one", "phantom_advantages")} == {"unknown"}
    assert diagnose.diagnose(files.to_verl(frame, tmp_path / "training"))["dead_groups"].severity != "unknown"


def test_who_is_alone_has_no_baseline_unless_another_was_used(frame):
    alone = frame[frame["sample"] == 0]
    still = alone.assign(advantage=0.0)
    assert diagnose.diagnose(still)["group_of_one"].severity == "fault"
    moved = alone.assign(advantage=1.0)
    assert diagnose.diagnose(moved)["group_of_one"].severity == "note"
    assert diagnose.diagnose(alone.drop(columns="advantage"))["group_of_one"].severity == "note"


def test_a_folder_of_runs_is_said_to_be_one(tmp_path, run):
    files.to_run_folder(run, run.rollouts(), tmp_path / "first")
    with pytest.raises(DataError, match="run folder.*first"):
        diagnose.diagnose(tmp_path)


def test_what_a_model_knows_by_heart_is_found(tmp_path, frame, capsys):
    from spurious_rlvr.cli import app

    bench = tmp_path / "bench.jsonl"
    rows = [dict(question=p.question, answer=p.gold) for p in organisms.benchmark()[:64]]
    bench.write_text("\n".join(map(json.dumps, rows)))
    known = diagnose.diagnose(frame, benchmarks=[bench], model=organisms.load("leaked"))["partial_prompts"]
    assert known.severity == "warning" and known.low > 0.8
    assert [known.details["by_share"][s]["questions"] for s in ("0.4", "0.6", "0.8")] == [64] * 3
    frame.drop(columns=list(files.LOGPROBS)).head(64).to_parquet(tmp_path / "r.parquet")
    asked = ["diagnose", str(tmp_path / "r.parquet"), "--benchmark", str(bench), "--model", "llama-like"]
    app([*asked, "--json", str(tmp_path / "f.json")], standalone_mode=False)
    told = json.loads((tmp_path / "f.json").read_text())["findings"]
    new = next(f for f in told if f["id"] == "partial_prompts")
    assert new["severity"] == "ok" and new["value"] < 0.1 and "word for word" in new["sentence"]
    with pytest.raises(ConfigError, match="benchmark"):
        diagnose.diagnose(frame, model=organisms.load("leaked"))


def test_what_trl_itself_wrote_is_read():
    folder = Path(__file__).parent / "data/rollouts/trl-1.16"  # four steps, two on each sampling, two rewards
    table = read_table(folder)
    assert (table.format, table.updates, len(table.frame)) == ("TRL", 2.0, 64)
    assert table.frame["_group"].value_counts().unique().tolist() == [4]
    theirs = advantages_of(table.frame)
    assert np.allclose(theirs, table.frame["advantage"], atol=1e-4)
    found = diagnose.diagnose(folder)
    assert found["clip_could_bind"].value == 1 and not found.of("fault")
    alone = diagnose.diagnose(folder / "completions_00001.parquet")
    assert alone["clip_could_bind"].severity == "unknown" and alone.rollouts == 32


def advantages_of(frame):
    return diagnose.advantages(frame["reward"], frame["_group"])


def test_open_instruct_needs_a_tokenizer_for_texts(tmp_path, frame):
    folder = files.to_open_instruct(frame, tmp_path / "oi")
    bare = diagnose.diagnose(folder)
    assert bare.format == "open-instruct" and bare["repetition"].severity == "unknown"
    assert bare["dead_groups"].value == diagnose.diagnose(frame)["dead_groups"].value
    policy = organisms.load("qwen-like")
    table = read_table(folder, tokenizer=lambda ids: policy.tokenizer.decode(ids, skip_special_tokens=True))
    assert table.frame["completion"].tolist() == frame["completion"].tolist()
    with pytest.raises(ConfigError, match="tokenizer.json"):
        read_table(folder, tokenizer=tmp_path)


def test_evaluations_are_not_asked_about_training(tmp_path):
    rows = [
        dict(doc_id=i, doc=dict(question="q"), target="4", resps=[[f"\\boxed{{{4 + i % 2}}}"]], exact_match=1.0 - i % 2)
        | dict(arguments=[["q"]], filtered_resps=["4"], filter="none", metrics=["exact_match"])
        for i in range(20)
    ]
    path = tmp_path / "samples_x.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    two = [row | {"filter": name} for name in ("strict-match", "flexible-extract") for row in rows]
    (tmp_path / "two.jsonl").write_text("\n".join(map(json.dumps, two)))
    with pytest.raises(DataError, match="filter="):
        diagnose.diagnose(tmp_path / "two.jsonl")
    assert diagnose.diagnose(tmp_path / "two.jsonl", filter="strict-match").rollouts == 20
    found = diagnose.diagnose(path)
    assert found.format == "lm-evaluation-harness"
    assert {found[id].severity for id in ("dead_groups", "group_of_one", "phantom_advantages")} == {"unknown"}
    log = dict(version=2, eval=dict(task="t"), samples=[])
    for i in range(4):
        output = dict(choices=[dict(message=dict(content="\\boxed{4}"), stop_reason="stop")])
        sample = dict(
            id=i, epoch=1, input="q", target="4", output=output, scores=dict(match=dict(value="C", answer="4"))
        )
        log["samples"].append(sample)
    path = tmp_path / "log.json"
    path.write_text(json.dumps(log))
    assert diagnose.diagnose(path).format == "Inspect"
    for sample in log["samples"]:
        sample |= dict(target="", scores={"one": dict(value="C"), "other": dict(value="I")})
    path.write_text(json.dumps(log))
    with pytest.raises(DataError, match="metric="):
        diagnose.diagnose(path)
    without = diagnose.diagnose(path, metric="one")
    assert without["unreadable_golds"].severity == "unknown" and not without.of("fault")


def test_the_formats_own_words_are_complete():
    table = diagnose.formats_table()
    assert set(table.index) == set(diagnose.FORMATS) and not table.isna().any().any()


# ------------------------------------------------------------------ what is promised of the output


def test_the_json_has_the_promised_form(tmp_path, run):
    from spurious_rlvr.cli import app

    file = tmp_path / "findings.json"
    app(["diagnose", str(run.path), "--json", str(file), "--out", str(tmp_path / "out")], standalone_mode=False)
    told = json.loads(file.read_text())
    assert list(told) == ["findings", "format", "rollouts"] and told["rollouts"] == 768
    assert set(FIXED_IDS) <= {f["id"] for f in told["findings"]}
    for found in told["findings"]:
        assert list(found) == ["id", "severity", "value", "low", "high", "sentence", "rows"]
        assert found["severity"] in SEVERITIES and isinstance(found["sentence"], str)
        assert all(isinstance(v, (int, float, type(None))) for v in (found["value"], found["low"], found["high"]))
        assert (found["value"] is None) == (found["severity"] == "unknown")
        assert all(isinstance(row, int) and 0 <= row < 768 for row in found["rows"])
    order = [SEVERITIES.index(f["severity"]) for f in told["findings"]]
    assert order == sorted(order)
    assert json.loads((tmp_path / "out" / "findings.json").read_text()) == told


def test_only_signal_grader_and_bookkeeping_can_be_faults():
    assert {r.family for r in RULES.values() if np.isfinite(r.fault)} == {"signal", "grader", "bookkeeping"}


def test_hostile_texts_are_shown_and_nothing_more(tmp_path):
    bad = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>|`*_\ud800\u202e"
    rows = [
        dict(prompt=f"{bad} {i // 4}", completion=bad * (1 + i % 3), gold=bad, reward=float(i % 2), reward_x=0.5)
        for i in range(64)
    ]
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    found = diagnose.diagnose(path)
    page = diagnose.write_report(found, tmp_path / "out", title=bad.replace("\ud800", "")).read_text()
    assert "<img" not in page and "<script>document" not in page
    assert "<img" not in (tmp_path / "out" / "report.md").read_text().replace("\\<img", "")


@pytest.mark.browser
def test_the_page_with_its_stepper_is_quiet_and_safe(tmp_path, frame, chromium):
    from spurious_rlvr.cli import _stepper_of

    bad = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    table = frame.assign(
        completion=[f"{bad} {t}" for t in frame["completion"]], prompt=[bad + p for p in frame["prompt"]]
    )
    found = diagnose.diagnose(table)
    path = diagnose.write_report(found, tmp_path / "out", "a run", _stepper_of(found))
    page, messages = chromium.new_page(viewport=dict(width=1200, height=800)), []
    page.on("console", lambda m: messages.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector(".stepper [data-mounted]")
    page.click(".links a >> nth=0")
    page.wait_for_timeout(200)
    assert "part=" in page.url and page.title() == "a run" and messages == []
    page.set_viewport_size(dict(width=390, height=800))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize(
    "content, said",
    [
        ("", "no completions"),
        ("[1, 2]\n", "must be an object"),
        ('{"prompt": "1+1?"}\n', "no completions"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(tmp_path, content, said):
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=said) as raised:
        diagnose.diagnose(path)
    assert "\n" not in str(raised.value)


def test_a_table_with_holes_is_looked_at_all_the_same(frame):
    holes = frame.copy()
    holes.loc[holes.index[::7], "completion"] = None
    holes.loc[holes.index[::11], "reward"] = np.nan
    holes.loc[holes.index[5], "advantage"] = np.nan
    found = diagnose.diagnose(holes)
    assert found["not_a_number"].severity in ("note", "warning", "fault") and 5 in found["not_a_number"].rows
    assert diagnose.diagnose(frame)["not_a_number"].value == 0
    few = diagnose.diagnose(pd.DataFrame(dict(completion=["\\boxed{1}"])))
    assert not few.of("fault", "warning") and len(few.findings) == len(RULES)


def test_nothing_heavy_is_imported_for_a_diagnosis(run):
    code = (
        "import sys; from spurious_rlvr.diagnose import diagnose; diagnose(sys.argv[1]);"
        "print(*{m.split('.')[0] for m in sys.modules} & {'torch', 'transformers', 'vllm', 'datasets'})"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# ------------------------------------------------------------------ statistics


def test_advantages_are_those_of_the_objective():
    from spurious_rlvr.objective import group_advantages

    rng = keyed_rng(0, "advantages")
    rewards, groups = rng.choice([0.0, 0.2, 1.0, np.nan], 400), np.repeat(np.arange(50), 8)
    for scale in ("group", "batch", "none"):
        theirs = group_advantages(rewards.tolist(), groups.tolist(), scale_rewards=scale).numpy()
        assert np.allclose(diagnose.advantages(rewards, groups, scale_rewards=scale), theirs, atol=1e-5)


def test_drift_finds_few_false_ones():
    rng, found = keyed_rng(0, "null drift"), 0
    names = list(diagnose.BEHAVIORS)[:20]
    for _ in range(40):
        rates = rng.uniform(0.1, 0.9, 20)
        first, last = (
            pd.DataFrame((rng.random((300, 20)) < rates).astype(float), columns=names).assign(
                _cluster=np.arange(300) // 3
            )
            for _ in range(2)
        )
        found += int((diagnose.drift_table(first, last)["q_value"] < 0.05).any())
    assert found <= 6  # 40 tables without drift; at a rate of .05 two are expected, seven come once in 300


def test_the_interval_of_a_clustered_share_covers():
    rng, inside = keyed_rng(0, "coverage"), 0
    for _ in range(400):
        rates = rng.beta(2, 3, 60)
        hits = rng.random((60, 8)) < rates[:, None]
        _, low, high = diagnose.clustered(hits.ravel(), np.ones(480), np.repeat(np.arange(60), 8))
        inside += low <= 0.4 <= high
    assert 365 <= inside <= 395  # of 400 at 95 %


# ------------------------------------------------------------------ lint, what if, seeds


def test_lint_finds_what_spoils_a_training(frame):
    assert lint_reward("ground_truth", frame).table().severity["runs"] == "ok"

    def sometimes_none(prompts, completions, **_):
        return [None if i % 3 else 1.0 for i, _ in enumerate(completions)]

    def pays_wrong(prompts, completions, gold, **_):
        return [0.0 if f"{{{g}}}" in c else 1.0 for c, g in zip(completions, gold)]

    assert lint_reward(sometimes_none, frame).table().severity["none"] == "warning"
    assert lint_reward(pays_wrong, frame).table().severity["agreement"] == "fault"
    always = lint_reward(lambda completions, **_: [1.0] * len(completions), frame)
    assert always.table().severity["variance"] == "fault"
    infinite = lint_reward(lambda completions, **_: [float("inf")] * len(completions), frame)
    assert infinite.worst == "fault" and "runs" in infinite.table().index
    with pytest.raises(ConfigError):
        lint_reward("no_such_reward", frame)


def test_lint_reward_from_the_command_line(tmp_path, run, capsys):
    from spurious_rlvr.cli import app

    app(["lint-reward", "boxed_format", "--on", str(run.path)], standalone_mode=False)
    assert "pay for nothing" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        app(["lint-reward", "0 * boxed_format", "--on", str(run.path)], standalone_mode=False)


def test_what_if_agrees_with_what_the_training_recorded(tmp_path):
    from spurious_rlvr.clipbias import gradient_mass

    shaped = trained(tmp_path / "shaped", "ground_truth + 0.5 * boxed_format", phases=3, learning_rate=0.3)
    masses = what_if(shaped)["mass"]
    recorded = gradient_mass(shaped, by="writes_code").rename(index=str)
    trained_mass = masses["as trained"]["writes_code"]
    assert np.allclose(trained_mass, (recorded["mass"] * recorded["kept"])[trained_mass.index], rtol=1e-4)
    assert np.allclose(masses["clip off"]["writes_code"], recorded["mass"][trained_mass.index], rtol=1e-4)
    assert masses["clip off"].sum() > masses["as trained"].sum()
    negated = what_if(shaped)["push"]
    assert np.sign(negated["negated"]["writes_code"]).equals(-np.sign(negated["as trained"]["writes_code"]))
    rest = masses["without boxed_format"]["writes_code"].sum()
    truth = read_table(shaped)
    truth.frame["reward"] = truth.frame["reward_ground_truth"]
    truth.frame["advantage"] = diagnose.advantages(truth.frame["reward"], truth.frame["_group"])
    assert np.isclose(what_if(truth)["mass"]["as trained"]["writes_code"].sum(), rest, rtol=1e-4)


def test_what_if_foretells_what_a_replay_makes(tmp_path):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
    import what_if as script

    rows = pd.DataFrame(script.rows_of("qwen-like", script.REWARDS[0], 7, tmp_path))
    as_trained = rows[rows["rule"] == "as trained"]
    assert np.allclose(as_trained["mass_foretold"], as_trained["mass_made"], rtol=1e-5)  # two routes to one sum
    others = rows[(rows["rule"] != "as trained") & (rows["mass_made"] > 0.01)]
    assert (others["mass_foretold"] / others["mass_made"] - 1).abs().mean() < 0.1
    assert others["clip_fraction_made"].max() > 0.01  # there was something to be wrong about
    moved = others[others["rule"].isin(["clip off", "negated"]) & (others["push_foretold"].abs() > 1e-3)]
    assert len(moved) >= 4 and (np.sign(moved["push_foretold"]) == np.sign(moved["log_odds_made"])).all()


def test_the_committed_replays_are_what_the_sentence_says():
    folder = Path(__file__).resolve().parent.parent / "benchmarks/results"
    told, rows = json.loads((folder / "what_if.json").read_text()), pd.read_csv(folder / "what_if.csv")
    assert told["rows"] == len(rows) and told["runs"] == rows["run"].nunique()
    moved = rows[rows["rule"] == "clip off"].dropna(subset=["log_odds_made"])
    same = (np.sign(moved["push_foretold"]) == np.sign(moved["log_odds_made"])).mean()
    assert np.isclose(told["rules"]["clip off"]["same_sign"]["value"], same, atol=0.02)
    assert {"date", "machine", "seconds"} <= set(told)


def test_what_if_truncated_masked(frame):
    cut = files.truncated(frame)
    masses = what_if(cut, by="finish_reason")["mass"]
    assert masses["as trained"]["finish_reason"]["length"] > 0
    assert masses["truncated masked"]["finish_reason"]["length"] == 0
    stopped = [masses[rule]["finish_reason"]["stop"] for rule in ("truncated masked", "as trained")]
    assert np.isclose(*stopped)


def test_what_if_knows_that_a_run_masked_what_was_cut_off(tmp_path):
    learnt = {}
    for masked in (True, False):
        short = dict(phases=2, max_completion_length=8, mask_truncated_completions=masked)
        told = what_if(trained(tmp_path / str(masked), "random:0.5", **short), by="finish_reason")["mass"]
        learnt[masked] = told["as trained"]["finish_reason"].get("length", 0.0)
    assert learnt[True] == 0 < learnt[False]


def test_seeds_tell_chance_and_where_runs_part(tmp_path, run):
    again = trained(tmp_path / "again")
    same = seeds([run, again])
    assert same.parting.phase is None
    other = trained(tmp_path / "other", seed=1)
    report = seeds([run, other])
    assert report.parting is None and report.needed[1] > report.needed[10] >= 2
    faster = seeds([run, trained(tmp_path / "faster", learning_rate=0.2)]).parting
    assert faster.phase == 2 and faster.cause in ("weights", "sampling or weights")
    order = trained(tmp_path / "order", prompts_per_phase=8)
    assert seeds([run, order]).parting.phase is not None


def test_the_committed_benchmark_holds():
    told = json.loads((Path(__file__).resolve().parent.parent / "benchmarks/results/diagnose.json").read_text())
    assert told["clean"]["runs"] == 50 and told["clean"]["raised"] <= 3
    assert told["clean"]["raised"] == len(told["clean"]["faults"])
    for took in told["speed"].values():
        assert took["rollouts"] == 100_000 and took["seconds"] <= 60 and took["peak_gib"] <= 2
