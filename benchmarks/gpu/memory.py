"""Memory of a 7B update against the plan's figures: `python benchmarks/gpu/memory.py --json
benchmarks/results/gpu_memory.json`

Qwen2.5-7B shapes with random weights made on the device, float32 weights and gradients, computed in bfloat16. Two
parts:
- log-probabilities without gradient, then log-probabilities with their backward pass, of one packed microbatch of
16k, 32k and 64k tokens,
  with and without checkpointing where the plan says that it fits: the largest memory of tensors against the sum of
  the plan's parts;
- the full state of an update (`adamw_bf16`), then vLLM in the same process: what the device holds while the sampler
is awake, asleep, and
  while an update runs beside the sleeping sampler.

Needs one GPU of at least 130 GiB for 7B, 60 GiB for --shape 1.5b, 30 GiB for --shape 0.5b.
"""

import dataclasses
import gc
import warnings

import common

NEEDS = {"7b": 130, "1.5b": 60, "0.5b": 30}
SAMPLER = dict(gpu_memory_utilization=0.35, max_model_len=4096)  # of the whole device


def options(parser):
    parser.add_argument("--shape", choices=list(NEEDS), default="7b")
    parser.add_argument("--tokens", type=int, nargs="*", default=[16384, 32768, 65536])
    parser.add_argument("--without-sampler", action="store_true", help="leave vLLM out")


def configure(given, tokens, checkpointing, optimizer):
    from spurious_rlvr.train import GRPOConfig

    return GRPOConfig(
        prompts_per_phase=4,
        num_generations=16,
        minibatch_size=64,
        max_prompt_length=1024,
        max_completion_length=given.longest,
        loss_type="dapo",
        mixed_precision="bf16",
        optimizer=optimizer,
        gradient_checkpointing=checkpointing,
        microbatch_tokens=tokens,
        learning_rate=1e-6,
        checkpoint_every=0,
    )


def predicted(policy, config, given, leave=("optimizer", "context")):
    "GiB of the plan's parts that are tensors of this measurement, and all of them by name."
    from spurious_rlvr.plan import make_plan

    plan = make_plan(
        policy.model.config, config, memory_gib=given.gpu["memory_gib"] if given.gpu else 80, engine="server"
    )
    parts = {name: size / 2**30 for name, size in plan.parts.items()}
    return sum(size for name, size in parts.items() if not name.startswith(leave)), parts


def full_microbatch(state, config, given, shape):
    "Rollouts that fill one microbatch to its limit, and no more."
    from spurious_rlvr import train

    rollouts, used = [], 0
    for rollout in common.made_rollouts(
        state.policy,
        state.problems * (1 + config.microbatch_tokens // (given.mean * 8)),
        16,
        given.mean,
        given.longest,
        shape.vocabulary,
    ):
        cost = len(rollout.token_ids) + (
            len(state.encoded[rollout.problem_id])
            if not rollouts or rollouts[-1].problem_id != rollout.problem_id
            else 0
        )
        if used + cost > config.microbatch_tokens:
            break
        rollouts.append(rollout)
        used += cost
    [piece] = train.cut_pieces(state, config, rollouts, range(len(rollouts)))
    return piece.batch


def logprobs_and_gradients(policy, shape, given, tokens, checkpointing):
    "Peaks of one microbatch, and the plan's figure."
    import torch

    config = configure(given, tokens, checkpointing, "sgd")
    needed, parts = predicted(policy, config, given)
    if not given.rehearse and needed > 0.97 * given.gpu["memory_gib"]:
        return (
            dict(
                tokens=tokens, gradient_checkpointing=str(checkpointing), left_out=f"needs {needed:.0f} GiB by the plan"
            ),
            True,
        )
    if not checkpointing:
        policy.model.gradient_checkpointing_disable()
    state = common.prepare(
        policy, common.problems(64, shape.vocabulary, given.shortest_prompt, given.longest_prompt), config
    )
    batch = full_microbatch(state, config, given, shape)
    memory, finite = common.Memory(given.device), True
    found = dict(
        tokens=batch.input_ids.numel(), gradient_checkpointing=str(checkpointing), predicted_gib=needed, plan=parts
    )
    try:
        memory.forget()
        with torch.no_grad():
            state.placement.module(batch)
        found["logprobs"] = memory.look()
        peaks = []
        for _ in range(given.repeats):
            state.placement.optimizer.zero_grad()
            memory.forget()
            logprobs, _ = state.placement.module(batch)
            state.placement.backward(logprobs.mean(), True)
            finite = finite and bool(logprobs.isfinite().all())
            peaks.append(memory.look())
        found["gradients"] = peaks[-1]
        found["peak_gib"] = common.spread([peak["peak_gib"] for peak in peaks])
        found["peak_over_predicted"] = found["peak_gib"]["median"] / needed if needed else 0.0
    except torch.OutOfMemoryError as error:
        found["left_out"], finite = (
            f"memory ran out, though the plan says {needed:.0f} GiB ({str(error).splitlines()[0][:80]})",
            False,
        )
    state.placement.optimizer.zero_grad()
    state.borrowed.close()
    return found, finite


def open_sampler(policy, given):
    "vLLM where it is there; else the policy's own model, which takes the same calls and has nothing to free."
    from spurious_rlvr.rollout import TransformersEngine, VLLMEngine

    if given.rehearse or given.without_sampler or common.missing("vllm"):
        return TransformersEngine(policy), "none: the policy's own model"
    return VLLMEngine(policy, **SAMPLER), "vLLM in this process"


def beside_a_sampler(policy, given, stages):
    """The update's whole state, with the sampler awake, asleep, and asleep during an update; in the order and with the
    calls of a phase."""
    from spurious_rlvr.rollout import Request

    config = configure(given, 256 if given.rehearse else 16384, True, "adamw_bf16")
    given_problems, memory = (
        common.problems(4, given.vocabulary, given.shortest_prompt, given.longest_prompt),
        common.Memory(given.device),
    )

    def stage(name):
        stages[name] = memory.look()
        common.note(given, f"{name}: {stages[name]}")

    memory.forget()  # vLLM asks the driver what is free when it starts
    engine, sampler = open_sampler(policy, given)
    stage("sampler awake, no optimizer yet")
    engine.sleep()
    state = common.prepare(policy, given_problems, config, engine)
    rollouts = common.made_rollouts(policy, given_problems, 16, given.mean, given.longest, given.vocabulary)
    memory.forget()
    updates = [common.make_update(state, config, rollouts) for _ in range(2)]  # the first makes the optimizer's state
    stage("updates beside the sleeping sampler")
    engine.wake()
    engine.load_weights(policy)  # straight after the update, as the trainer does it
    engine.generate(
        [Request(tuple(state.encoded[p.id]), i) for i, p in enumerate(given_problems)], max_completion_length=8
    )
    stage("sampler awake with the new weights")
    engine.sleep()
    memory.forget()
    stage("at rest, sampler asleep")
    updates.append(common.make_update(state, config, rollouts))
    stage("an update after the sampler went back to sleep")
    engine.close()
    return dict(
        sampler=sampler, optimizer=config.optimizer, plan=predicted(policy, config, given)[1], stages=stages
    ), all(u["loss"] == u["loss"] and not u["skipped"] for u in updates)


def main(arguments=None):
    given = common.arguments(__doc__, lambda o: NEEDS[o.shape], add=options, given=arguments)
    given.mean, given.longest, given.shortest_prompt, given.longest_prompt = (
        (8, 24, 4, 9) if given.rehearse else (800, 3072, 100, 200)
    )
    if given.rehearse:
        given.tokens = [128, 512]

    warnings.simplefilter("ignore")
    shape, checks, cases = common.shape_of(given.shape, given.rehearse), {}, []
    given.vocabulary = shape.vocabulary
    policy = common.random_policy(shape, given.device)
    for tokens in given.tokens:
        for checkpointing in (True, False):
            found, finite = logprobs_and_gradients(policy, shape, given, tokens, checkpointing)
            cases.append(found)
            checks[f"{tokens} tokens, checkpointing {checkpointing}: finite, and memory sufficed"] = finite
            common.note(given, found)
    if not given.rehearse:
        for case in cases:
            if "peak_over_predicted" in case:
                checks[
                    f"{case['tokens']} tokens, checkpointing {case['gradient_checkpointing']}: the plan's figure is no"
                    " smaller than the peak"
                ] = case["peak_over_predicted"] <= 1
    work = dict(
        shape=dataclasses.asdict(shape),
        mean_length=given.mean,
        longest=given.longest,
        prompt_words=[given.shortest_prompt, given.longest_prompt],
        precision="bfloat16 under autocast, float32 weights and gradients",
        sampler=SAMPLER,
        peak=(
            "largest memory of tensors (torch.cuda.max_memory_allocated); reserved: by torch's allocator; device: by"
            " all, from the driver"
        ),
    )

    def tell(full_state, last):
        return common.report(
            given,
            "memory of an update against the plan, and beside a sleeping sampler",
            work,
            dict(microbatches=cases, full_state=full_state),
            checks,
            last=last,
        )

    tell("not reached", False)  # what comes now may end the process
    gc.collect()
    stages = {}
    try:
        full_state, finite = beside_a_sampler(policy, given, stages)
    except RuntimeError as error:
        full_state, finite = (
            dict(stages=stages, ended=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"),
            False,
        )
    checks["updates beside the sleeping sampler: memory suffices, loss finite, none skipped"] = finite
    return tell(full_state, True)


if __name__ == "__main__":
    main()
