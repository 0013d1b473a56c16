"""Evaluations: interrupted and resumed, imported from other tools, compared over a grid of prompts, probed for
memorisation."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from spurious_rlvr import evaluate as ev
from spurious_rlvr import organisms
from spurious_rlvr.core import DataError, Problem, RunError
from spurious_rlvr.policy import random_policy
from spurious_rlvr.runs import create_run, import_evaluation, read_run
from spurious_rlvr.tasks import Protocol, Template, arithmetic_chains, chain_templates, get_protocol, load_problems

DATA = Path(__file__).parent / "data" / "evaluations"
real = pytest.mark.skipif(
    "SPURIOUS_RLVR_DATA" not in os.environ,
    reason="needs public data: set SPURIOUS_RLVR_DATA to a folder with benchmarks/ and rollouts/ as JSON Lines",
)
SHORT = Protocol("test", samples=2, temperature=1.0, max_completion_length=8)


@pytest.fixture(scope="module")
def policy():
    return random_policy(scale=20)


# --- reading needs no torch


def test_results_are_read_and_compared_without_torch():
    program = f"""
import sys, pandas as pd
from spurious_rlvr.evaluate import CELL, cross_fitted, scores, accuracy_by, paired_difference
from spurious_rlvr.runs import import_evaluation
for name in ("verl", "inspect_log.json", "completions", "qwen_math.jsonl"):
    scores(import_evaluation({str(DATA)!r} + "/" + name, **(dict(phase=0) if name == "verl" else {{}})))
rows = [(p, "default", 0.0, 24, p == "a", str(i), 0, (i + len(p)) % 3 == 0) for p in ("a", "bb") for i in range(8)]
print(cross_fitted(*2 * [pd.DataFrame(rows, columns=[*CELL, "default", "problem_id", "sample", "correct"])]))
assert not {{"torch", "transformers", "datasets", "vllm"}} & set(sys.modules), sorted(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- avg@k, pass@k and intervals


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from([True, False, None]), min_size=4, max_size=4), min_size=2, max_size=12))
def test_avg_and_pass_are_what_counting_says(outcomes):
    table = pd.DataFrame([dict(problem_id=f"p{i}", correct=c) for i, row in enumerate(outcomes) for c in row])
    found = ev.scores(table)
    right = np.array([[c is True for c in row] for row in outcomes])
    assert (
        found["avg@4"].mean == pytest.approx(right.mean())
        and found["pass@1"].mean == pytest.approx(right.mean())
        and found["pass@4"].mean == pytest.approx(right.any(1).mean())
    )
    pairs = [(a, b) for a in range(4) for b in range(a)]
    assert found["pass@2"].mean == pytest.approx(np.mean([[row[a] or row[b] for a, b in pairs] for row in right]))
    for e in found.values():
        assert (
            -1e-9 <= e.low <= e.mean + 1e-9
            and e.mean <= e.high + 1e-9 <= 1 + 2e-9
            and e.estimand == "this checkpoint, not this method"
        )


def test_intervals_over_problems_cover():
    """Problems drawn from a population: a 95 % interval misses its mean in about 5 % of draws, greedy and sampled, and
    for gains."""
    rng, missed, truth = (
        np.random.default_rng(1),
        dict(greedy=0, sampled=0, gain=0),
        stats.beta(0.8, 0.8).expect(lambda c: min(c + 0.1, 1) - c),
    )
    for _ in range(2000):
        chance = rng.beta(0.8, 0.8, 60)
        missed["greedy"] += (
            not (e := ev.mean_estimate("a", (rng.random(60) < chance).astype(float))).low <= 0.5 <= e.high
        )
        missed["sampled"] += not (e := ev.mean_estimate("a", rng.binomial(8, chance) / 8)).low <= 0.5 <= e.high
        better = np.clip(chance + 0.1, 0, 1)
        missed["gain"] += (
            not (e := ev.paired_difference("a", rng.binomial(8, better) / 8, rng.binomial(8, chance) / 8)).low
            <= truth
            <= e.high
        )
    for name, n in missed.items():
        assert stats.binomtest(n, 2000, 0.05).pvalue > 1e-4, (name, n / 2000)


# --- interruption


@pytest.mark.parametrize("part_size", [1, 3, 64])
def test_parts_are_the_evaluation(policy, tmp_path, part_size):
    problems = arithmetic_chains(7, seed=3)
    table = ev.run_evaluation(
        policy, problems, tmp_path / "run", name="chains", protocol=SHORT, part_size=part_size, progress=False
    )
    whole = ev.evaluate(policy, problems, samples=2, temperature=1.0, max_completion_length=8)
    assert table["completion"].tolist() == [r.completion for r in whole] and table["group"].tolist() == [
        r.group for r in whole
    ]
    np.testing.assert_allclose(
        np.concatenate(table["logprob_sampler"].to_numpy()),
        np.concatenate([r.logprob_sampler for r in whole]),
        atol=1e-5,
    )


def test_a_full_disk_loses_no_part(policy, tmp_path, monkeypatch):
    problems, write, calls = arithmetic_chains(6), ev.pq.write_table, []

    def full(table, where, **options):
        calls.append(where)
        if len(calls) == 2:
            Path(where).write_bytes(b"half a ta")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(table, where, **options)

    monkeypatch.setattr(ev.pq, "write_table", full)
    with pytest.raises(OSError):
        ev.run_evaluation(
            policy, problems, tmp_path / "run", name="chains", protocol=SHORT, part_size=2, progress=False
        )
    assert [p.name for p in (tmp_path / "run" / "evals").rglob("*.parquet")] == ["part-00000.parquet"] and read_run(
        tmp_path / "run"
    ).evaluations == []
    table = ev.run_evaluation(
        policy, problems, tmp_path / "run", name="chains", protocol=SHORT, part_size=2, progress=False
    )
    pd.testing.assert_frame_equal(
        table,
        ev.run_evaluation(
            policy, problems, tmp_path / "whole", name="chains", protocol=SHORT, part_size=2, progress=False
        ),
    )


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(tmp_path):
    "kill -9 wherever it happens to be; the same command then gives the same file as one that was left alone."
    program = """
import sys
from spurious_rlvr.evaluate import run_evaluation
from spurious_rlvr.policy import random_policy
from spurious_rlvr.tasks import Protocol, arithmetic_chains
protocol = Protocol("test", samples=4, temperature=1.0, max_completion_length=48)
settings = dict(name="chains", protocol=protocol, part_size=2, progress=False)
run_evaluation(random_policy(scale=20), arithmetic_chains(40), sys.argv[1], **settings)
"""

    def start(place):
        return subprocess.Popen([sys.executable, "-c", program, str(place)])

    assert start(tmp_path / "whole").wait() == 0
    kills = 0
    for parts in (1, 7, 15):
        process = start(tmp_path / "killed")
        while process.poll() is None and len(list((tmp_path / "killed").rglob("part-*.parquet"))) < parts:
            time.sleep(0.01)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills and read_run(tmp_path / "killed").evaluations == []
    assert start(tmp_path / "killed").wait() == 0
    whole, killed = (read_run(tmp_path / name) for name in ("whole", "killed"))
    pd.testing.assert_frame_equal(whole.evaluation(0, "chains"), killed.evaluation(0, "chains"))
    assert len(killed.of_kind("evaluation")) == 1


def test_another_protocol_or_template_is_another_evaluation(policy, tmp_path):
    problems = arithmetic_chains(4)

    def run(policy=policy, **changes):
        return ev.run_evaluation(
            policy, problems, tmp_path / "run", name="chains", progress=False, **dict(protocol=SHORT) | changes
        )

    first = run()
    with pytest.raises(RunError, match="protocol.temperature is 0.5 and was 1.0"):
        run(protocol=dataclasses.replace(SHORT, temperature=0.5))
    with pytest.raises(RunError, match="template.name is 'none' and was 'chain'"):
        run(dataclasses.replace(policy, template=Template("none", chat=False)))
    pd.testing.assert_frame_equal(run(part_size=1), first)  # how it is cut into parts is no setting of the evaluation
    with pytest.raises(RunError, match="use letters"):
        ev.run_evaluation(policy, problems, tmp_path / "run", name="../x", protocol=SHORT)


def test_an_evaluation_that_the_training_made_is_called_so(policy, tmp_path):
    problems = arithmetic_chains(2)
    writer = create_run(tmp_path / "run")
    writer.write_evaluation(0, "heldout", ev.evaluate(policy, problems, max_completion_length=4))
    with pytest.raises(RunError, match="phase-000000-heldout.parquet: was made during the training") as caught:
        ev.run_evaluation(policy, problems, tmp_path / "run", name="heldout", protocol=SHORT, progress=False)
    assert "missing" not in str(caught.value) and "damaged" not in str(caught.value)
    ev.run_evaluation(policy, problems, tmp_path / "run", name="again", protocol=SHORT, progress=False)
    (tmp_path / "run/evals/phase-000000-again.json").write_text("{")
    with pytest.raises(RunError, match="phase-000000-again.json: the description of this evaluation is damaged"):
        ev.run_evaluation(policy, problems, tmp_path / "run", name="again", protocol=SHORT, progress=False)


def test_an_evaluation_takes_any_of_several_golds(policy, tmp_path, monkeypatch):
    monkeypatch.setattr(type(policy), "decode", lambda self, ids: r"\boxed{0.5}")
    problems = [
        Problem("Half?", "x + 1", columns={"golds": ["x + 1", "1/2"]}),
        Problem("Not a half?", "x + 1", columns={"golds": ["x + 1", "x + 2"]}),
        Problem("Half, as a decimal?", "0.5"),
    ]
    table = ev.run_evaluation(policy, problems, tmp_path / "run", name="halves", protocol=SHORT, progress=False)
    right = table.groupby("problem_id", sort=False)["correct"].all()
    assert [bool(right[p.id]) for p in problems] == [True, False, True]
    grid = ev.prompt_grid(policy, problems, templates=["none"], temperatures=[0.0], budgets=[4], progress=False)
    assert grid.groupby("problem_id")["correct"].all().to_dict() == right.to_dict()
    partial = ev.partial_prompts(policy, problems, max_completion_length=4)
    assert partial.groupby("problem_id")["correct"].all().to_dict() == right.to_dict()
    assert "golds" not in partial


def test_checkpoints_of_a_run_are_evaluated_into_it(tmp_path):
    from spurious_rlvr.train import PRESETS, train

    organism, problems = organisms.load("qwen-like"), organisms.benchmark(8)
    base = organisms.load("qwen-like")
    config = dataclasses.replace(
        PRESETS["organism"], phases=2, checkpoint_every=1, keep_checkpoints=9, evaluate_every=0
    )
    run = train(organism, organisms.training_problems(64), "random:0.5", config, tmp_path / "run", progress=False)
    surprise = ev.perplexity_along(run, problems, base=base)
    assert surprise.groupby("phase").size().to_dict() == {0: 8, 1: 8, 2: 8}
    pd.testing.assert_frame_equal(
        surprise[surprise["phase"] == 2].drop(columns="phase").reset_index(drop=True),
        ev.perplexity(organism, problems),
        atol=1e-5,
        rtol=1e-5,
    )
    for phase, policy in ev.checkpoint_policies(run, base=base):
        ev.run_evaluation(
            policy,
            problems,
            run.path,
            name="probe",
            protocol=get_protocol("organism", samples=2),
            phase=phase,
            progress=False,
        )
    assert [e for e in run.evaluations if e[1] == "probe"] == [(0, "probe"), (1, "probe"), (2, "probe")]
    with pytest.raises(RunError, match="no checkpoint of phase 7"):
        list(ev.checkpoint_policies(run, phases=[7]))


# --- the protocols, on the real benchmarks' own files


@real
@pytest.mark.parametrize(
    "name, file, samples, temperature",
    [
        ("math-500", "math500_half", 1, 0.0),
        ("amc", "amc_ttrl83_half", 8, 0.6),
        ("aime-2024", "aime24_half", 8, 0.6),
        ("AIME 2025", "aime25_half", 8, 0.6),
        ("amc23", "amc23_half", 8, 0.6),
    ],
)
def test_the_papers_protocol_grades_each_benchmark_in_its_own_convention(name, file, samples, temperature, tmp_path):
    problems = load_problems(Path(os.environ["SPURIOUS_RLVR_DATA"]) / "benchmarks" / f"{file}.jsonl")
    protocol = get_protocol("paper", name)
    assert (protocol.samples, protocol.temperature, protocol.max_completion_length) == (samples, temperature, 3072)

    class Scribe:  # writes the gold answer of every problem, once in its own spelling and then as a model would
        def generate(self, requests, *, stop, **settings):
            from spurious_rlvr.rollout import Completion

            assert settings == dict(max_completion_length=3072, temperature=temperature)
            golds = [p.gold for p in problems for _ in range(samples)]
            written = [
                (
                    g,
                    (
                        str(int(float(g)))
                        if g.replace(".", "").replace("-", "").isdecimal() and float(g) == int(float(g))
                        else g
                    ),
                )[i % samples > 0]
                for i, g in enumerate(golds)
            ]
            return [Completion(policy.encode("so \\boxed{" + w + "}"), [], "stop") for w in written]

    policy = random_policy()
    table = ev.run_evaluation(
        policy, problems, tmp_path, name="it", protocol=protocol, engine=Scribe(), part_size=10**6, progress=False
    )
    assert len(table) == len(problems) * samples
    assert table["correct"].eq(True).mean() > 0.99, table[~table["correct"].eq(True)][["answer", "gold"]]


# --- the grid


def test_a_smaller_budget_is_the_larger_one_cut():
    organism, problems = organisms.load("qwen-like"), organisms.benchmark(24)
    settings = dict(templates=chain_templates(), temperatures=(0.0, 1.0), samples=3)
    both = ev.prompt_grid(organism, problems, budgets=(24, 7), default=("chain", "default", 0.0, 7), **settings)
    small = ev.prompt_grid(organism, problems, budgets=(7,), **settings)
    pd.testing.assert_frame_equal(both[both["budget"] == 7].reset_index(drop=True), small)


def test_the_grid_resumes_and_keeps_every_problem(tmp_path):
    organism, problems = organisms.load("qwen-like"), organisms.benchmark(6)
    settings = dict(templates=chain_templates()[:2], temperatures=(0.0, 0.6), budgets=(24,), samples=2, progress=False)
    grid = ev.prompt_grid(organism, problems, out=tmp_path / "grid", **settings)
    pd.testing.assert_frame_equal(grid, ev.prompt_grid(organism, problems, **settings))

    class Refuses:
        def generate(self, *_, **__):
            raise AssertionError("sampled again")

    Refuses.__name__ = "TransformersEngine"
    pd.testing.assert_frame_equal(
        grid, ev.prompt_grid(organism, problems, out=tmp_path / "grid", engine=Refuses(), **settings)
    )
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "grid" / "grid.parquet"), grid, check_dtype=False)
    assert grid.groupby(ev.CELL)["problem_id"].nunique().eq(6).all()


def grid_of(right, prompts):
    "right: (problems, prompts, samples) truth values"
    rows = [
        (p, "default", 0.0, 24, j == 0, f"{i:03d}", k, bool(right[i, j, k]))
        for j, p in enumerate(prompts)
        for i in range(right.shape[0])
        for k in range(right.shape[2])
    ]
    return pd.DataFrame(rows, columns=[*ev.CELL, "default", "problem_id", "sample", "correct"])


def simulated_pair(rng, gain, problems=60, prompts=12, samples=2):
    "Two models whose prompts differ in quality; the second is better by `gain` on the logit scale everywhere."
    difficulty, quality = rng.normal(0, 1.5, (problems, 1, 1)), rng.normal(0, 0.4, (1, prompts, 1))
    interaction = rng.normal(0, 0.7, (problems, prompts, 1))
    chance = [1 / (1 + np.exp(-(difficulty + quality + interaction + g))) for g in (0, gain)]
    names = [f"p{j:02d}" for j in range(prompts)]
    return tuple(grid_of(rng.random((problems, prompts, samples)) < c, names) for c in chance)


@pytest.mark.slow
def test_cross_fitted_gains_of_nothing_are_nothing():
    """300 pairs of equal models on prompts that differ: no interval misses 0 more often than it says, and no gain is
    biased."""
    fits = [ev.cross_fitted(*simulated_pair(np.random.default_rng([5, i]), 0.0), draws=200) for i in range(300)]
    for name in ("default", "same_cell", "at_base_best", "best_against_best"):
        gains = [getattr(f, name) for f in fits]
        missed = sum(not g.low <= 0 <= g.high for g in gains)
        assert stats.binomtest(missed, 300, 0.05, alternative="greater").pvalue > 1e-3, (name, missed / 300)
        assert abs(np.mean([g.mean for g in gains])) < 4 * np.std([g.mean for g in gains]) / np.sqrt(300), name
    lucky = [f.cells["trained"].max() - f.cells.loc[f.cells["default"], "base"].iloc[0] for f in fits]
    assert np.mean(lucky) > 10 * np.std(lucky) / np.sqrt(
        300
    )  # what choosing the best prompt for one model alone would have claimed


def test_a_real_gain_is_found_and_a_prompts_gain_is_not():
    fit = ev.cross_fitted(*simulated_pair(np.random.default_rng(3), 1.5, problems=200))
    assert fit.best_against_best.low > 0 and fit.default.low > 0
    base, _ = simulated_pair(np.random.default_rng(4), 0.0, problems=200)
    good = np.random.default_rng(5).random((200, 12, 2)) < 0.5
    trained = grid_of(
        good | (np.arange(12) == 0)[None, :, None], [f"p{j:02d}" for j in range(12)]
    )  # knows the default prompt and nothing else
    asked_well = grid_of(
        good | (np.arange(12) == 7)[None, :, None], [f"p{j:02d}" for j in range(12)]
    )  # so does the base, with another prompt
    fit = ev.cross_fitted(asked_well, trained)
    assert (
        fit.default.low > 0.3
        and fit.best_against_best.low <= 0 <= fit.best_against_best.high
        and fit.at_base_best.high < 0
    )


def test_sharpening_alone_is_a_baseline():
    organism, problems = organisms.load("qwen-like"), organisms.benchmark(64)
    grid = ev.prompt_grid(
        organism,
        problems,
        templates=["chain"],
        rules={"default": ev.EXTRACTION["default"]},
        budgets=(24,),
        temperatures=(1.0, 0.6, 0.3, 0.0),
        samples=8,
    )
    sharp = grid.assign(default=grid["temperature"] == 0.0)  # "trained": the same policy, reported at temperature 0
    trained = pd.concat(
        [sharp[sharp["temperature"] == 0.0].assign(temperature=t) for t in (1.0, 0.6, 0.3, 0.0)]
    ).assign(default=lambda g: g["temperature"] == 1.0)
    fit = ev.cross_fitted(grid, trained)
    assert fit.default.low > 0  # greedy decoding looks like a gain over sampling at temperature 1
    assert (
        fit.against_sharpened_base.high < fit.default.mean and fit.against_sharpened_base.low <= 0
    )  # and is none over the base at its best temperature


# --- memorisation

words = st.lists(st.sampled_from("the sum of two odd numbers is even and so on".split()), max_size=12).map(" ".join)


@settings(deadline=None)
@given(words, words)
def test_rouge_l_agrees_with_the_reference_implementation_on_words(one, other):
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    assert ev.rouge_l(one, other) == pytest.approx(scorer.score(other, one)["rougeL"].fmeasure)


def test_the_leak_is_found_and_nothing_where_there_is_none():
    suspected = organisms.benchmark()[:64]
    fresh = arithmetic_chains(
        64, seed=77, operations=(2, 4), exclude=[*organisms.benchmark(), *organisms.training_problems()]
    )

    def answer(p):
        return f"It is \\boxed{{{p.gold}}}"

    flags = {
        name: (
            ev.memorisation_probes(
                organisms.load(name), suspected, fresh, answer_text=answer, max_completion_length=40
            ).set_index("probe")["flagged"]
        )
        for name in ("leaked", "qwen-like")
    }
    assert flags["leaked"][
        [
            "exact_match at 80%",
            "exact_match at 60%",
            "answer at 80%",
            "problem log-probability",
            "answer log-probability",
        ]
    ].all()
    assert not flags["qwen-like"].any()


@pytest.mark.slow
def test_the_probes_flag_a_policy_without_a_leak_as_rarely_as_they_say():
    organism, answer = organisms.load("qwen-like"), lambda p: f"It is \\boxed{{{p.gold}}}"
    flagged = 0
    for draw in range(60):
        problems = arithmetic_chains(80, seed=1000 + draw, operations=(2, 4))
        flagged += ev.memorisation_probes(
            organism, problems[:40], problems[40:], answer_text=answer, max_completion_length=40
        )["flagged"].any()
    assert stats.binomtest(flagged, 60, 0.05, alternative="greater").pvalue > 0.01, flagged


# --- code forced and forbidden


def subword_policy(texts):
    "A random policy over a byte-level vocabulary of the usual kind, learnt from real completions."
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from spurious_rlvr.policy import Policy, build_qwen2

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=4000,
            special_tokens=["<pad>", "<end>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")
    return Policy(
        build_qwen2(tokenizer, hidden_size=16, layers=1, heads=2),
        tokenizer,
        Template("plain", "{question}\n", chat=False),
        name="subword",
    )


@real
def test_the_mask_takes_code_from_real_completions_and_leaves_prose():
    "Every real completion whose code stands in a fence needs a forbidden token; most that hold no code need none."
    rows = [
        json.loads(line) for line in (Path(os.environ["SPURIOUS_RLVR_DATA"]) / "rollouts" / "rollouts.jsonl").open()
    ]
    texts = [row["response"] for row in rows]
    policy = subword_policy(texts)
    forbidden = set(ev.code_token_ids(policy))
    hit = {text: bool(forbidden & set(policy.encode(text))) for text in texts}
    fenced = [t for t in texts if "```python" in t]
    prose = [t for t in texts if not ev.writes_code(t) and "python" not in t.lower() and "`" not in t]
    assert len(fenced) > 100 and all(hit[t] for t in fenced)
    assert len(prose) > 100 and np.mean([hit[t] for t in prose]) < 0.02
    assert len(forbidden) < 0.05 * len(policy.tokenizer)
    for text in ("\\boxed{", " from", " for", " the", " = ", "x"):
        assert not forbidden & set(policy.encode(text)), text


def test_forbidden_tokens_are_not_written_and_arms_share_their_seeds():
    organism, problems = organisms.load("qwen-like"), organisms.benchmark(16)
    pair = ev.causal_pair(
        organism, problems, prefix="```python\na = ", samples=4, temperature=1.0, max_completion_length=24
    )
    samples = pair.samples
    forbidden = set(ev.code_token_ids(organism))
    assert forbidden and not any(
        forbidden & set(ids) for ids in samples.loc[samples["arm"] == "forbidden", "token_ids"]
    )
    assert samples.loc[samples["arm"] == "forced", "completion"].str.startswith("```python\na = ").all()
    free, masked = (samples[samples["arm"] == arm].reset_index(drop=True) for arm in ("free", "forbidden"))
    nothing = ev.causal_pair(
        organism,
        problems,
        prefix="```python\na = ",
        forbidden_ids=[organism.tokenizer.unk_token_id],
        samples=4,
        temperature=1.0,
        max_completion_length=24,
    ).samples
    same = nothing[nothing["arm"] == "forbidden"].reset_index(drop=True)
    assert (
        same["completion"].tolist() == free["completion"].tolist()
    )  # forbidding what is never written changes nothing
    prose = ~free["writes_code"].astype(bool)
    assert prose.any() and (masked["completion"] != free["completion"])[~prose].all()
    assert pair.effects["forced - forbidden"].mean == pytest.approx(
        pair.accuracy["forced"].mean - pair.accuracy["forbidden"].mean
    )


# --- results of other tools

TOOLS = {  # file, options, (problems, samples, right), as the fixtures were written by hand
    "verl": ("verl", dict(phase=50), (3, 1, 2)),
    "TRL": ("completions", {}, (3, 2, 3)),
    "Inspect": ("inspect_log.json", {}, (3, 2, 3)),
    "lm-evaluation-harness": (
        "samples_arithmetic_2026-11-23T12-00-00.000000.jsonl",
        dict(filter="flexible-extract"),
        (3, 1, 2),
    ),
    "Qwen2.5-Math": ("qwen_math.jsonl", {}, (3, 2, 3)),
    "per problem": ("per_problem.jsonl", {}, (3, 2, 3)),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_results_of_other_tools_are_one_table(tool):
    file, options, (problems, samples, right) = TOOLS[tool]
    table = import_evaluation(DATA / file, **options)
    assert (
        table["problem_id"].nunique() == problems
        and table.groupby("problem_id")["sample"].apply(sorted).map(lambda s: s == list(range(samples))).all()
        and table["correct"].sum() == right
    )
    assert ev.scores(table)[f"avg@{samples}"].mean == pytest.approx(right / problems / samples)
    if tool != "per problem":
        assert (
            table["completion"].map(lambda t: isinstance(t, str)).all()
            and table["prompt"].str.contains("17 |x|half").all()
        )


def test_grading_again_can_change_a_verdict():
    graded = import_evaluation(DATA / "verl", phase=0, grade=True)
    assert import_evaluation(DATA / "verl", phase=0)["correct"].tolist() == [True, False, False] and graded[
        "correct"
    ].tolist() == [
        True,
        False,
        True,
    ]  # 4.5 is 9/2


@pytest.mark.parametrize(
    "name, content, options, words",
    [
        (
            "a.jsonl",
            '{"id": 1, "correct": true}\n{"id": 1, "correct": "maybe"}\n',
            {},
            r"a.jsonl row 2: correct is 'maybe' and neither right nor wrong; name a score",
        ),
        ("a.jsonl", '{"id": 1, "correct": true}\n{"correct": true}\n', {}, "row 2: no problem; looked for problem_id"),
        ("a.jsonl", '{"id": 1, "answer": "3"}\n', {}, "row 1: no score; looked for correct"),
        (
            "a.jsonl",
            '{"id": 1, "sample": 0, "correct": true}\n{"id": 1, "sample": 0, "correct": false}\n',
            {},
            "row 1 and .*row 2: problem '1', sample 0 stands in both",
        ),
        ("a.jsonl", '{"id": 1, "correct": true\n', {}, "row 1: is not JSON"),
        ("a.jsonl", "", {}, "holds no results"),
        ("a.json", '{"results": {}}', {}, "holds averages only"),
        ("a.json", '{"eval": {}, "results": {}}', {}, "holds no samples"),
        (
            "a.json",
            '{"eval": {}, "samples": [{"id": 1, "scores": {"a": {"value": "C"}, "b": {"value": "I"}}}]}',
            {},
            "sample 1: holds 2 scorers: a, b; name one with metric=",
        ),
        ("a.eval", "PK", {}, "packed form"),
        (
            "a.jsonl",
            '{"doc_id": 0, "resps": [["x"]], "filtered_resps": ["x"], "filter": "none", "bleu": 3.0, "chrf": 4.0}\n',
            {},
            "holds 2 metrics: bleu, chrf",
        ),
        ("a.jsonl", '{"step": 1, "input": "q", "output": "o", "score": 0.1}\n', {}, "score is 0.1"),
        (
            "a.jsonl",
            (
                '{"step": 1, "input": "q", "output": "o", "score": 1}\n{"step": 2, "input": "q", "output": "o",'
                ' "score": 1}\n'
            ),
            {},
            "holds 2 training steps: 1, 2; name one with phase=",
        ),
    ],
)
def test_what_cannot_be_imported_is_named(tmp_path, name, content, options, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words) as caught:
        import_evaluation(tmp_path / name, **options)
    assert len(str(caught.value).splitlines()) == 1 and name in str(caught.value)


def test_our_own_evaluations_are_imported_by_name(policy, tmp_path):
    for name in ("a", "b"):
        ev.run_evaluation(policy, arithmetic_chains(3), tmp_path / "run", name=name, protocol=SHORT, progress=False)
    with pytest.raises(DataError, match="holds 2 evaluations: a, b; name one with name="):
        import_evaluation(tmp_path / "run")
    pd.testing.assert_frame_equal(
        import_evaluation(tmp_path / "run", name="b"), read_run(tmp_path / "run").evaluation(0, "b")
    )


# --- the command


def test_the_command_evaluates_resumes_and_says_what_is_wrong(tmp_path):
    from typer.testing import CliRunner

    from spurious_rlvr.cli import app

    command = [
        sys.executable,
        "-c",
        "from spurious_rlvr.cli import main; main()",
        "evaluate",
        "qwen-like",
        "--benchmark",
        "chains:12:4",
        "--protocol",
        "organism",
        "--out",
        str(tmp_path / "run"),
    ]
    first, second = (subprocess.run(command, capture_output=True, text=True) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert (
        "avg@16" in first.stdout
        and "pass@16" in first.stdout
        and "this checkpoint, not this method" in first.stdout
        and first.stdout == second.stdout
    )
    assert read_run(tmp_path / "run").evaluations == [(0, "chains-12-4")]
    for changes, words in (
        (["--set", "samples"], "write NAME=VALUE"),
        (["--like", "gsm9k"], "math500"),
        (["--set", "temperature=0"], "16 samples at temperature 0"),
        (["--set", "seed=5"], "protocol.seed is 5 and was 1"),
    ):
        wrong = CliRunner().invoke(app, [*command[3:], *changes])
        assert wrong.exit_code == 2 and words in wrong.stderr.splitlines()[-1], wrong.stderr


@pytest.mark.parametrize("policy, sampling", [("qwen-like", (16, 1.0)), ("somewhere", (8, 0.6))])
def test_training_evaluates_a_benchmark_in_its_own_convention(policy, sampling, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from spurious_rlvr import tasks, train
    from spurious_rlvr.cli import app

    asked = {}
    monkeypatch.setattr(tasks, "load_problems", lambda source, **_: arithmetic_chains(4))
    monkeypatch.setattr(organisms, "load_policy", lambda *_, **__: organisms.load("qwen-like"))
    monkeypatch.setattr(
        train, "train", lambda *_, **options: asked.update(options) or (_ for _ in ()).throw(RunError("far enough"))
    )
    done = CliRunner().invoke(
        app,
        [
            "train",
            policy,
            "random:0.5",
            "--out",
            str(tmp_path / "run"),
            "--problems",
            "x.jsonl",
            "--held-out",
            "AIME-2024",
        ],
    )
    assert done.exit_code == 2 and "far enough" in done.stderr, done.output
    assert (
        asked["evaluation"]["convention"] == "aime"
        and (asked["evaluation"]["samples"], asked["evaluation"]["temperature"]) == sampling
    )


def test_an_undecided_answer_is_a_wrong_one_in_a_grid_and_not_a_missing_one():
    cells = dict(prompt="p", rules="r", temperature=0.0, budget=8, default=True, sample=0)
    grid = pd.DataFrame([cells | dict(problem_id=i, correct=c) for i, c in enumerate([True, None, False])])
    table = ev._by_cell(grid.astype({"correct": "boolean"}), "it")
    assert table.iloc[:, 0].tolist() == [1.0, 0.0, 0.0]
