"""How likely each behaviour of SmolLM2-135M is before anything is trained, at both prompts of the size `real`.

`python benchmarks/real_priors.py` writes `benchmarks/results/real_priors.csv` and `.json`.
"""

import json
import pathlib
import time

import machine

from spurious_rlvr.evaluate import behavior_priors
from spurious_rlvr.policy import load_policy
from spurious_rlvr.studies import SIZES
from spurious_rlvr.tasks import load_problems
from spurious_rlvr.train import PRESETS

RESULTS = pathlib.Path(__file__).parent / "results"
PROMPTS, PROBLEMS = SIZES["real"].prompts, "words:64:7"
ASKED = dict(temperatures=(1.0, 0.6), samples=2, seed=0)


def main():
    [name] = SIZES["real"].models
    length, began = PRESETS["small_lm"].max_completion_length, time.perf_counter()
    problems = load_problems(PROBLEMS)
    table = behavior_priors(load_policy(name), problems, templates=PROMPTS, max_completion_length=length, **ASKED)
    table.round(5).to_csv(RESULTS / "real_priors.csv", index=False)
    facts = dict(model=name, problems=PROBLEMS, tokens=length, seconds=round(time.perf_counter() - began), **ASKED)
    (RESULTS / "real_priors.json").write_text(json.dumps(machine.described() | facts, indent=1) + "\n")
    shown = table[table["prior"] > 0].pivot(index="behavior", columns=["prompt", "temperature"], values="prior")
    print(shown.round(2).to_string())


if __name__ == "__main__":
    main()
