"""Speed of an update, and where its time goes: `python benchmarks/gpu/update_speed.py --json
benchmarks/results/gpu_update_speed.json`

Qwen2.5 shapes of 0.5B, 1.5B and 7B with random weights, bfloat16 with float32 master weights, packed microbatches,
the whole update as the
trainer makes it: cutting and packing, forward, backward, statistics, gradient norm, optimizer. Rollouts of random
tokens, prompts of 100 to 200
tokens, completions with long-tailed lengths (mean 800, longest 3,072), 16 to a prompt. Tokens a second count each
prompt once. Seconds are
from an idle device to an idle device. A shape that does not fit on this GPU by `spurious-rlvr plan` is named with
what it needs.

Needs one A100, H100 or H200 (their bfloat16 peak is the measure). 7B needs 130 GiB.
"""

import collections
import contextlib
import warnings

import common

SETTINGS = {  # shape -> (gradient_checkpointing, microbatch_tokens, optimizer), the better ones first
    "0.5b": [(False, 16384, "adamw"), (True, 32768, "adamw")],
    "1.5b": [(False, 8192, "adamw"), (True, 32768, "adamw")],
    "7b": [(False, 4096, "adamw_bf16"), (True, 16384, "adamw_bf16")],
}
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
    ("elementwise", ("elementwise", "vectorized", "mul", "add", "silu", "exp")),
]


def options(parser):
    parser.add_argument("--shapes", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--groups", type=int, default=4, help="prompts in the update, with 16 completions each")
    parser.add_argument("--compile", action="store_true", help="with compiled layers")


def configure(given, checkpointing, tokens, optimizer):
    from spurious_rlvr.train import GRPOConfig

    return GRPOConfig(
        prompts_per_phase=given.groups,
        num_generations=16,
        minibatch_size=16 * given.groups,
        max_prompt_length=256,
        max_completion_length=given.longest,
        loss_type="dapo",
        learning_rate=1e-6,
        optimizer=optimizer,
        gradient_checkpointing=checkpointing,
        mixed_precision="bf16",
        microbatch_tokens=tokens,
        compile=given.compile,
        checkpoint_every=0,
    )


def room_for(name, config, given):
    "What the plan says about this GPU: GiB needed, and whether they are there."
    from spurious_rlvr.plan import make_plan

    plan = make_plan(
        common.SHAPES[name], config, memory_gib=80 if given.rehearse else given.gpu["memory_gib"], engine="server"
    )
    return plan.needed / 2**30, given.rehearse or plan.needed <= plan.capacity


@contextlib.contextmanager
def timed_parts(device, into, placement):
    "The parts of an update with the device idle between them: their sum is more than an undisturbed update takes."
    from spurious_rlvr import train

    owners = {name: placement if name in ("backward", "step") else train for name in PARTS}
    originals = {name: getattr(owner, name) for name, owner in owners.items()}

    def timed(function, part):
        def outer(*arguments, **options):
            with common.stopwatch(device, into, part):
                return function(*arguments, **options)

        return outer

    for name, part in PARTS.items():
        setattr(owners[name], name, timed(originals[name], part))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(owners[name], name, original)


def kernel_shares(work, device):
    """Shares of the device's busy time by kind of kernel, from torch's profiler, and how much of the wall time the
    device was busy."""
    from torch.profiler import ProfilerActivity, profile

    taken, cuda = {}, device == "cuda"
    with (
        profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])], acc_events=True
        ) as found,
        common.stopwatch(device, taken),
    ):
        work()
    busy = collections.Counter()
    for event in found.key_averages():
        spent = event.self_device_time_total if cuda else event.self_cpu_time_total
        if cuda and (
            event.device_type.name != "CUDA" or getattr(event, "is_user_annotation", False) or "#" in event.key
        ):
            continue  # kernels only, not the calls and names around them
        name = event.key.lower()
        busy[next((kind for kind, signs in KINDS if any(sign in name for sign in signs)), "other")] += spent
    total = sum(busy.values())
    return dict(
        shares={kind: spent / total for kind, spent in busy.most_common()} if total else {},
        device_busy=total / 1e6 / taken["seconds"],
    )


def measure(shape, config, given):
    "One setting of one shape."
    from spurious_rlvr import train

    policy = common.random_policy(shape, given.device)
    given_problems = common.problems(given.groups, shape.vocabulary, given.shortest_prompt, given.longest_prompt)
    state = common.prepare(policy, given_problems, config)
    rollouts = common.made_rollouts(policy, given_problems, 16, given.mean, given.longest, shape.vocabulary)
    flops, tokens = (
        common.model_flops(shape, groups := common.groups_of(state, rollouts)),
        sum(prompt + sum(written) for prompt, written in groups),
    )
    statistics, memory = {}, common.Memory(given.device)

    def update():
        return statistics.update(common.make_update(state, config, rollouts))

    memory.forget()
    seconds = common.times(update, given)
    held = memory.look()
    parts = {}
    with timed_parts(given.device, parts, state.placement):
        update()
    first, rest = ([0], list(range(1, len(rollouts))))
    cut = [train.Update(train.cut_pieces(state, config, rollouts, places), places) for places in (first, rest)]
    later = train.PhaseBatches(cut, [0] * len(rollouts))
    old = common.times(
        lambda: train.record_old_logprobs(state, config, later, rollouts),
        given,
    )
    peak = common.peak_of(given.gpu["name"])[0] if given.gpu else 1.0
    return dict(
        gradient_checkpointing=str(config.gradient_checkpointing),
        microbatch_tokens=config.microbatch_tokens,
        optimizer=config.optimizer,
        compiled=str(config.compile),
        rollouts=len(rollouts),
        tokens=tokens,
        model_tflop=flops / 1e12,
        seconds=common.spread(seconds),
        tokens_per_second=common.spread([tokens / s for s in seconds]),
        share_of_peak=common.spread([flops / s / (peak * 1e12) for s in seconds]),
        old_logprobs_seconds_of_all_but_one=common.spread(old),
        parts_seconds=parts,
        kernels_of_one_group=kernel_shares(lambda: common.make_update(state, config, rollouts[:16]), given.device),
        memory=held,
    ), bool(statistics["loss"] == statistics["loss"] and not statistics["skipped"])


def main(arguments=None):
    given = common.arguments(__doc__, 20, peak=True, add=options, given=arguments)
    given.mean, given.longest, given.shortest_prompt, given.longest_prompt = (
        (8, 24, 4, 9) if given.rehearse else (800, 3072, 100, 200)
    )
    if given.rehearse:
        given.groups = 2
    import gc

    import torch

    warnings.simplefilter("ignore")
    figures, checks = {}, {}
    for name in given.shapes:
        shape, figures[name] = common.shape_of(name, given.rehearse), []
        for checkpointing, tokens, optimizer in SETTINGS[name]:
            config = configure(given, checkpointing, 256 if given.rehearse else tokens, optimizer)
            needed, fits = room_for(name, config, given)
            if not fits:
                figures[name].append(
                    dict(
                        microbatch_tokens=tokens,
                        gradient_checkpointing=str(checkpointing),
                        left_out=f"needs {needed:.0f} GiB by the plan",
                    )
                )
                continue
            try:
                found, finite = measure(shape, config, given)
            except torch.OutOfMemoryError:
                found, finite = (
                    dict(
                        microbatch_tokens=tokens,
                        gradient_checkpointing=str(checkpointing),
                        left_out=f"memory ran out, though the plan says {needed:.0f} GiB",
                    ),
                    False,
                )
            figures[name].append(found)
            checks[f"{name}, checkpointing {checkpointing}: loss finite, no update skipped"] = finite
            gc.collect()
            if given.device == "cuda":
                torch.cuda.empty_cache()
            common.note(given, f"{name} {found}")
    best = [f["share_of_peak"]["median"] for f in figures.get("7b", []) if "share_of_peak" in f]
    if best and not given.rehearse:
        checks["7b: at least 40 % of the bfloat16 peak"] = max(best) >= 0.4
    work = dict(
        groups=given.groups,
        generations=16,
        mean_length=given.mean,
        longest=given.longest,
        prompt_words=[given.shortest_prompt, given.longest_prompt],
        precision="bfloat16 under autocast, float32 weights and gradients",
        flops=common.FLOPS,
    )
    return common.report(
        given, "an update: tokens a second, share of the bfloat16 peak, where the time goes", work, figures, checks
    )


if __name__ == "__main__":
    main()
