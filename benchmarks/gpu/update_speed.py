"""Speed of an update, and where its time goes: `python benchmarks/gpu/update_speed.py --json
benchmarks/results/gpu_update_speed.json`

Qwen2.5 shapes of 0.5B, 1.5B and 7B with random weights and float32 masters; the whole update as the trainer makes it:
cutting and packing, forward, backward, statistics, gradient norm, optimizer. Rollouts of random tokens: 4 prompts of
100 to 200 tokens, 16 completions each with long-tailed lengths (mean 800, longest 3,072). Tokens a second count each
prompt once. What does not fit on this GPU by `spurious-rlvr plan` is named with what it needs.

Needs one A100, H100 or H200, whose bfloat16 peak is the measure, of 20 GiB; 7B needs 130 GiB.
"""

import collections
import contextlib
import dataclasses
import warnings

import common

CASES = [  # shape, optimizer, precision, gradient_checkpointing, microbatch_tokens, compile; by worth
    ("0.5b", "adamw", "bf16", False, 16384, False),
    ("1.5b", "adamw", "bf16", False, 8192, False),
    ("7b", "adamw_bf16", "bf16", True, 16384, False),
    ("1.5b", "adamw", "bf16_weights", False, 8192, False),
    ("7b", "adamw_bf16", "bf16_weights", True, 16384, False),
    ("0.5b", "adamw", "bf16_weights", False, 16384, False),
    ("7b", "adamw_bf16", "bf16", False, 4096, False),
    ("1.5b", "adamw", "bf16", True, 32768, False),
    ("1.5b", "adamw", "bf16_weights", False, 8192, True),
]
HOLD = {"1.5b": 0.35, "7b": 0.4}  # least share of the peak, by the best case of a shape
PARTS = dict(
    cut_pieces="packing",
    piece_loss="forward",
    backward="backward",
    step="gradient norm and optimizer",
    update_statistics="statistics",
    record_tokens="per-token records",
)
KINDS = [  # what a kernel's name holds -> where its time is counted; the first that fits
    ("attention", ("flash", "fmha", "attention")),
    ("matrix products", ("gemm", "cutlass", "nvjet", "sgemm", "addmm", "aten::mm", "mkldnn", "aten::linear")),
    ("optimizer", ("adam", "multi_tensor", "foreach")),
    ("gather and scatter", ("index", "gather", "scatter", "embedding")),
    ("copies and casts", ("copy", "memcpy", "memset", "cat", "fill")),
    ("softmax and reductions", ("softmax", "reduce", "norm", "sum", "mean")),
    ("elementwise", ("elementwise", "vectorized", "mul", "add", "silu", "exp", "triton")),
]


def options(parser):
    parser.add_argument("--groups", type=int, default=4, help="prompts in the update, with 16 completions each")
    parser.add_argument("--shapes", nargs="*", default=list(common.SHAPES), choices=list(common.SHAPES))


def configure(given, optimizer, precision, checkpointing, tokens, compiled):
    from spurious_rlvr.train import GRPOConfig

    return GRPOConfig(
        prompts_per_phase=given.groups,
        num_generations=16,
        minibatch_size=16 * given.groups,
        max_prompt_length=256,
        max_completion_length=given.words.longest,
        loss_type="dapo",
        learning_rate=1e-6,
        optimizer=optimizer,
        gradient_checkpointing=checkpointing,
        mixed_precision=precision,
        microbatch_tokens=256 if given.rehearse else tokens,
        compile=compiled,
        checkpoint_every=0,
    )


@contextlib.contextmanager
def timed_parts(device, into, placement):
    "The parts of an update with the device idle between them: their sum is more than an undisturbed update takes."
    from spurious_rlvr import train

    owners = {name: placement if name in ("backward", "step") else train for name in PARTS}
    originals = {name: getattr(owner, name) for name, owner in owners.items()}

    def timed(function, part):
        def outer(*arguments, **more):
            with common.stopwatch(device, into, part):
                return function(*arguments, **more)

        return outer

    for name, part in PARTS.items():
        setattr(owners[name], name, timed(originals[name], part))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(owners[name], name, original)


def kernel_shares(work, device):
    "Shares of the device's busy time by kind of kernel, from torch's profiler, and its busy share of the wall time."
    from torch.profiler import ProfilerActivity, profile

    taken, cuda = {}, device == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=kinds, acc_events=True) as found, common.stopwatch(device, taken):
        work()
    busy = collections.Counter()
    for event in found.key_averages():
        spent = event.self_device_time_total if cuda else event.self_cpu_time_total
        around = event.device_type.name != "CUDA" or getattr(event, "is_user_annotation", False) or "#" in event.key
        if cuda and around:
            continue  # kernels only, not the calls and names around them
        name = event.key.lower()
        busy[next((kind for kind, signs in KINDS if any(sign in name for sign in signs)), "other")] += spent
    total = sum(busy.values())
    shares = {kind: spent / total for kind, spent in busy.most_common()} if total else {}
    return dict(shares=shares, device_busy=total / 1e6 / taken["seconds"])


def old_logprobs_seconds(state, config, rollouts, given):
    "What a phase's pass over its old log-probabilities takes, for all rollouts but one."
    from spurious_rlvr import train

    cuts = ([0], list(range(1, len(rollouts))))
    updates = [train.Update(train.cut_pieces(state, config, rollouts, places), places) for places in cuts]
    batches = train.PhaseBatches(updates, [0] * len(rollouts))
    return common.spread(common.times(lambda: train.record_old_logprobs(state, config, batches, rollouts), given))


def measure(given, name, *setting):
    "One setting of one shape."
    from spurious_rlvr.plan import make_plan

    config, shape = configure(given, *setting), common.shape_of(name, given.rehearse)
    if not given.rehearse:
        plan = make_plan(shape, config, memory_gib=given.gpu["memory_gib"], engine="server")
        if plan.needed > plan.capacity:
            return dict(left_out=f"needs {plan.needed / 2**30:.0f} GiB by the plan"), {}
    policy = common.random_policy(shape, given.device)
    asked = common.problems(given.groups, policy, given.words)
    state = common.prepare(policy, asked, config)
    rollouts = common.made_rollouts(policy, asked, 16, given.words)
    groups, statistics, parts = common.groups_of(state, rollouts), {}, {}
    flops, tokens = common.model_flops(shape, groups), sum(prompt + sum(written) for prompt, written in groups)

    def update():
        statistics.update(common.make_update(state, config, rollouts))

    common.forget()
    seconds = common.times(update, given)
    memory = common.peak_gib()
    with timed_parts(given.device, parts, state.placement):
        update()
    peak = common.peak_of(given.gpu["name"])[0] if given.gpu else 1.0
    share = common.spread([flops / s / (peak * 1e12) for s in seconds])
    found = dict(
        tokens=tokens,
        model_tflop=flops / 1e12,
        seconds=common.spread(seconds),
        tokens_per_second=common.spread([tokens / s for s in seconds]),
        share_of_peak=share,
        old_logprobs_seconds=old_logprobs_seconds(state, config, rollouts, given),
        parts_seconds=parts,
        kernels_of_one_group=kernel_shares(lambda: common.make_update(state, config, rollouts[:16]), given.device),
        memory=memory,
    )
    given.best[name] = max(given.best.get(name, 0), share["median"])
    sound = statistics["loss"] == statistics["loss"] and not statistics["skipped"]
    return found, {"the loss is finite, and no update is skipped": sound}


def best_shares(given):
    "The best case of each shape against what it is to hold."
    figures = {name: given.best[name] for name in given.shapes if name in given.best}
    return figures, {
        f"{name} reaches at least {least:.0%} of the bfloat16 peak": common.there(given, given.best[name] >= least)
        for name, least in HOLD.items()
        if name in given.best
    }


def main(arguments=None):
    given = common.arguments(__doc__, 20, peak=True, add=options, given=arguments)
    warnings.simplefilter("ignore")
    given.words, given.best = common.lengths(given), {}
    given.groups = 2 if given.rehearse else given.groups
    work = dict(
        groups=given.groups,
        generations=16,
        lengths=given.words._asdict(),
        flops=common.FLOPS,
        shapes={name: dataclasses.asdict(common.shape_of(name, given.rehearse)) for name in given.shapes},
        bf16="autocast, float32 weights and gradients",
        bf16_weights="weights cast once an update, float32 masters",
    )
    result = common.Result(given, "an update: tokens a second, share of the bfloat16 peak, where the time goes", work)
    for name, optimizer, precision, checkpointing, tokens, compiled in CASES:
        if name in given.shapes and not (given.rehearse and compiled):
            words = f"{precision}, {tokens} tokens{', checkpointing' * checkpointing}{', compiled' * compiled}"
            result.case(f"{name}, {words}", measure, given, name, optimizer, precision, checkpointing, tokens, compiled)
    result.case("best", best_shares, given)
    return result.end()


if __name__ == "__main__":
    main()
