"""Speed of sampling without vLLM: `python benchmarks/gpu/sampler_speed.py --json
benchmarks/results/gpu_sampler_speed.json`

The package's transformers engine on Qwen2.5 shapes of 0.5B and 1.5B with random weights: 64 prompts of 100 to 200
tokens, 16 requests each, completions with long-tailed lengths (mean about 400, cut off at 1,536). The first call is
told apart, since it may compile and record. Then the mismatch: log-probabilities of the sampler against those of the
trainer in bfloat16 and in float32 on the same tokens, with weights scaled so that logits are spread as a trained
model's are.

Needs one GPU of at least 40 GiB.
"""

import time
import warnings

import common

LEAST = 40_000  # tokens a second at 0.5B


def options(parser):
    parser.add_argument("--shapes", nargs="*", default=["0.5b", "1.5b"], choices=list(common.SHAPES))
    parser.add_argument("--prompts", type=int, default=64, help="with 16 requests each")


def requests(policy, given, turn, each=16):
    "Other prompts in each turn."
    from spurious_rlvr.core import keyed_seed
    from spurious_rlvr.rollout import Request

    asked = common.problems(given.prompts, policy, given.words, seed=turn)
    prompts = [tuple(policy.encode(p.question)) for p in asked]
    keys = [(place, k) for place in range(len(prompts)) for k in range(each)]
    return [Request(prompts[place], keyed_seed(0, "sampler speed", turn, place, k)) for place, k in keys]


def speed(given, name, cuda_graphs=True):
    "Tokens a second of whole calls, from asking to the last completion; and whatever the engine warned of."
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found, checks = timed_calls(given, name, cuda_graphs)
    found["warnings"] = "; ".join(sorted({str(warning.message)[:200] for warning in warned}))
    if cuda_graphs:
        checks["steps are recorded as CUDA graphs"] = common.there(given, "CUDA graph" not in found["warnings"])
    return found, checks


def timed_calls(given, name, cuda_graphs):
    from spurious_rlvr.rollout import TransformersEngine

    policy = common.random_policy(common.shape_of(name, given.rehearse), given.device)
    engine = TransformersEngine(common.end_often(policy, given.words.mean), cuda_graphs=cuda_graphs)
    turns = []
    for turn in range(given.repeats + 1):
        taken = {}
        with common.stopwatch(given.device, taken):
            written = engine.generate(requests(policy, given, turn), max_completion_length=given.words.longest)
        sizes = [len(completion.token_ids) for completion in written]
        turns.append((sum(sizes) / taken["seconds"], sum(sizes) / len(sizes), max(sizes), taken["seconds"]))
        if turn and 4 * taken["seconds"] > given.ends - time.monotonic():
            break  # the next shape is to have its turn
    engine.close()
    rates, means, longest, seconds = zip(*turns)
    found = dict(
        engine=engine.describe(),
        tokens_per_second=common.spread(rates[1:]),
        tokens_per_second_of_the_first_call=rates[0],
        seconds=common.spread(seconds[1:]),
        mean_length=common.spread(means),
        longest=max(longest),
        memory=common.peak_gib(),
    )
    checks = {"the mean length is within a half of the one asked for": abs(means[-1] / given.words.mean - 1) < 0.5}
    if name == "0.5b" and cuda_graphs:
        fast = common.there(given, found["tokens_per_second"]["median"] >= LEAST)
        checks[f"at least {LEAST:,} tokens a second"] = fast
    return found, checks


def trainers_logprobs(policy, prompts, completions, dtype):
    "Packed, as an update computes them; for each completion a list."
    import torch

    from spurious_rlvr.logprobs import completion_logprobs, microbatches, packs_exactly, use_attention

    found, exact = [None] * len(prompts), packs_exactly(policy.model, dtype is not None)
    packed = use_attention(policy.model)
    for batch in microbatches(prompts, completions, packed=packed, exact=packed and exact):
        with torch.no_grad():
            logprobs, _ = completion_logprobs(policy.model, batch.to(policy.device), compute_dtype=dtype)
        rows = batch.rows.tolist()
        for row, values in zip(rows, logprobs.split([len(completions[row]) for row in rows])):
            found[row] = values.tolist()
    return found


def agreement(given, name):
    "The sampler's log-probabilities against the trainer's."
    import torch

    from spurious_rlvr.rollout import TransformersEngine, mismatch

    policy = common.sharpen(common.random_policy(common.shape_of(name, given.rehearse), given.device))
    engine, asked = TransformersEngine(policy), requests(policy, given, 0, each=1)
    written = engine.generate(asked, max_completion_length=16 if given.rehearse else 256)
    engine.close()
    prompts, completions = [list(r.prompt_ids) for r in asked], [list(c.token_ids) for c in written]
    found = {}
    for precision, dtype in (("bfloat16", torch.bfloat16), ("float32", None)):
        own = trainers_logprobs(policy, prompts, completions, dtype)
        found[f"against the trainer in {precision}"] = mismatch(own, [c.logprobs for c in written])
    least = min(side["ess_tokens"] for side in found.values())
    return found, {"importance weights of tokens keep nine tenths of the sample": least >= 0.9}


def main(arguments=None):
    given = common.arguments(__doc__, 40, add=options, given=arguments)
    warnings.simplefilter("ignore")
    given.words = common.lengths(given, mean=400, longest=1536)
    given.prompts = 4 if given.rehearse else given.prompts
    work = dict(
        requests=16 * given.prompts, lengths=given.words._asdict(), shapes=given.shapes, engine="TransformersEngine"
    )
    result = common.Result(given, "sampling: throughput, and how far sampler and trainer are apart", work)
    for name in given.shapes:
        result.case(name, speed, given, name)
    for name in given.shapes:
        result.case(f"{name}, mismatch", agreement, given, name)
    result.case(f"{given.shapes[0]}, without CUDA graphs", speed, given, given.shapes[0], False)
    return result.end()


if __name__ == "__main__":
    main()
