"""Does the clip bind? `python benchmarks/gpu/clip_binds.py --json benchmarks/results/gpu_clip_binds.json`

A short training under `random:0.5` as a user would run it: a 0.5B Qwen2.5 shape with random weights, bfloat16 with
float32 masters, 8 updates
a phase, for each learning rate and for clip "both" and "none" on the same seeds. For each update its place in the
phase, the clip fractions,
the ratio's quantiles and a histogram of log-ratios; for each phase the mismatch between sampler and trainer in
bfloat16. `--model FOLDER`
takes weights from a folder instead, such as a larger organism's.

Needs one GPU of at least 40 GiB. `--engine vllm` samples with vLLM; the default is the policy's own model.
"""

import gc
import math
import warnings

import common

EDGES = [
    -math.inf,
    -1,
    -0.5,
    -0.3,
    -0.2231,
    -0.1,
    -0.05,
    -0.02,
    -0.01,
    0,
    0.01,
    0.02,
    0.05,
    0.1,
    0.1823,
    0.3,
    0.5,
    1,
    math.inf,
]  # of the log-ratio; ln 0.8 and ln 1.2 are the clip's, at ε = 0.2


def options(parser):
    parser.add_argument("--learning-rates", type=float, nargs="*", default=[1e-6, 1e-5, 1e-4])
    parser.add_argument("--phases", type=int, default=3)
    parser.add_argument("--engine", choices=["vllm", "transformers"], default="transformers")
    parser.add_argument("--model", help="a folder made by save_pretrained, in place of random weights")


def configure(given, learning_rate, clip):
    from spurious_rlvr.train import GRPOConfig

    return GRPOConfig(
        phases=given.phases,
        prompts_per_phase=given.prompts,
        num_generations=8,
        minibatch_size=given.prompts,
        max_prompt_length=256,
        max_completion_length=given.tokens,
        learning_rate=learning_rate,
        clip=clip,
        mixed_precision="bf16",
        microbatch_tokens=given.microbatch,
        std_epsilon=0.0,
        checkpoint_every=0,
    )


def policy_of(given):
    from spurious_rlvr.policy import load_policy

    if given.model:
        return load_policy(given.model, device=given.device)
    return common.random_policy(common.shape_of("0.5b", given.rehearse), given.device)


def engine_of(policy, given):
    from spurious_rlvr.rollout import TransformersEngine, VLLMEngine

    return (
        TransformersEngine(policy)
        if given.engine == "transformers"
        else VLLMEngine(policy, gpu_memory_utilization=0.3, max_model_len=256 + given.tokens)
    )


def histogram(rollouts, update):
    "Shares of an update's tokens by log-ratio, between EDGES."
    import numpy as np

    gaps = [
        np.asarray(r.logprob_new) - np.asarray(r.logprob_old) for r in rollouts if r.update == update and r.logprob_new
    ]
    counts = np.histogram(np.concatenate(gaps), EDGES)[0] if gaps else np.zeros(len(EDGES) - 1)
    return (counts / max(1, counts.sum())).tolist()


def one_run(given, learning_rate, clip):
    "A training from the same start; what its updates and phases reported."
    from spurious_rlvr import train
    from spurious_rlvr.rewards import as_reward

    policy = policy_of(given)
    engine = engine_of(policy, given)
    config = configure(given, learning_rate, clip)
    vocabulary = policy.model.config.vocab_size
    state = common.prepare(
        policy, common.problems(64, vocabulary, given.shortest_prompt, given.longest_prompt), config, engine
    )
    updates, phases = [], []
    for phase in train.run_phases(state, as_reward("random:0.5"), config):
        for number, update in enumerate(phase.updates):
            kept = (
                "clip_fraction_high",
                "clip_fraction_low",
                "out_of_band_high",
                "out_of_band_low",
                "ratio_q01",
                "ratio_median",
                "ratio_q99",
                "ratio_min",
                "ratio_max",
                "log_ratio_spread",
                "gradient_norm",
            )
            updates.append(
                dict(
                    phase=phase.number,
                    update=number,
                    **{name: update[name] for name in kept},
                    log_ratio_shares=histogram(phase.rollouts, number),
                )
            )
        phases.append(
            {
                name: phase.metrics[name]
                for name in (
                    "mismatch_mean",
                    "mismatch_max",
                    "ess_tokens",
                    "ess_sequences",
                    "entropy",
                    "clip_fraction_high",
                    "clip_fraction_low",
                    "skipped",
                )
            }
        )
    engine.close()
    return dict(learning_rate=str(learning_rate), clip=clip, updates=updates, phases=phases)


def holds(run):
    "What must be true of any run: nothing is clipped at a phase's first update; without a clip nothing is."

    def clipped(u):
        return u["clip_fraction_high"] + u["clip_fraction_low"]

    first = all(clipped(u) == 0 and u["ratio_max"] == u["ratio_min"] == 1 for u in run["updates"] if u["update"] == 0)
    return (
        first
        and not any(p["skipped"] for p in run["phases"])
        and (run["clip"] != "none" or all(clipped(u) == 0 for u in run["updates"]))
    )


def main(arguments=None):
    given = common.arguments(__doc__, 40, add=options, given=arguments)
    given.prompts, given.tokens, given.microbatch, given.shortest_prompt, given.longest_prompt = (
        (8, 12, 256, 4, 9) if given.rehearse else (32, 256, 16384, 50, 100)
    )
    if given.rehearse:
        given.phases, given.learning_rates = 1, [1e-2]
    warnings.simplefilter("ignore")
    runs = []
    for learning_rate in given.learning_rates:
        for clip in ("both", "none"):
            runs.append(one_run(given, learning_rate, clip))
            common.note(given, {name: runs[-1][name] for name in ("learning_rate", "clip", "phases")})
            gc.collect()
    checks = {
        f"{run['clip']} at {run['learning_rate']}: ratio 1 at first, and no impossible clipping": holds(run)
        for run in runs
    }
    bound = [
        u["clip_fraction_high"] + u["clip_fraction_low"]
        for run in runs
        if run["clip"] == "both"
        for u in run["updates"]
    ]
    checks["somewhere the clip removes gradient"] = max(bound) > 0
    work = dict(
        model=given.model or common.shape_of("0.5b", given.rehearse).name,
        engine=given.engine,
        prompts=given.prompts,
        generations=8,
        updates_per_phase=8,
        tokens=given.tokens,
        epsilon=0.2,
        optimizer="adamw",
        log_ratio_edges=[str(edge) for edge in EDGES],
        precision="bfloat16 under autocast, float32 weights and gradients",
    )
    return common.report(
        given,
        "clip fractions and ratios update by update, and the mismatch of sampler and trainer, in bfloat16",
        work,
        dict(runs=runs),
        checks,
    )


if __name__ == "__main__":
    main()
