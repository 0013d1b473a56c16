"""How much of a slow reward is hidden behind sampling, and what a phase sampled ahead saves.

    python benchmarks/overlap.py [--json FILE] [--phases 3]

Scoring: a reward that waits, as one that asks another machine does, 0.05 seconds for a group; 32 groups of 8, whose
completions end early or late. Once all rows are sampled side by side, and once 64 at a time. Ahead: an engine with
weights of its own that waits for what a server takes, as long as the updates; the seconds of a phase with staleness 0
and 1. Each is timed against the same run without it, whose rewards must be equal.
"""

import argparse
import copy
import dataclasses
import json
import statistics
import time
import warnings
from pathlib import Path

import torch
from machine import described

from spurious_rlvr.policy import random_policy
from spurious_rlvr.rollout import TransformersEngine
from spurious_rlvr.tasks import arithmetic_chains
from spurious_rlvr.train import PRESETS, grpo

BASE = dataclasses.replace(
    PRESETS["organism"],
    prompts_per_phase=32,
    num_generations=8,
    minibatch_size=64,
    max_completion_length=256,
    max_prompt_length=100,
    learning_rate=0.01,
    old_logprobs="trainer",
)
WAIT = 0.05  # seconds that the reward takes for a group


def waiting(completions, group, **_):
    time.sleep(WAIT * len(set(group)))
    return [float(len(completion) % 7) for completion in completions]


def ending(scale=5):
    "A policy whose completions have very different lengths."
    policy = random_policy(scale=scale)
    policy.model.get_output_embeddings().weight.data[policy.tokenizer.eos_token_id] *= 3
    return policy


class Server(TransformersEngine):
    "Weights of its own, and a wait that stands for another machine's work."

    samples_beside = True

    def __init__(self, policy, seconds):
        super().__init__(dataclasses.replace(policy, model=copy.deepcopy(policy.model)))
        self.seconds = seconds

    def generate(self, requests, **settings):
        time.sleep(self.seconds)
        return super().generate(requests, **settings)


def phases(engine, policy, reward, config):
    "Phases, and the seconds of each."
    began, found, spent = time.perf_counter(), [], []
    for phase in grpo(policy, arithmetic_chains(40), reward, config, engine=engine):
        spent.append(time.perf_counter() - began)
        began = time.perf_counter()
        found.append(phase)
    return found, spent


def scoring(count):
    found = {}
    for name, rows in (("side_by_side", 1024), ("64_at_a_time", 64)):
        runs = {}
        for early in (False, True):
            policy, config = ending(), dataclasses.replace(BASE, phases=count, score_while_sampling=early)
            runs[early] = phases(TransformersEngine(policy, max_rows=rows), policy, waiting, config)
        assert [p.rollouts for p in runs[False][0]] == [p.rollouts for p in runs[True][0]]
        metrics = [p.metrics for p in runs[True][0]]
        hidden, seen = (sum(m[f"seconds_score{end}"] for m in metrics) for end in ("_hidden", ""))
        found[name] = dict(
            hidden_share=round(hidden / (hidden + seen), 3),
            phase_seconds=round(statistics.median(runs[False][1]), 2),
            phase_seconds_early=round(statistics.median(runs[True][1]), 2),
        )
    return found


def ahead(count):
    found = {}
    config = dataclasses.replace(BASE, phases=count + 1, max_completion_length=64, num_iterations=2)
    policy = ending()
    first, _ = phases(Server(policy, 0.0), policy, "random:0.5", dataclasses.replace(config, phases=1))
    wait = first[0].metrics["seconds_update"]
    for staleness in (0, 1):
        policy = ending()
        made, spent = phases(
            Server(policy, wait), policy, "random:0.5", dataclasses.replace(config, max_staleness=staleness)
        )
        found[f"staleness_{staleness}"] = dict(
            phase_seconds=round(statistics.median(spent[1:]), 2),
            ess_tokens=round(statistics.median(p.metrics["ess_tokens"] for p in made[1:]), 4),
        )
    return found | dict(update_seconds=round(wait, 2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--phases", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found = dict(machine=described("torch"), scoring=scoring(options.phases), ahead=ahead(options.phases))
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found))
