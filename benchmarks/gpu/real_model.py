"""Does the clip act on movement or on rounding, on a GPU's kernels? `python benchmarks/gpu/real_model.py --json
benchmarks/results/gpu_real_model.json`

SmolLM2-135M-Instruct with its weights on bfloat16's grid, as released checkpoints lie, and Qwen2.5 shapes of 0.5B and
1.5B with random weights, their logits spread as a trained model's are. A coin pays, AdamW at the paper's 5e-7 with
full weights. Three questions:
- ratios: after one update, how often are tokens beyond either bound of the clip, by their old probability, in six
  precisions of body and head? (`replay.read_ratios`; other completions than those of the update)
- noise: what a whole phase of eight updates reports of itself in bfloat16 and in float16 (the numbers `ratio_noise_…`),
  and its clip fractions beside those in float32;
- replay: one stored phase redone under antithetic coins, clip x precision; the shift of the log-odds of writing code
  with the clip minus without. Each phase is one draw of the problems; phases are added while there is time.

Needs one GPU of at least 40 GiB, and the model (`spurious-rlvr fetch smollm2-135m`, or carried: see README.md).
"""

import dataclasses
import tempfile
import warnings
from pathlib import Path

import common

MODEL, TEMPLATE, REWARD, EPSILON = "smollm2-135m", "word_problem_python", "random:0.5", 0.2
CELLS = {  # settings of the redoing, and what is removed in it
    "bf16": (dict(mixed_precision="bf16"), ("none", "both", "high", "low")),
    "float32": (dict(mixed_precision="no"), ("none", "both")),
    "fp16": (dict(mixed_precision="fp16"), ("none", "both")),
    "bf16, head float32": (dict(mixed_precision="bf16", head_precision="float32"), ("none", "both")),
}
KEPT = ("clip_fraction_high", "clip_fraction_low", "log_ratio_spread", "mismatch_mean", "mismatch_max", "ess_tokens")
OUTCOMES = ("log_odds_writes_code", "contrast_writes_code", "logprob", "entropy")


def options(parser):
    parser.add_argument("--phases", type=int, default=8, help="most phases that are redone")


def configure(given, **changes):
    from spurious_rlvr.train import PRESETS

    settings = dict(phases=1, learning_rate=5e-7, epsilon=EPSILON, mixed_precision="no", checkpoint_every=0)
    tiny = dict(prompts_per_phase=2, num_generations=4, minibatch_size=4, max_completion_length=8)
    sizes = tiny if given.rehearse else dict(prompts_per_phase=16, minibatch_size=16, max_completion_length=96)
    return dataclasses.replace(PRESETS["small_lm"], **settings | sizes | changes)


def load(given):
    from spurious_rlvr.policy import load_policy
    from spurious_rlvr.tasks import TEMPLATES

    return load_policy(MODEL, TEMPLATES[TEMPLATE], device=given.device)


def described(given):
    "Which weights they are, bit for bit."
    found = load(given).describe()
    return found, {"the weights lie on bfloat16's grid": found["on_bfloat16_grid"] == 1}


def start(given, name, seed):
    "A policy, and problems of its own; in a rehearsal a tiny one in place of any."
    from spurious_rlvr.tasks import word_problems

    if name == MODEL and not given.rehearse:
        return load(given), word_problems(16, seed=100 + seed)
    shape = common.shape_of("0.5b" if name == MODEL else name, given.rehearse)
    policy = common.sharpen(common.random_policy(shape, given.device))
    return policy, common.problems(16, policy, common.lengths(given), seed)


def by_probability(tokens, precision):
    "Shares of the tokens above and below the bounds, by bin of their old probability."
    import json

    from spurious_rlvr.clipbias import rounding_table

    table = rounding_table(tokens, precision, epsilon=EPSILON)[["tokens", "spread", "above", "below", "D"]]
    return json.loads(table.to_json(orient="index"))


def ratios(given, name, seed=0):
    "One update in float32, and the ratios of all other tokens."
    from spurious_rlvr.replay import PRECISIONS_READ, read_ratios
    from spurious_rlvr.rewards import as_reward
    from spurious_rlvr.train import sample_phase, signal_of

    (policy, asked), config = start(given, name, seed), configure(given)
    state = common.prepare(policy, asked, config)
    rollouts, _ = sample_phase(state, config, as_reward(REWARD), 1)
    signal = signal_of(rollouts, state.accelerator.device)
    tokens = read_ratios(state, config, rollouts, signal, behaviors=(), progress=False)
    state.borrowed.close()
    exact = tokens["log_ratio float32/float32"]
    found = {
        precision: dict(
            correlation_with_float32=float(exact.corr(tokens[f"log_ratio {precision}"])),
            by_probability=by_probability(tokens, precision),
        )
        for precision in PRECISIONS_READ
    }
    outside = found["float32/float32"]["by_probability"]["all"]
    return found, {"in float32 nothing has moved to a bound": outside["above"] == outside["below"] == 0}


def noise(given, name, precision, seed=0):
    "A phase of eight updates; what it says of its own ratios."
    from spurious_rlvr.rewards import as_reward
    from spurious_rlvr.train import run_phases

    (policy, asked), config = start(given, name, seed), configure(given, mixed_precision=precision)
    state = common.prepare(policy, asked, config)
    [phase] = run_phases(state, as_reward(REWARD), config)
    found = {key: value for key, value in phase.metrics.items() if key.startswith("ratio_noise_") or key in KEPT}
    first = phase.updates[0]
    return found, {"the ratio is 1 in the first update": first["ratio_min"] == first["ratio_max"] == 1}


def redone(given, number):
    "One phase, sampled in float32 and redone in every cell; shifts are means over draws, with the clip minus without."
    from accelerate.state import AcceleratorState

    from spurious_rlvr import replay, train

    AcceleratorState._reset_state(reset_partial_state=True)
    policy, asked = start(given, MODEL, number)
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    config, found = configure(given, seed=number), {}
    with tempfile.TemporaryDirectory() as folder:
        run = train.train(policy, asked, REWARD, config, Path(folder) / "run", progress=False)
        policy.model.load_state_dict(before)
        for place, (cell, (changes, sides)) in enumerate(CELLS.items()):
            how = dict(policy=policy, seed=number, name=str(place), old_logprobs="anew", progress=False)
            table = replay.replay(run, 1, 2, sides, **how, **changes)
            found[cell] = shifts(table)
    exact = found["float32"]["both"]
    removed = exact["clip_fraction_high"] + exact["clip_fraction_low"]
    return found, {"in float32 nothing is clipped": removed == 0}


def shifts(table):
    "By side: the mean shift against `none` of the same draw and sign, and the clip fractions."
    import numpy as np

    rows = table.set_index(["side", "draw", "sign"])
    found = {}
    for side in table["side"].unique():
        some = rows.loc[side]
        found[side] = {name: float(some[name].mean()) for name in ("clip_fraction_high", "clip_fraction_low")}
        found[side]["log_ratio_spread"] = float(some["log_ratio_spread"].mean())
        for name in OUTCOMES:
            gaps = some[name] - rows.loc["none"][name] if name in rows else np.array([np.nan])
            found[side][f"shift_{name}"] = float(np.mean(gaps))
    return found


def main(arguments=None):
    given = common.arguments(__doc__, 40, add=options, given=arguments)
    warnings.simplefilter("ignore")
    given.phases = 1 if given.rehearse else given.phases
    config = configure(given)
    work = dict(model=MODEL, template=TEMPLATE, reward=REWARD, config=dataclasses.asdict(config), epsilon=EPSILON)
    work |= dict(cells={name: list(map(str, sides)) for name, (_, sides) in CELLS.items()}, draws=2)
    result = common.Result(given, "ratios after small updates by precision, and a phase redone clip x precision", work)
    result.case(MODEL, described, given)
    result.case(f"{MODEL}, ratios", ratios, given, MODEL)
    for precision in ("bf16", "fp16", "no"):
        result.case(f"{MODEL}, noise, {precision}", noise, given, MODEL, precision)
    result.case(f"{MODEL}, replay of phase 0", redone, given, 0)
    for name in ("0.5b", "1.5b"):
        result.case(f"{name}, ratios", ratios, given, name)
        for precision in ("bf16", "fp16"):
            result.case(f"{name}, noise, {precision}", noise, given, name, precision)
    for number in range(1, given.phases):
        result.case(f"{MODEL}, replay of phase {number}", redone, given, number)
    return result.end()


if __name__ == "__main__":
    main()
