"""Does the clip bind? `python benchmarks/gpu/clip_binds.py --json benchmarks/results/gpu_clip_binds.json`

A short training under `random:0.5` as a user would run it: a 0.5B Qwen2.5 shape with random weights, bfloat16 with
float32 masters, 8 updates a phase, for each learning rate with the clip and without, on the same seeds. For each update
its place in the phase, the clip fractions, the ratio's quantiles and a histogram of log-ratios; for each phase the
mismatch between sampler and trainer. `--model` takes a folder made by save_pretrained instead.

Needs one GPU of at least 40 GiB.
"""

import math
import warnings

import common

EDGES = [0.01, 0.02, 0.05, 0.1, 0.1823, 0.3, 0.5, 1, math.inf]  # of the log-ratio; ln 1.2 is the clip's at ε = 0.2
EDGES = [-edge if edge != 0.1823 else -0.2231 for edge in EDGES[::-1]] + [0] + EDGES  # and ln 0.8
OF_AN_UPDATE = (
    *("clip_fraction_high", "clip_fraction_low", "out_of_band_high", "out_of_band_low"),
    *("ratio_q01", "ratio_median", "ratio_q99", "ratio_min", "ratio_max", "log_ratio_spread", "gradient_norm"),
)
OF_A_PHASE = (
    *("mismatch_mean", "mismatch_max", "ess_tokens", "ess_sequences", "entropy", "skipped"),
    *("clip_fraction_high", "clip_fraction_low"),
)


def options(parser):
    parser.add_argument("--learning-rates", type=float, nargs="*", default=[1e-5, 1e-6, 1e-4])
    parser.add_argument("--phases", type=int, default=2)
    parser.add_argument("--model", help="a folder made by save_pretrained, in place of random weights")


def configure(given, learning_rate, clip):
    from spurious_rlvr.train import GRPOConfig

    return GRPOConfig(
        phases=given.phases,
        prompts_per_phase=given.prompts,
        num_generations=8,
        minibatch_size=given.prompts,
        max_prompt_length=256,
        max_completion_length=given.words.longest,
        learning_rate=learning_rate,
        clip=clip,
        mixed_precision="bf16",
        microbatch_tokens=256 if given.rehearse else 16384,
        std_epsilon=0.0,
        checkpoint_every=0,
    )


def policy_of(given):
    from spurious_rlvr.policy import load_policy

    if given.model:
        return load_policy(given.model, device=given.device)
    return common.sharpen(common.random_policy(common.shape_of("0.5b", given.rehearse), given.device))


def histogram(rollouts, update):
    "Shares of an update's tokens by log-ratio, between EDGES."
    import numpy as np

    used = [r for r in rollouts if r.update == update and r.logprob_new]
    gaps = [np.asarray(r.logprob_new) - np.asarray(r.logprob_old) for r in used]
    counts = np.histogram(np.concatenate(gaps), EDGES)[0] if gaps else np.zeros(len(EDGES) - 1)
    return (counts / max(1, counts.sum())).tolist()


def one_run(given, learning_rate, clip):
    "A training from the same start; what its updates and phases reported."
    from spurious_rlvr import train
    from spurious_rlvr.rewards import as_reward

    policy, config = policy_of(given), configure(given, learning_rate, clip)
    state = common.prepare(policy, common.problems(64, policy, given.words), config)
    updates, phases = [], []
    for phase in train.run_phases(state, as_reward("random:0.5"), config):
        phases.append({name: phase.metrics[name] for name in OF_A_PHASE})
        for number, update in enumerate(phase.updates):
            kept = {name: update[name] for name in OF_AN_UPDATE}
            shares = histogram(phase.rollouts, number)
            updates.append(dict(phase=phase.number, update=number, **kept, log_ratio_shares=shares))
    first = [update for update in updates if update["update"] == 0]
    clipped = sum(update["clip_fraction_high"] + update["clip_fraction_low"] for update in updates)
    checks = {
        "the ratio is 1 in a phase's first update": all(u["ratio_max"] == u["ratio_min"] == 1 for u in first),
        "no update is skipped": not any(phase["skipped"] for phase in phases),
    }
    if clip == "none":
        checks["nothing is clipped"] = clipped == 0
    elif learning_rate == max(given.learning_rates):
        checks["somewhere the clip removes gradient"] = clipped > 0
    return dict(updates=updates, phases=phases), checks


def main(arguments=None):
    given = common.arguments(__doc__, 40, add=options, given=arguments)
    warnings.simplefilter("ignore")
    given.words = common.lengths(given, longest=256, shortest_prompt=50, longest_prompt=100)
    given.prompts = 8 if given.rehearse else 32
    if given.rehearse:
        given.phases, given.learning_rates = 1, [1e-2]
    work = dict(
        model=given.model or common.shape_of("0.5b", given.rehearse).name,
        prompts=given.prompts,
        generations=8,
        updates_per_phase=8,
        longest=given.words.longest,
        epsilon=0.2,
        optimizer="adamw",
        log_ratio_edges=[str(edge) for edge in EDGES],
        precision="bfloat16 under autocast, float32 weights and gradients",
    )
    what = "clip fractions and ratios update by update, and the mismatch of sampler and trainer, in bfloat16"
    result = common.Result(given, what, work)
    for learning_rate in given.learning_rates:
        for clip in ("both", "none"):
            result.case(f"learning rate {learning_rate:g}, clip {clip}", one_run, given, learning_rate, clip)
    return result.end()


if __name__ == "__main__":
    main()
