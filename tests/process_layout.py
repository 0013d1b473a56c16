"""Run by tests in several processes: trains a small policy, saves a checkpoint on the way, and writes what came out.
Arguments: folder, phases, trainable; then, where wanted, resume to go on, and model=NAME for a real model."""

import dataclasses
import json
import sys
import warnings
from pathlib import Path

import torch
from accelerate import PartialState

from spurious_rlvr.policy import load_policy, random_policy
from spurious_rlvr.tasks import arithmetic_chains, word_problems
from spurious_rlvr.train import PRESETS, train

if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder, phases, trainable = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    names = [word.removeprefix("model=") for word in sys.argv[4:] if word.startswith("model=")]
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
        dynamic_sampling=1,
    )
    if names:
        config = dataclasses.replace(config, optimizer="sgd", learning_rate=0.1, max_prompt_length=200)
        config = dataclasses.replace(config, prompts_per_phase=2, num_generations=4, minibatch_size=4)
    run = train(
        load_policy(names[0], device="cpu") if names else random_policy(scale=10),
        word_problems(20) if names else arithmetic_chains(20),
        "random:0.2",  # so that some groups are dead, and sampled anew
        config,
        folder,
        held_out={} if names else {"chains": arithmetic_chains(5, seed=1)},
        resume="resume" in sys.argv,
        progress=False,
    )
    if PartialState().is_main_process:
        print(json.dumps(dict(processes=PartialState().num_processes, kind=str(PartialState().distributed_type))))
    PartialState().wait_for_everyone()  # a process that leaves while another still talks to it aborts
    PartialState().destroy_process_group()
