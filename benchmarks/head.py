"""Log-probabilities in chunks, ours beside PyTorch's: `python benchmarks/head.py --json FILE`.

Both get the same hidden states, head and targets, and give each target's log-probability with its gradients; ours
gives the entropies in the
same pass. PyTorch's is `torch.nn.functional.linear_cross_entropy` with chunks over the batch. CPU seconds (median of
the repeats, taking
turns), and the largest memory beyond the inputs and the gradients, each in a process of its own.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

from machine import described

for name, value in dict(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE").items():
    os.environ.setdefault(name, value)

SHAPES = [
    dict(tokens=8192, width=128, vocabulary=512),
    dict(tokens=2048, width=256, vocabulary=32000),
    dict(tokens=1024, width=512, vocabulary=151936),
]
CHUNK = 2**24  # logits at a time


def ours(hidden, head, targets):
    from spurious_rlvr.logprobs import head_logprobs

    return head_logprobs(hidden, head, targets, chunk_elements=CHUNK)[0]


def whole(hidden, head, targets):
    import torch

    return -torch.nn.functional.cross_entropy(head(hidden), targets, reduction="none")


def pytorch(hidden, head, targets):
    import torch
    from torch.nn.modules.loss import LinearCrossEntropyOptions

    return -torch.nn.functional.linear_cross_entropy(
        hidden,
        head.weight,
        targets,
        reduction="none",
        options=LinearCrossEntropyOptions(batch_chunk_size=max(1, CHUNK // head.weight.shape[0])),
    )


WAYS = dict(ours=ours, pytorch=pytorch, whole=whole)


def measure(way, tokens, width, vocabulary, repeats):
    "CPU seconds of each repeat, memory, and the results to compare."
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    head = torch.nn.Linear(width, vocabulary, bias=False)
    hidden, targets, weights = (
        torch.randn(tokens, width, requires_grad=True),
        torch.randint(vocabulary, (tokens,)),
        torch.randn(tokens),
    )
    hidden.grad, head.weight.grad = torch.zeros_like(hidden), torch.zeros_like(head.weight)
    seconds, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(repeats + 1):  # the first one warms up
        hidden.grad.zero_()
        head.weight.grad.zero_()
        began = time.process_time()
        (WAYS[way](hidden, head, targets) * weights).sum().backward()
        seconds.append(time.process_time() - began)
    return dict(
        seconds=seconds[1:],
        memory=(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        norms=[float(hidden.grad.norm()), float(head.weight.grad.norm())],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="where the result goes; it is printed in any case")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one[0], **json.loads(given.one[1]), repeats=given.repeats)))
        sys.exit()
    result = described() | dict(
        what="log-probabilities and their gradients: CPU seconds, and MB beyond inputs and gradients", shapes=[]
    )
    for shape in SHAPES:
        found = {}
        for way in WAYS:
            done = subprocess.run(
                [sys.executable, __file__, "--one", way, json.dumps(shape), "--repeats", str(given.repeats)],
                capture_output=True,
                text=True,
            )
            found[way] = (
                json.loads(done.stdout) if done.returncode == 0 else dict(failed=done.stderr.strip().splitlines()[-1])
            )
        norms = [f["norms"] for f in found.values() if "norms" in f]
        agree = max(abs(a - b) / b for n in norms for a, b in zip(n, norms[-1]))
        result["shapes"].append(
            shape
            | dict(gradients_differ=agree)
            | {
                way: (
                    dict(seconds=round(statistics.median(f["seconds"]), 3), megabytes=round(f["memory"]))
                    if "seconds" in f
                    else f
                )
                for way, f in found.items()
            }
        )
    print(json.dumps(result, indent=1))
    if given.json:
        with open(given.json, "w") as file:
            file.write(json.dumps(result, indent=1) + "\n")
