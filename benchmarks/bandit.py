"""How long the bandit takes on one core: `python benchmarks/bandit.py` prints one JSON line a case."""

import json
import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
import time

import numpy

from spurious_rlvr.clipbias import simulate_bandit

OTHERS, MOST = ("cispo", "sapo", "dppo_tv", "gmpo", "vespo", "neutral", "dual", "gspo"), 2.0  # times GRPO's seconds
CASES = [(4_000, 50, 10.0), (10_000, 50, 5.0)]  # replicas, phases, seconds to hold


def seconds(replicas, phases, objective="grpo"):
    "The better of two runs, wall clock."

    def once():
        start = time.perf_counter()
        simulate_bandit((0.7, 0.3), learning_rate=2.0, replicas=replicas, phases=phases, objective=objective)
        return time.perf_counter() - start

    return min(once() for _ in range(2))


if __name__ == "__main__":
    for replicas, phases, hold in CASES:
        taken = seconds(replicas, phases)
        print(
            json.dumps(
                {
                    "what": "simulate_bandit, two actions",
                    "replicas": replicas,
                    "phases": phases,
                    "seconds": round(taken, 2),
                    "hold": hold,
                    "holds": taken <= hold,
                    "numpy": numpy.__version__,
                }
            )
        )
    plain = seconds(10_000, 50)
    for objective in OTHERS:
        times = seconds(10_000, 50, objective) / plain
        facts = dict(what=f"{objective} beside grpo", times=round(times, 2), hold=MOST, holds=times <= MOST)
        print(json.dumps(facts))
