"""Drift against wander over 300 phases under a coin: noise in the ratio without movement, movement without noise, and
both. `python benchmarks/noise.py` writes `benchmarks/results/noise.json`."""

import json
import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
import pathlib
import time

from spurious_rlvr.clipbias import RatioNoise, simulate_bandit

RESULTS = pathlib.Path(__file__).parent / "results"
PHASES, REPLICAS, SEED, AT = 300, 200, 0, (1, 10, 50, 100, 300)
NOISE = RatioNoise(0.1)
ARMS = {  # learning rate, noise
    "noise alone": (0.05, NOISE),
    "movement alone": (0.55, None),
    "both": (0.55, NOISE),
    "no clip": (0.55, None),
}


def followed(name, rate, noise):
    objective = "unclipped" if name == "no clip" else "grpo"
    how = dict(phases=PHASES, replicas=REPLICAS, keep="all", antithetic=True, seed=SEED)
    run = simulate_bandit((0.65, 0.35), objective=objective, learning_rate=rate, noise=noise, **how)
    change = run.log_odds - run.log_odds[0]
    rows = [dict(phase=at, drift=change[at].mean(), wander=change[at].std()) for at in AT]
    return dict(
        arm=name,
        learning_rate=rate,
        removed=run.clip_fraction_high[0] + run.clip_fraction_low[0],
        phases=[{key: round(float(value), 4) for key, value in row.items()} for row in rows],
    )


if __name__ == "__main__":
    start = time.perf_counter()
    rows = [followed(name, *setting) for name, setting in ARMS.items()]
    facts = dict(prior=0.65, noise=NOISE.size, replicas=REPLICAS, seconds=round(time.perf_counter() - start), rows=rows)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "noise.json").write_text(json.dumps(facts, indent=1) + "\n")
    for row in rows:
        print(json.dumps(row))
