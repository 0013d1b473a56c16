"""A whole phase against TRL: `python benchmarks/gpu/phase_against_trl.py --json
benchmarks/results/gpu_phase_against_trl.json`

The same random-weight Qwen2.5 shape, the same prompts (100 to 200 tokens), 16 completions each with lengths of one
long-tailed law (mean 256, cut off at 1,024), a random reward, two AdamW updates, bfloat16 with float32 masters. Both
sample with their transformers engine, without vLLM. Three trainers, each alone on the GPU in a process of its own:
- ours: the engine of this package, packed microbatches;
- trl_tuned: TRL with larger microbatches;
- trl_default: TRL's defaults (8 rows a microbatch, checkpointing).

Needs one GPU of at least 40 GiB; TRL 1.16, which README.md tells how to carry.
"""

import importlib.util
import sys
import time
import warnings
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common
from turns import end_at_every_step, start, stop, tell, turn, wait

TUNED = {"0.5b": 32, "1.5b": 16}  # rows in a microbatch of trl_tuned
TRAINERS = ("ours", "trl_tuned", "trl_default")


def options(parser):
    parser.add_argument("--shape", choices=list(TUNED), default="0.5b")
    parser.add_argument("--prompts", type=int, default=16, help="in a phase, with 16 completions each")
    parser.add_argument("--worker", choices=TRAINERS, help="for this script's own use")


def sizes(given):
    "What both trainers are told."
    given.words = common.lengths(given, mean=256, longest=1024)
    given.prompts = 4 if given.rehearse else given.prompts
    given.rollouts, given.updates = 16 * given.prompts, 2


class Turns:
    "The clock of a worker: begins when the parent says so, with the device idle, and tells what a phase took."

    def __init__(self, given):
        self.device, self.spent, self.tokens = given.device, {}, 0

    def begin(self):
        wait()
        common.forget()
        self.spent.clear()
        self.began = time.perf_counter()

    def end(self, **more):
        with common.stopwatch(self.device, {}):  # until the device is idle
            wall = time.perf_counter() - self.began
        parts = {name: self.spent.get(name, 0.0) for name in ("sample", "score")} | more
        rest = wall - parts["sample"] - parts["score"]
        tell(wall=wall, tokens=self.tokens, **dict(update=rest) | parts, **common.peak_gib())

    def timed(self, owner, name, part):
        inner = getattr(owner, name)

        def outer(*arguments, **more):
            with common.stopwatch(self.device, self.spent, part):
                return inner(*arguments, **more)

        setattr(owner, name, outer)


# Ours


def ours(given):
    import spurious_rlvr
    from spurious_rlvr import train
    from spurious_rlvr.rewards import as_reward

    policy = common.random_policy(common.shape_of(given.shape, given.rehearse), given.device)
    common.end_often(policy, given.words.mean)
    config = train.GRPOConfig(
        phases=10**6,
        prompts_per_phase=given.prompts,
        num_generations=16,
        minibatch_size=given.rollouts // given.updates,
        max_prompt_length=256,
        max_completion_length=given.words.longest,
        learning_rate=1e-6,
        loss_type="dapo",
        mixed_precision="bf16",
        microbatch_tokens=512 if given.rehearse else 16384,
        checkpoint_every=0,
    )
    state = common.prepare(policy, common.problems(256, policy, given.words), config)
    tell(ready=True, version=spurious_rlvr.__version__)
    clock, loop = Turns(given), train.run_phases(state, as_reward("random:0.5"), config)
    while True:
        clock.begin()
        phase = next(loop)
        clock.tokens = sum(len(r.token_ids) for r in phase.rollouts)
        clock.end(**{part: phase.metrics[f"seconds_{part}"] for part in ("sample", "score", "update")})


# TRL


def trl_config(given, tuned, folder):
    from trl import GRPOConfig

    rows = TUNED[given.shape] if tuned and not given.rehearse else 8
    return GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=given.rollouts // given.updates // rows,
        steps_per_generation=given.rollouts // rows,
        num_generations=16,
        max_completion_length=given.words.longest,
        temperature=1.0,
        beta=0.0,
        loss_type="dapo",
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        bf16=True,
        use_cpu=given.rehearse,
        max_steps=10**6,
        report_to=[],
        save_strategy="no",
        logging_steps=10**6,
        disable_tqdm=True,
        seed=0,
        adam_beta2=0.95,
    )


def trl(given, tuned):
    import random
    import tempfile

    import trl
    from datasets import Dataset
    from transformers import TrainerCallback

    policy = common.random_policy(common.shape_of(given.shape, given.rehearse), given.device)
    end_at_every_step(policy.model, common.end_probability(given.words.mean, given.words.longest), end=1)
    draw, clock = random.Random(0), Turns(given)

    def reward(completions, completion_ids, **columns):
        clock.tokens = sum(map(len, completion_ids))
        return [float(draw.random() < 0.5) for _ in completions]

    class OnTurn(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step % given.updates == 0:
                clock.begin()

        def on_step_end(self, args, state, control, **_):
            if state.global_step % given.updates == 0:
                clock.end()

    questions = [p.question for p in common.problems(256, policy, given.words)]
    trainer = trl.GRPOTrainer(
        model=policy.model,
        reward_funcs=reward,
        args=trl_config(given, tuned, tempfile.mkdtemp()),
        train_dataset=Dataset.from_list([dict(prompt=q) for q in questions]),
        processing_class=policy.tokenizer,
        callbacks=[OnTurn()],
    )
    clock.timed(policy.model, "generate", "sample")
    clock.timed(trainer, "_calculate_rewards", "score")
    tell(ready=True, version=trl.__version__)
    trainer.train()


# Taking turns


def measure(given, trainer):
    "One trainer alone on the GPU; its first phase does not count."
    asked = ["--shape", given.shape, "--prompts", given.prompts, *["--rehearse"] * given.rehearse]
    try:
        process, ready = start([__file__, *asked, "--worker", trainer])
    except SystemExit as error:
        raise RuntimeError(str(error)) from None
    try:
        turn(process)
        turns = [turn(process) for _ in range(given.repeats)]
    except SystemExit as error:
        raise RuntimeError(str(error)) from None
    finally:
        stop(process)
    given.turns[trainer] = [t["wall"] / t["tokens"] for t in turns]
    figures = {name: common.spread([t[name] for t in turns]) for name in turns[0]}
    figures["tokens_per_second"] = common.spread([t["tokens"] / t["wall"] for t in turns])
    return dict(version=ready["version"]) | figures, {"every phase gave tokens": min(t["tokens"] for t in turns) > 0}


def speedups(given):
    "Seconds a completion token of TRL over ours; low and high from the extremes of both."
    figures, checks, own = {}, {}, sorted(given.turns["ours"])
    for trainer, other in given.turns.items():
        if trainer != "ours":
            median = common.spread(other)["median"] / common.spread(own)["median"]
            figures[trainer] = dict(median=median, low=min(other) / own[-1], high=max(other) / own[0])
            checks[f"at least twice as fast as {trainer}"] = common.there(given, median >= 2)
    return figures, checks


def main(arguments=None):
    given = common.arguments(__doc__, 40, add=options, given=arguments)
    sizes(given)
    if importlib.util.find_spec("trl") is None:
        common.refuse("needs TRL, which is not here: README.md tells how to carry it")
    warnings.simplefilter("ignore")
    if given.worker:
        return ours(given) if given.worker == "ours" else trl(given, given.worker == "trl_tuned")
    given.turns = {}
    work = dict(
        shape=given.shape,
        prompts=given.prompts,
        generations=16,
        updates_per_phase=given.updates,
        lengths=given.words._asdict(),
        rows_of_a_microbatch=dict(trl_default=8, trl_tuned=TUNED[given.shape]),
        ours_microbatch_tokens=16384,
    )
    result = common.Result(given, "a GRPO phase against TRL on the same GPU, both without vLLM", work)
    for trainer in TRAINERS:
        result.case(trainer, measure, given, trainer)
    result.case("speedup", speedups, given)
    return result.end()


if __name__ == "__main__":
    main()
