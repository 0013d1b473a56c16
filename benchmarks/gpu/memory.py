"""Memory of an update against the plan: `python benchmarks/gpu/memory.py --json benchmarks/results/gpu_memory.json`

Qwen2.5 shapes with random weights, float32 masters and gradients, computed in bfloat16. Each case is a whole update of
one microbatch that is full, made twice, since the first makes the optimizer's state: the largest memory of tensors in
the second against the sum of the parts that `spurious-rlvr plan` names, its allowance for context and fragmentation
left out. What cannot fit by the plan is named with what it needs.

Needs one GPU of 20 GiB; most cases need 130 GiB.
"""

import dataclasses
import warnings

import common

CASES = [  # shape, optimizer, tokens of the microbatch, gradient_checkpointing; by worth
    ("7b", "adamw_bf16", 16384, True),
    ("1.5b", "adamw", 16384, False),
    ("0.5b", "adamw", 16384, False),
    ("7b", "adamw_bf16", 65536, True),
    ("1.5b", "adamw", 65536, True),
    ("7b", "adamw_bf16", 4096, False),
]


def configure(given, optimizer, tokens, checkpointing):
    from spurious_rlvr.train import GRPOConfig

    return GRPOConfig(
        prompts_per_phase=4,
        num_generations=16,
        minibatch_size=64,
        max_prompt_length=given.words.longest_prompt,
        max_completion_length=given.words.longest,
        loss_type="dapo",
        mixed_precision="bf16",
        optimizer=optimizer,
        gradient_checkpointing=checkpointing,
        microbatch_tokens=tokens,
        learning_rate=1e-6,
        checkpoint_every=0,
    )


def predicted(policy, config, given):
    "GiB by part, and of all parts that are tensors."
    from spurious_rlvr.plan import make_plan

    capacity = given.gpu["memory_gib"] if given.gpu else 80
    plan = make_plan(policy.model.config, config, memory_gib=capacity, engine="server")
    parts = {name: size / 2**30 for name, size in plan.parts.items()}
    return parts, sum(size for name, size in parts.items() if not name.startswith("context"))


def rollouts_that_fill(state, config, given):
    "Rollouts whose tokens, each prompt once, come as near to the microbatch's limit as they can."
    asked = state.problems * (1 + config.microbatch_tokens // (given.words.mean * 8))
    kept, used, seen = [], 0, None
    for rollout in common.made_rollouts(state.policy, asked, 16, given.words):
        used += len(rollout.token_ids) + (len(state.encoded[rollout.problem_id]) if rollout.group != seen else 0)
        if used > config.microbatch_tokens:
            break
        kept, seen = [*kept, rollout], rollout.group
    return kept


def measure(given, name, optimizer, tokens, checkpointing):
    "One update's largest memory, and the plan's."
    config = configure(given, optimizer, 256 if given.rehearse else tokens, checkpointing)
    policy = common.random_policy(common.shape_of(name, given.rehearse), given.device)
    parts, needed = predicted(policy, config, given)
    if given.gpu and needed > given.gpu["memory_gib"]:
        return dict(left_out=f"needs {needed:.0f} GiB by the plan"), {}
    state = common.prepare(policy, common.problems(64, policy, given.words), config)
    rollouts = rollouts_that_fill(state, config, given)
    common.make_update(state, config, rollouts)
    common.forget()
    statistics = common.make_update(state, config, rollouts)
    peak = common.peak_gib()
    ratio = needed / peak["tensors_gib"] if peak["tensors_gib"] else 1.0
    filled = sum(len(r.token_ids) for r in rollouts)
    return dict(completion_tokens=filled, plan=parts, plan_gib=needed, peak=peak, plan_over_peak=ratio), {
        "the loss is finite": statistics["loss"] == statistics["loss"],
        "the plan is no smaller than the peak": common.there(given, ratio >= 1),
        "the plan is within 15 % of the peak": common.there(given, ratio <= 1.15),
    }


def main(arguments=None):
    given = common.arguments(__doc__, 20, given=arguments)
    warnings.simplefilter("ignore")
    given.words = common.lengths(given)
    work = dict(
        lengths=given.words._asdict(),
        shapes={name: dataclasses.asdict(common.shape_of(name, given.rehearse)) for name in common.SHAPES},
        precision="bfloat16 under autocast, float32 weights and gradients",
        peak="torch.cuda.max_memory_allocated; reserved: by torch's allocator",
    )
    result = common.Result(given, "memory of an update against the plan", work)
    for name, optimizer, tokens, checkpointing in CASES:
        words = f"{name}, {optimizer}, {tokens} tokens{', checkpointing' * checkpointing}"
        result.case(words, measure, given, name, optimizer, tokens, checkpointing)
    return result.end()


if __name__ == "__main__":
    main()
