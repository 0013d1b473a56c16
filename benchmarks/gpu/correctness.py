"""Is what a GPU computes right? `python benchmarks/gpu/correctness.py --json benchmarks/results/gpu_correctness.json`

- attention: log-probabilities and gradients of packed microbatches through FlashAttention, flex attention and SDPA,
in float32 and in bfloat16
  with float32 masters, for a small Qwen2 and a small Llama with random weights, against padded rows in float32 on
  the CPU, computed there by
  plain transformers;
- masters: weights stay float32, and updates that bfloat16 weights would round away are kept;
- resume: a run stopped at a checkpoint and resumed in a fresh policy against the run that was never stopped, bit for
bit, with torch's
  deterministic algorithms and without;
- demo: the organism's demo on the GPU and on the CPU with the same seeds; differences of every arm with intervals.

Needs one GPU of compute capability 8.0 or more, 16 GiB. `--demo skip` leaves out the longest part.
"""

import contextlib
import dataclasses
import functools
import math
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import common

# precision: largest mean |difference| of log-probabilities, nats; largest relative difference of the gradient, ‖g - g₀‖
# / ‖g₀‖
LIMITS = {
    "float32": (1e-4, 1e-3),
    "bfloat16": (2e-2, 5e-2),
}


def options(parser):
    parser.add_argument("--demo", choices=["full", "quick", "skip"], default="full")
    parser.add_argument("--jobs", type=int, default=8, help="runs of the demo side by side")
    parser.add_argument("--demo-worker", help="for this script's own use: the folder of one demo")


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


VARIANTS = {  # name: packed, exact layout, precision, what takes the place of the package's attention
    "padded, float32": (False, False, "float32", None),
    "packed SDPA, float32": (True, False, "float32", None),
    "packed flex, float32": (True, True, "float32", "flex"),
    "packed SDPA, bfloat16": (True, False, "bfloat16", "sdpa"),
    "packed flex, bfloat16": (True, True, "bfloat16", "flex"),
    "packed as in training, bfloat16": (True, True, "bfloat16", None),
}


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
    for _ in range(3 if given.rehearse else 8):
        prompt = rng.integers(3, shape.vocabulary, rng.integers(5, given.longest // 2)).tolist()
        for _ in range(2 if given.rehearse else 4):
            prompts.append(prompt)
            completions.append(rng.integers(3, shape.vocabulary, rng.integers(1, given.longest)).tolist())
    return prompts, completions, rng.normal(size=len(prompts)).astype("float32").tolist()


def compare_attention(given):
    "Every variant against the reference, on fresh inputs for each repetition."

    from spurious_rlvr.plan import Shape

    shape = (
        Shape("small", 128, 2, 4, 2, 256, 256, False)
        if given.rehearse
        else Shape("small", 512, 4, 8, 2, 1024, 2048, False)
    )
    figures, checks = {}, {}
    for kind in ("qwen2", "llama"):
        for name, (packed, exact, precision, kernel) in VARIANTS.items():
            means, largest, gradients = [], [], []
            for seed in range(given.repeats):
                reference = common.random_policy(shape, "cpu", seed, kind)
                policy = common.random_policy(shape, "cpu", seed, kind)
                policy.model.to(given.device)
                rows = random_rows(shape, given, seed)
                expected, gradient = plain_logprobs_and_gradient(reference, rows)
                found, own = logprobs_and_gradient(policy, rows, packed, exact, precision, kernel)
                gap = (found - expected).abs()
                means.append(gap.mean().item())
                largest.append(gap.max().item())
                gradients.append(((own - gradient).norm() / gradient.norm()).item())
            logprob_limit, gradient_limit = LIMITS[precision]
            figures[f"{kind}, {name}"] = dict(
                mean_difference_nats=common.spread(means),
                largest_difference_nats=common.spread(largest),
                relative_difference_of_gradient=common.spread(gradients),
            )
            checks[f"{kind}, {name}: within {logprob_limit} nats on average, gradient within {gradient_limit}"] = (
                max(means) <= logprob_limit and max(gradients) <= gradient_limit
            )  # not a number fails
            common.note(given, f"{kind}, {name}: {figures[f'{kind}, {name}']}")
    return figures, checks, shape


# Masters


def compare_masters(given):
    "Twenty small updates: dtype of the weights, how many moved, and how many of these moves bfloat16 would show."

    from spurious_rlvr import train

    shape = common.shape_of("0.5b", True)
    policy = common.random_policy(shape, given.device)
    problems = common.problems(4, shape.vocabulary, 4, 9)
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
    state = common.prepare(policy, problems, config)
    before = [p.detach().clone() for p in policy.model.parameters()]
    rollouts = common.made_rollouts(policy, problems, 16, 8, 24, shape.vocabulary)
    for _update in range(20):
        common.make_update(state, config, rollouts)
    moved = sum(int((p != b).sum()) for p, b in zip(policy.model.parameters(), before))
    shown = sum(int((p.bfloat16() != b.bfloat16()).sum()) for p, b in zip(policy.model.parameters(), before))
    total = sum(b.numel() for b in before)
    kinds = {str(p.dtype) for p in policy.model.parameters()}
    return dict(
        moved_share=moved / total, share_that_bfloat16_weights_would_show=shown / total, dtypes=", ".join(sorted(kinds))
    ), {
        "masters are float32, and more of the moves are kept than bfloat16 would show": (
            kinds == {"torch.float32"} and shown < moved
        )
    }


# Resume


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


def compare_resume(given):
    "Straight through against stopped and resumed, with torch's deterministic algorithms and without."
    import torch

    settings = {
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
    phases, figures, checks = (1, 2) if given.rehearse else (3, 6), {}, {}
    for name, changes in settings.items():
        for deterministic in (True, False):
            with tempfile.TemporaryDirectory() as place:
                torch.use_deterministic_algorithms(deterministic, warn_only=True)
                try:
                    straight, texts = train_organism(given, Path(place) / "straight", phases[1], False, changes)
                    train_organism(given, Path(place) / "stopped", phases[0], False, changes)
                    resumed, again = train_organism(given, Path(place) / "stopped", phases[1], True, changes)
                finally:
                    torch.use_deterministic_algorithms(False)
            same = all(torch.equal(straight[n], resumed[n]) for n in straight)
            label = f"{name}, {'deterministic algorithms' if deterministic else 'torch as it is'}"
            figures[label] = dict(
                weights_are_the_same=same,
                largest_difference=max(float((straight[n].float() - resumed[n].float()).abs().max()) for n in straight),
                share_of_equal_completions=sum(a == b for a, b in zip(map(list, texts), map(list, again))) / len(texts),
            )
            if deterministic:
                checks[f"resume is exact: {label}"] = same
    return figures, checks


# The demo


def plan_of(given):
    from spurious_rlvr.demo import QUICK, Demo

    if given.rehearse:
        return Demo(
            seeds=(0, 1),
            rewards={"random": "random:0.5"},
            clips=("high",),
            changes=dict(phases=1, prompts_per_phase=4, minibatch_size=32),
        )
    return QUICK if given.demo == "quick" else Demo()


def demo_worker(given):
    "One demo in a process of its own: on the device that this process sees."
    from spurious_rlvr import demo

    warnings.simplefilter("ignore")
    plan = plan_of(given)
    demo.demo(given.demo_worker, plan=plan, quick=len(plan.clips) < 4, jobs=given.jobs, progress=False)


def compare_demo(given):
    """The demo twice. Differences GPU - CPU of each arm's benchmark accuracy and share of code, paired by seed, with
    intervals of which one in twenty demos would miss any (Bonferroni)."""
    import pandas as pd
    from scipy.stats import t

    from spurious_rlvr.runs import read_run

    with tempfile.TemporaryDirectory() as place:
        for side in ("device", "cpu"):
            environment = os.environ | (dict(CUDA_VISIBLE_DEVICES="") if side == "cpu" else {})
            command = [
                sys.executable,
                __file__,
                "--demo",
                given.demo,
                "--jobs",
                str(given.jobs),
                "--demo-worker",
                f"{place}/{side}",
                *(["--rehearse"] if given.rehearse else []),
            ]
            if failed := subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode:
                raise SystemExit(f"the demo on the {side} ended with status {failed}")
        tables = {
            side: pd.read_csv(f"{place}/{side}/outcomes.csv").set_index(["arm", "seed"]) for side in ("device", "cpu")
        }
        first = {
            side: {
                path.name: read_run(path).rollouts(phase=1)["token_ids"].tolist()
                for path in sorted(Path(f"{place}/{side}/runs").iterdir())
                if (path / "run.json").exists()
            }
            for side in tables
        }
    same = [list(a) == list(b) for name in first["cpu"] for a, b in zip(first["cpu"][name], first["device"][name])]
    figures, checks = dict(share_of_equal_completions_in_the_first_phase=sum(same) / len(same), arms={}), {}
    for column in ("accuracy", "code_share"):
        gaps = (tables["device"][column] - tables["cpu"][column]).groupby("arm")
        for arm, gap in gaps:
            half = (
                t.ppf(1 - 0.025 / (2 * gaps.ngroups), len(gap) - 1) * gap.std() / math.sqrt(len(gap))
                if len(gap) > 1
                else math.inf
            )
            figures["arms"][f"{arm}, {column}"] = dict(
                difference=gap.mean(), low=gap.mean() - half, high=gap.mean() + half, seeds=len(gap)
            )
            checks[f"demo, {arm}: {column} on the GPU is the CPU's within its interval"] = abs(gap.mean()) <= half
    return figures, checks


def main(arguments=None):
    given = common.arguments(__doc__, 16, add=options, given=arguments)
    if given.demo_worker:
        return demo_worker(given)
    given.longest = 24 if given.rehearse else 300
    if given.rehearse:
        given.jobs = 1
    warnings.simplefilter("ignore")
    figures, checks = {}, {}
    figures["attention"], held, shape = compare_attention(given)
    checks |= held
    figures["masters"], held = compare_masters(given)
    checks |= held
    figures["resume"], held = compare_resume(given)
    checks |= held
    work = dict(
        shape=dataclasses.asdict(shape),
        longest=given.longest,
        limits={name: list(map(str, limit)) for name, limit in LIMITS.items()},
        demo=given.demo,
    )

    def tell(last):
        return common.report(
            given,
            "packed log-probabilities and gradients, masters, resume and the demo, against the CPU",
            work,
            figures,
            checks,
            last=last,
        )

    if given.demo != "skip":
        tell(False)
        figures["demo"], held = compare_demo(given)
        checks |= held
    return tell(True)


if __name__ == "__main__":
    main()
