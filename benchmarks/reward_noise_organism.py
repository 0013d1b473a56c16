"""Where does a grader that errs stop teaching? An organism is trained under a grader that pays right answers at one
rate and wrong ones at another; Youden's J is the first less the second. Rad et al. (arXiv 2601.04411): J > 0 learns,
J < 0 unlearns. With a clip the turning point may lie elsewhere.

Fixed before the first look: two organisms, one mostly right at the start and one not; three clips; five values of J
around 0; eight seeds that nothing else uses; three phases. Outcome: the change of the log-odds of a right answer on
the benchmark, and the J at which a straight line through it crosses 0, with Fieller's interval.

`python benchmarks/reward_noise_organism.py` writes `benchmarks/results/reward_noise_organism.json`; 240 short runs."""

import json
import math
import pathlib
import tempfile
import time

import machine
import numpy as np
from scipy import stats

from spurious_rlvr.compare import fieller
from spurious_rlvr.runs import read_run
from spurious_rlvr.studies import Arm, outcomes, run_cells

RESULTS = pathlib.Path(__file__).parent / "results"
ORGANISMS, CLIPS, YOUDEN, SEEDS = ("qwen-like", "bad-code"), ("both", "high", "none"), (-0.2, -0.1, 0, 0.1, 0.2), 8
FIRST_SEED, CHANGES = 3000, dict(phases=3)


def grader(youden):
    "Pays a right answer at rate .5 + J/2 and a wrong one at .5 − J/2, each by a coin of its own."
    return f"(ground_truth & random:{0.5 + youden / 2:g}) | (~ground_truth & random:{0.5 - youden / 2:g})"


def log_odds(share):
    return np.log(share / (1 - share))


def crossing(x, y, level=0.95):
    "Where a least-squares line crosses 0, with Fieller's interval; infinite ends where the slope is not shown."
    line, middle = stats.linregress(x, y), float(np.mean(x))
    height = line.slope * middle + line.intercept
    rest = y - line.intercept - line.slope * np.asarray(x)
    errors = np.diag([(rest**2).sum() / (len(x) - 2) / len(x), line.stderr**2])  # of height and slope
    kind, *limits = fieller((-height, line.slope), errors, float(stats.t.ppf(0.5 + level / 2, len(x) - 2)))
    low, high = (middle + limit for limit in limits) if kind == "bounded" else (-math.inf, math.inf)
    ends = dict(slope=line.slope, slope_se=line.stderr, at_zero=line.intercept, at_zero_se=line.intercept_stderr)
    return ends | dict(boundary=-line.intercept / line.slope, low=low, high=high)


def measured(organism, folder):
    "One row a clip."
    arms = {}
    for clip in CLIPS:
        arms |= {(clip, j): Arm(f"j{i}-{clip}", grader(j), {"clip": clip}) for i, j in enumerate(YOUDEN)}
    seeds = range(FIRST_SEED, FIRST_SEED + SEEDS)
    faults = run_cells(organism, list(arms.values()), seeds, folder, changes=CHANGES)
    assert not faults, faults
    runs = [read_run(folder / f"{arm.name}-seed{seed}") for arm in arms.values() for seed in seeds]
    frame, rows = outcomes(runs), []
    change = log_odds(frame["accuracy"]) - log_odds(frame["accuracy_before"])
    youden = frame["arm"].map({arm.name: j for (_, j), arm in arms.items()})
    for clip in CLIPS:
        here = frame["arm"].str.endswith(f"-{clip}")
        facts = crossing(youden[here].to_numpy(float), change[here].to_numpy())
        clipped = {name: float(frame.loc[here, name].mean()) for name in ("clip_fraction_high", "clip_fraction_low")}
        accuracy = dict(accuracy_before=float(frame.loc[here, "accuracy_before"].mean()), runs=int(here.sum()))
        rows.append(dict(organism=organism, clip=clip) | {k: float(v) for k, v in facts.items()} | accuracy | clipped)
    return rows


def main():
    began, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as place:
        for organism in ORGANISMS:
            rows += measured(organism, pathlib.Path(place) / organism)
    settings = dict(youden=YOUDEN, seeds=[FIRST_SEED, FIRST_SEED + SEEDS - 1], changes=CHANGES, rows=rows)
    facts = machine.described() | dict(seconds=round(time.perf_counter() - began)) | settings
    (RESULTS / "reward_noise_organism.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
