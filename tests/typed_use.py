"What a user writes, for the type checker: `python -m mypy` reads it, nothing runs it."

from typing import TYPE_CHECKING, assert_type

import pandas as pd

from spurious_rlvr import behavior, clipbias, compare, core, grading, rewards, runs, tasks

if TYPE_CHECKING:
    problem = core.Problem("1+1?", "2")
    assert_type(problem.gold, str)
    assert_type(grading.grade("\\boxed{2}", problem.gold), grading.Verdict)
    assert_type(grading.grade("2", "2").correct, bool | None)
    assert_type(grading.grade_many([("2", "2")]), list[grading.Verdict])
    assert_type(grading.is_equivalent("1/2", "0.5"), bool | None)
    assert_type(behavior.writes_code("x = 1"), bool)
    assert_type(rewards.parse("random:0.5"), rewards.Reward)
    assert_type(rewards.parse("boxed_format") & ~rewards.mentions_python(), rewards.Reward)
    assert_type(tasks.load_problems("chains:4:1"), list[core.Problem])
    run = runs.read_run("coin")
    assert_type(run, runs.Run)
    run.rollouts(1, columns=["reward"])
    assert_type(run.phases, list[int])
    assert_type(clipbias.simulate_bandit([0.7, 0.3], learning_rate=0.1, phases=5, replicas=10), clipbias.BanditRun)
    from spurious_rlvr import organisms, train
    from spurious_rlvr.policy import Policy

    policy = organisms.load("qwen-like")
    assert_type(policy, Policy)
    for phase in train.grpo(policy, organisms.training_problems(), "random:0.5", train.PRESETS["organism"]):
        assert_type(phase.number, int)
    grading.grade(3, "2")  # type: ignore[arg-type]
    tasks.load_problems(limit="4")  # type: ignore[call-arg, arg-type]
