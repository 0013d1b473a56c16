"""Cost of a packed token against the length of the pack: `python benchmarks/packing.py --json FILE`.

Sequences of 64 to 192 tokens, several to a prompt, a Qwen2 of 4 layers and 128 wide; forward and backward pass, CPU
seconds a real token,
as a ratio to the cost at 4,096 tokens. Attention within a sequence does not grow with the pack, so that the ratio
should stay near 1.
The sizes take turns, five rounds, and the median counts.
"""

import argparse
import json
import os
import statistics
import time

for name, value in dict(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE").items():
    os.environ.setdefault(name, value)
import numpy as np
import torch
from machine import described

from spurious_rlvr.logprobs import completion_logprobs, keep_memory, microbatches
from spurious_rlvr.policy import random_policy

SIZES = [1024, 2048, 4096, 8192, 16384, 32768]


def pack(policy, tokens, draw):
    "One microbatch of about so many tokens."
    prompts, completions, used = [], [], 0
    while used < tokens:
        prompt = draw.integers(3, 90, 16).tolist()
        for _ in range(8):
            completions.append(draw.integers(3, 90, draw.integers(64, 193)).tolist())
            prompts.append(prompt)
            used += len(completions[-1])
            if used >= tokens:
                break
    return microbatches(prompts, completions, packed=True, token_budget=10**9)[0]


def measure(rounds=5):
    "CPU seconds a real token, for each size."
    torch.set_num_threads(1)
    policy, draw = random_policy(hidden_size=128, layers=4, mlp_size=512), np.random.default_rng(0)
    keep_memory()  # as the trainer does
    packs = {size: pack(policy, size, draw) for size in SIZES}

    def once(batch):
        began = time.process_time()
        completion_logprobs(policy.model, batch, chunk_elements=2**20)[0].sum().backward()
        return (time.process_time() - began) / batch.input_ids.numel()

    for batch in packs.values():
        once(batch)
    seconds = [{size: once(batch) for size, batch in packs.items()} for _ in range(rounds)]
    return {size: statistics.median(s[size] for s in seconds) for size in SIZES}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="where the result goes; it is printed in any case")
    given = parser.parse_args()
    found = measure()
    result = described() | dict(
        what="cost of a packed token, relative to 4,096 tokens",
        ratio={size: round(s / found[4096], 3) for size, s in found.items()},
        microseconds_at_4096=round(1e6 * found[4096], 2),
    )
    print(json.dumps(result, indent=1))
    if given.json:
        with open(given.json, "w") as file:
            file.write(json.dumps(result, indent=1) + "\n")
