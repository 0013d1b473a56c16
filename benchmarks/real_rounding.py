"""Does the clip act on movement or on rounding? Ratios of a real model's tokens after one step of 5e-7, in several
precisions, at a prompt where code is likely and one where it is rare.

`python benchmarks/real_rounding.py [UNITS]` measures UNITS units for each prompt (default 1), each of some 5,500 tokens
and a few minutes on two cores, adds them to `benchmarks/results/real_rounding.parquet`, and writes the tables that
follow from all units so far to `real_rounding.json`. What is there is not measured again."""

import dataclasses
import json
import pathlib
import sys
import time

import machine
import pandas as pd

from spurious_rlvr.clipbias import rounding_pull, rounding_table
from spurious_rlvr.policy import load_policy
from spurious_rlvr.replay import PRECISIONS_READ, read_ratios
from spurious_rlvr.rewards import as_reward
from spurious_rlvr.tasks import TEMPLATES, word_problems
from spurious_rlvr.train import PRESETS, prepare, sample_phase, signal_of

RESULTS = pathlib.Path(__file__).parent / "results"
TOKENS, TABLES = RESULTS / "real_rounding.parquet", RESULTS / "real_rounding.json"
MODEL, REWARD, EPSILON = "smollm2-135m", "random:0.5", 0.2
PROMPTS = {"code likely": "word_problem_python", "code rare": "word_problem_free"}
CONFIG = dataclasses.replace(
    PRESETS["small_lm"], phases=1, prompts_per_phase=14, learning_rate=5e-7, mixed_precision="no"
)


def measure(prompt: str, unit: int) -> pd.DataFrame:
    "One unit: 14 problems of its own, 8 completions each; the step is made on 16 completions, the others are read."
    policy = load_policy(MODEL, TEMPLATES[PROMPTS[prompt]])
    config = dataclasses.replace(CONFIG, seed=unit)
    state = prepare(policy, word_problems(config.prompts_per_phase, seed=unit), config)
    began = time.perf_counter()
    rollouts, _ = sample_phase(state, config, as_reward(REWARD), 1)
    sampled = time.perf_counter() - began
    signal = signal_of(rollouts, state.accelerator.device)
    tokens = read_ratios(state, config, rollouts, signal)
    state.borrowed.close()
    whole = time.perf_counter() - began
    print(f"{prompt}, unit {unit}: {len(tokens):,} tokens; {sampled:.0f} s sampling, {whole:.0f} s in all", flush=True)
    numbers = tokens.select_dtypes("float64").columns
    return tokens.astype(dict.fromkeys(numbers, "float32")).assign(prompt=prompt, unit=unit)


def tables(tokens: pd.DataFrame) -> dict:
    "What follows from the units so far."
    found = {}
    for prompt, some in tokens.groupby("prompt"):
        apart = some.assign(group=some["unit"] * 1000 + some["group"])
        by_bin = {name: rounding_table(apart, name, epsilon=EPSILON) for name in PRECISIONS_READ}
        pulls = {
            f"{name} {clip}": rounding_pull(some, precision=name, clip=clip, minibatch_size=CONFIG.minibatch_size)
            for name in PRECISIONS_READ
            for clip in ("both", "high", "low")
        }
        shows = some.drop_duplicates(["unit", "group", "sample"])["writes_code"]
        found[prompt] = dict(
            template=PROMPTS[prompt],
            units=int(some["unit"].nunique()),
            tokens=len(some),
            completions=len(shows),
            writes_code=float(shows.mean()),
            by_probability={name: json.loads(table.to_json(orient="index")) for name, table in by_bin.items()},
            pull_on_code=pulls,
        )
    return found


def main(units: int):
    "Measures what is missing, and writes after every unit."
    tokens = pd.read_parquet(TOKENS) if TOKENS.exists() else pd.DataFrame(dict(prompt=[], unit=[]))
    for unit in range(units):
        for prompt in PROMPTS:
            if ((tokens["prompt"] == prompt) & (tokens["unit"] == unit)).any():
                continue
            tokens = pd.concat([tokens, measure(prompt, unit)], ignore_index=True)
            RESULTS.mkdir(exist_ok=True)
            tokens.to_parquet(TOKENS, compression="zstd", index=False)
            facts = machine.described() | dict(model=MODEL, epsilon=EPSILON, learning_rate=CONFIG.learning_rate)
            TABLES.write_text(json.dumps(facts | dict(prompts=tables(tokens)), indent=1) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
