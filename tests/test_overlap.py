"Scoring while others are sampled, and the next phase sampled while this one is learnt from."

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import SMALL, OwnWeights

from spurious_rlvr import train as training
from spurious_rlvr.core import ConfigError, RunError
from spurious_rlvr.policy import random_policy
from spurious_rlvr.rollout import TransformersEngine, mismatch
from spurious_rlvr.runs import read_run
from spurious_rlvr.tasks import arithmetic_chains
from spurious_rlvr.train import check_config, grpo, train

STALE = dataclasses.replace(SMALL, phases=4, old_logprobs="trainer", max_staleness=1, learning_rate=0.5)
PROBLEMS = arithmetic_chains(20)


class Beside(OwnWeights):
    "Keeps what it was given."

    def __init__(self, policy):
        super().__init__(policy)
        self.given, self.threads = [], []

    def load_weights(self, policy):
        super().load_weights(policy)
        self.given.append({name: tensor.clone() for name, tensor in policy.model.state_dict().items()})

    def generate(self, requests, **settings):
        self.threads.append(threading.current_thread() is threading.main_thread())
        return super().generate(requests, **settings)


def run(config, reward="random:0.5", beside=True):
    policy = random_policy(scale=10)
    engine = Beside(policy) if beside else None
    return list(grpo(policy, PROBLEMS, reward, config, engine=engine)), policy, engine


def same(phases, others):
    "All that was sampled and learnt, bit for bit."
    untimed = [
        [{k: v for k, v in p.metrics.items() if not k.startswith("seconds") and v == v} for p in some]
        for some in (phases, others)
    ]
    assert untimed[0] == untimed[1]
    assert [p.rollouts for p in phases] == [p.rollouts for p in others]


# Scoring while sampling


def by_length(completions, **_):
    return [None if len(c) % 5 == 0 else float(len(c)) for c in completions]


@pytest.mark.parametrize(
    "reward",
    [
        "random:0.5",
        "ground_truth",
        "permuted(random:0.3)",
        "online_majority",
        "0.5*boxed_format + random:0.2",
        pytest.param(by_length, id="by_length"),
    ],
    ids=str,
)
@pytest.mark.parametrize("anew", [0, 1])
def test_scoring_groups_as_they_end_changes_nothing(reward, anew):
    config = dataclasses.replace(SMALL, phases=2, dynamic_sampling=anew)
    plain, _, _ = run(config, reward, beside=False)
    early, _, _ = run(dataclasses.replace(config, score_while_sampling=True), reward, beside=False)
    same(plain, early)


def test_parts_that_only_some_groups_have_are_there_for_all():
    def compute_score(data_source, solution_str, ground_truth, extra_info):
        return dict(score=1.0, **({"long": 1.0} if len(solution_str) > 9 else {}))

    config = dataclasses.replace(SMALL, phases=1, num_generations=4, minibatch_size=4)
    [plain], _, _ = run(config, compute_score, beside=False)
    [early], _, _ = run(dataclasses.replace(config, score_while_sampling=True), compute_score, beside=False)
    assert [r.rewards for r in plain.rollouts] == [r.rewards for r in early.rollouts]


def test_a_slow_reward_is_hidden_behind_sampling():
    "Groups that end early are scored while the last are written."
    started = []

    def slow(completions, **_):
        started.append(len(completions))
        time.sleep(0.05)
        return [float(len(c)) for c in completions]

    class Slow(TransformersEngine):
        def generate(self, requests, **settings):  # one group after the other, each of which takes a while
            done = []
            for start in range(0, len(requests), 8):
                done += super().generate(requests[start : start + 8], **settings)
                for place in range(start, start + 8):
                    if self.hearer:
                        self.hearer(place, done[place])
                time.sleep(0.1)
            return done

        hearer = None

        @property
        def finished(self):
            return None

        @finished.setter
        def finished(self, hearer):
            self.hearer = hearer

    def metrics(**settings):
        policy = random_policy(scale=10)
        config = dataclasses.replace(SMALL, phases=1, **settings)
        [phase] = grpo(policy, PROBLEMS, slow, config, engine=Slow(policy))
        return phase.metrics

    early = metrics(score_while_sampling=True)
    assert started == [8, 8, 8, 8]
    assert early["seconds_score"] < 0.1 < 0.15 < early["seconds_score_hidden"]
    assert "seconds_score_hidden" not in metrics()


def test_an_engine_that_tells_nothing_is_scored_in_the_end():
    class Silent:
        def __init__(self, policy):
            self.inner = TransformersEngine(policy)
            self.load_weights, self.sleep, self.wake = (lambda _: None), (lambda: None), (lambda: None)

        def generate(self, requests, **settings):
            return self.inner.generate(requests, **settings)

    policy, config = random_policy(scale=10), dataclasses.replace(SMALL, phases=2, score_while_sampling=True)
    silent = list(grpo(policy, PROBLEMS, "random:0.5", config, engine=Silent(policy)))
    same(run(dataclasses.replace(config, score_while_sampling=False), beside=False)[0], silent)


def test_what_a_reward_raises_there_is_raised_here():
    def broken(completions, prompts, phase=None, **_):
        if phase and len(phase) > 1:
            raise ValueError("no more")
        return [1.0] * len(completions)

    with pytest.raises(Exception, match="no more"):
        run(dataclasses.replace(SMALL, phases=1, score_while_sampling=True), broken, beside=False)


# Sampling ahead


def test_without_staleness_nothing_is_ahead():
    config = dataclasses.replace(STALE, max_staleness=0)
    plain, mine, _ = run(config, beside=False)
    beside, other, engine = run(config)
    same(plain, beside)
    for name, tensor in mine.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name])
    assert all(engine.threads) and "staleness" not in plain[0].metrics


def test_the_next_phase_is_sampled_with_the_weights_before():
    "By the seeds of its own, which are those of a run without staleness."
    phases, _, engine = run(STALE)
    assert engine.threads == [True, False, False, False]
    assert [p.metrics["staleness"] for p in phases] == [0, 1, 1, 1]
    fresh = run(dataclasses.replace(STALE, max_staleness=0))[0]
    for number, phase in enumerate(phases):
        policy = random_policy(scale=10)
        policy.model.load_state_dict(engine.given[max(0, number - 1)])
        asked = [next(p for p in PROBLEMS if p.id == r.problem_id) for r in phase.rollouts[::8]]
        again = training.sample_rollouts(
            policy, TransformersEngine(policy), asked, num_generations=8, max_completion_length=6, phase=number + 1
        )
        assert [r.token_ids for r in again] == [r.token_ids for r in phase.rollouts]
        assert [r.problem_id for r in fresh[number].rollouts] == [r.problem_id for r in phase.rollouts]
    assert [r.token_ids for r in fresh[1].rollouts] != [r.token_ids for r in phases[1].rollouts]


def test_how_far_off_the_policy_it_is_stands_in_the_metrics_and_can_be_corrected():
    phases, _, engine = run(STALE)
    for phase in phases:
        old, sampler = ([getattr(r, name) for r in phase.rollouts] for name in ("logprob_old", "logprob_sampler"))
        live = [i for i, values in enumerate(old) if values]
        by_hand = mismatch([old[i] for i in live], [sampler[i] for i in live])
        assert phase.metrics["ess_tokens"] == pytest.approx(by_hand["ess_tokens"])
    first, later = phases[0].metrics, phases[1:]
    assert first["mismatch_max"] < 1e-4 and first["ess_tokens"] == pytest.approx(1)
    assert all(p.metrics["mismatch_mean"] > 0.01 and p.metrics["ess_tokens"] < 0.999 for p in later)
    corrected = dataclasses.replace(STALE, sampler_correction="icepop", sampler_floor=0.9, sampler_cap=1.1)
    shares = [p.metrics["corrected_share"] for p in run(corrected)[0]]
    assert shares[0] == 0 and min(shares[1:]) > 0.1


def weights(place):
    return load_file(read_run(place).latest_checkpoint / "policy" / "model.safetensors")


@pytest.mark.parametrize("every", [1, 2])
def test_stopped_and_resumed_is_the_run_that_was_never_stopped(tmp_path, every):
    "The phase that was sampled ahead is in the checkpoint; how often there is one changes nothing."
    config = dataclasses.replace(STALE, dynamic_sampling=1, score_while_sampling=True, checkpoint_every=every)
    held_out = {"chains": arithmetic_chains(3, seed=1)}

    def begin(place, config=config, resume=False, reward="random:0.3"):
        policy = random_policy(scale=10)
        options = dict(engine=Beside(policy), held_out=held_out, resume=resume, progress=False)
        return train(policy, PROBLEMS, reward, config, tmp_path / place, **options)

    whole = begin("whole")

    def stop(run, phase, written=training.write_phase):
        if phase.number == 3:
            raise KeyboardInterrupt
        written(run, phase)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "write_phase", stop)
        begin("run")
    assert (read_run(tmp_path / "run").latest_checkpoint / "ahead.json").exists()
    resumed = begin("run", resume=True)
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "run")[name]), name
    for kind in ("update", "phase"):
        timed = [c for c in whole.of_kind(kind) if c == "time" or c.startswith("seconds")]
        assert whole.of_kind(kind).drop(columns=timed).equals(resumed.of_kind(kind).drop(columns=timed))
    assert whole.rollouts().equals(resumed.rollouts())
    assert not (resumed.latest_checkpoint / "ahead.json").exists()  # nothing comes after the last
    longer = dataclasses.replace(config, phases=5)
    with pytest.raises(ConfigError, match="phases is 5 and was 4: with max_staleness"):
        begin("run", longer, resume=True)


def test_an_interrupt_ends_what_is_under_way():
    class Endless(Beside):
        def __init__(self, policy):
            super().__init__(policy)
            self.stopped = threading.Event()

        def abort(self):
            self.stopped.set()

        def generate(self, requests, **settings):
            if threading.current_thread() is not threading.main_thread():
                assert self.stopped.wait(60)
                raise RunError("aborted")
            return super().generate(requests, **settings)

    policy = random_policy(scale=10)
    engine = Endless(policy)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "record_old_logprobs", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        list(grpo(policy, PROBLEMS, "random:0.5", STALE, engine=engine))
    assert engine.stopped.is_set() and not [t for t in threading.enumerate() if t.name.startswith("sampling ahead")]


def test_what_goes_wrong_ahead_is_raised():
    class Failing(Beside):
        def generate(self, requests, **settings):
            if self.threads:
                raise RunError("the server is gone")
            return super().generate(requests, **settings)

    policy = random_policy(scale=10)
    with pytest.raises(RunError, match="the server is gone"):
        list(grpo(policy, PROBLEMS, "random:0.5", STALE, engine=Failing(policy)))


@pytest.mark.parametrize(
    "changes,words",
    [
        (dict(max_staleness=2), "one phase is sampled ahead at most"),
        (dict(old_logprobs="sampler"), "would take the weights before last for the old policy"),
        (dict(max_staleness=-1), "must not be negative"),
        (dict(sampler_correction="tis", sampler_floor=3.0), "sampler_floor 3.0 lies above sampler_cap 2.0"),
    ],
    ids=str,
)
def test_what_cannot_be_combined_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words) as caught:
        check_config(dataclasses.replace(STALE, **changes))
    assert "\n" not in str(caught.value)


def test_an_engine_that_takes_turns_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="max_staleness is 1, and TransformersEngine takes turns with the updates"):
        train(random_policy(), PROBLEMS, "random:0.5", STALE, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name,was,now", [("seeds", "phase", "request"), ("dtype", "same", "bfloat16")])
def test_a_run_goes_on_with_the_sampler_it_began_with(tmp_path, name, was, now):
    class Named(OwnWeights):
        said = {}

        def describe(self):
            return dict(engine="Named", **self.said)

    def begin(said, resume=False):
        policy = random_policy(scale=10)
        engine = Named(policy)
        engine.said = {name: said}
        config = dataclasses.replace(SMALL, phases=3 if resume else 2)
        options = dict(engine=engine, resume=resume, progress=False)
        return train(policy, PROBLEMS, "random:0.5", config, tmp_path / "run", **options)

    assert begin(was).settings["sampler"] == {"engine": "Named", name: was}
    with pytest.raises(ConfigError, match=f"the engine's {name} is '{now}' and was '{was}'"):
        begin(now, resume=True)
    assert len(begin(was, resume=True).of_kind("phase")) == 3


TWO = textwrap.dedent("""
    import dataclasses, json, sys, torch
    torch.set_num_threads(1)
    from accelerate import PartialState
    from test_overlap import STALE, PROBLEMS, Beside
    from spurious_rlvr.policy import random_policy
    from spurious_rlvr.runs import read_run
    from spurious_rlvr.train import train
    policy = random_policy(scale=10)
    config = dataclasses.replace(STALE, score_while_sampling=True, dynamic_sampling=1, phases=3)
    run = train(policy, PROBLEMS, "random:0.3", config, sys.argv[1], engine=Beside(policy), progress=False)
    PartialState().wait_for_everyone()  # a process that leaves while the other still talks to it aborts
    PartialState().destroy_process_group()
""")


def test_two_processes_make_the_same_run(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n" + TWO)
    launched = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    runs = []
    for processes in ("1", "2"):
        command = [sys.executable, *launched, processes, str(script), str(tmp_path / processes)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
        assert result.returncode == 0, result.stderr[-3000:]
        runs.append(read_run(tmp_path / processes))
    one, two = runs
    keys = ["phase", "group", "sample", "problem_id", "reward", "token_ids", "advantage"]
    assert one.rollouts()[keys].astype(str).equals(two.rollouts()[keys].astype(str))
    assert one.of_kind("phase")["staleness"].tolist() == two.of_kind("phase")["staleness"].tolist() == [0, 1, 1]
    for name, tensor in weights(tmp_path / "1").items():
        torch.testing.assert_close(weights(tmp_path / "2")[name], tensor, rtol=1e-3, atol=1e-4)
    saved = json.loads((tmp_path / "2" / "run.json").read_text())
    assert saved["sampler"] == {"engine": "Beside", "dtype": "float32"}
