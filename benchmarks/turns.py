"""Trainers in processes of their own that work when they are told to: shared by the benchmarks that compare two of
them.

A worker says that it is ready, then waits for a line, works, and tells what it measured as a line of JSON behind an
`@`.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys

# In a worker


def end_at_every_step(model, probability, end):
    "While nothing is trained, the end token has this probability at every step, whatever the model thinks."
    import math

    import torch

    def end_rule(head, inputs, logits):
        if torch.is_grad_enabled() or isinstance(logits, tuple) or logits.dim() == 1:
            return logits  # log-probabilities, not logits
        logits = logits.clone()
        logits[..., end] = -math.inf
        if probability:
            logits[..., end] = logits.logsumexp(-1) + math.log(probability / (1 - probability))
        return logits

    model.get_output_embeddings().register_forward_hook(end_rule)


def wait():  # for the parent's word
    if not sys.stdin.readline():
        sys.exit()


def tell(**values):
    print("@" + json.dumps(values), flush=True)


# In the parent


def start(command, **environment):
    "A worker's process, and what it says when it is ready."
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    return process, hear(process)


def hear(process):
    for line in process.stdout:
        if line.startswith("@"):
            return json.loads(line[1:])
    raise SystemExit(f"a trainer stopped with status {process.wait()}")


def turn(process):
    process.stdin.write("go\n")
    process.stdin.flush()
    return hear(process)


def stop(process):
    with contextlib.suppress(OSError):
        process.stdin.close()
    process.kill()
    process.wait()


def middle(turns, name):
    return statistics.median(t[name] for t in turns)


def quartiles(turns, name):
    values = [t[name] for t in turns]
    return [round(q, 3) for q in (statistics.quantiles(values, n=4)[::2] if len(values) > 1 else 2 * values)]
