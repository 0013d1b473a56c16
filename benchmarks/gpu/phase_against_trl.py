"""A whole phase against TRL: `python benchmarks/gpu/phase_against_trl.py --json
benchmarks/results/gpu_phase_against_trl.json`

The same random-weight Qwen2.5 shape, the same prompts (100 to 200 tokens), 16 completions each, lengths forced to
the same draws of one
long-tailed law (mean 800, longest 3,072), a random reward, two AdamW updates, bfloat16 with float32 masters. Three
trainers, each alone on
the GPU in a process of its own, one after the other, in as many rounds as asked for:
- ours: vLLM in the process, packed microbatches;
- trl_default: TRL's defaults (8 rows a microbatch, checkpointing, vLLM colocated with 0.3 of the GPU);
- trl_tuned: larger microbatches, more memory for vLLM, which sleeps during updates, no importance correction for the
sampler.
Where vLLM is not installed, `--engine transformers` samples with the transformers engines of both; a completion then
ends at every step with
the probability that gives the same law.

Needs one A100, H100 or H200 with at least 75 GiB for 1.5b or 0.5b, 130 GiB for 7b; TRL 1.16.
"""

import statistics
import sys
import time
import warnings
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common
from turns import start, stop, tell, turn, wait

NEEDS = {"0.5b": 75, "1.5b": 75, "7b": 130}
TUNED = {"0.5b": 32, "1.5b": 16, "7b": 8}  # rows in a microbatch of trl_tuned
TRAINERS = ("ours", "trl_default", "trl_tuned")


def options(parser):
    parser.add_argument("--shape", choices=list(NEEDS), default="1.5b")
    parser.add_argument("--engine", choices=["vllm", "transformers"], default="vllm")
    parser.add_argument("--prompts", type=int, default=16, help="in a phase, with 16 completions each")
    parser.add_argument("--rounds", type=int, default=1, help="times that every trainer is started")
    parser.add_argument("--trainers", nargs="*", choices=TRAINERS, default=TRAINERS)
    parser.add_argument("--worker", choices=TRAINERS, help="for this script's own use")


def sizes(given):
    "What both trainers are told."
    given.mean, given.longest, given.shortest_prompt, given.longest_prompt = (
        (8, 24, 4, 9) if given.rehearse else (800, 3072, 100, 200)
    )
    if given.rehearse:
        given.prompts, given.engine = 4, "transformers"
    given.rollouts, given.updates = 16 * given.prompts, 2


class Turns:
    "The clock of a worker: begins when the parent says so, with the device idle, and tells what a phase took."

    def __init__(self, given):
        self.device, self.spent, self.tokens, self.memory = given.device, {}, 0, common.Memory(given.device)

    def begin(self):
        wait()
        self.memory.forget()
        self.spent.clear()
        self.began = time.perf_counter()

    def end(self, **more):
        common.settle(self.device)
        wall = time.perf_counter() - self.began
        parts = dict(sample=self.spent.get("sample", 0.0), score=self.spent.get("score", 0.0)) | more
        tell(
            wall=wall,
            tokens=self.tokens,
            **{"update": wall - parts["sample"] - parts["score"]} | parts,
            **self.memory.look(),
        )

    def timed(self, owner, name, part):
        inner = getattr(owner, name)

        def outer(*arguments, **options):
            with common.stopwatch(self.device, self.spent, part):
                return inner(*arguments, **options)

        setattr(owner, name, outer)


def end_at_every_step(model, given):
    "For the transformers engines: the end token has one probability at every step, whatever the model thinks."
    from grpo_phase import force_lengths

    force_lengths(model, common.end_probability(given.mean, given.longest))


# Ours


def ours(given):
    import spurious_rlvr
    from spurious_rlvr import train
    from spurious_rlvr.rewards import as_reward

    shape = common.shape_of(given.shape, given.rehearse)
    policy = common.random_policy(shape, given.device)
    engine = open_engine(policy, given)
    config = train.GRPOConfig(
        phases=10**6,
        prompts_per_phase=given.prompts,
        num_generations=16,
        minibatch_size=given.rollouts // given.updates,
        max_prompt_length=256,
        max_completion_length=given.longest,
        learning_rate=1e-6,
        loss_type="dapo",
        mixed_precision="bf16",
        gradient_checkpointing=not given.rehearse,
        microbatch_tokens=512 if given.rehearse else 16384,
        optimizer="adamw_bf16" if given.shape == "7b" else "adamw",
        checkpoint_every=0,
    )
    state = common.prepare(
        policy, common.problems(256, shape.vocabulary, given.shortest_prompt, given.longest_prompt), config, engine
    )
    if given.engine == "transformers":
        end_at_every_step(policy.model, given)
    engine.sleep()
    tell(ready=True, version=spurious_rlvr.__version__)
    clock = Turns(given)
    loop = train.run_phases(state, as_reward("random:0.5"), config)
    while True:
        clock.begin()
        phase = next(loop)
        clock.tokens = sum(len(r.token_ids) for r in phase.rollouts)
        clock.end(**{part: phase.metrics[f"seconds_{part}"] for part in ("sample", "score", "update")})


def open_engine(policy, given):
    from spurious_rlvr import rollout

    if given.engine == "transformers":
        return rollout.TransformersEngine(policy)
    engine, inner, drawn = (
        rollout.VLLMEngine(
            policy, gpu_memory_utilization=0.3 if given.shape == "7b" else 0.5, max_model_len=256 + given.longest
        ),
        rollout._sampling_parameters,
        dict(phase=0, place=0),
    )

    def parameters(policy, request, limit, *further, **more):  # called for the requests of a phase in their order
        drawn["place"] += 1
        return inner(
            policy,
            request,
            common.forced_length(given.mean, given.longest, drawn["phase"], drawn["place"]),
            *further,
            **more,
        )

    generate = engine.generate

    def counted(*arguments, **more):
        drawn.update(phase=drawn["phase"] + 1, place=0)
        return generate(*arguments, **more)

    rollout._sampling_parameters, engine.generate = parameters, counted
    return engine


# TRL


def trl_config(given, tuned, folder):
    from trl import GRPOConfig

    rows = 8 if given.rehearse or not tuned else TUNED[given.shape]
    vllm = (
        dict(use_vllm=True, vllm_mode="colocate", vllm_max_model_length=256 + given.longest)
        if given.engine == "vllm"
        else {}
    )
    if vllm and tuned:
        vllm |= dict(
            vllm_gpu_memory_utilization=0.6, vllm_enable_sleep_mode=True, vllm_importance_sampling_correction=False
        )
    minibatch = given.rollouts // given.updates
    return GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=minibatch // rows,
        steps_per_generation=given.rollouts // rows,
        num_generations=16,
        max_completion_length=given.longest,
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
        **vllm,
    )


def trl(given, tuned):
    import random
    import tempfile

    import torch
    import trl
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOTrainer

    shape = common.shape_of(given.shape, given.rehearse)
    policy = common.random_policy(shape, given.device)
    folder = tempfile.mkdtemp()
    if given.engine == "vllm":  # TRL's vLLM wants a folder; the weights are handed over before the first phase
        policy.model.save_pretrained(
            folder, state_dict={name: tensor.to(torch.bfloat16).cpu() for name, tensor in policy.weights()}
        )
        policy.tokenizer.save_pretrained(folder)
        policy.model.name_or_path = policy.model.config._name_or_path = folder
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

    questions = [
        p.question for p in common.problems(256, shape.vocabulary, given.shortest_prompt, given.longest_prompt)
    ]
    trainer = GRPOTrainer(
        model=policy.model,
        reward_funcs=reward,
        args=trl_config(given, tuned, folder),
        train_dataset=Dataset.from_list([dict(prompt=q) for q in questions]),
        processing_class=policy.tokenizer,
        callbacks=[OnTurn()],
    )
    if given.engine == "vllm":
        force_requests(trainer.vllm_generation.llm, given)
        clock.timed(trainer.vllm_generation, "generate", "sample")
        clock.timed(trainer.vllm_generation, "sync_weights", "sample")
    else:
        end_at_every_step(policy.model, given)
        clock.timed(policy.model, "generate", "sample")
    clock.timed(trainer, "_calculate_rewards", "score")
    tell(ready=True, version=trl.__version__)
    trainer.train()


def force_requests(llm, given):
    "Each request of a call gets the length that ours gets at its place."
    inner, calls = llm.generate, dict(phase=0)

    def generate(prompts, sampling_params, **more):
        calls["phase"] += 1
        each = []
        for place in range(1, len(prompts) + 1):
            each.append(sampling_params.clone())
            each[-1].max_tokens, each[-1].ignore_eos = (
                common.forced_length(given.mean, given.longest, calls["phase"], place),
                True,
            )
        return inner(prompts, sampling_params=each, **more)

    llm.generate = generate


# Taking turns


def summary(turns):
    names = ("wall", "sample", "score", "update", "tokens", "peak_gib", "device_gib")
    return {name: common.spread([t[name] for t in turns]) for name in names} | dict(
        tokens_per_second=common.spread([t["tokens"] / t["wall"] for t in turns])
    )


def compare(given):
    "Each trainer alone on the GPU; the first phase after a start does not count."
    command = [
        __file__,
        "--shape",
        given.shape,
        "--engine",
        given.engine,
        "--prompts",
        given.prompts,
        *(["--rehearse"] if given.rehearse else []),
    ]
    turns, versions = {trainer: [] for trainer in given.trainers}, {}
    for _ in range(given.rounds):
        for trainer in given.trainers:
            try:
                found, versions[trainer] = some_phases([*command, "--worker", trainer], given.repeats)
            except SystemExit as error:  # such as memory that ran out: the others still count
                versions[trainer] = f"ended: {error}"
                continue
            turns[trainer] += found
            common.note(given, f"{trainer}: {[round(t['wall'], 2) for t in found]} s a phase")
    return {trainer: found for trainer, found in turns.items() if found}, versions


def some_phases(command, repeats):
    process, ready = start(command)
    try:
        turn(process)
        return [turn(process) for _ in range(repeats)], ready["version"]
    finally:
        stop(process)


def main(arguments=None):
    given = common.arguments(__doc__, lambda o: NEEDS[o.shape], peak=True, add=options, given=arguments)
    sizes(given)
    if common.missing("trl"):
        common.refuse("needs TRL, which is not installed here: pip install trl==1.16.0")
    if given.engine == "vllm" and common.missing("vllm"):
        common.refuse(
            "needs vLLM, which is not installed here: pip install 'spurious-rlvr[vllm]', or give --engine transformers"
        )
    warnings.simplefilter("ignore")
    if given.worker:
        return ours(given) if given.worker == "ours" else trl(given, given.worker == "trl_tuned")
    turns, versions = compare(given)
    figures = {trainer: summary(found) for trainer, found in turns.items()}
    per_token = {trainer: [t["wall"] / t["tokens"] for t in found] for trainer, found in turns.items()}
    checks = {
        f"{trainer}: every phase gave tokens": trainer in turns and min(t["tokens"] for t in turns[trainer]) > 0
        for trainer in given.trainers
    }
    for trainer in ("trl_default", "trl_tuned"):
        if "ours" in turns and trainer in turns:
            figures[f"speedup_over_{trainer}"] = dict(
                median=statistics.median(per_token[trainer]) / statistics.median(per_token["ours"]),
                low=min(per_token[trainer]) / max(per_token["ours"]),
                high=max(per_token[trainer]) / min(per_token["ours"]),
            )
            if not given.rehearse:
                checks[f"at least twice as fast as {trainer}"] = figures[f"speedup_over_{trainer}"]["median"] >= 2
    work = dict(
        shape=given.shape,
        engine=given.engine,
        prompts=given.prompts,
        generations=16,
        updates_per_phase=given.updates,
        mean_length=given.mean,
        longest=given.longest,
        rounds=given.rounds,
        trainers=versions,
        rows_of_a_microbatch=dict(trl_default=8, trl_tuned=8 if given.rehearse else TUNED[given.shape]),
        ours_microbatch_tokens=512 if given.rehearse else 16384,
        speedup="seconds a completion token of TRL over ours; low and high from the extremes of both",
    )
    return common.report(given, "a GRPO phase against TRL on the same GPU", work, figures, checks)


if __name__ == "__main__":
    main()
