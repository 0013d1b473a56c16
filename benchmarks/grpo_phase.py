"""A GRPO phase against a peer's, on the CPU: `python benchmarks/grpo_phase.py --peer trl --json FILE`.

The work: a Qwen2 of 4 layers, 128 wide, vocabulary 512, with random weights; 8 prompts of 12 to 20 words, 16
completions each of at most 64 tokens, a random reward, one AdamW update. With `--model`, a name or folder such as
smollm2-135m, it is that model with 4 prompts, 8 completions each of at most 48 tokens. `fixed`: no completion ends
before its limit. `long_tail`: at every step a completion ends with the same probability, so that the mean length is
about 0.3 of the longest; both trainers sample under the same rule, which acts on the model's logits while it generates.
The two trainers live in processes of their own and take turns, phase by phase.
"""

import argparse
import json
import os
import statistics
import sys
import time

for name, value in dict(
    OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="0", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false"
).items():
    os.environ.setdefault(name, value)
from machine import described
from turns import end_at_every_step, middle, quartiles, start, stop, tell, turn, wait

MODEL = os.environ.get("GRPO_PHASE_MODEL", "")  # a name or folder; empty: the tiny one
VOCABULARY = 512  # of the tiny one
PROMPTS, GENERATIONS, LONGEST = (4, 8, 48) if MODEL else (8, 16, 64)
# at every step; cut off, the second has a mean of 0.3 × LONGEST
END_PROBABILITY = {"fixed": 0.0, "long_tail": 1 / 16 if MODEL else 1 / 21}

# What both share


def build():
    "The model, and a tokenizer, of the tiny one with the words w0, w1, ..."
    import torch

    if MODEL:
        from spurious_rlvr.policy import load_policy

        policy = load_policy(MODEL, device="cpu")
        return policy.model, policy.tokenizer
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.models.qwen2 import Qwen2Config, Qwen2ForCausalLM

    words = {"<pad>": 0, "<end>": 1, "<unknown>": 2} | {f"w{i}": i + 3 for i in range(VOCABULARY - 3)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>"
    )
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=512,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config), tokenizer


def questions(count):
    "Prompts of 12 to 20 words."
    import random

    draw = random.Random(0)
    return [" ".join(f"w{draw.randrange(VOCABULARY - 3)}" for _ in range(draw.randint(12, 20))) for _ in range(count)]


def memory(name):
    "A line of this process's status, MB."
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(name))


def forget_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


# The two trainers


def ours(lengths):
    import warnings

    import spurious_rlvr
    from spurious_rlvr.core import Problem, stable_id
    from spurious_rlvr.policy import Policy
    from spurious_rlvr.tasks import get_template
    from spurious_rlvr.train import GRPOConfig, grpo

    warnings.simplefilter("ignore")
    model, tokenizer = build()
    problems = [Problem(q, "1", stable_id(q)) for q in questions(256)]
    config = GRPOConfig(
        phases=10**6,
        prompts_per_phase=PROMPTS,
        num_generations=GENERATIONS,
        minibatch_size=PROMPTS * GENERATIONS,
        max_completion_length=LONGEST,
        learning_rate=1e-5,
        loss_type="dapo",
        microbatch_tokens=2048,
        checkpoint_every=0,
    )
    before = memory("VmRSS")
    loop = grpo(Policy(model, tokenizer, get_template("none"), "benchmark"), problems, "random:0.5", config)
    end_at_every_step(model, END_PROBABILITY[lengths], tokenizer.eos_token_id)
    tell(ready=True, version=spurious_rlvr.__version__)
    while True:
        wait()
        forget_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        phase = next(loop)
        tell(
            wall=time.perf_counter() - wall,
            cpu=time.process_time() - cpu,
            tokens=sum(len(r.token_ids) for r in phase.rollouts),
            memory=memory("VmHWM") - before,
            **{part: phase.metrics[f"seconds_{part}"] for part in ("sample", "score", "update")},
        )


def trl(lengths):
    import random

    import trl
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = build()
    end_at_every_step(model, END_PROBABILITY[lengths], tokenizer.eos_token_id)
    draw, spent, state = random.Random(0), dict(sample=0.0, score=0.0), {}

    def reward(completions, completion_ids, **columns):
        state["tokens"] = sum(map(len, completion_ids))
        return [float(draw.random() < 0.5) for _ in completions]

    def timed(owner, name, part):
        inner = getattr(owner, name)

        def outer(*arguments, **options):
            began = time.perf_counter()
            try:
                return inner(*arguments, **options)
            finally:
                spent[part] += time.perf_counter() - began

        setattr(owner, name, outer)

    class Turns(TrainerCallback):
        def on_step_begin(self, *arguments, **options):
            wait()
            forget_peak()
            spent.update(sample=0.0, score=0.0)
            state.update(wall=time.perf_counter(), cpu=time.process_time())

        def on_step_end(self, *arguments, **options):
            wall = time.perf_counter() - state["wall"]
            tell(
                wall=wall,
                cpu=time.process_time() - state["cpu"],
                tokens=state["tokens"],
                memory=memory("VmHWM") - before,
                **spent,
                update=wall - sum(spent.values()),
            )

    config = GRPOConfig(
        output_dir="/tmp/unused",
        per_device_train_batch_size=PROMPTS * GENERATIONS,
        num_generations=GENERATIONS,
        max_completion_length=LONGEST,
        temperature=1.0,
        beta=0.0,
        num_iterations=1,
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        max_steps=10**6,
        report_to=[],
        save_strategy="no",
        logging_steps=10**6,
        disable_tqdm=True,
        seed=0,
        adam_beta2=0.95,
    )
    before = memory("VmRSS")
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list([dict(prompt=q) for q in questions(256)]),
        processing_class=tokenizer,
        callbacks=[Turns()],
    )
    timed(model, "generate", "sample")
    timed(trainer, "_calculate_rewards", "score")
    tell(ready=True, version=trl.__version__)
    trainer.train()


# Taking turns


def summary(turns):
    return {name: round(middle(turns, name), 3) for name in ("wall", "cpu", "sample", "score", "update")} | dict(
        wall_quartiles=quartiles(turns, "wall"),
        cpu_quartiles=quartiles(turns, "cpu"),
        tokens=round(statistics.mean(t["tokens"] for t in turns)),
        memory_mb=round(max(t["memory"] for t in turns), 1),
    )


def compare(lengths, phases, threads):
    "Both trainers in turn; the first phase of each is left out."
    workers = {
        trainer: start(
            [__file__, "--worker", trainer, "--lengths", lengths],
            OMP_NUM_THREADS=str(threads),
            GRPO_PHASE_MODEL=MODEL,
        )
        for trainer in ("ours", "trl")
    }
    try:
        for process, _ in workers.values():
            turn(process)
        turns = [{trainer: turn(process) for trainer, (process, _) in workers.items()} for _ in range(phases)]
    finally:
        for process, _ in workers.values():
            stop(process)
    found = {trainer: summary([t[trainer] for t in turns]) for trainer in workers}

    def per_token(trainer, name):
        return found[trainer][name] / found[trainer]["tokens"]

    ratio = dict(
        speedup=found["trl"]["wall"] / found["ours"]["wall"],
        speedup_cpu=found["trl"]["cpu"] / found["ours"]["cpu"],
        speedup_per_token=per_token("trl", "wall") / per_token("ours", "wall"),
        memory_ratio=found["ours"]["memory_mb"] / found["trl"]["memory_mb"],
        mean_over_longest=found["trl"]["tokens"] / (PROMPTS * GENERATIONS * LONGEST),
    )
    return (
        {name: round(value, 3) for name, value in ratio.items()},
        found,
        {trainer: ready["version"] for trainer, (_, ready) in workers.items()},
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", choices=["trl"], default="trl")
    parser.add_argument("--model", default=MODEL, help="a name or folder of a real model")
    parser.add_argument("--json", help="where the result goes; it is printed in any case")
    parser.add_argument("--phases", type=int, default=12, help="phases of each trainer that count")
    parser.add_argument("--threads", type=int, default=1, help="threads of each trainer")
    parser.add_argument("--worker", choices=["ours", "trl"], help=argparse.SUPPRESS)
    parser.add_argument("--lengths", choices=list(END_PROBABILITY), help="only this case")
    given = parser.parse_args()
    if given.model != MODEL:  # the sizes above follow from it
        os.environ["GRPO_PHASE_MODEL"] = given.model
        os.execv(sys.executable, [sys.executable, *sys.argv])
    if given.worker:
        return dict(ours=ours, trl=trl)[given.worker](given.lengths)
    result = described() | dict(model=MODEL or "tiny", ours={}, trl={})
    for lengths in [given.lengths] if given.lengths else END_PROBABILITY:
        result[lengths], found, result["versions"] = compare(lengths, given.phases, given.threads)
        for trainer in found:
            result[trainer][lengths] = found[trainer]
    text = json.dumps(result, indent=1)
    print(text)
    if given.json:
        with open(given.json, "w") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
