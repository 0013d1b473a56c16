"""Is what a GPU computes right? `python benchmarks/gpu/correctness.py --json benchmarks/results/gpu_correctness.json`

- attention: log-probabilities and gradients of packed microbatches in float32 and in bfloat16, for a small Qwen2 and a
  small Llama with random weights, against plain transformers in float32 on the CPU, row by row; flex attention, which
  must be compiled first, is the second opinion and comes last;
- ratio: at learning rate 0 it is exactly 1 in every update, whatever the precision and the order;
- masters: weights stay float32, and moves that bfloat16 weights would round away are kept;
- resume: a run stopped at a checkpoint and resumed in a fresh policy against the run that was never stopped, bit for
  bit under torch's deterministic algorithms.

Needs one GPU of compute capability 8.0 or more, 16 GiB.
"""

import contextlib
import dataclasses
import functools
import tempfile
import warnings
from pathlib import Path

import common

# precision: largest mean |difference| of log-probabilities, nats; largest relative difference of the gradient,
# ‖g - g₀‖ / ‖g₀‖
LIMITS = {"float32": (1e-4, 1e-3), "bfloat16": (2e-2, 5e-2)}
VARIANTS = {  # name: packed, exact layout, precision, what takes the place of the package's attention
    "packed as in training, bfloat16": (True, True, "bfloat16", None),
    "packed SDPA, bfloat16": (True, False, "bfloat16", "sdpa"),
    "packed SDPA, float32": (True, False, "float32", None),
    "padded, float32": (False, False, "float32", None),
}
FLEX = {
    "packed flex, float32": (True, True, "float32", "flex"),
    "packed flex, bfloat16": (True, True, "bfloat16", "flex"),
}

# Attention


@functools.cache
def _compiled_flex():
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def flex(query, key, value, inside, scale):
    "flex attention under a mask that a function gives; on a CPU, where it has no backward pass, what it stands for."
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, create_mask

    places, grouped = query.shape[2], query.shape[1] != key.shape[1]
    if query.is_cuda:
        return _compiled_flex()(
            query,
            key,
            value,
            block_mask=create_block_mask(inside, None, None, places, places, device=query.device),
            scale=scale,
            enable_gqa=grouped,
        )
    return torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=create_mask(inside, None, None, places, places, device=query.device),
        scale=scale,
        enable_gqa=grouped,
    )


def attend_by_flex(query, key, value, layout, scale):
    "Block-diagonal causal attention over the same places: a second opinion."
    import torch

    kind = query.device.type
    if torch.is_autocast_enabled(kind):
        query, key, value = (states.to(torch.get_autocast_dtype(kind)) for states in (query, key, value))
    document = torch.repeat_interleave(torch.arange(len(layout.bounds) - 1, device=query.device), layout.bounds.diff())

    def inside(batch, head, q, k):
        return (document[q] == document[k]) & (q >= k)

    return flex(*(states.transpose(0, 1)[None] for states in (query, key, value)), inside, scale)[0].transpose(0, 1)


def attend_by_sdpa(inner):  # what the package does where there is no FlashAttention
    return lambda query, key, value, layout, scale: inner(
        query, key, value, dataclasses.replace(layout, bounds=None), scale
    )


@contextlib.contextmanager
def attention_of(name):
    from spurious_rlvr import logprobs

    original = logprobs._attend
    if name:
        logprobs._attend = attend_by_flex if name == "flex" else attend_by_sdpa(original)
    try:
        yield
    finally:
        logprobs._attend = original


def logprobs_and_gradient(policy, rows, packed, exact, precision, kernel):
    """Log-probabilities in the order of the rows, and the gradient of their weighted sum, one after the other, on the
    CPU."""
    import torch

    from spurious_rlvr.logprobs import completion_logprobs, microbatches

    prompts, completions, weights = rows
    found = [None] * len(prompts)
    policy.model.zero_grad()
    for batch in microbatches(prompts, completions, token_budget=700, packed=packed, exact=exact):
        batch = batch.to(policy.device)
        with attention_of(kernel):
            half = torch.bfloat16 if precision == "bfloat16" else None
            logprobs, _ = completion_logprobs(policy.model, batch, compute_dtype=half)
        wanted = torch.tensor([weights[i] for i in batch.rows.tolist()], device=policy.device)[batch.row_index]
        (logprobs * wanted).sum().backward()
        for i, part in zip(
            batch.rows.tolist(), logprobs.detach().cpu().split([len(completions[i]) for i in batch.rows.tolist()])
        ):
            found[i] = part
    return torch.cat(found), torch.cat([p.grad.flatten().float().cpu() for p in policy.model.parameters()])


def plain_logprobs_and_gradient(policy, rows):
    "The reference: transformers alone, row by row, float32 on the CPU, without this package's head or packing."
    import torch

    prompts, completions, weights = rows
    policy.model.zero_grad()
    found = []
    for prompt, completion, weight in zip(prompts, completions, weights):
        logits = policy.model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
        logprobs = logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]
        (weight * logprobs.sum()).backward()
        found.append(logprobs.detach())
    return torch.cat(found), torch.cat([p.grad.flatten() for p in policy.model.parameters()])


def random_rows(shape, given, seed):
    "Prompts that several completions share, of many lengths; weights of either sign."
    from spurious_rlvr.core import keyed_rng

    rng = keyed_rng(seed, "rows")
    prompts, completions = [], []
    groups, each, longest = (3, 2, 24) if given.rehearse else (8, 4, 300)
    for _ in range(groups):
        prompt = rng.integers(3, shape.vocabulary, rng.integers(5, longest // 2)).tolist()
        for _ in range(each):
            prompts.append(prompt)
            completions.append(rng.integers(3, shape.vocabulary, rng.integers(1, longest)).tolist())
    return prompts, completions, rng.normal(size=len(prompts)).astype("float32").tolist()


def reference(given, shape, kind, seed):
    "Rows, and what plain transformers says of them; worked out once."
    if (kind, seed) not in given.references:
        rows = random_rows(shape, given, seed)
        said = plain_logprobs_and_gradient(common.random_policy(shape, "cpu", seed, kind), rows)
        given.references[kind, seed] = rows, *said
    return given.references[kind, seed]


def compare_attention(given, shape, kind, packed, exact, precision, kernel):
    "A variant against the reference, on fresh inputs for each repetition."
    means, largest, gradients = [], [], []
    for seed in range(given.repeats):
        rows, expected, gradient = reference(given, shape, kind, seed)
        policy = common.random_policy(shape, "cpu", seed, kind)
        policy.model.to(given.device)
        found, own = logprobs_and_gradient(policy, rows, packed, exact, precision, kernel)
        gap = (found - expected).abs()
        means.append(gap.mean().item())
        largest.append(gap.max().item())
        gradients.append(((own - gradient).norm() / gradient.norm()).item())
    logprob_limit, gradient_limit = LIMITS[precision]
    return dict(
        mean_difference_nats=common.spread(means),
        largest_difference_nats=common.spread(largest),
        relative_difference_of_gradient=common.spread(gradients),
    ), {
        f"within {logprob_limit} nats on average": max(means) <= logprob_limit,  # not a number fails
        f"the gradient within {gradient_limit}": max(gradients) <= gradient_limit,
    }


# The trainer


def compare_ratio(given, shape, precision):
    "A phase at learning rate 0, in both orders of minibatches."
    from spurious_rlvr import train
    from spurious_rlvr.rewards import as_reward

    extremes, words = {}, common.lengths(given, longest=128)
    for order in ("group", "shuffled"):
        policy = common.sharpen(common.random_policy(shape, given.device))
        config = train.GRPOConfig(
            phases=1,
            prompts_per_phase=8,
            num_generations=8,
            minibatch_size=16,
            minibatch_order=order,
            max_prompt_length=256,
            max_completion_length=words.longest,
            learning_rate=0.0,
            mixed_precision=precision,
            microbatch_tokens=256 if given.rehearse else 2048,
            checkpoint_every=0,
        )
        state = common.prepare(policy, common.problems(8, policy, words), config)
        [phase] = train.run_phases(state, as_reward("random:0.5"), config)
        extremes[order] = [min(u["ratio_min"] for u in phase.updates), max(u["ratio_max"] for u in phase.updates)]
    one = {f"the ratio is 1, minibatch_order {order}": ends == [1.0, 1.0] for order, ends in extremes.items()}
    return dict(ratio_min_and_max=extremes), one


def compare_masters(given):
    "Twenty small updates: dtype of the weights, how many moved, and how many of these moves bfloat16 would show."
    from spurious_rlvr import train

    policy, words = common.random_policy(common.shape_of("0.5b", True), given.device), common.Lengths(8, 24, 4, 9)
    asked = common.problems(4, policy, words)
    config = train.GRPOConfig(
        prompts_per_phase=4,
        num_generations=16,
        minibatch_size=64,
        max_prompt_length=64,
        max_completion_length=24,
        learning_rate=1e-6,
        mixed_precision="bf16",
        microbatch_tokens=512,
    )
    state = common.prepare(policy, asked, config)
    before = [p.detach().clone() for p in policy.model.parameters()]
    rollouts = common.made_rollouts(policy, asked, 16, words)
    for _ in range(20):
        common.make_update(state, config, rollouts)
    pairs = list(zip(policy.model.parameters(), before))
    moved = sum(int((p != b).sum()) for p, b in pairs)
    shown = sum(int((p.bfloat16() != b.bfloat16()).sum()) for p, b in pairs)
    total, kinds = sum(b.numel() for b in before), sorted({str(p.dtype) for p in policy.model.parameters()})
    shares = dict(moved_share=moved / total, share_that_bfloat16_weights_would_show=shown / total)
    return shares | dict(dtypes=", ".join(kinds)), {
        "masters are float32": kinds == ["torch.float32"],
        "more of the moves are kept than bfloat16 would show": shown < moved,
    }


# Resume

RESUMED = {
    "the organism's preset": {},
    "all weights, AdamW, bfloat16": dict(
        trainable="all",
        optimizer="adamw",
        learning_rate=1e-4,
        mixed_precision="bf16",
        old_logprobs="trainer",
        max_grad_norm=1.0,
    ),
}


def train_organism(given, folder, phases, resume, settings):
    "A few phases of the organism, as a user trains it; the weights at the end."
    from accelerate.state import AcceleratorState
    from safetensors.torch import load_file

    from spurious_rlvr import organisms
    from spurious_rlvr.train import PRESETS, train

    AcceleratorState._reset_state(reset_partial_state=True)
    policy = organisms.load("qwen-like")
    policy.model.to(given.device)
    config = dataclasses.replace(
        PRESETS["organism"], phases=phases, prompts_per_phase=8, minibatch_size=32, checkpoint_every=1, **settings
    )
    run = train(policy, organisms.training_problems(64), "random:0.5", config, folder, progress=False, resume=resume)
    return load_file(run.latest_checkpoint / "policy" / "model.safetensors"), run.rollouts()["token_ids"].tolist()


def compare_resume(given, settings):
    "Straight through against stopped and resumed."
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with tempfile.TemporaryDirectory() as place:
            straight, texts = train_organism(given, Path(place) / "straight", 2, False, settings)
            train_organism(given, Path(place) / "stopped", 1, False, settings)
            resumed, again = train_organism(given, Path(place) / "stopped", 2, True, settings)
    finally:
        torch.use_deterministic_algorithms(False)
    gap = max(float((straight[n].float() - resumed[n].float()).abs().max()) for n in straight)
    same = [list(a) == list(b) for a, b in zip(texts, again)]
    return dict(largest_difference_of_weights=gap, share_of_equal_completions=sum(same) / len(same)), {
        "resume is exact, bit for bit": all(torch.equal(straight[n], resumed[n]) for n in straight)
    }


def main(arguments=None):
    given = common.arguments(__doc__, 16, given=arguments)
    warnings.simplefilter("ignore")
    from spurious_rlvr.plan import Shape

    tiny, small = Shape("tiny", 128, 2, 4, 2, 256, 256, False), Shape("small", 512, 4, 8, 2, 1024, 2048, False)
    shape, given.references = tiny if given.rehearse else small, {}
    limits = {name: list(map(str, limit)) for name, limit in LIMITS.items()}
    work = dict(shape=dataclasses.asdict(shape), limits=limits, resume="two phases, stopped after the first")
    result = common.Result(given, "packed log-probabilities and gradients, ratio, masters and resume", work)
    for kind in ("qwen2", "llama"):
        for name, variant in VARIANTS.items():
            result.case(f"{kind}, {name}", compare_attention, given, shape, kind, *variant)
    for precision in ("bf16", "fp16", "bf16_weights", "no"):
        result.case(f"learning rate 0, {precision}", compare_ratio, given, shape, precision)
    result.case("masters", compare_masters, given)
    for name, settings in RESUMED.items():
        result.case(f"resume, {name}", compare_resume, given, settings)
    for name, variant in FLEX.items():
        result.case(f"qwen2, {name}", compare_attention, given, shape, "qwen2", *variant)
    return result.end()


if __name__ == "__main__":
    main()
