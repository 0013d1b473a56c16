"""Does the clip act on movement or on rounding? Ratios of a real model's tokens after one step of 5e-7, in several
precisions, at a prompt where code is likely and one where it is rare.

`python benchmarks/real_rounding.py UNITS` measures UNITS units for each prompt, each of some 5,500 tokens and
four to seven minutes on two cores, adds them to `benchmarks/results/real_rounding.parquet`, and writes the tables that
follow from all units so far to `real_rounding.json`. What is there is not measured again; `--help` lists what
else can be asked."""

import argparse
import dataclasses
import json
import pathlib
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
REWARD, EPSILON = "random:0.5", 0.2
CONFIG = dataclasses.replace(
    PRESETS["small_lm"], phases=1, prompts_per_phase=14, learning_rate=5e-7, mixed_precision="no"
)


def measure(model: str, template: str, unit: int) -> pd.DataFrame:
    "One unit: 14 problems of its own, 8 completions each; the step is made on 16 completions, the others are read."
    policy = load_policy(model, TEMPLATES[template])
    config = dataclasses.replace(CONFIG, seed=unit)
    state = prepare(policy, word_problems(config.prompts_per_phase, seed=unit), config)
    rollouts, _ = sample_phase(state, config, as_reward(REWARD), 1)
    tokens = read_ratios(state, config, rollouts, signal_of(rollouts, state.accelerator.device))
    state.borrowed.close()
    return tokens.astype(dict.fromkeys(tokens.select_dtypes("float64").columns, "float32"))


def summary(some: pd.DataFrame, template: str) -> dict:
    "What follows from the units of one prompt."
    by_bin = {name: rounding_table(some, name, epsilon=EPSILON) for name in PRECISIONS_READ}
    update = dict(epsilon=EPSILON, minibatch_size=CONFIG.minibatch_size)
    pulls = {
        f"{name} {clip}": rounding_pull(some, precision=name, clip=clip, **update)
        for name in PRECISIONS_READ
        for clip in ("both", "high", "low")
    }
    shows = some.drop_duplicates(["unit", "group", "sample"])["writes_code"]
    return dict(
        template=template,
        units=int(some["unit"].nunique()),
        tokens=len(some),
        completions=len(shows),
        writes_code=float(shows.mean()),
        by_probability={name: json.loads(table.to_json(orient="index")) for name, table in by_bin.items()},
        pull_on_code=pulls,
    )


def main(asked: argparse.Namespace):
    "Measures what is missing, and writes after every unit."
    kept, tables = (RESULTS / f"{asked.name}{end}" for end in (".parquet", ".json"))
    templates = {"code likely": asked.likely, "code rare": asked.rare}
    tokens = pd.read_parquet(kept) if kept.exists() else pd.DataFrame(dict(prompt=[], unit=[]))
    done = set(zip(tokens["prompt"], tokens["unit"]))
    for unit, prompt in [(u, p) for u in range(asked.units) for p in templates if (p, u) not in done]:
        began = time.perf_counter()
        new = measure(asked.model, templates[prompt], unit).assign(prompt=prompt, unit=unit)
        tokens = pd.concat([tokens, new], ignore_index=True)
        RESULTS.mkdir(exist_ok=True)
        tokens.to_parquet(kept, compression="zstd", index=False)
        print(f"{prompt}, unit {unit}: {len(new):,} tokens, {time.perf_counter() - began:.0f} s", flush=True)
    facts = machine.described() | dict(
        model=asked.model,
        epsilon=EPSILON,
        learning_rate=CONFIG.learning_rate,
        minibatch_size=CONFIG.minibatch_size,
        prompts={name: summary(some, templates[name]) for name, some in tokens.groupby("prompt")},
    )
    tables.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("units", type=int, help="units for each prompt, counted from the first")
    parser.add_argument("--model", default="smollm2-135m", help="a name that load_policy knows, a hub name or a folder")
    parser.add_argument("--likely", default="word_problem_python", help="a template where code is likely")
    parser.add_argument("--rare", default="word_problem_free", help="a template where code is rare")
    parser.add_argument("--name", default="real_rounding", help="of the files in benchmarks/results")
    main(parser.parse_args())
