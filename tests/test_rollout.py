"""Engines: exact distributions, other models' caches, stop texts, memory, threads, and servers that misbehave. A real
vLLM is in test_vllm.py."""

import copy
import dataclasses
import gc
import http.server
import itertools
import json
import os
import signal
import tempfile
import threading
import time
import warnings
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pace import PATIENCE
from scipy.stats import chi2
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spurious_rlvr import rollout
from spurious_rlvr.core import ConfigError, NotAvailable, RunError, keyed_seed
from spurious_rlvr.policy import Policy, piece_tokenizer, random_policy
from spurious_rlvr.rollout import (
    Request,
    StopTexts,
    TransformersEngine,
    VLLMServerEngine,
    heard,
    is_out_of_memory,
    mismatch,
    model_lock,
    watched,
)
from spurious_rlvr.tasks import get_template

END = 1


def grouped_query_policy(pieces="abc", spread=25.0, layers=2, length=64, **settings):
    "A Qwen2 with two query heads to each key head, over a handful of tokens."
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = piece_tokenizer(list(pieces))
    torch.manual_seed(3)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=64,
            max_position_embeddings=length,
            bos_token_id=None,
            eos_token_id=END,
            pad_token_id=0,
            **dict(tie_word_embeddings=False) | settings,
        )
    ).eval()
    with torch.no_grad():  # sharp attention, so that a wrong mask or a wrong head shows
        model.lm_head.weight.mul_(spread)
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.mul_(8)
            layer.self_attn.k_proj.weight.mul_(8)
            layer.self_attn.v_proj.weight.mul_(8)
    return Policy(model, tokenizer, get_template("chain"), name="grouped")


def plain_logprobs(policy, prompt, temperature=1.0, forbidden=()):
    with torch.no_grad():
        logits = policy.model(torch.tensor([prompt])).logits[0].double()
    logits[:, list(forbidden)] = -torch.inf
    return torch.log_softmax(logits / temperature, -1)


def exact_completions(policy, prompt, limit, temperature, forbidden):
    "Every completion with its probability, from plain forward passes."
    found, frontier = {}, {(): 0.0}
    for step in range(limit):
        following = {}
        for written, logprob in frontier.items():
            for token, value in enumerate(
                plain_logprobs(policy, [*prompt, *written], temperature, forbidden)[-1].tolist()
            ):
                if value == -np.inf:
                    continue
                (found if token == END or step == limit - 1 else following)[*written, token] = logprob + value
        frontier = following
    return {completion: np.exp(logprob) for completion, logprob in found.items()}


@pytest.mark.parametrize("temperature,forbidden", [(1.0, ()), (0.6, ()), (1.0, (3,)), (1.7, (END, 0))])
def test_completions_follow_the_exact_distribution(temperature, forbidden):
    """Prompts of different length (left padding), rows that end early (dropping), grouped-query attention; levels fixed
    beforehand."""
    policy, draws, limit = grouped_query_policy(), 3000, 3
    prompts = [(3, 4, 5), (5,), (4, 4, 3, 5, 3)]
    requests = [
        Request(prompt, keyed_seed(11, "exact", place, i)) for place, prompt in enumerate(prompts) for i in range(draws)
    ]
    completions = TransformersEngine(policy, max_rows=2500).generate(
        requests, max_completion_length=limit, temperature=temperature, forbidden_ids=forbidden
    )
    for place, prompt in enumerate(prompts):
        exact = exact_completions(policy, prompt, limit, temperature, forbidden)
        assert abs(sum(exact.values()) - 1) < 1e-9
        mine = completions[place * draws : (place + 1) * draws]
        counts = dict.fromkeys(exact, 0)
        for completion in mine:
            counts[tuple(completion.token_ids)] += 1  # a completion that cannot be raises KeyError
            assert abs(sum(completion.logprobs) - np.log(exact[tuple(completion.token_ids)])) < 1e-4
            assert (completion.finish_reason == "stop") == (completion.token_ids[-1] == END)
        often = [c for c in exact if exact[c] * draws >= 5]
        observed = [counts[c] for c in often] + [draws - sum(counts[c] for c in often)]
        expected = [exact[c] * draws for c in often] + [draws - sum(exact[c] * draws for c in often)]
        statistic = sum((o - e) ** 2 / e for o, e in zip(observed, expected) if e > 1)
        assert statistic < chi2.ppf(1 - 1e-4, len(often)), (prompt, temperature, statistic, len(often))


def other_models():
    from transformers import Gemma2Config, LlamaConfig, MistralConfig
    from transformers.models.gemma2.modeling_gemma2 import Gemma2ForCausalLM
    from transformers.models.llama.modeling_llama import LlamaForCausalLM
    from transformers.models.mistral.modeling_mistral import MistralForCausalLM

    shape = dict(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=0,
    )
    yield "llama", lambda: LlamaForCausalLM(LlamaConfig(**shape))
    yield "mistral with a sliding window", lambda: MistralForCausalLM(MistralConfig(**shape, sliding_window=8))
    yield (
        "gemma2, every other layer slides",
        lambda: Gemma2ForCausalLM(Gemma2Config(**shape, head_dim=8, sliding_window=8, query_pre_attn_scalar=8)),
    )


@pytest.mark.parametrize("name,build", list(other_models()), ids=lambda value: value if isinstance(value, str) else "")
def test_long_completions_agree_with_a_plain_forward_whatever_the_cache(name, build):
    "150 tokens: beyond the spare room of the cache and beyond the window."
    torch.manual_seed(0)
    model = build().eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(8)
    policy = Policy(model, piece_tokenizer([chr(97 + i) for i in range(26)]), get_template("chain"))
    requests = [Request(tuple(range(3, 5 + i % 4)), keyed_seed(4, "long", i)) for i in range(8)]
    for request, completion in zip(
        requests, TransformersEngine(policy).generate(requests, max_completion_length=150, forbidden_ids=[END])
    ):
        own = plain_logprobs(policy, [*request.prompt_ids, *completion.token_ids], forbidden=[END])[
            len(request.prompt_ids) - 1 : -1
        ]
        assert len(completion.token_ids) == 150
        assert np.allclose(
            own.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0], completion.logprobs, atol=2e-4
        )


def test_rows_do_not_know_each_other():
    policy = grouped_query_policy("abcdefgh", spread=15)
    requests = [Request(tuple(3 + (i + k) % 8 for k in range(1 + i % 7)), keyed_seed(5, i)) for i in range(64)]
    together = TransformersEngine(policy).generate(requests, max_completion_length=20)
    assert len({len(c.token_ids) for c in together}) > 5
    for rows in (1, 7, 64):
        again = TransformersEngine(policy, max_rows=rows).generate(requests, max_completion_length=20)
        assert [c.token_ids for c in again] == [c.token_ids for c in together]


# stop texts


def byte_tokenizer():
    "One token for each byte: characters beyond ASCII take several."
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE({c: i for i, c in enumerate(alphabet)} | {"ab": 256, "cd": 257}, [("a", "b"), ("c", "d")])
    )
    tokenizer.pre_tokenizer, tokenizer.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        decoders.ByteLevel(),
    )
    return tokenizer


BYTES = byte_tokenizer()


@settings(max_examples=300, deadline=None)
@given(
    st.text("abcd é∑\n", max_size=60), st.lists(st.text("abcd é∑\n", min_size=1, max_size=25), min_size=1, max_size=3)
)
def test_a_stop_text_is_found_at_the_token_that_completes_it(text, stop):
    ids, decode = BYTES.encode(text).ids, lambda ids: BYTES.decode(list(ids))
    found, naive = (
        StopTexts(stop, decode),
        next((i for i in range(1, len(ids) + 1) if any(s in decode(ids[:i]) for s in stop)), None),
    )
    assert next((i for i in range(1, len(ids) + 1) if found(ids[:i])), None) == naive


def test_a_stop_text_of_many_tokens_ends_a_completion():
    policy = random_policy(scale=20)
    requests = [Request(tuple(policy.encode("abc")), keyed_seed(6, i)) for i in range(24)]
    free = TransformersEngine(policy).generate(requests, max_completion_length=90, forbidden_ids=sorted(policy.end_ids))
    whole = policy.decode(free[0].token_ids)
    stop = whole[20:60]  # forty tokens
    ended = TransformersEngine(policy).generate(
        requests, max_completion_length=90, forbidden_ids=sorted(policy.end_ids), stop=(stop,)
    )
    assert policy.decode(ended[0].token_ids) == whole[:60] and ended[0].finish_reason == "stop"
    assert [c.token_ids for c in ended[1:]] == [c.token_ids for c in free[1:]]


# memory


class Bounded(torch.nn.Module):
    "A model that has memory for so many rows, and complains as the device would."

    def __init__(self, model, rows, error):
        super().__init__()
        self.inner, self.rows, self.error, self.config, self.calls = model, rows, error, model.config, []

    def forward(self, input_ids, **rest):
        self.calls.append(len(input_ids))
        if len(input_ids) > self.rows:
            raise self.error
        return self.inner(input_ids=input_ids, **rest)


def bounded(policy, rows, error):
    return dataclasses.replace(policy, model=Bounded(policy.model, rows, error))


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    MemoryError(),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:126] data. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8"
        " bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8"
        " bytes."
    ),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_out_of_memory_halves_the_rows_and_changes_nothing(error):
    policy = grouped_query_policy("abcdefgh", spread=15)
    requests = [Request((3, 4 + i % 3), keyed_seed(7, i)) for i in range(40)]
    expected = TransformersEngine(policy).generate(requests, max_completion_length=10)
    engine = TransformersEngine(bounded(policy, 6, error))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = engine.generate(requests, max_completion_length=10)
    assert [c.token_ids for c in found] == [c.token_ids for c in expected]
    said = [str(w.message) for w in caught if "out of memory" in str(w.message)]
    assert (
        len(said) == 3
        and "40 completions side by side" in said[0]
        and engine.max_rows == 5
        and all("\n" not in line for line in said)
    )
    engine.policy.model.calls.clear()
    engine.generate(requests[:10], max_completion_length=10)  # what was learnt stays
    assert max(engine.policy.model.calls) <= 5


def test_out_of_memory_at_one_row_says_what_to_change():
    for error in ERRORS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(RunError, match="lower max_completion_length, load the policy in bfloat16"):
                TransformersEngine(bounded(grouped_query_policy(), 0, error)).generate(
                    [Request((3,), i) for i in range(2)], max_completion_length=3
                )
    with pytest.raises(RuntimeError, match="shapes"):
        TransformersEngine(bounded(grouped_query_policy(), 0, RuntimeError("shapes do not match"))).generate(
            [Request((3,), 0)], max_completion_length=3
        )


def test_what_torch_says_when_memory_is_short():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**52, dtype=torch.uint8)
    assert (
        is_out_of_memory(raised.value)
        and not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
        and not is_out_of_memory(KeyError("out of memory"))
    )


# threads and streams


def test_a_stream_is_generate_and_stops_when_closed():
    policy = bounded(grouped_query_policy("abcdefgh"), 10**6, None)
    engine, request = TransformersEngine(policy), Request((3, 4), 8)
    [whole] = engine.generate([request], max_completion_length=30, temperature=0.8, forbidden_ids=[END])
    streamed = list(
        engine.stream(request, max_completion_length=30, temperature=0.8, forbidden_ids=[END], alternatives=100)
    )
    assert [t.token_id for t in streamed] == whole.token_ids
    for token, place in zip(streamed, itertools.count(1)):
        own = plain_logprobs(policy, [*request.prompt_ids, *whole.token_ids[:place]], 0.8, [END])[
            len(request.prompt_ids) + place - 2
        ]
        assert len(token.alternatives) == own.numel() and np.allclose(
            [p for _, p in token.alternatives], own.sort(descending=True).values, atol=1e-4
        )
        assert abs(dict(token.alternatives)[token.token_id] - token.logprob) < 1e-6 and END not in [
            i for i, p in token.alternatives if p > -np.inf
        ]
    policy.model.calls.clear()
    stream = engine.stream(request, max_completion_length=30)
    assert not policy.model.calls, "nothing runs before it is asked for"
    next(stream)
    next(stream)
    stream.close()
    assert len(policy.model.calls) == 2
    with pytest.raises(ConfigError, match="temperature is -1"):
        engine.stream(request, max_completion_length=30, temperature=-1)


def test_one_thread_at_a_time_is_inside_the_model():
    "A widget's stream, an evaluation and a trainer share a model; each step has it alone, and nobody's tokens change."
    policy = grouped_query_policy("abcdefgh")
    inside, worst, plain = [], [], policy.model.forward

    def watched(*arguments, **keywords):
        inside.append(1)
        worst.append(len(inside))
        time.sleep(0.001)
        try:
            return plain(*arguments, **keywords)
        finally:
            inside.pop()

    requests = [Request((3, 4 + i), keyed_seed(9, i)) for i in range(4)]
    settings = dict(max_completion_length=40, forbidden_ids=[END])
    expected = [c.token_ids for c in TransformersEngine(policy).generate(requests, **settings)]
    policy.model.forward = watched
    streamed, generated = [], []
    threads = [
        threading.Thread(
            target=lambda: streamed.extend(
                t.token_id for t in TransformersEngine(policy).stream(requests[0], **settings)
            )
        ),
        threading.Thread(
            target=lambda: generated.extend(
                c.token_ids for c in TransformersEngine(policy).generate(requests, **settings)
            )
        ),
    ]
    for thread in threads:
        thread.start()
    for _ in range(10):  # a trainer: same weights in the end, changed under the lock in between
        with model_lock(policy.model), torch.no_grad():
            policy.model.lm_head.weight.mul_(2)
            time.sleep(0.001)
            policy.model.lm_head.weight.div_(2)
    for thread in threads:
        thread.join()
    assert streamed == expected[0] and generated == expected and max(worst) == 1 and len(worst) > 60


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was_found(training):
    policy = grouped_query_policy(attention_dropout=0.5)
    policy.model.train(training)
    engine = TransformersEngine(policy)
    stream = engine.stream(Request((3,), 0), max_completion_length=9, forbidden_ids=[END])
    first = [next(stream), next(stream)]  # in the middle of a stream the model is the trainer's
    assert policy.model.training is training and torch.is_grad_enabled()
    policy.model(torch.tensor([[3, 4]])).logits.sum().backward()  # and can be trained
    assert [t.token_id for t in first] + [t.token_id for t in stream] == engine.generate(
        [Request((3,), 0)], max_completion_length=9, forbidden_ids=[END]
    )[0].token_ids
    policy.model.lm_head.forward = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        engine.generate([Request((3,), 0)], max_completion_length=9)
    engine.close()
    assert policy.model.training is training and policy.model.config._attn_implementation == "sdpa"


# mismatch and weights


@given(
    st.lists(st.lists(st.tuples(st.floats(-20, 0), st.floats(-20, 0)), min_size=1, max_size=6), min_size=1, max_size=6)
)
def test_mismatch_by_hand(pairs):
    found = mismatch([[t for t, _ in row] for row in pairs], [[s for _, s in row] for row in pairs])
    gaps = [t - s for row in pairs for t, s in row]

    def share(logs):
        return sum(np.exp(g) for g in logs) ** 2 / len(logs) / sum(np.exp(2 * g) for g in logs)

    assert np.isclose(found["mismatch_mean"], np.mean(np.abs(gaps))) and np.isclose(
        found["mismatch_max"], max(map(abs, gaps))
    )
    assert np.isclose(found["ess_tokens"], share(gaps)) and np.isclose(
        found["ess_sequences"], share([sum(t - s for t, s in row) for row in pairs])
    )
    assert 0 < found["ess_tokens"] <= 1 + 1e-12


@pytest.mark.parametrize("tied", [True, False])
def test_plain_weights_are_what_save_pretrained_writes(tied, tmp_path):
    from safetensors.torch import load_file

    policy = random_policy(tied=tied)
    policy.save(tmp_path)
    written, plain = load_file(tmp_path / "model.safetensors"), dict(policy.weights())
    assert written.keys() == plain.keys() and all(torch.equal(written[name], plain[name]) for name in written)


# a server that misbehaves


class Misbehaving(http.server.BaseHTTPRequestHandler):
    "Speaks just enough of the server's language to answer wrongly in it."

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.reply(200, dict(data=[dict(max_model_len=50)]))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, body))
        if len(self.server.seen) == 1:
            return self.reply(200, answer([4], [0.0]))  # the engine's first question
        status, reply = (
            self.server.script.pop(0)
            if self.server.script
            else (
                200,
                answer([body["sampling_params"]["seed"] % 100, 5], [-1.0, -2.0]) if "sampling_params" in body else {},
            )
        )
        if status == "hang up":
            self.connection.close()
            return
        if status == "silence":
            time.sleep(2)
            return
        self.reply(status, reply)

    def reply(self, status, body):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def answer(ids, logprobs):
    return dict(
        choices=[
            dict(
                token_ids=ids,
                finish_reason="length",
                logprobs=dict(content=[dict(token_id=i, logprob=p, top_logprobs=[]) for i, p in zip(ids, logprobs)]),
            )
        ]
    )


@pytest.fixture
def servers():
    made = []
    for _ in range(2):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Misbehaving)
        server.seen, server.script, server.daemon_threads = [], [], True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        made.append(server)
    yield made
    for server in made:
        server.shutdown()
        server.server_close()


def engine_of(servers, **settings):
    return VLLMServerEngine(
        [f"127.0.0.1:{s.server_port}" for s in servers], random_policy(), **dict(retries=2) | settings
    )


def test_requests_are_spread_and_every_prompt_stays_with_one_server(servers):
    engine = engine_of(servers)
    requests = [Request((3 + prompt, 4), 10 * prompt + k) for prompt in range(6) for k in range(4)]
    found = engine.generate(requests, max_completion_length=2)
    assert [c.token_ids for c in found] == [[r.seed % 100, 5] for r in requests] and found[0].logprobs == [-1.0, -2.0]
    prompts = [{tuple(body["token_ids"]) for _, body in s.seen[1:]} for s in servers]
    assert len(prompts[0]) == len(prompts[1]) == 3 and not prompts[0] & prompts[1]


@pytest.mark.parametrize(
    "trouble", [(500, {}), (503, {}), ("hang up", None), (200, b"<html>"), ("silence", None)], ids=str
)
def test_a_lost_request_is_asked_again(servers, trouble):
    engine = engine_of(servers, timeout=0.5)
    for server in servers:
        server.script = [trouble]
    requests = [Request((3, 4), 7), Request((4, 4), 8)]
    assert [c.token_ids for c in engine.generate(requests, max_completion_length=2)] == [[7, 5], [8, 5]]


def test_when_nothing_helps_the_error_says_where_and_what(servers):
    engine = engine_of(servers, retries=1)
    for server in servers:
        server.script = [(500, dict(error="out of blocks"))] * 9
    with pytest.raises(
        RunError,
        match=(
            r"no answer after 2 attempts, at last from the vLLM server at http://127.0.0.1:\d+ \(HTTP 500.*out of"
            r" blocks"
        ),
    ):
        engine.generate([Request((3, 4), 7)], max_completion_length=2)
    for server in servers:
        server.script = [(400, dict(error="bad"))] * 9
    before = [len(s.seen) for s in servers]
    with pytest.raises(RunError, match="refused a request: HTTP 400.*bad"):
        engine.generate([Request((3, 4), 7)], max_completion_length=2)
    assert sum(len(s.seen) for s in servers) == sum(before) + 1, "a refusal is not asked again"


def test_servers_that_cannot_serve_are_named_at_once(servers, tmp_path):
    engine = engine_of(servers)
    with pytest.raises(ConfigError, match="exceed max_model_len=50"):
        engine.generate([Request((3,) * 40, 1)], max_completion_length=20)
    with pytest.raises(ConfigError, match="give weights_folder"):
        engine.load_weights(engine.policy)
    for server in servers:
        server.seen.clear()
        server.script = []
    servers[0].seen.append("skip the first answer")
    servers[0].script = [(200, answer([4], [-3.0]))]  # as with raw log-probabilities
    with pytest.raises(ConfigError, match="processed_logprobs"):
        engine_of(servers)
    servers[0].script = [(403, dict(error="Scale-out endpoints are disabled"))]
    with pytest.raises(NotAvailable, match="Scale-out.*enable-scale-out"):
        engine_of(servers)


def test_an_interrupt_hangs_up(servers):
    engine = engine_of(servers)
    for server in servers:
        server.script = [("silence", None)] * 9
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        engine.generate([Request((3, i), i) for i in range(8)], max_completion_length=2)
    assert time.monotonic() - began < 1.5 * PATIENCE, "it waited for the servers"
    for server in servers:
        server.script = []
    assert len(engine.generate([Request((3, 4), 7)], max_completion_length=2)) == 1


def test_new_weights_go_to_every_server(servers, tmp_path):
    from transformers import AutoModelForCausalLM

    engine = engine_of(servers, weights_folder=tmp_path / "w")
    for _ in range(2):
        engine.load_weights(engine.policy)
    for server in servers:
        assert [path for path, _ in server.seen[1:]] == ["/collective_rpc", "/reset_prefix_cache"] * 2
        assert server.seen[1][1] == dict(method="reload_weights", kwargs=dict(weights_path=str(tmp_path / "w")))
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "w")
    assert all(torch.equal(t, engine.policy.model.state_dict()[n]) for n, t in reloaded.state_dict().items()) and [
        p.name for p in tmp_path.iterdir()
    ] == ["w"]
    servers[1].script = [(404, {})]
    with pytest.raises(RunError, match="VLLM_SERVER_DEV_MODE=1 and see the folder"):
        engine.load_weights(engine.policy)


def with_adapters(policy):
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    return dataclasses.replace(policy, model=get_peft_model(policy.model, settings))


def test_adapters_go_to_every_server_and_requests_name_them(servers, tmp_path):
    engine = engine_of(servers, weights_folder=tmp_path / "w", lora_rank=8)
    policy = with_adapters(random_policy())
    taken = []
    for _ in range(2):
        engine.load_weights(policy)
        taken.append(engine.handed.bytes)
    once, again = (
        ["/collective_rpc", "/v1/load_lora_adapter", "/reset_prefix_cache"],
        [
            "/v1/load_lora_adapter",
            "/reset_prefix_cache",
        ],
    )
    for server in servers:
        assert [path for path, _ in server.seen[1:]] == once + again
        places = [body["lora_path"] for path, body in server.seen[1:] if "lora" in path]
        assert places == [str(tmp_path / "w-adapter-1"), str(tmp_path / "w-adapter-2")]
    sizes = [(tmp_path / f"w-adapter-{n}" / "adapter_model.safetensors").stat().st_size for n in (1, 2)]
    whole = (tmp_path / "w" / "model.safetensors").stat().st_size
    assert taken == [whole + sizes[0], sizes[1]]
    engine.generate([Request((3, 4), 7)], max_completion_length=2)
    asked = [body for s in servers for path, body in s.seen[1:] if "generate" in path]
    assert [body["model"] for body in asked] == ["policy"]
    engine.load_weights(random_policy())  # without adapters the model is the base again
    engine.generate([Request((3, 4), 7)], max_completion_length=2)
    asked = [body for s in servers for path, body in s.seen[1:] if "generate" in path]
    assert [body.get("model") for body in asked].count("policy") == 1
    engine.load_weights(policy)
    servers[1].script = [(404, {})]
    with pytest.raises(RunError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora --max-lora-rank 8"):
        engine.load_weights(policy)  # the adapter alone, which is asked for first


def test_bfloat16_is_what_was_rounded(servers, tmp_path):
    from safetensors.torch import load_file

    engine = engine_of(servers, weights_folder=tmp_path / "w", weights_dtype="bfloat16")
    engine.load_weights(engine.policy)
    sent = load_file(tmp_path / "w" / "model.safetensors")
    assert all(torch.equal(tensor.bfloat16(), sent[name]) for name, tensor in engine.policy.weights())
    assert engine.describe()["dtype"] == "bfloat16" and engine.handed.bytes > 0
    with pytest.raises(ConfigError, match="give 'same' or 'bfloat16'"):
        engine_of(servers, weights_dtype="float8")


def test_servers_give_completions_as_they_end(servers):
    engine, early = engine_of(servers), {}
    requests = [Request((3 + i % 3, 4), i) for i in range(12)]
    with heard(engine, early.__setitem__) as tells:
        found = engine.generate(requests, max_completion_length=2)
    assert tells and [early[place] for place in range(12)] == found and engine.finished is None


def test_an_abort_from_another_thread_ends_a_call(servers):
    engine = engine_of(servers, timeout=60)
    for server in servers:
        server.script = [("silence", None)] * 9
    threading.Timer(0.3, engine.abort).start()
    began = time.monotonic()
    with pytest.raises(RunError, match="aborted"):
        engine.generate([Request((3, i), i) for i in range(8)], max_completion_length=2)
    assert time.monotonic() - began < 1.5 * PATIENCE


def test_completions_are_told_by_their_place_whatever_the_chunk():
    policy, early = random_policy(scale=30), {}
    requests = [Request(tuple(policy.encode("1 + 1")), seed=i) for i in range(6)]
    engine = TransformersEngine(policy, max_rows=4)
    with heard(engine, early.__setitem__):
        found = engine.generate(requests, max_completion_length=5)
    assert [early[place] for place in range(6)] == found  # over two chunks


# refilling


def long_tailed(policy, prompts=6, samples=16):
    "Requests in groups whose completions have very different lengths, and prompts that do not all have one length."
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(0.1)
    return [
        Request(tuple(3 + (i + k) % 8 for k in range(2 + i % 4)), keyed_seed(21, "tail", i, sample))
        for i in range(prompts)
        for sample in range(samples)
    ]


def same(found, expected):
    "Token for token, and log-probabilities as far as float32 carries."
    assert [(c.token_ids, c.finish_reason) for c in found] == [(c.token_ids, c.finish_reason) for c in expected]
    assert all(np.allclose(f.logprobs, e.logprobs, atol=1e-5) for f, e in zip(found, expected))


def counting(policy, monkeypatch):
    "Notes the shapes of what a policy's model reads."
    calls, plain = [], policy.model.forward

    def forward(input_ids, **rest):
        calls.append(tuple(input_ids.shape))
        return plain(input_ids=input_ids, **rest)

    monkeypatch.setattr(policy.model, "forward", forward)
    return calls


@pytest.mark.parametrize("stop", [(), ("ab",)], ids=str)
@pytest.mark.parametrize("late", [0, 1, 4])
@pytest.mark.parametrize("rows", [3, 8, 64])
def test_refilling_and_flags_read_late_change_no_completion(rows, late, stop, monkeypatch):
    policy = grouped_query_policy("abcdefgh")
    requests = long_tailed(policy)
    expected = [
        TransformersEngine(policy).generate([r], max_completion_length=40, stop=stop, temperature=0.9)[0]
        for r in requests
    ]
    lengths = sorted(len(c.token_ids) for c in expected)
    assert lengths[-1] == 40 > 3 * lengths[len(lengths) // 2], "no long tail"
    monkeypatch.setattr(rollout, "_LATE", dict(cpu=late))
    told, early, engine = [], {}, TransformersEngine(policy, max_rows=rows)
    with watched(engine, lambda ended, words: told.append(ended)), heard(engine, early.__setitem__):
        same(engine.generate(requests, max_completion_length=40, stop=stop, temperature=0.9), expected)
    assert sum(told) == len(requests) and [early[i].token_ids for i in range(len(requests))] == [
        c.token_ids for c in expected
    ]


def test_the_batch_stays_full_and_a_prompt_is_read_once(monkeypatch):
    policy = grouped_query_policy("abcdefgh")
    requests = long_tailed(policy)
    tokens = sum(len(c.token_ids) for c in TransformersEngine(policy).generate(requests, max_completion_length=40))
    calls = counting(policy, monkeypatch)
    TransformersEngine(policy, max_rows=16).generate(requests, max_completion_length=40)
    reading = [rows for rows, length in calls if length > 1]
    assert sum(reading) == len({r.prompt_ids for r in requests})
    last = max(i for i, (_, length) in enumerate(calls) if length > 1)
    assert {rows for rows, length in calls[:last] if length == 1} == {16}
    assert sum(rows for rows, length in calls if length == 1) < 1.3 * tokens, "rows that are done go on computing"


def test_what_a_room_was_made_of_is_never_read(monkeypatch):
    "Memory that nobody has written to holds anything; PyTorch fills it with NaN here."
    policy = grouped_query_policy("abcdefgh")
    requests = long_tailed(policy)
    expected = TransformersEngine(policy).generate(requests, max_completion_length=100)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.zeros(1).new_empty(1).isnan()
        for rows, late in ((8, 0), (20, 0), (96, 0), (20, 3)):
            monkeypatch.setattr(rollout, "_LATE", dict(cpu=late))
            found = TransformersEngine(policy, max_rows=rows).generate(requests, max_completion_length=100)
            same(found, expected)
    finally:
        torch.use_deterministic_algorithms(False)


def test_rows_of_a_window_are_not_refilled_and_are_the_same():
    build = dict(other_models())["gemma2, every other layer slides"]
    torch.manual_seed(0)
    policy = Policy(build().eval(), piece_tokenizer([chr(97 + i) for i in range(26)]), get_template("chain"))
    requests = [Request(tuple(range(3, 5 + i % 4)), keyed_seed(4, "window", i)) for i in range(24)]
    alone = [TransformersEngine(policy).generate([r], max_completion_length=30)[0] for r in requests]
    same(TransformersEngine(policy, max_rows=5).generate(requests, max_completion_length=30), alone)


@pytest.mark.parametrize("late", [0, 3])
def test_what_is_finished_stays_when_memory_runs_out(late, monkeypatch):
    "Memory runs out in the middle, once: halved, and only what was not finished begins again."
    policy = grouped_query_policy("abcdefgh")
    requests = long_tailed(policy)
    expected = TransformersEngine(policy).generate(requests, max_completion_length=40)
    calls, plain = [], policy.model.forward

    def forward(input_ids, **rest):
        calls.append(len(input_ids))
        if len(calls) == 12:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return plain(input_ids=input_ids, **rest)

    monkeypatch.setattr(policy.model, "forward", forward)
    monkeypatch.setattr(rollout, "_LATE", dict(cpu=late))
    told, engine = [], TransformersEngine(policy, max_rows=32)
    with (
        pytest.warns(UserWarning, match="with 32 completions side by side; goes on with 16"),
        heard(engine, lambda place, completion: told.append(place)),
    ):
        same(engine.generate(requests, max_completion_length=40), expected)
    assert sorted(told) == list(range(len(requests))), "a finished completion was written again"
    assert engine.max_rows == 16 and max(calls[12:]) == 16


def test_the_models_positions_are_never_exceeded(monkeypatch):
    "Rows that go on until their end is read stay within prompt and limit, which is all some models have places for."
    policy, most = grouped_query_policy("abcdefgh"), []
    requests, plain = long_tailed(policy), policy.model.forward

    def forward(input_ids, position_ids=None, **rest):
        most.append(-1 if position_ids is None else int(position_ids.max()))
        return plain(input_ids=input_ids, position_ids=position_ids, **rest)

    monkeypatch.setattr(policy.model, "forward", forward)
    monkeypatch.setattr(rollout, "_LATE", dict(cpu=4))
    TransformersEngine(policy, max_rows=8).generate(requests, max_completion_length=20)
    assert max(most) <= max(len(r.prompt_ids) for r in requests) + 20 - 1


# steps that are recorded, and copies in another precision


class Tape(TorchDispatchMode):
    """Records a function kernel by kernel, and repeats it as a CUDA graph does: without Python, on the memory and with
    the shapes of that time. As there, nothing has happened when the recording is over: what was written is put back,
    and what is new holds nothing. What a graph cannot hold fails here as it does there."""

    READ_BY_THE_HOST = {
        f"aten::{name}"
        for name in (
            "item _local_scalar_dense is_nonzero nonzero lift_fresh masked_select equal repeat_interleave _unique2"
        ).split()
    }

    def __init__(self):
        super().__init__()
        self.kernels, self.written, self.plays = [], [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        by_mask = func._schema.name == "aten::index" and any(t is not None and t.dtype == torch.bool for t in args[1])
        if func._schema.name in self.READ_BY_THE_HOST or by_mask:
            raise RuntimeError(f"{func}: operation not permitted when stream is capturing")
        for argument, value in zip(func._schema.arguments, args):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.written.append((value, value.clone()))
        output = func(*args, **(kwargs or {}))
        self.kernels.append((func, args, kwargs or {}, output))
        return output

    def __exit__(self, *error):
        super().__exit__(*error)
        for tensor, before in reversed(self.written):
            tensor.copy_(before)
        known = {t.untyped_storage().data_ptr() for _, args, _, _ in self.kernels for t in tensors(args)}
        made = {t.untyped_storage().data_ptr() for _, _, _, output in self.kernels for t in tensors(output)}
        for _, _, _, output in self.kernels:
            for tensor in tensors(output):
                if tensor.untyped_storage().data_ptr() in made - known and tensor.is_floating_point():
                    tensor.fill_(torch.nan)
        self.written.clear()

    def __call__(self):
        self.plays += 1
        for func, args, kwargs, output in self.kernels:
            for before, now in zip(tree_leaves(output), tree_leaves(func(*args, **kwargs))):
                if isinstance(before, torch.Tensor) and before.data_ptr() != now.data_ptr():
                    before.copy_(now)


def tensors(values):
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


@pytest.fixture
def tapes(monkeypatch):
    "What was recorded; steps are recorded on a CPU, too."
    recorded, undisturbed = [], threading.Lock()

    def not_while_recording(name):
        usual = getattr(torch.Tensor, name)

        def method(self, *given, **named):
            if undisturbed.locked():
                raise RuntimeError(f"{name}: operation not permitted when stream is capturing")
            return usual(self, *given, **named)

        return method

    for name in ("tolist", "numpy", "cpu", "__bool__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, not_while_recording(name))

    def record(step, earlier, device):
        assert device.type == "cpu" and (earlier is None or earlier.plays)
        recorded.append(Tape())
        with undisturbed, recorded[-1]:
            step()
        return recorded[-1]

    monkeypatch.setattr(rollout, "_RECORD", dict(cpu=record))
    monkeypatch.setattr(rollout, "_NOT_RECORDABLE", set())
    monkeypatch.setattr(rollout, "_ROUND_COLUMNS", 8)
    return recorded


@pytest.mark.parametrize(("rows", "late", "stop"), [(5, 0, ()), (20, 4, ()), (96, 4, ()), (8, 0, ("ab",))], ids=str)
def test_recorded_steps_change_no_completion(rows, late, stop, tapes, monkeypatch):
    policy = grouped_query_policy("abcdefgh")
    requests = long_tailed(policy)
    plain = TransformersEngine(policy, cuda_graphs=False)
    expected = plain.generate(requests, max_completion_length=60, stop=stop)
    assert not tapes
    monkeypatch.setattr(rollout, "_LATE", dict(cpu=late))
    engine = TransformersEngine(policy, max_rows=rows)
    same(engine.generate(requests, max_completion_length=60, stop=stop), expected)
    assert len(tapes) > 3 and sum(tape.plays for tape in tapes) > 2 * len(tapes)
    same(engine.generate(requests[:7], max_completion_length=60, stop=stop), expected[:7])


def test_a_recorded_stream_is_generate(tapes):
    policy = grouped_query_policy("abcdefgh")
    request = Request((3, 4, 5), 5)
    settings = dict(max_completion_length=40, forbidden_ids=sorted(policy.end_ids))
    expected = TransformersEngine(policy, cuda_graphs=False).generate([request], **settings)[0]
    found = list(TransformersEngine(policy).stream(request, **settings))
    assert [token.token_id for token in found] == expected.token_ids and tapes


@pytest.mark.parametrize("alike", [True, False], ids=["prompts of one length", "of several"])
def test_a_model_that_cannot_be_recorded_goes_on_without(alike, tapes, monkeypatch):
    policy = grouped_query_policy("abcdefgh")
    plain = policy.model.forward
    requests = {True: [Request((3, 4, 5), keyed_seed(2, i)) for i in range(40)], False: long_tailed(policy)}[alike]
    expected = TransformersEngine(policy, cuda_graphs=False).generate(requests, max_completion_length=40)

    def forward(input_ids, **rest):
        assert int(input_ids.max()) < 64  # looks at its numbers
        return plain(input_ids=input_ids, **rest)

    monkeypatch.setattr(policy.model, "forward", forward)
    engine = TransformersEngine(policy, max_rows=16)
    with pytest.warns(UserWarning, match="cannot be recorded as a CUDA graph .*not permitted.* goes on without"):
        same(engine.generate(requests, max_completion_length=40), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(TransformersEngine(policy, max_rows=16).generate(requests, max_completion_length=40), expected)
    assert len(tapes) == 1, "what failed was tried again"


def test_with_enough_memory_a_room_is_made_once(tapes, monkeypatch):
    policy = grouped_query_policy("abcdefgh", length=256)
    requests, moved = long_tailed(policy), []
    expected = TransformersEngine(policy, cuda_graphs=False).generate(requests, max_completion_length=60)
    monkeypatch.setattr(rollout, "_free_bytes", lambda device: 2**40)
    monkeypatch.setattr(rollout._room_layer(), "widen", lambda self, more: moved.append(more))
    same(TransformersEngine(policy, max_rows=20).generate(requests, max_completion_length=60), expected)
    assert not moved


def test_a_copy_that_is_let_go_meanwhile_is_still_there_for_who_samples():
    policy = grouped_query_policy("abcdefgh")
    engine = TransformersEngine(policy, dtype=torch.bfloat16)
    weights = policy.weights

    def let_go():
        engine.sleep()  # as a trainer does, from another thread
        return weights()

    policy.weights = let_go
    assert len(engine.generate([Request((3, 4), 1)], max_completion_length=3)[0].token_ids)


def test_memory_that_runs_out_while_recording_halves_the_rows(monkeypatch):
    policy = grouped_query_policy("abcdefgh")
    requests = long_tailed(policy)
    expected = TransformersEngine(policy).generate(requests, max_completion_length=40)

    def record(step, *_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    def record_few(step, *_):
        return step if calls[-1][0] <= 16 else record(step)

    calls = counting(policy, monkeypatch)
    monkeypatch.setattr(rollout, "_RECORD", dict(cpu=record_few))
    monkeypatch.setattr(rollout, "_NOT_RECORDABLE", set())
    engine = TransformersEngine(policy, max_rows=32)
    with pytest.warns(UserWarning, match="with 32 completions side by side; goes on with 16"):
        same(engine.generate(requests, max_completion_length=40), expected)


def in_bfloat16(policy):
    "As transformers loads it."
    with tempfile.TemporaryDirectory() as folder:
        policy.model.save_pretrained(folder)
        return dataclasses.replace(
            policy, model=type(policy.model).from_pretrained(folder, dtype=torch.bfloat16).eval()
        )


def nudge(policy, parameters):
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn_like(parameter), alpha=0.3)


@pytest.mark.parametrize("tied", [True, False])
def test_a_copy_in_bfloat16_has_the_present_weights(tied):
    policy = grouped_query_policy("abcdefgh", tie_word_embeddings=tied)
    requests, limit = [Request((3, 4 + i % 3), keyed_seed(7, i)) for i in range(20)], dict(max_completion_length=12)
    engine = TransformersEngine(policy, dtype=torch.bfloat16)
    for _ in range(2):  # the second time after a step of training
        expected = TransformersEngine(in_bfloat16(policy)).generate(requests, **limit)
        assert engine.generate(requests, **limit) == expected
        assert [t.token_id for t in engine.stream(requests[3], **limit)] == expected[3].token_ids
        nudge(policy, policy.model.parameters())
    assert {p.dtype for p in policy.model.parameters()} == {torch.float32}
    assert {p.dtype for p in engine.copied.model.parameters()} == {torch.bfloat16}
    copied = weakref.ref(engine.copied.model)
    engine.sleep()
    gc.collect()
    assert copied() is None, "its memory is not free"
    assert engine.describe() == dict(engine="TransformersEngine", dtype="bfloat16")


@pytest.mark.parametrize("when", ["before the engine", "after its first call"])
def test_a_copy_has_adapters_merged_in(when):
    policy = grouped_query_policy("abcdefgh")
    requests = [Request((3, 4 + i % 3), keyed_seed(7, i)) for i in range(20)]
    engine = TransformersEngine(policy, dtype=torch.bfloat16)
    if when == "after its first call":
        engine.generate(requests, max_completion_length=2)
    policy.model = with_adapters(policy).model
    nudge(policy, [p for n, p in policy.model.named_parameters() if "lora_" in n])
    merged = dataclasses.replace(policy, model=copy.deepcopy(policy.model).merge_and_unload())
    expected = TransformersEngine(in_bfloat16(merged)).generate(requests, max_completion_length=12)
    assert engine.generate(requests, max_completion_length=12) == expected
    assert any("lora_" in n for n, _ in policy.model.named_parameters())


@pytest.mark.parametrize(("half", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_samples_in_half_precision(half, expected, monkeypatch):
    policy = grouped_query_policy()
    assert rollout.sampling_dtype(policy) == torch.float32
    monkeypatch.setattr(Policy, "device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: half)
    assert rollout.sampling_dtype(policy) == expected
    assert rollout.sampling_dtype(in_bfloat16(policy)) == torch.bfloat16
