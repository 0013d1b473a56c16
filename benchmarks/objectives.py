"""Every objective under a coin, in full: `python benchmarks/objectives.py` writes `benchmarks/results/objectives.csv`
with all rows and `objectives.json` with the judgement. One thread, some minutes."""

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


def main():
    parts, seconds, judged = [], {}, {}
    for name, settings in PARTS.items():
        start = time.perf_counter()
        table = objective_table(**settings, seed=SEED)
        seconds[name] = round(time.perf_counter() - start, 1)
        parts.append(table.assign(policy=name))
        if name == "two actions":  # with more, the log-odds of one action moves without any clip
            verdicts = judge_objectives(table)
            judged[name] = dict(answer=objective_sentence(verdicts), rows=verdicts.round(4).to_dict("records"))
        print(name, seconds[name], "s", flush=True)
    RESULTS.mkdir(exist_ok=True)
    pd.concat(parts).to_csv(RESULTS / "objectives.csv", index=False, float_format="%.4g")
    facts = dict(
        setting="8 minibatches of 64 samples in groups of 16, SGD; rewards 0 and 1, a coin; learning rate by spread",
        seed=SEED,
        seconds=seconds,
        machine=platform.processor() or platform.machine(),
        numpy=numpy.__version__,
        judged=judged,
    )
    (RESULTS / "objectives.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
