"""How often a clean run is said to be faulty, and how fast 100,000 rollouts are read: `python benchmarks/diagnose.py`.

Fifty organisms are trained with rewards that are about the outcome; reward, length, repeated prompts, temperature and
format vary. A fault raised on any of them is a false alarm. The thresholds in `diagnose.RULES` were set on the runs of
`--calibrate`, which have other seeds. `--speed` writes 100,000 rollouts as TRL and as JSON Lines and diagnoses them.
Results go to benchmarks/results/diagnose.json.
"""

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from machine import described

REWARDS = (
    "ground_truth",
    "0.9 * ground_truth + 0.1 * boxed_format",
    "ground_truth & boxed_format",
    "2 * ground_truth - 0.5 * ~boxed_format",
)
FORMATS = ("run folder", "TRL", "verl", "prime-rl", "open-instruct", "table")


def setting(number, first):
    "What varies between clean runs, drawn by the run's number."
    from spurious_rlvr.core import keyed_rng, organism_names

    rng = keyed_rng(first, "clean runs", number)
    choose = lambda values: values[int(rng.integers(len(values)))]  # noqa: E731
    return dict(
        organism=choose(organism_names()),
        reward=choose(REWARDS),
        problems=choose((12, 64, 400)),
        temperature=choose((0.7, 1.0, 1.2)),
        max_completion_length=choose((20, 24, 32)),
        num_generations=choose((4, 8, 16)),
        learning_rate=choose((0.03, 0.1, 0.2)),
        format=FORMATS[number % len(FORMATS)],
    )


def clean_run(number, first, folder):
    "Trains one, writes it in its format, and diagnoses it."
    import rollout_files as files

    from spurious_rlvr import diagnose, organisms, train
    from spurious_rlvr.runs import read_run

    chosen = setting(number, first)
    fields = ("temperature", "max_completion_length", "num_generations", "learning_rate")
    config = dataclasses.replace(
        train.PRESETS["organism"],
        phases=6,
        prompts_per_phase=12,
        minibatch_size=4 * chosen["num_generations"],
        seed=first + number,
        **{name: chosen[name] for name in fields},
    )
    place = Path(folder) / f"run-{number}"
    problems = organisms.training_problems(chosen["problems"])
    policy = organisms.load(chosen["organism"])
    train.train(policy, problems, chosen["reward"], config, place, progress=False)
    run = read_run(place)
    frame, written = run.rollouts(), Path(folder) / f"written-{number}"
    if chosen["format"] == "table":
        path = Path(f"{written}.jsonl")
        frame[["phase", "prompt", "completion", "gold", "reward"]].to_json(path, orient="records", lines=True)
    else:
        writers = {"TRL": files.to_trl, "verl": files.to_verl, "prime-rl": files.to_prime}
        writers["open-instruct"] = files.to_open_instruct
        path = place if chosen["format"] == "run folder" else writers[chosen["format"]](frame, written)
    found = diagnose.diagnose(path, tokenizer=policy.decode if chosen["format"] == "open-instruct" else None)
    faults = {f.id: [f.value, f.low, f.high] for f in found.of("fault")}
    return chosen | dict(faults=faults, warnings=[f.id for f in found.of("warning")], rollouts=found.rollouts)


def clean(runs, first):
    "The false alarms among clean runs, with Clopper and Pearson's interval."
    from scipy.stats import binomtest

    begun, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(runs):
            rows.append(clean_run(number, first, folder))
            print(json.dumps(rows[-1]), flush=True)
    raised = sum(bool(row["faults"]) for row in rows)
    low, high = binomtest(raised, runs).proportion_ci(0.95, "exact")
    warned = sorted({name for row in rows for name in row["warnings"]})
    return dict(
        runs=runs,
        raised=raised,
        low=round(float(low), 4),
        high=round(float(high), 4),
        holds=raised <= 3,
        warnings={name: sum(name in row["warnings"] for row in rows) for name in warned},
        faults=[row for row in rows if row["faults"]],
        seconds=round(time.perf_counter() - begun),
    )


def many_rollouts(count, folder):
    "Rollouts of some 700 characters, sixteen a prompt, as TRL's tables and as JSON Lines."
    import pandas as pd

    from spurious_rlvr.core import keyed_rng

    rng, words = keyed_rng(0, "many"), "we add the two numbers first then check that each step holds and so on".split()
    groups, rows = count // 16, []
    for group in range(groups):
        gold = int(rng.integers(2, 99))
        for _ in range(16):
            right = rng.random() < 0.5
            text = " ".join(words[i] for i in rng.integers(0, len(words), 150))
            end = f"\n```python\nprint({gold})\n```\n" if rng.random() < 0.3 else " "
            answer = f"\\boxed{{{gold if right else gold + 1}}}"
            prompt = f"Problem {group}: what is {gold} plus nothing at all, please?"
            rows.append((1 + group * 50 // groups, prompt, f"{text}{end}{answer}", str(gold), float(right)))
    frame = pd.DataFrame(rows, columns=["step", "prompt", "completion", "solution", "grader"])
    frame["advantage"] = frame["grader"] - frame.groupby("prompt")["grader"].transform("mean")
    (Path(folder) / "trl").mkdir()
    order = ["step", "prompt", "completion", "grader", "advantage", "solution"]
    for step, part in frame.groupby("step"):
        part[order].to_parquet(Path(folder) / "trl" / f"completions_{step:05d}.parquet", index=False)
    plain = frame.rename(columns={"grader": "score", "prompt": "input", "completion": "output", "solution": "gts"})
    plain.drop(columns="advantage").to_json(Path(folder) / "verl.jsonl", orient="records", lines=True)


def speed(count=100_000):
    "Seconds of the clock and of the processor, and peak memory of the command, in a process of its own."
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        many_rollouts(count, folder)
        for name in ("trl", "verl.jsonl"):
            code = "import sys; from spurious_rlvr.cli import main; main()"
            begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            asked = ["diagnose", str(Path(folder) / name), "--out", f"{folder}/out-{name}"]
            subprocess.run([sys.executable, "-c", code, *asked], check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - begun
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            peak, load = after.ru_maxrss / 2**20, os.getloadavg()[0]
            results[name] = dict(rollouts=count, seconds=round(seconds, 1), cpu_seconds=round(busy, 1))
            results[name] |= dict(peak_gib=round(peak, 2), load=round(load, 1))
            results[name]["holds"] = seconds <= 60 and peak <= 2
            print(json.dumps(results[name]), flush=True)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibrate", type=int, metavar="RUNS", help="runs to set thresholds on; not recorded")
    parser.add_argument("--speed", action="store_true", help="only the speed")
    parser.add_argument("--runs", type=int, default=50, help="clean runs")
    asked = parser.parse_args()
    if asked.calibrate:
        print(json.dumps(clean(asked.calibrate, 1_000)))
        raise SystemExit
    out = ROOT / "benchmarks" / "results" / "diagnose.json"
    told = json.loads(out.read_text()) if out.exists() else {}
    told |= described("pandas", "trl") | dict(speed=speed())
    if not asked.speed:
        told["clean"] = clean(asked.runs, 0)
    out.write_text(json.dumps(told, indent=1) + "\n")
    print(out)
