"""The organism's demo on the GPU and on the CPU: `python benchmarks/gpu/organism_demo.py --json
benchmarks/results/gpu_organism_demo.json`

The short form of `spurious-rlvr demo`: the organism under a coin, with the upper and with the lower clip, on the same
seeds. Sampled tokens part company after a while, so that single runs differ; what must agree is each arm's
benchmark accuracy and share of code, as differences paired by seed, with intervals of which one in twenty such
comparisons would miss any (Bonferroni).

Needs one GPU of compute capability 8.0 or more, 16 GiB.
"""

import dataclasses
import math
import tempfile
import time
import warnings
from pathlib import Path

import common

OUTCOMES = ("accuracy", "code_share")


def options(parser):
    parser.add_argument("--seeds", type=int, default=8)


def trained(given, clip, seed, device):
    "Both outcomes after one run, what its first phase wrote, and seconds."
    from accelerate.state import AcceleratorState

    from spurious_rlvr import demo, organisms, train

    AcceleratorState._reset_state(reset_partial_state=True)
    policy = organisms.load(demo.QUICK.organism)
    policy.model.to(device)
    changes = dict(phases=1, prompts_per_phase=4, minibatch_size=32) if given.rehearse else demo.QUICK.changes
    config = dataclasses.replace(train.PRESETS["organism"], clip=clip, seed=seed, **changes)
    asked, held_out = organisms.training_problems(), dict(benchmark=organisms.benchmark())
    with tempfile.TemporaryDirectory() as place:
        began, folder = time.monotonic(), Path(place) / "run"
        run = train.train(policy, asked, demo.QUICK.reward, config, folder, held_out=held_out, progress=False)
        last, first = run.of_kind("evaluation").iloc[-1], list(map(list, run.rollouts(phase=1)["token_ids"]))
    return {name: float(last[name]) for name in OUTCOMES}, first, time.monotonic() - began


def one_seed(given, seed):
    "Both arms on both devices."
    found = {}
    for clip in ("high", "low"):
        (here, texts, seconds), (there, others, more) = (trained(given, clip, seed, d) for d in (given.device, "cpu"))
        given.gaps.setdefault(clip, []).append([here[name] - there[name] for name in OUTCOMES])
        same = sum(a == b for a, b in zip(texts, others)) / len(texts)
        found[clip] = dict(device=here, cpu=there, equal_completions_in_the_first_phase=same)
        found[clip] |= dict(seconds_on_the_device=seconds, seconds_on_the_cpu=more)
    return found, {}


def intervals(given):
    "For each arm and outcome the mean difference device - CPU."
    import numpy as np
    from scipy.stats import t

    figures, checks = {}, {}
    for clip, gaps in given.gaps.items():
        for name, gap in zip(OUTCOMES, np.array(gaps).T):
            n = len(gap)
            share = 1 - 0.025 / (len(given.gaps) * len(OUTCOMES))
            half = t.ppf(share, n - 1) * gap.std(ddof=1) / math.sqrt(n) if n > 1 else math.inf
            figures[f"{clip}, {name}"] = dict(difference=float(gap.mean()), half_width=float(half), seeds=n)
            checks[f"clip {clip}: {name} is the CPU's within its interval"] = abs(gap.mean()) <= half
    return figures, checks


def main(arguments=None):
    given = common.arguments(__doc__, 16, add=options, given=arguments)
    warnings.simplefilter("ignore")
    given.seeds, given.gaps = 2 if given.rehearse else given.seeds, {}
    work = dict(seeds=given.seeds, clips=["high", "low"], form="quick")
    result = common.Result(given, "the organism's demo on the GPU against the CPU", work)
    for seed in range(given.seeds):
        result.case(f"seed {seed}", one_seed, given, seed)
    result.case("intervals", intervals, given)
    return result.end()


if __name__ == "__main__":
    main()
