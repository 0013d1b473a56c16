"""Ten objectives and the neutral clip on an organism under a coin: what replay predicts for one phase, and what twelve
trainings show.
`python benchmarks/objectives_organism.py` writes `benchmarks/results/objectives_organism.json`; one thread, a quarter
of an hour."""

import dataclasses
import json
import math
import os
import warnings

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
import pathlib
import tempfile
import time

from scipy.stats import t as student

from spurious_rlvr import organisms, replay, train
from spurious_rlvr.objective import OBJECTIVES, training_settings

RESULTS = pathlib.Path(__file__).parent / "results"
MOST_USED = (
    "grpo",
    "grpo_clip_higher",
    "dr_grpo",
    "dapo",
    "dual",
    "gspo",
    "cispo",
    "sapo",
    "dppo_tv",
    "rloo",
    "neutral",
)
ORGANISM, REWARD, SEEDS, DRAWS, BEHAVIOUR = "qwen-like", "random:0.5", 12, 16, "writes_code"


def configured(name, seed, rate):
    return dataclasses.replace(
        train.PRESETS["organism"], phases=2, seed=seed, learning_rate=rate, **training_settings(name)
    )


def trained(folder, name, seed, rate):
    policy, problems = organisms.load(ORGANISM), organisms.training_problems()
    config = configured(name, seed, rate)
    return train.train(policy, problems, REWARD, config, folder / f"{name}-{seed}", progress=False)


def log_odds(run, phase):
    shows = run.rollouts(phase, [BEHAVIOUR])[BEHAVIOUR].eq(True)
    return math.log((shows.sum() + 0.5) / ((~shows).sum() + 0.5))


def interval(values):
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    half = student.ppf(0.975, len(values) - 1) * spread
    return dict(mean=mean, low=mean - half, high=mean + half, n=len(values))


def redone(run, name, draws, **changes):
    sides = (OBJECTIVES[name].clip,)
    return replay.replay(
        run, 1, draws, sides, policy=organisms.load(ORGANISM), name=f"{draws}-{len(changes)}", progress=False, **changes
    )


def one(folder, name, spread):
    first = trained(folder, name, 0, 0.3)
    found = float(redone(first, name, 2)["log_ratio_spread"].mean())
    rate = 0.3 if spread is None else 0.3 * spread / found
    table = redone(first, name, DRAWS, learning_rate=rate)
    pairs = table.groupby("draw")[f"log_odds_{BEHAVIOUR}"].mean()
    runs = [trained(folder, name, 1 + seed, rate) for seed in range(SEEDS)]
    return dict(
        objective=name,
        learning_rate=rate,
        spread=float(table["log_ratio_spread"].mean()),
        predicted=interval(pairs.tolist()),
        observed=interval([log_odds(run, 2) - log_odds(run, 1) for run in runs]),
    )


def main():
    warnings.simplefilter("ignore")
    RESULTS.mkdir(exist_ok=True)
    rows, start = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        for name in (*MOST_USED, "neutral"):
            rows.append(one(pathlib.Path(place), name, rows[0]["spread"] if rows else None))
            facts = dict(
                organism=ORGANISM,
                reward=REWARD,
                behaviour=BEHAVIOUR,
                phases_trained=1,
                seconds=round(time.perf_counter() - start),
                rows=rows,
            )
            (RESULTS / "objectives_organism.json").write_text(json.dumps(facts, indent=1) + "\n")
            print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
