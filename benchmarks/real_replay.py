"""Does the clip move a real model's behaviour where it acts on rounding? Stored phases of SmolLM2-135M, redone under
antithetic coin rewards in several precisions; every outcome is read in float32.

This file is the protocol: what is confirmatory was fixed in it before the first look, and everything else is called
exploratory wherever it is told. `python benchmarks/real_replay.py PHASES` measures PHASES phases for each prompt, adds
their rows to `benchmarks/results/real_replay.csv`, and writes the intervals that follow, with phases as clusters, to
`real_replay.json`. What is there is not measured again. Phases 0 to 7 of a prompt are the first look, 8 to 15 are the
same again with other seeds: other problems, completions, roundings and coins. Each look has intervals of its own.

Fixed: two prompts, one where code is likely and one where it is rare; epsilon .2; AdamW at 5e-7, its moments fresh at a
phase's start; eight updates of one group of eight completions; the last four of thirty layers and the last norm are
trained. The float32 weights are moved off bfloat16's grid at random within their rounding cells, by phase, so that the
roundings are drawn anew as the rewards are. Two draws of rewards a phase, each with its opposite.

Confirmatory cells: the gradients and ratios of bfloat16 autocast, with both bounds, the upper alone, the lower alone,
and none; the same with a float32 output layer, with both bounds and none. Confirmatory outcome: the shift of the
log-odds of writing code, clip minus none, at each prompt. Masks that come from another precision, or are shuffled
among tokens of the same size of advantage, tell rounding from movement, and are exploratory; so are all other
outcomes. From the second look on, every registered behaviour is measured, and `real_replay_behaviors.csv` has its mean
shift in each phase, its prior and its surprisal (exploratory, decided before the second look was read)."""

import argparse
import dataclasses
import json
import pathlib
import re
import tempfile
import time

import machine
import numpy as np
import pandas as pd
import torch

from spurious_rlvr import replay, train
from spurious_rlvr.behavior import BEHAVIORS
from spurious_rlvr.clipbias import behavior_shifts, ratio_of_sums
from spurious_rlvr.core import keyed_seed
from spurious_rlvr.policy import load_policy
from spurious_rlvr.runs import atomic_path
from spurious_rlvr.tasks import TEMPLATES, word_problems

RESULTS = pathlib.Path(__file__).parent / "results"
MODEL, REWARD, DRAWS = "smollm2-135m", "random:0.5", 2
LOOK = 8  # phases of each prompt in one look
PROMPTS = {"code likely": "word_problem_python", "code rare": "word_problem_free"}
CONFIG = dataclasses.replace(
    train.PRESETS["small_lm"],
    phases=1,
    prompts_per_phase=8,
    num_generations=8,
    minibatch_size=8,
    learning_rate=5e-7,
    epsilon=0.2,
    mixed_precision="no",
    trainable=r"layers\.2[6-9]\.|model\.norm",
    checkpoint_every=0,
)
MASK, EXACT = "both@bf16/bf16", "both@float32/float32"
CELLS = {  # settings of the redoing, and what is removed in it
    "bf16": (dict(mixed_precision="bf16"), ("none", "both", "high", "low", EXACT, f"{MASK} shuffled")),
    "bf16, head float32": (dict(mixed_precision="bf16", head_precision="float32"), ("none", "both")),
    "float32": (dict(mixed_precision="no"), ("none", "both", MASK)),
}
CONFIRMATORY = {("bf16", "both"), ("bf16", "high"), ("bf16", "low"), ("bf16, head float32", "both")}


@torch.no_grad()
def move_off_grid(model: torch.nn.Module, key: int) -> None:
    "Moves every weight at random within the cell that bfloat16 rounds to the same number."
    generator = torch.Generator().manual_seed(key)
    for parameter in model.parameters():
        power = torch.exp2(torch.floor(torch.log2(parameter.abs().clamp_min(1e-30))))
        half = torch.where(parameter.abs() == power, 0.5, 1.0)  # below a power of 2, cells are half as wide
        cell = power * 2.0**-7 * half * (parameter != 0)
        parameter.add_(cell * (torch.rand(parameter.shape, generator=generator) - 0.5) * 0.98)


def stored_phase(policy, config: train.GRPOConfig, folder: str):
    "A run of one phase, whose policy has its first weights again."
    problems = word_problems(config.prompts_per_phase, seed=100 + config.seed)
    start = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    run = train.train(policy, problems, REWARD, config, pathlib.Path(folder) / "run", progress=False)
    policy.model.load_state_dict(start)
    return run


def measure(prompt: str, number: int) -> pd.DataFrame:
    "One phase, sampled anew and redone in every cell."
    policy = load_policy(MODEL, TEMPLATES[PROMPTS[prompt]])
    move_off_grid(policy.model, keyed_seed(number, "off the grid", prompt))
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        run = stored_phase(policy, dataclasses.replace(CONFIG, seed=number), folder)
        for cell, (changes, sides) in CELLS.items():
            began = time.perf_counter()
            how = dict(policy=policy, seed=number, name=str(len(parts)), old_logprobs="anew", progress=False)
            table = replay.replay(run, 1, DRAWS, sides, behaviors=list(BEHAVIORS), **how, **changes)
            parts.append(table.assign(prompt=prompt, number=number, cell=cell))
            print(f"{prompt}, phase {number}, {cell}: {time.perf_counter() - began:.0f} s", flush=True)
    where = machine.described()
    rows = pd.concat(parts, ignore_index=True)
    return rows.assign(date=where["date"], processor=where["machine"]["processor"])


def of_behaviors(rows: pd.DataFrame) -> pd.DataFrame:
    "From `measure`: a row for each behaviour, cell and side, with the shift against none."
    found = []
    for (prompt, number, cell), some in rows.groupby(["prompt", "number", "cell"], sort=False):
        for side in some["side"].unique():
            if side != "none":
                shifts = behavior_shifts(some, side)
                found.append(shifts.assign(prompt=prompt, number=number, cell=cell, side=side))
    return pd.concat(found, ignore_index=True)


def intervals(rows: pd.DataFrame) -> list[dict]:
    "Effects of every cell and side against none in each look, with phases as clusters."
    keys, found = ["look", "prompt", "cell", "side"], []
    outcomes = [name for name in rows if name.startswith(("log_odds_", "contrast_")) or name in ("logprob", "entropy")]
    looks = rows.assign(look=1 + rows["number"].astype(int) // LOOK)
    mean = looks.groupby([*keys, "number"])[[*outcomes, "clip_fraction_high", "clip_fraction_low"]].mean()
    for look, prompt, cell, side in mean.index.droplevel("number").unique():
        if side == "none":
            continue
        some, none = mean.loc[look, prompt, cell, side], mean.loc[look, prompt, cell, "none"]
        clipped = {name: float(some[name].mean()) for name in ("clip_fraction_high", "clip_fraction_low")}
        for outcome in outcomes:
            change = (some[outcome] - none[outcome]).dropna()
            n = len(change)
            if n == 0:
                continue
            shift, low, high = ratio_of_sums(change, np.ones(n), np.arange(n))
            role = outcome == "log_odds_writes_code" and (cell, side) in CONFIRMATORY
            where = dict(look=look, prompt=prompt, cell=cell, side=side, outcome=outcome, confirmatory=role, phases=n)
            found.append(where | dict(shift=shift, low=low, high=high) | clipped)
    return found


def add(rows: pd.DataFrame) -> None:
    "Adds what `measure` gave for one phase to both tables; the one that says what is done comes last."
    further = f"^(prior|surprisal)_|^(share|log_odds|contrast)_(?!({'|'.join(replay.BEHAVIORS)})$)"
    usual = rows[[name for name in rows if not re.search(further, name)]]
    for name, new in (("real_replay_behaviors", of_behaviors(rows)), ("real_replay", usual)):
        place = RESULTS / f"{name}.csv"
        kept = [pd.read_csv(place)] if place.exists() else []
        with atomic_path(place) as partial:
            pd.concat([*kept, new], ignore_index=True).drop_duplicates().to_csv(partial, index=False)


def main(phases: int):
    "Measures what is missing, and writes after every phase."
    kept = RESULTS / "real_replay.csv"
    rows = pd.read_csv(kept) if kept.exists() else pd.DataFrame(dict(prompt=[], number=[]))
    done = set(zip(rows["prompt"], rows["number"]))
    for number, prompt in [(n, p) for n in range(phases) for p in PROMPTS if (p, n) not in done]:
        add(measure(prompt, number))
    rows = pd.read_csv(kept)
    where = machine.described() | dict(processors=sorted(rows["processor"].unique()))  # the last one's, and all
    facts = where | dict(model=MODEL, draws=DRAWS, intervals=intervals(rows))
    (RESULTS / "real_replay.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("phases", type=int, help="phases for each prompt: 8, or 16 with the second look")
    main(parser.parse_args().phases)
