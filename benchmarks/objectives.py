"""Every objective under a coin, in full: `python benchmarks/objectives.py` writes `benchmarks/results/objectives.csv`
with all rows and `objectives.json` with the judgement. One thread, some minutes. `--again` takes the committed rows
and only asks again what they leave undecided."""

import argparse
import json
import os
import platform

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
import pathlib
import time

import numpy
import pandas as pd

from spurious_rlvr.clipbias import judge_objectives, objective_sentence, objective_table

RESULTS = pathlib.Path(__file__).parent / "results"
SEED = 0  # the default of `objective_table`, and the only one ever run here
TREE = ((0.9, 0.1), (0.5, 0.5))  # what follows each of two actions
PARTS = {  # name -> keywords of `objective_table`
    "two actions": dict(replicas=8_000),
    "two actions, 50 phases": dict(replicas=200, phases=50, spreads=(0.05, 0.2), informed=None),
    "ten actions": dict(replicas=1_000, actions=10, spreads=(0.05, 0.2)),
    "two-step tree": dict(replicas=2_000, answers=TREE, spreads=(0.05, 0.2)),
}
JUDGED = "two actions"  # with more, the log-odds of one action moves without any clip
AGAIN = dict(replicas=32_000, seed=1)  # for what is undecided; these rows replace the others


def measure():
    "All parts as one table, and the seconds of each."
    parts, seconds = [], {}
    for name, settings in PARTS.items():
        start = time.perf_counter()
        table = objective_table(**settings, seed=SEED)
        seconds[name] = round(time.perf_counter() - start, 1)
        parts.append(table.assign(policy=name, replicas=settings["replicas"]))
        print(name, seconds[name], "s", flush=True)
    return pd.concat(parts, ignore_index=True), seconds


def ask_again(table, seconds):
    "The table with more replicas for the objectives that it leaves undecided; others are not touched."
    start = time.perf_counter()
    judged = judge_objectives(table[table["policy"] == JUDGED])
    undecided = judged.loc[judged["verdict"] == "undecided", "objective"].tolist()
    if undecided:
        known = [*undecided, *({"unclipped"} - set(undecided))]  # learning is told in units of the unclipped
        more = objective_table(known, **AGAIN).assign(policy=JUDGED, replicas=AGAIN["replicas"])
        old = (table["policy"] == JUDGED) & table["objective"].isin(undecided)
        table = pd.concat([table[~old], more[more["objective"].isin(undecided)]], ignore_index=True)
    seconds["asked again"] = round(time.perf_counter() - start, 1)
    print("asked again:", ", ".join(undecided), seconds["asked again"], "s", flush=True)
    return table


def main(again):
    if again:
        table = pd.read_csv(RESULTS / "objectives.csv", keep_default_na=False, na_values=["nan", ""])
        table = table.assign(same_as=table["same_as"].fillna(""))
        seconds = json.loads((RESULTS / "objectives.json").read_text())["seconds"]
    else:
        table, seconds = measure()
    table = ask_again(table, seconds)
    verdicts = judge_objectives(table[table["policy"] == JUDGED])
    judged = {JUDGED: dict(answer=objective_sentence(verdicts), rows=verdicts.round(4).to_dict("records"))}
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / "objectives.csv", index=False, float_format="%.4g")
    facts = dict(
        setting="8 minibatches of 64 samples in groups of 16, SGD; rewards 0 and 1, a coin; learning rate by spread",
        seed=SEED,
        again=AGAIN,
        seconds=seconds,
        machine=platform.processor() or platform.machine(),
        numpy=numpy.__version__,
        judged=judged,
    )
    (RESULTS / "objectives.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--again", action="store_true", help="start from the committed rows")
    main(parser.parse_args().again)
