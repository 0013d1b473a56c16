"The live prompt on a real vLLM, on the CPU: .venv-vllm/bin/python -m pytest -m vllm tests/test_live_prompt_vllm.py"

import json
import threading
import time

import numpy as np
import pytest
import torch
from pace import PATIENCE

from spurious_rlvr import evaluate
from spurious_rlvr.core import keyed_seed
from spurious_rlvr.policy import random_policy
from spurious_rlvr.rollout import Request, TransformersEngine, VLLMEngine
from spurious_rlvr.widgets import FORCE_PREFIX, LivePrompt, engine_lock

pytestmark = pytest.mark.vllm


class ToPage(LivePrompt):
    "Keeps what its page is told."

    def send(self, content, buffers=None):
        self.__dict__.setdefault("told", []).append(json.loads(content["json"]))


@pytest.fixture(scope="module")
def engine():
    policy = random_policy(
        seed=0, hidden_size=64, heads=2, max_length=512
    )  # vLLM's attention on the CPU knows heads of width 32
    with torch.no_grad():
        policy.model.model.norm.weight.mul_(6)  # some choices likely, none certain
    with VLLMEngine(policy, max_model_len=400, enforce_eager=True) as engine:
        yield engine


def logprobs_of(policy, prompt, tokens):
    with torch.no_grad():
        logits = policy.model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, -1)[torch.arange(len(tokens)), tokens].tolist()


def test_several_samples_arrive_with_their_alternatives(engine):
    view = ToPage(engine, engine.policy, max_completion_length=40, samples=4).ask("1 + 2 = ?")
    rows = view.rollouts
    assert view.status.startswith("Done:") and len(rows) == 4 and rows["completion"].nunique() > 1
    requests = [Request(view.plan.prompt_ids, keyed_seed(seed, "prompt")) for seed in rows["seed"]]
    whole = engine.generate(requests, max_completion_length=40, stop=view.plan.template.stop)
    assert rows["token_ids"].tolist() == [c.token_ids for c in whole]  # what streams is what is sampled otherwise
    for _, row in rows.iterrows():
        assert np.allclose(
            row["logprob_sampler"], logprobs_of(engine.policy, view.plan.prompt_ids, row["token_ids"]), atol=2e-4
        )
    for sample in view.everything()["samples"]:
        for _, _, token, logprob, alternatives in sample["tokens"]:
            assert len(alternatives) == 5 and dict(alternatives).get(token, logprob) == logprob
    added = [part for message in view.told if message["type"] in ("add", "end") for part in message["parts"]]
    for place in range(4):  # piece by piece, all of it
        assert "".join(part["text"] for part in added if part["sample"] == place) == rows["completion"][place]
        assert sum(len(part["tokens"]) for part in added if part["sample"] == place) == len(rows["token_ids"][place])
    assert sum(message["type"] == "add" for message in view.told) > 1


def test_forced_forbidden_and_continued(engine):
    view = LivePrompt(engine, engine.policy, max_completion_length=12)
    assert view.ask("1?", manner="force").rollouts["completion"][0].startswith(FORCE_PREFIX)
    assert view.ask("1?", manner="continue", prefix="So 1").rollouts["completion"][0].startswith(
        "So 1"
    ) and view.status.startswith("Done:")
    forbidden = set(evaluate.code_token_ids(engine.policy))
    rows = view.ask("1?", manner="forbid", samples=8).rollouts
    assert view.status.startswith("Done:") and not {i for ids in rows["token_ids"] for i in ids} & forbidden


def test_stop_is_at_once_and_leaves_the_engine_free(engine, monkeypatch):
    ends, stream = sorted(engine.policy.end_ids), engine.stream
    monkeypatch.setattr(
        engine, "stream", lambda request, **settings: stream(request, **settings | dict(forbidden_ids=ends))
    )  # completions that do not end by themselves
    view = LivePrompt(engine, engine.policy, max_completion_length=300, samples=4).ask("1 + 1 = ?", wait=False)
    limit = time.monotonic() + 30
    while sum(len(writing.tokens) for writing in view.writings) < 40:
        assert time.monotonic() < limit
        time.sleep(0.002)
    began = time.monotonic()
    view.stop()
    assert view.wait(5) and time.monotonic() - began < PATIENCE
    assert set(view.rollouts["finish_reason"]) == {"stopped"} and all(
        len(ids) < 300 for ids in view.rollouts["token_ids"]
    )
    assert not engine._engine.has_unfinished_requests() and not engine._mail  # vLLM was told, too
    with engine_lock(engine):
        pass
    assert view.ask("1?", max_completion_length=5).status.startswith("Done:")


def test_a_view_beside_a_cell_that_samples(engine):
    "The cell's own sampling goes on while the page asks, and neither disturbs the other."
    requests = [Request(tuple(engine.policy.encode("1 + 1")), keyed_seed(3, "cell", i)) for i in range(16)]
    alone = [c.token_ids for c in engine.generate(requests, max_completion_length=30)]
    view, seen = LivePrompt(engine, engine.policy, max_completion_length=30, samples=2), []
    worker = threading.Thread(target=lambda: seen.extend(engine.generate(requests, max_completion_length=30)))
    worker.start()
    rows = view.ask("2 + 2 = ?").rollouts
    worker.join(60)
    assert (
        [c.token_ids for c in seen] == alone
        and view.status.startswith("Done:")
        and rows["completion"].tolist() == view.ask("2 + 2 = ?").rollouts["completion"].tolist()
    )


def test_what_vllm_does_not_take_is_said_in_words(engine):
    view = ToPage(engine, engine.policy, max_completion_length=8)
    assert "vLLM takes 0 to 2" in view.ask("1?", temperature=3).status and view.told[-1]["type"] == "end"
    assert any(message["type"] == "error" and "0 to 2" in message["words"] for message in view.told)
    asked = view.ask(
        "1?", max_completion_length=10_000
    )  # more than vLLM was given room for: as far as there is room, and it says so
    assert asked.status.startswith("Done:") and "There is room for" in asked.status
    assert asked.plan.max_completion_length + len(asked.plan.prompt_ids) == 400
    other = random_policy(seed=0, hidden_size=64, heads=2, max_length=512)
    assert (
        LivePrompt(TransformersEngine(other), other, max_completion_length=4).ask("1?").status.startswith("Done:")
    )  # the other engine in the same process
