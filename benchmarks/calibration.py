"""Whether the intervals and verdicts of `compare` keep their word.

    python benchmarks/calibration.py             2,000 simulated audits a setting; writes results/calibration.json
    python benchmarks/calibration.py --quick     a fraction of it, for tests; writes nothing
    python benchmarks/calibration.py --organisms DIR    trains 600 organisms under one random reward (resumable, some
    15 minutes of one core),
                                                 puts them into 100 pairs of equal arms of three runs, and adds what
                                                 the intervals say of them
    python benchmarks/calibration.py --design    2,000 simulated audits a setting with a majority arm, and these alone
    python benchmarks/calibration.py --bank DIR  trains three banks of organisms (resumable), draws 100 audits from
                                                 each, with the bank's means as the truth, and adds what was said of
                                                 them. What the first showed made the intervals of the parts wider;
                                                 the other two were trained after that rule was written

A simulated run answers 128 problems, 8 times each. On the logit scale a problem has its difficulty (sd 1.5), a run
its own level,
a run on a problem a deviation (sd 0.5), and an arm a shift that differs by problem (sd 0.5 where it is not 0). The
level's standard
deviation is chosen so that accuracy varies between runs by 0, .02 or .15; the arms of one seed share .3 of its
variance.
"""

import argparse
import dataclasses
import functools
import json
import math
import os
import shutil
import sys
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
from pathlib import Path

import numpy as np
from machine import described
from scipy import optimize, stats

from spurious_rlvr.compare import (
    DEFAULT_SEEDS,
    DESIGN,
    ELICITS,
    FIXED,
    POPULATION,
    SURVIVES,
    Scores,
    accuracy_effect,
    checkpoint_effect,
    combine_verdicts,
    design_verdict,
    gain_ratio,
    partition_gain,
    verdict,
)
from spurious_rlvr.core import keyed_rng

BETWEEN_RUNS = (0.0, 0.02, 0.15)  # standard deviation of accuracy between runs
PROBLEMS, SAMPLES = 128, 8
MEAN, DIFFICULTY, BOTH, BY_PROBLEM, SHARED = (
    0.5,
    1.5,
    0.5,
    0.5,
    0.3,
)  # logits; SHARED: of the runs' variance, between arms of one seed
FAMILIES, NULLS = ("first family", "second family"), ("random", "permuted")
BAND, MOST_FALSE = (0.035, 0.065), 0.06
RESULT = Path(__file__).parent / "results" / "calibration.json"
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(61)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def logistic(x):
    return 1 / (1 + np.exp(-x))


def expected(mean, sd):  # of the logistic function of a normal variable
    return (logistic(np.asarray(mean, dtype=float)[..., None] + sd * _NODES) * _WEIGHTS).sum(-1)


@functools.cache
def run_sd(between):  # logits, for this standard deviation of accuracy between runs
    def excess(sd):
        accuracy = expected(MEAN + sd * _NODES, math.hypot(DIFFICULTY, BOTH))
        return math.sqrt((accuracy**2 * _WEIGHTS).sum() - (accuracy * _WEIGHTS).sum() ** 2) - between

    return optimize.brentq(excess, 1e-4, 20) if between else 0.0


@functools.cache
def shift_for(gain, between):  # logits, for this mean difference in accuracy
    total = math.sqrt(DIFFICULTY**2 + BOTH**2 + run_sd(between) ** 2)
    return (
        optimize.brentq(
            lambda s: expected(MEAN + s, math.hypot(total, BY_PROBLEM)) - expected(MEAN, total) - gain, -3, 3
        )
        if gain
        else 0.0
    )


class Benchmark:
    "Problems, and arms that are run on them with shared seeds."

    def __init__(self, rng, between, seeds=DEFAULT_SEEDS, problems=PROBLEMS, samples=SAMPLES):
        self.rng, self.sd, self.samples, self.between = rng, run_sd(between), samples, between
        self.ids, self.difficulty = tuple(f"p{i:03d}" for i in range(problems)), rng.normal(MEAN, DIFFICULTY, problems)
        self.seed_level, self.by_problem = rng.normal(size=(seeds, 1)), BY_PROBLEM * rng.normal(size=problems)

    def base(
        self,
    ):  # one evaluation of a base model, whose weights stay as they are; and its true accuracy on this benchmark
        chances = logistic(self.difficulty)
        return Scores(
            self.ids,
            self.rng.binomial(self.samples, chances)[None] / self.samples,
            np.full((1, len(chances)), self.samples),
        ), float(chances.mean())

    def arm(
        self, gain=0.0
    ):  # the scores of an arm's runs, and the accuracy on this benchmark that its next runs would have on average
        effect = shift_for(gain, self.between) + self.by_problem if gain else 0.0
        runs = self.seed_level.shape[0]
        level = self.sd * (
            math.sqrt(SHARED) * self.seed_level + math.sqrt(1 - SHARED) * self.rng.normal(size=(runs, 1))
        )
        chances = logistic(self.difficulty + effect + level + BOTH * self.rng.normal(size=(runs, len(self.ids))))
        scores = Scores(
            self.ids, self.rng.binomial(self.samples, chances) / self.samples, np.full(chances.shape, self.samples)
        )
        return scores, float(expected(self.difficulty + effect, math.hypot(self.sd, BOTH)).mean()), level


def population_mean(gain, between):  # accuracy over runs and problems
    return float(
        expected(
            MEAN + shift_for(gain, between),
            math.sqrt(DIFFICULTY**2 + BOTH**2 + run_sd(between) ** 2 + (BY_PROBLEM**2 if gain else 0)),
        )
    )


def single_intervals(rng, between, samples, gain):  # {interval: whether it missed}
    bench = Benchmark(rng, between, samples=samples)
    (user, user_mean, user_level), (null, null_mean, level) = bench.arm(gain), bench.arm()

    def missed(effect, truth):
        return not effect.low <= truth <= effect.high

    whole = population_mean(gain, between) - population_mean(0.0, between)
    one, other = (Scores(s.problems, s.mean[:1], s.samples[:1]) for s in (null, user))

    def of_one(gain, level):
        return float(
            expected(
                MEAN + shift_for(gain, between) + level[0, 0],
                math.sqrt(DIFFICULTY**2 + BOTH**2 + (BY_PROBLEM**2 if gain else 0)),
            )
        )  # a checkpoint's accuracy over problems

    found = {
        "fixed benchmark": missed(accuracy_effect("", user, null, estimand=FIXED), user_mean - null_mean),
        "population of problems": missed(accuracy_effect("", user, null, estimand=POPULATION), whole),
        "one checkpoint": missed(checkpoint_effect("", one), of_one(0.0, level)),
        "two checkpoints": missed(checkpoint_effect("", other, one), of_one(gain, user_level) - of_one(0.0, level)),
    }
    if samples > 1:
        base, base_mean = bench.base()
        found["gain over the base model"] = missed(accuracy_effect("", user, base), user_mean - base_mean)
    if gain:
        start = 0.3  # gains over a base model at 30 %, known exactly
        ratio = gain_ratio(null.mean.mean(axis=1) - start, user.mean.mean(axis=1) - start)
        truth = (null_mean - start) / (user_mean - start)
        found["ratio of gains (Fieller)"] = not dict(
            bounded=ratio.low <= truth <= ratio.high, outside=not ratio.low < truth < ratio.high, everything=True
        )[ratio.kind]
    return found


def audit(rng, between, gains, seeds):
    """Gains: {(family, null): true difference between user and null}. The outcome, whether a row or the headline says
    "survives" falsely, and whether the first comparison would survive by itself."""
    comparisons = {}
    for family in FAMILIES:
        bench = Benchmark(rng, between, seeds)
        most = max(gains[family, null] for null in NULLS)
        user = bench.arm(most)[0].mean.mean(axis=1)
        comparisons[family] = {
            null: (user, bench.arm(most - gains[family, null])[0].mean.mean(axis=1)) for null in NULLS
        }
    found = combine_verdicts(comparisons)
    said = {key: outcome == SURVIVES for key, outcome in zip(gains, found.table["outcome"])}
    false = (
        any(said[key] for key, gain in gains.items() if not gain)
        or found.outcome == SURVIVES
        and not all(gains.values())
    )
    first = found.table["low"].iloc[0] > 0
    return dict(outcome=found.outcome, survives=found.outcome == SURVIVES, false=false, first=bool(first))


AUDITS = {
    "no gain over any null": {(f, n): 0.0 for f in FAMILIES for n in NULLS},
    "25 points over all nulls but one": {
        (f, n): 0.0 if (f, n) == (FAMILIES[1], NULLS[1]) else 0.25 for f in FAMILIES for n in NULLS
    },
    "5 points over every null": {(f, n): 0.05 for f in FAMILIES for n in NULLS},
}
MORE_SEEDS = (6, 12)  # at which the power is given too
SINGLE = [(samples, gain) for samples in (1, SAMPLES) for gain in (0.0, 0.05)]


def rate(hits, n):  # with its exact 95 % interval
    low, high = stats.binomtest(int(hits), int(n)).proportion_ci(0.95)
    return dict(rate=round(hits / n, 4), low=round(low, 4), high=round(high, 4), n=int(n))


def one_setting(kind, between, which, repeats):  # rows of the result
    def draw(i):
        return keyed_rng(0, "calibration", kind, str(between), str(which), i)

    if kind == "single":
        found = [single_intervals(draw(i), between, *which) for i in range(repeats)]
        return [
            dict(
                interval=name,
                between_runs=between,
                samples=which[0],
                true_gain=which[1],
                missed=rate(sum(f[name] for f in found), repeats),
            )
            for name in found[0]
        ]
    name, seeds = which
    found = [audit(draw(i), between, AUDITS[name], seeds) for i in range(repeats)]

    def share(key):
        return rate(sum(f[key] for f in found), repeats)

    return [
        dict(
            audit=name,
            between_runs=between,
            seeds=seeds,
            survives=share("survives"),
            false_survives=share("false"),
            first_comparison_survives=share("first"),
            outcomes={o: sum(f["outcome"] == o for f in found) for o in sorted({f["outcome"] for f in found})},
        )
    ]


def simulate(repeats, jobs=2):  # single intervals and audits
    from joblib import Parallel, delayed

    audits = [(name, DEFAULT_SEEDS) for name in AUDITS] + [(list(AUDITS)[-1], seeds) for seeds in MORE_SEEDS]
    settings = [
        (kind, between, which)
        for kind, some in (("audit", audits), ("single", SINGLE))
        for between in BETWEEN_RUNS
        for which in some
    ]
    rows = [
        row
        for found in Parallel(n_jobs=jobs)(delayed(one_setting)(*setting, repeats) for setting in settings)
        for row in found
    ]
    return dict(
        repeats=repeats,
        seeds=DEFAULT_SEEDS,
        problems=PROBLEMS,
        samples=SAMPLES,
        single_intervals=[r for r in rows if "interval" in r],
        audits=[r for r in rows if "audit" in r],
    )


def faults(result):  # what does not hold; the band widened by what chance does at fewer repeats than 2,000
    n = result["repeats"]
    low, high = (
        BAND if n >= 2000 else (stats.binom.ppf(0.0005, n, BAND[0]) / n, stats.binom.ppf(0.9995, n, BAND[1]) / n)
    )
    most = MOST_FALSE if n >= 2000 else stats.binom.ppf(0.9995, n, MOST_FALSE) / n
    return [
        f"{r['interval']} (between runs {r['between_runs']}, {r['samples']} samples, gain {r['true_gain']}) misses in"
        f" {r['missed']['rate']:.1%}"
        for r in result["single_intervals"]
        if not low <= r["missed"]["rate"] <= high
    ] + [
        f"audit, {r['audit']} (between runs {r['between_runs']}): false survives in {r['false_survives']['rate']:.1%}"
        for r in result["audits"]
        if r["false_survives"]["rate"] > most
    ]


# real runs: organisms under one random reward, so that arm and control are the same

PAIRS, RUNS_AN_ARM, PHASES, FIRST_SEED = 100, 3, 6, 10_000
ORGANISM, REWARD, EVALUATED = "qwen-like", "random:0.5", 16  # EVALUATED: samples a problem


def organism_run(seed, folder):  # right answers on each problem before and after, of 16; its run folder is removed
    import torch

    from spurious_rlvr import organisms
    from spurious_rlvr.runs import read_run
    from spurious_rlvr.train import PRESETS, train

    torch.set_num_threads(1)
    place = folder / "runs" / f"seed{seed}"
    shutil.rmtree(place, ignore_errors=True)  # of an interrupted run
    config = dataclasses.replace(PRESETS["organism"], phases=PHASES, checkpoint_every=0, seed=seed)
    train(
        organisms.load(ORGANISM),
        organisms.training_problems(),
        REWARD,
        config,
        place,
        held_out={"benchmark": organisms.benchmark()},
        evaluation=dict(samples=EVALUATED, temperature=1.0, seed=1),
        progress=False,
    )
    run = read_run(place)
    before, after = (
        run.evaluation(phase, "benchmark", ["problem_id", "correct"])
        .assign(correct=lambda f: f["correct"].eq(True))
        .groupby("problem_id")["correct"]
        .sum()
        for phase in (0, PHASES)
    )
    shutil.rmtree(place)
    return dict(seed=seed, before=[int(v) for v in before], after=[int(v) for v in after], samples=EVALUATED)


def train_organisms(folder, jobs):  # one line a run in runs.jsonl; goes on where it was
    from joblib import Parallel, delayed

    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "runs.jsonl"

    def read():
        return {row["seed"]: row for row in map(json.loads, record.read_text().splitlines())} if record.exists() else {}

    todo = [s for s in range(FIRST_SEED, FIRST_SEED + 2 * PAIRS * RUNS_AN_ARM) if s not in read()]
    for row in Parallel(n_jobs=jobs, return_as="generator_unordered")(
        delayed(organism_run)(seed, folder) for seed in todo
    ):
        with record.open("a") as file:
            file.write(json.dumps(row) + "\n")
    return [read()[seed] for seed in range(FIRST_SEED, FIRST_SEED + 2 * PAIRS * RUNS_AN_ARM)]


def judge_organisms(rows):  # what each interval says of pairs that are the same
    after = np.array([row["after"] for row in rows]) / rows[0]["samples"]
    ids = tuple(f"p{i:03d}" for i in range(after.shape[1]))

    def scores(runs):
        return Scores(ids, after[runs], np.full(after[runs].shape, rows[0]["samples"]))

    starts = range(0, len(rows), 2 * RUNS_AN_ARM)
    pairs = [(scores(slice(i, i + RUNS_AN_ARM)), scores(slice(i + RUNS_AN_ARM, i + 2 * RUNS_AN_ARM))) for i in starts]

    def claims(effects):
        return rate(sum(e.shown != 0 for e in effects), len(effects))

    lone = [checkpoint_effect("", scores(slice(i, i + 1)), scores(slice(i + 1, i + 2))) for i in range(0, len(rows), 2)]
    verdicts = [verdict(a.mean.mean(axis=1), b.mean.mean(axis=1)).outcome for a, b in pairs]
    return dict(
        organism=ORGANISM,
        reward=REWARD,
        phases=PHASES,
        runs_an_arm=RUNS_AN_ARM,
        pairs=len(pairs),
        accuracy_before=round(sum(rows[0]["before"]) / rows[0]["samples"] / len(ids), 4),
        accuracy_after=round(float(after.mean()), 4),
        between_runs=round(float(after.mean(axis=1).std(ddof=1)), 4),
        fixed_benchmark_missed=claims([accuracy_effect("", a, b) for a, b in pairs]),
        population_missed=claims([accuracy_effect("", a, b, estimand=POPULATION) for a, b in pairs]),
        false_survives=rate(verdicts.count(SURVIVES), len(verdicts)),
        one_run_each_over_problems_missed=claims(lone),
        accuracies_after=[round(float(a), 4) for a in after.mean(axis=1)],
    )


# null, elicitation and design

START = 0.3  # accuracy of the start, known exactly
PLANTED = {  # {case: (elicitation, design) of each family}
    "nothing": ((0.0, 0.0), (0.0, 0.0)),
    "pure elicitation, 10 points": ((0.1, 0.0), (0.1, 0.0)),
    "pure design, 10 points": ((0.0, 0.1), (0.0, 0.1)),
    "10 points of elicitation, 5 of design": ((0.1, 0.05), (0.1, 0.05)),
    "design in one family only": ((0.1, 0.1), (0.1, 0.0)),
}
COVERED, FALSE_DESIGN = 0.95, 0.05  # what coverage and false design are tested against, at 1 %


def judged(arms):  # {family: {role: (seeds,) gains}} -> the verdict; reward and majority differ in enough groups
    steps = [
        combine_verdicts({f: {role: (a["user"], a[role]) for role in roles} for f, a in arms.items()})
        for roles in (NULLS, ("majority",))
    ]
    return design_verdict(*steps, {family: 1.0 for family in arms})


def covered(parts, truth):  # whether all intervals of all families hold their true values
    return all(e.low <= truth[family][part] <= e.high for family, of in parts.items() for part, e in of.items())


def design_audit(rng, between, planted, seeds):
    arms, truth = {}, {}
    for family, (elicitation, design) in zip(FAMILIES, planted):
        bench = Benchmark(rng, between, seeds)
        gains = dict(random=0.0, permuted=0.0, majority=elicitation, user=elicitation + design)
        drawn = {role: bench.arm(gain) for role, gain in gains.items()}
        arms[family] = {role: scores.mean.mean(axis=1) - START for role, (scores, *_) in drawn.items()}
        mean = {role: found[1] for role, found in drawn.items()}
        truth[family] = dict(
            total=mean["user"] - START,
            null=mean["random"] - START,
            elicitation=mean["majority"] - mean["random"],
            design=mean["user"] - mean["majority"],
        )
    found = judged(arms)
    rows = found.table[found.table["null"] == "majority"].set_index("family")["outcome"]
    none = [family for family, (_, design) in zip(FAMILIES, planted) if not design]
    return dict(
        covered=covered(partition_gain(arms), truth),
        outcome=found.outcome,
        false=any(rows[family] == DESIGN for family in none) or bool(none and found.outcome == DESIGN),
    )


def design_setting(case, between, seeds, repeats):  # a row of the result
    found = [
        design_audit(keyed_rng(0, "calibration", "design", case, str(between), seeds, i), between, PLANTED[case], seeds)
        for i in range(repeats)
    ]
    return dict(
        case=case,
        between_runs=between,
        seeds=seeds,
        covered=rate(sum(f["covered"] for f in found), repeats),
        survives_as_design=rate(sum(f["outcome"] == DESIGN for f in found), repeats),
        elicits=rate(sum(f["outcome"] == ELICITS for f in found), repeats),
        false_design=rate(sum(f["false"] for f in found), repeats),
        outcomes={o: sum(f["outcome"] == o for f in found) for o in sorted({f["outcome"] for f in found})},
    )


def simulate_design(repeats, jobs=2, keep=None):  # goes on where it was; keep takes the rows so far
    from joblib import Parallel, delayed

    settings = [(case, between, DEFAULT_SEEDS) for between in (0.02, 0.15, 0.0) for case in PLANTED]
    settings += [(list(PLANTED)[3], 0.02, seeds) for seeds in MORE_SEEDS]
    older = json.loads(RESULT.read_text()).get("design", []) if keep and RESULT.exists() else []
    rows = [row for row in older if row["covered"]["n"] == repeats]
    done = {(row["case"], row["between_runs"], row["seeds"]) for row in rows}
    todo = [delayed(design_setting)(*setting, repeats) for setting in settings if setting not in done]
    for row in Parallel(n_jobs=jobs, return_as="generator_unordered")(todo):
        rows.append(row)
        if keep:
            keep(rows)
    return sorted(rows, key=lambda row: settings.index((row["case"], row["between_runs"], row["seeds"])))


def design_faults(rows):  # what is rejected at 1 %
    found = []
    for row in rows:
        n = row["covered"]["n"]
        named = f"{row['case']} (between runs {row['between_runs']}, {row['seeds']} seeds)"
        if round(row["covered"]["rate"] * n) < stats.binom.ppf(0.01, n, COVERED):
            found.append(f"{named}: all parts are covered in {row['covered']['rate']:.1%} only")
        if round(row["false_design"]["rate"] * n) > stats.binom.ppf(0.99, n, FALSE_DESIGN):
            found.append(f"{named}: false design in {row['false_design']['rate']:.1%}")
    return found


def say_design(rows):
    for r in rows:
        print(
            f"{r['case']:38} between runs {r['between_runs']:<5} seeds {r['seeds']:<3} covered"
            f" {r['covered']['rate']:.3f} design {r['survives_as_design']['rate']:.3f} elicits"
            f" {r['elicits']['rate']:.3f} false design {r['false_design']['rate']:.3f}"
        )


# a bank of real runs

BANK_SEEDS, BANK_PHASES, DRAWS = 24, 12, 100
BANKS = (("llama-like", 10_000), ("llama-like", 20_000), ("qwen-like", 20_000))  # organism, and its first seed
BANK = {"user": "ground_truth", "random": "random:0.5", "majority": "online_majority"}


def bank_run(model, role, seed, folder):  # accuracy before and after
    import torch

    from spurious_rlvr import organisms
    from spurious_rlvr.train import PRESETS, train

    torch.set_num_threads(1)
    place = folder / "runs" / f"{model}-{role}-seed{seed}"
    shutil.rmtree(place, ignore_errors=True)
    config = dataclasses.replace(
        PRESETS["organism"], phases=BANK_PHASES, learning_rate=0.1, checkpoint_every=0, seed=seed
    )
    run = train(
        organisms.load(model),
        organisms.training_problems(),
        BANK[role],
        config,
        place,
        held_out={"benchmark": organisms.benchmark()},
        evaluation=dict(samples=EVALUATED, temperature=1.0, seed=1),
        progress=False,
    )
    accuracy = run.of_kind("evaluation")["accuracy"]
    shutil.rmtree(place)
    return dict(model=model, role=role, seed=seed, before=float(accuracy.iloc[0]), after=float(accuracy.iloc[-1]))


def fill_banks(folder, jobs):  # one line a run in bank.jsonl; goes on where it was
    from joblib import Parallel, delayed

    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "bank.jsonl"
    rows = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    there = {(row["model"], row["role"], row["seed"]) for row in rows}
    wanted = [(model, role, first + i) for model, first in BANKS for i in range(BANK_SEEDS) for role in BANK]
    todo = [delayed(bank_run)(*cell, folder) for cell in wanted if cell not in there]
    for row in Parallel(n_jobs=jobs, return_as="generator_unordered")(todo):
        with record.open("a") as file:
            file.write(json.dumps(row) + "\n")
        rows.append(row)
    gain = {(row["model"], row["role"], row["seed"]): row["after"] - row["before"] for row in rows}
    return [
        {role: np.array([gain[model, role, first + i] for i in range(BANK_SEEDS)]) for role in BANK}
        for model, first in BANKS
    ]


def judge_bank(bank, model, first):
    """Audits of DEFAULT_SEEDS seeds, drawn from the bank with replacement. In the second kind the user's gains are the
    majority's of other seeds, so that there is no design."""
    mean = {role: float(gains.mean()) for role, gains in bank.items()}
    truth = dict(
        total=mean["user"],
        null=mean["random"],
        elicitation=mean["majority"] - mean["random"],
        design=mean["user"] - mean["majority"],
    )
    hits, false, outcomes = 0, 0, []
    for draw in range(DRAWS):
        rng = keyed_rng(0, "calibration", "bank", draw)
        seeds, others, more = rng.integers(0, BANK_SEEDS, (3, DEFAULT_SEEDS))
        arms = {role: gains[seeds] for role, gains in bank.items()} | dict(permuted=bank["random"][others])
        hits += covered(partition_gain({model: arms}), {model: truth})
        outcomes.append(judged({model: arms}).outcome)
        false += judged({model: arms | dict(user=bank["majority"][more])}).outcome == DESIGN
    return dict(
        organism=model,
        first_seed=first,
        rewards=BANK,
        phases=BANK_PHASES,
        runs=sum(map(len, bank.values())),
        truth={part: round(value, 4) for part, value in truth.items()},
        between_runs={role: round(float(gains.std(ddof=1)), 4) for role, gains in bank.items()},
        seeds=DEFAULT_SEEDS,
        covered=rate(hits, DRAWS),
        false_design=rate(false, DRAWS),
        outcomes={o: outcomes.count(o) for o in sorted(set(outcomes))},
    )


def write(result):
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 audits a setting; writes nothing")
    parser.add_argument(
        "--organisms",
        type=Path,
        metavar="DIR",
        help="train (or go on training) and judge organisms; their runs are kept in DIR",
    )
    parser.add_argument("--design", action="store_true", help="only the audits with a majority arm")
    parser.add_argument("--bank", type=Path, metavar="DIR", help="train banks of organisms, and draw audits from them")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    given = parser.parse_args()
    kept = json.loads(RESULT.read_text()) if RESULT.exists() and not given.quick else {}
    if given.design or given.bank:
        if given.design:
            keep = None if given.quick else lambda rows: write(kept | dict(design=rows, design_measured=described()))
            kept["design"] = simulate_design(100 if given.quick else 2000, given.jobs, keep)
            kept["design_measured"] = described()
            say_design(kept["design"])
        if given.bank:
            banks = zip(fill_banks(given.bank, given.jobs), BANKS)
            kept["banks"] = [judge_bank(bank, *which) | dict(measured=described()) for bank, which in banks]
            print(json.dumps(kept["banks"], indent=1))
        banks = [bank | dict(case=f"bank of {bank['organism']}") for bank in kept.get("banks", ())]
        wrong = design_faults([*kept.get("design", ()), *banks])
        print("; ".join(wrong) or "nothing is rejected at 1 %")
        result = kept
    elif given.organisms:
        result = (json.loads(RESULT.read_text()) if RESULT.exists() else {}) | dict(
            organisms=judge_organisms(train_organisms(given.organisms, given.jobs))
        )
        print(
            json.dumps(
                {name: value for name, value in result["organisms"].items() if name != "accuracies_after"}, indent=1
            )
        )
        wrong = []
    else:
        began = time.perf_counter()
        result = ({} if given.quick or not RESULT.exists() else json.loads(RESULT.read_text())) | simulate(
            100 if given.quick else 2000, given.jobs
        )
        for r in result["single_intervals"]:
            print(
                f"{r['interval']:26} between runs {r['between_runs']:<5} samples {r['samples']} gain"
                f" {r['true_gain']:<5} misses {r['missed']['rate']:.3f}"
            )
        for r in result["audits"]:
            print(
                f"{r['audit']:34} between runs {r['between_runs']:<5} seeds {r['seeds']:<3} survives"
                f" {r['survives']['rate']:.3f} falsely {r['false_survives']['rate']:.3f} first comparison"
                f" {r['first_comparison_survives']['rate']:.3f}"
            )
        result["design"] = simulate_design(100 if given.quick else 2000, given.jobs)
        say_design(result["design"])
        wrong = faults(result) + design_faults(result["design"])
        print(f"{time.perf_counter() - began:.0f} s;", "; ".join(wrong) or "everything is within its band")
    if not given.quick:
        write(result if given.design or given.bank else result | described())  # parts that stand keep their date
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
