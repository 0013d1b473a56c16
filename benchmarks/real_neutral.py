"""Does a clip that ignores the advantage's sign leave a real model alone? One stored phase of SmolLM2-135M at each
prompt of `real_replay.py`, redone under antithetic coin rewards with plain SGD in float32: without a clip, with GRPO's
and with the one of either sign, whose expected shift is zero by proof.

`python benchmarks/real_neutral.py first` writes its part of `benchmarks/results/real_neutral.json`. The rate and the
bounds were set by the share of tokens that a trial clipped, before any shift was read. The first look, with four draws
of one phase, decided nothing; the second, with twelve of another, was fixed after it, and both are kept. It showed a
shift under the clip of either sign too. The control, fixed after that, removes as many other tokens in their place, of
the same size of advantage, in the phase in which that was shown: if the shift comes from smaller steps, it stays."""

import argparse
import dataclasses
import json
import pathlib
import tempfile

import machine
import numpy as np
import pandas as pd
import real_replay

from spurious_rlvr import replay
from spurious_rlvr.compare import paired_effect
from spurious_rlvr.policy import load_policy
from spurious_rlvr.tasks import TEMPLATES

RESULTS = pathlib.Path(__file__).parent / "results"
SIDES, AT_RANDOM = ("none", "both", "neutral"), "neutral@float32/float32 shuffled"
LOOKS = dict(
    first=dict(draws=4, seed=0, sides=SIDES, prompts=tuple(real_replay.PROMPTS)),
    second=dict(draws=12, seed=1, sides=SIDES, prompts=tuple(real_replay.PROMPTS)),
    control=dict(draws=12, seed=1, sides=("none", AT_RANDOM), prompts=("code likely",)),
)
CONFIG = dataclasses.replace(real_replay.CONFIG, optimizer="sgd", learning_rate=0.05)
CLIPPED = ("clip_fraction_high", "clip_fraction_low")
OUTCOMES = ("logprob", "entropy", "log_odds_writes_code")


def redone(prompt: str, draws: int, seed: int, sides: tuple) -> pd.DataFrame:
    "One phase, sampled and redone under every side."
    policy = load_policy(real_replay.MODEL, TEMPLATES[real_replay.PROMPTS[prompt]])
    with tempfile.TemporaryDirectory() as folder:
        run = real_replay.stored_phase(policy, dataclasses.replace(CONFIG, seed=seed), folder)
        table = replay.replay(run, 1, draws, sides, policy=policy, seed=seed, progress=False)
    return table.assign(prompt=prompt)


def effects(table: pd.DataFrame, sides: tuple) -> list[dict]:
    "The shift of every outcome that a side makes, beside none; draws are the witnesses, each with its opposite."
    found = []
    for prompt, rows in table.groupby("prompt", sort=False):
        mean = rows.groupby(["side", "draw"])[[*OUTCOMES, *CLIPPED]].mean()
        wander = rows[rows["side"] == "none"]
        for side in sides[1:]:
            clipped = {name: float(mean.loc[side, name].mean()) for name in CLIPPED}
            for outcome in OUTCOMES:
                some, none = mean.loc[side, outcome], mean.loc["none", outcome]
                effect = paired_effect(outcome, some, none)
                shift = dict(shift=effect.mean, low=effect.low, high=effect.high, wander=float(np.std(wander[outcome])))
                found.append(dict(prompt=prompt, side=side, outcome=outcome, draws=len(none)) | shift | clipped)
    return found


def main(look: str):
    "Adds a look to the result."
    draws, seed, sides, prompts = LOOKS[look].values()
    table = pd.concat([redone(prompt, draws, seed, sides) for prompt in prompts], ignore_index=True)
    spread = {prompt: float(rows["log_ratio_spread"].mean()) for prompt, rows in table.groupby("prompt")}
    setting = dict(model=real_replay.MODEL, optimizer="sgd", learning_rate=CONFIG.learning_rate, epsilon=CONFIG.epsilon)
    place = RESULTS / "real_neutral.json"
    kept = json.loads(place.read_text()) if place.exists() else {}
    found = dict(draws=draws, seed=seed, log_ratio_spread=spread, rows=effects(table, sides))
    kept[look] = machine.described() | setting | found
    place.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("look", choices=LOOKS)
    main(parser.parse_args().look)
