"""Run by tests in several processes: trains a small policy, saves a checkpoint on the way, and writes what came out.
Arguments: folder, phases, trainable, and resume to go on."""

import dataclasses
import json
import sys
import warnings
from pathlib import Path

import torch
from accelerate import PartialState

from spurious_rlvr.policy import random_policy
from spurious_rlvr.tasks import arithmetic_chains
from spurious_rlvr.train import PRESETS, train

if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder, phases, trainable, resume = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], len(sys.argv) > 4
    config = dataclasses.replace(
        PRESETS["organism"],
        phases=phases,
        prompts_per_phase=4,
        num_generations=8,
        minibatch_size=8,
        max_completion_length=6,
        max_prompt_length=100,
        optimizer="adamw",
        learning_rate=0.01,
        trainable=trainable,
        old_logprobs="trainer",
        checkpoint_every=2,
        microbatch_tokens=200,
        max_grad_norm=1.0,
    )
    run = train(
        random_policy(scale=10),
        arithmetic_chains(20),
        "random:0.5",
        config,
        folder,
        held_out={"chains": arithmetic_chains(5, seed=1)},
        resume=resume,
        progress=False,
    )
    if PartialState().is_main_process:
        print(json.dumps(dict(processes=PartialState().num_processes, kind=str(PartialState().distributed_type))))
    PartialState().wait_for_everyone()  # a process that leaves while another still talks to it aborts
    PartialState().destroy_process_group()
