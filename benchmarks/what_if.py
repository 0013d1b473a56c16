"""How good is a what-if from tokens alone? `diagnose.what_if` says how much gradient code would have had under other
rules, and `replay` makes the same updates under those rules, from the phase's own weights.

Fixed before the first look: four organisms, two rewards of two parts each, four seeds that nothing else uses, three
phases of four updates; completions short enough that some are cut off. Where a rule leaves next to nothing to learn
(less than a hundredth of the mass as trained) there is nothing to foretell, and the row is counted and left out.

For every phase and rule three questions: the gradient mass, foretold and made; which way and how far the log-odds of
code move, against the difference of the push on completions with code and without; and the same as a change from what
was trained. Intervals are over runs, by bootstrap; Wilson's where all runs agree.

`python benchmarks/what_if.py` writes `benchmarks/results/what_if.csv` and `what_if.json`; 32 short runs. `--summary`
reads the rows again and trains nothing."""

import argparse
import dataclasses
import json
import pathlib
import tempfile
import time
import warnings

import machine
import numpy as np
import pandas as pd
import torch

from spurious_rlvr import organisms, train
from spurious_rlvr.core import keyed_rng
from spurious_rlvr.diagnose import other_rules, read_table, what_if, wilson
from spurious_rlvr.replay import Snapshot, prepare_redoing, redo, start_of_phase, state_of_start, stored_rollouts
from spurious_rlvr.runs import read_run
from spurious_rlvr.train import Signal, recorded_config

RESULTS = pathlib.Path(__file__).parent / "results"
ORGANISMS = ("qwen-like", "bad-code", "llama-like", "leaked")
REWARDS = ("ground_truth + 0.5 * boxed_format", "ground_truth + 0.5 * random:0.5")
SEEDS, PHASES = range(6100, 6104), 3
CONFIG = dataclasses.replace(
    train.PRESETS["organism"],
    phases=PHASES,
    prompts_per_phase=24,
    num_generations=8,
    minibatch_size=48,
    max_completion_length=20,
    checkpoint_every=1,
    keep_checkpoints=PHASES,
)


def table_of(run, phase):
    "The rollouts of one phase, as `what_if` reads them."
    table = read_table(run.rollouts(phase).sort_values(["group", "sample"], ignore_index=True))
    table.settings = run.config
    return table


def made_mass(records, signal, places):
    "Gradient mass of each rollout as a redoing made it: what the clip left of the ratio, times the advantage."
    mass = np.zeros(places)
    for piece, tokens in (pair for update in records for pair in update):
        row = piece.places[piece.batch.row_index]
        left = torch.where(tokens["clip_side"] == 0, tokens["log_ratio"].exp(), 0.0) * signal.advantages[row].abs()
        mass += np.bincount(row.numpy(), left.double().numpy(), minlength=places)
    return mass


def foretold(table):
    "By rule: mass, and the push on completions with code less the push on those without, each a mean."
    told, shows = what_if(table).sort_index(), table.frame["writes_code"].to_numpy(dtype=bool)
    counts = {"True": shows.sum(), "False": (~shows).sum()}
    rows = {}
    for rule in told.index.get_level_values("rule").unique():
        part = told.loc[(rule, "writes_code")]
        push = {v: part["push"].get(v, 0.0) / max(n, 1) for v, n in counts.items()}
        mass, code = part["mass"].sum(), part["mass"].get("True", 0.0)
        rows[rule] = dict(mass=mass, code_share=code / mass if mass else np.nan, push=push["True"] - push["False"])
    return rows


def replayed(run, phase, policy, table):
    "By rule: the same, as made by redoing the phase, and how far the log-odds of code moved."
    rollouts = stored_rollouts(run, phase)
    config = dataclasses.replace(recorded_config(run).at(phase), changes={})
    policy, checkpoint = start_of_phase(run, phase, policy)
    state = state_of_start(policy, checkpoint, rollouts, config)
    try:
        redoing, rows = prepare_redoing(state, rollouts, rollouts, config, phase), {}
        assert redoing.start_gap < 1e-4, redoing.start_gap
        snapshot, shows = Snapshot(state), np.array([r.writes_code for r in rollouts])
        lengths = np.array([len(r.token_ids) for r in rollouts])
        for rule, (advantages, clipped) in other_rules(table.frame, run.config).items():
            counted = torch.ones(len(rollouts), dtype=torch.bool)
            signal = Signal(torch.tensor(advantages, dtype=torch.float32), counted)
            facts, records = redo(redoing, signal, config.clip if clipped else "none")
            mass = made_mass(records, signal, len(rollouts)) / lengths / config.minibatch_size
            moved = redoing.gauge.measure()
            snapshot.restore()
            clip = facts["clip_fraction_high"] + facts["clip_fraction_low"]
            rows[rule] = dict(mass=mass.sum(), code_share=mass[shows].sum() / mass.sum(), clip_fraction=clip)
            rows[rule]["log_odds"] = moved.get("log_odds_writes_code", np.nan)
        return rows
    finally:
        state.borrowed.close()


def rows_of(organism, reward, seed, folder):
    "One row a phase and rule of one run."
    place = pathlib.Path(folder) / f"{organism}-{REWARDS.index(reward)}-{seed}"
    start, problems = organisms.load(organism), organisms.training_problems(96)
    config = dataclasses.replace(CONFIG, seed=seed)
    train.train(organisms.load(organism), problems, reward, config, place, progress=False)
    run, rows = read_run(place), []
    for phase in range(1, PHASES + 1):
        table = table_of(run, phase)
        told, made = foretold(table), replayed(run, phase, start if phase == 1 else None, table)
        key = dict(run=place.name, organism=organism, reward=reward, seed=seed, phase=phase)
        for rule in made:
            pairs = {f"{name}_foretold": value for name, value in told[rule].items()}
            pairs |= {f"{name}_made": value for name, value in made[rule].items()}
            rows.append(key | dict(rule=rule) | pairs)
    return rows


def bootstrap(frame, statistic, draws=2_000):
    "A statistic with its 95 % interval over runs."
    parts = [part for _, part in frame.groupby("run")]
    rng = keyed_rng(0, "what if", len(frame))
    drawn = [statistic(pd.concat([parts[i] for i in rng.integers(0, len(parts), len(parts))])) for _ in range(draws)]
    value, (low, high) = float(statistic(frame)), np.nanquantile(drawn, (0.025, 0.975))
    if statistic is same_sign and high - low < 1e-9 and value in (0.0, 1.0):  # all runs agree
        _, low, high = wilson(value * len(parts), len(parts))
    return dict(value=round(value, 5), low=round(float(low), 5), high=round(float(high), 5))


def mass_error(frame):
    "Mean size of the error of the mass, as a share of what was made."
    return (frame["mass_foretold"] / frame["mass_made"] - 1).abs().mean()


def share_error(frame):
    "Mean size of the error of the share of the mass that lies on code."
    return (frame["code_share_foretold"] - frame["code_share_made"]).abs().mean()


def correlation(frame, told="push_foretold", made="log_odds_made"):
    return float(np.corrcoef(frame[told], frame[made])[0, 1]) if len(frame) > 2 else np.nan


def same_sign(frame, told="push_foretold", made="log_odds_made"):
    "Share of one direction, where one is foretold at all."
    said = frame[frame[told].abs() > 1e-6]
    return float((np.sign(said[told]) == np.sign(said[made])).mean()) if len(said) else np.nan


def changes(frame):
    "What each rule changes against what was trained, foretold and made."
    keys = ["run", "phase"]
    base = frame[frame["rule"] == "as trained"].set_index(keys)
    other = frame[frame["rule"] != "as trained"].copy()
    at = pd.MultiIndex.from_frame(other[keys])
    for name in ("push_foretold", "log_odds_made"):
        other[name] -= base[name].reindex(at).to_numpy()
    return other


def summary(frame):
    "What the rows say, in all and by rule."
    trained = frame[frame["rule"] == "as trained"].set_index(["run", "phase"])["mass_made"]
    enough = frame["mass_made"] > 0.01 * trained.reindex(pd.MultiIndex.from_frame(frame[["run", "phase"]])).to_numpy()
    kept = frame[enough]
    usable = kept.dropna(subset=["log_odds_made"])
    others = kept[kept["rule"] != "as trained"]  # what was trained is foretold by being read
    told = dict(
        mass_error=bootstrap(others, mass_error),
        share_error=bootstrap(others, share_error),
        correlation=bootstrap(usable, correlation),
        same_sign=bootstrap(usable, same_sign),
        change_correlation=bootstrap(changes(usable), correlation),
        change_same_sign=bootstrap(changes(usable), same_sign),
    )
    rules, changed = {}, changes(usable)
    for rule, part in usable.groupby("rule", sort=False):
        found = dict(rows=len(part), mass_error=bootstrap(part, mass_error), same_sign=bootstrap(part, same_sign))
        if rule != "as trained":
            found["change_same_sign"] = bootstrap(changed[changed["rule"] == rule], same_sign)
        rules[rule] = found
    counts = dict(runs=int(frame["run"].nunique()), rows=len(frame), left_out=int((~enough).sum()))
    return counts | told | dict(rules=rules)


def trained_rows():
    "The rows of all runs."
    began, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for organism in ORGANISMS:
            for reward in REWARDS:
                for seed in SEEDS:
                    rows += rows_of(organism, reward, seed, folder)
                    print(organism, reward, seed, f"{time.perf_counter() - began:.0f} s", flush=True)
    pd.DataFrame(rows).to_csv(RESULTS / "what_if.csv", index=False, float_format="%.6g")
    return machine.described() | dict(seconds=round(time.perf_counter() - began))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--summary", action="store_true", help="read the rows again")
    file = RESULTS / "what_if.json"
    kept = ("date", "machine", "versions", "seconds")
    where = {k: json.loads(file.read_text())[k] for k in kept} if parser.parse_args().summary else trained_rows()
    told = where | summary(pd.read_csv(RESULTS / "what_if.csv"))
    file.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told, indent=1))
