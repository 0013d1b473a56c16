"""What the scripts for a GPU share: the hardware they ask for, a result that is written after every case, clocks,
shapes and floating-point operations."""

import argparse
import collections
import contextlib
import functools
import gc
import importlib.metadata
import json
import math
import os
import platform
import statistics
import sys
import time
from pathlib import Path

for name, value in dict(
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    CUBLAS_WORKSPACE_CONFIG=":4096:8",
    CUDA_DEVICE_ORDER="PCI_BUS_ID",
).items():
    os.environ.setdefault(name, value)

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT))  # the package is used where it lies; nothing is installed
REHEARSAL = (
    "This is a rehearsal: the same code with tiny shapes, so that all but the hardware is tried. Its figures are left"
    " out; nothing was measured."
)

# part of the name that the driver gives, dense bfloat16 TFLOP/s, source; the sheets state the double, for sparse
# matrices
PEAKS = [
    ("H200 NVL", 835, "NVIDIA H200 data sheet (NVL: 1,671 with sparsity)"),
    ("GH200", 989, "NVIDIA GH200 data sheet (1,979 with sparsity)"),
    ("H200", 989, "NVIDIA H200 data sheet (SXM: 1,979 with sparsity)"),
    ("H100 NVL", 835, "NVIDIA H100 data sheet (NVL: 1,671 with sparsity)"),
    ("H100 PCIe", 756, "NVIDIA H100 data sheet (PCIe: 1,513 with sparsity)"),
    ("H100", 989, "NVIDIA H100 data sheet (SXM: 1,979 with sparsity)"),
    ("A100", 312, "NVIDIA A100 data sheet (624 with sparsity)"),
]

# The hardware


def refuse(words):
    "One line, exit code 2."
    print(f"{Path(sys.argv[0]).name}: {words}", file=sys.stderr)
    raise SystemExit(2)


def find_gpu():
    "Name, GiB of memory and compute capability of the first visible GPU; None where there is none."
    import torch

    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return dict(name=found.name, memory_gib=found.total_memory / 2**30, capability=(found.major, found.minor))


def peak_of(name):
    "Dense bfloat16 TFLOP/s of a GPU by its name, and the source; (None, None) where it is not in the table."
    return next(((peak, source) for part, peak, source in PEAKS if part in name), (None, None))


def check_gpu(memory_gib, peak):
    "The GPU, or a refusal that says what is asked for."
    asked = f"one NVIDIA GPU of compute capability 8.0 or more with at least {memory_gib} GiB" + (
        ", an A100, H100 or H200, whose bfloat16 peak is known" if peak else ""
    )
    gpu = find_gpu()
    if gpu is None:
        refuse(f"needs {asked}, and PyTorch finds none here; --rehearse tries the code on the CPU")
    if gpu["capability"] < (8, 0) or gpu["memory_gib"] < memory_gib or (peak and peak_of(gpu["name"])[0] is None):
        major, minor = gpu["capability"]
        refuse(f"needs {asked}; this is {gpu['name']} with {gpu['memory_gib']:.0f} GiB, capability {major}.{minor}")
    return gpu


# The command line


def arguments(documentation, memory_gib, *, peak=False, add=None, given=None):
    "The options that all scripts have, and those that `add` gives; refuses where the hardware is not there."
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="where the result goes, such as benchmarks/results/gpu_NAME.json")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no further case when they are over")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on the CPU; gives no figures")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each kind, after a warm-up")
    if add:
        add(parser)
    options = parser.parse_args(given)
    options.ends = time.monotonic() + 60 * options.minutes
    if options.repeats < 2:
        refuse("--repeats must be at least 2, or there is no spread")
    if options.rehearse:
        check_place(options.json)
        options.repeats = 2
    options.gpu = None if options.rehearse or getattr(options, "worker", None) else check_gpu(memory_gib, peak)
    options.device = "cpu" if options.rehearse else "cuda"
    return options


def check_place(path):
    "A rehearsal is never written among the results, nor under a result's name."
    if path and (RESULTS in Path(path).resolve().parents or Path(path).name.startswith("gpu_")):
        refuse(f"{path}: a rehearsal is no result; write it elsewhere, under a name that does not begin with gpu_")


# Results


class Result:
    "What a script measures, case by case. The file is whole after each of them, whenever the script is stopped."

    def __init__(self, given, what, work):
        self.given, self.figures, self.checks, self.left_out = given, {}, {}, {}
        self.head = dict(rehearsal=REHEARSAL) if given.rehearse else dict(date=time.strftime("%Y-%m-%d", time.gmtime()))
        self.head |= dict(what=what, versions=versions(), work=work)
        if not given.rehearse:
            self.head |= dict(machine=machine(given))
        self.write()

    def case(self, name, measure, *arguments):
        "Measures a case where there is time. Whatever goes wrong in it is a finding, and the next case has its turn."
        began = time.monotonic()
        if began > self.given.ends:
            self.left_out[name] = "the time was up"
            return self.write()
        try:
            self.figures[name], checks = measure(*arguments)
        except Exception as error:
            self.figures[name] = dict(ended=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}")
            checks = {"comes to its end": False}
        self.figures[name]["seconds_of_the_case"] = time.monotonic() - began
        self.checks |= {f"{name}: {words}": None if held is None else bool(held) for words, held in checks.items()}
        forget()
        self.write()
        failed = "".join(f"; NOT: {words}" for words, held in checks.items() if held is not None and not held)
        print(f"{name}: {'tried' if self.given.rehearse else f'{time.monotonic() - began:.0f} s'}{failed}", flush=True)

    def write(self, finished=False):
        "Replaces the file as a whole. Of a rehearsal only the keys are kept."
        rehearsed = self.given.rehearse
        self.all = rounded(
            self.head
            | dict(finished=finished, left_out=self.left_out, checks=self.checks)
            | dict(figures=blank(self.figures) if rehearsed else self.figures)
        )
        if self.given.json:
            place = Path(self.given.json)
            draft = place.with_name(f".{place.name}")
            draft.write_text(json.dumps(self.all, indent=1) + "\n")
            draft.replace(place)

    def end(self):
        "The last word: every case had its turn, or was left out for want of time."
        self.write(finished=True)
        answered = [held for held in self.checks.values() if held is not None]
        left = f"; left out: {', '.join(self.left_out)}" if self.left_out else ""
        print(f"{Path(sys.argv[0]).stem}: {sum(answered)} of {len(answered)} checks hold{left}", flush=True)
        return self.all


def there(given, holds):
    "A check that only the hardware can answer: None in a rehearsal."
    return None if given.rehearse else bool(holds)


def blank(value):
    "The same keys without what was measured: words stay, the first entry of a list stands for all."
    if isinstance(value, dict):
        return {name: blank(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [blank(item) for item in value[:1]] if value and isinstance(value[0], dict) else None
    return value if isinstance(value, str) else None


def rounded(value):
    "Five significant digits, and no numbers that JSON does not know."
    if isinstance(value, dict):
        return {str(name): rounded(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def versions():
    "What ran. The package is read where it lies, and need not be installed."
    import torch

    import spurious_rlvr

    found = dict(python=platform.python_version(), cuda=torch.version.cuda, spurious_rlvr=spurious_rlvr.__version__)
    for name in ("torch", "transformers", "accelerate", "triton", "trl"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def ceilings(given):
    "What a large matrix product and a large copy reach."
    import torch

    a, b = (torch.randn(8192, 8192, device=given.device, dtype=torch.bfloat16) for _ in range(2))
    large = torch.randn(2**29, device=given.device)
    product, copy = times(lambda: a @ b, given, warmups=3), times(large.clone, given, warmups=3)
    return dict(
        matrix_product_tflops=spread([2 * 8192**3 / s / 1e12 for s in product]),
        copy_tb_per_second=spread([2 * large.nbytes / s / 1e12 for s in copy]),
    )


def machine(given):
    "The GPU, with its bfloat16 peak and what is reached of it."
    peak, source = peak_of(given.gpu["name"])
    capability = ".".join(map(str, given.gpu["capability"]))
    found = given.gpu | dict(capability=capability, cores=os.cpu_count(), peak_tflops=peak, peak_source=source)
    found |= ceilings(given)
    forget()
    return found


def spread(values):
    "Median, smallest, largest, and how many."
    return dict(median=statistics.median(values), low=min(values), high=max(values), repeats=len(values))


# Clocks and memory


def forget():
    "Gives back what nobody uses any more, and begins to count the largest memory anew."
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib():
    "GiB: the largest that tensors took since `forget`, and the largest that torch's allocator held."
    import torch

    return dict(
        tensors_gib=torch.cuda.max_memory_allocated() / 2**30, reserved_gib=torch.cuda.max_memory_reserved() / 2**30
    )


@contextlib.contextmanager
def stopwatch(device, into, name="seconds"):
    "Adds the seconds of a block to `into[name]`, from when the device was idle to when it is idle again."
    import torch

    settle = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    settle()
    began = time.perf_counter()
    try:
        yield
    finally:
        settle()
        into[name] = into.get(name, 0.0) + time.perf_counter() - began


def times(work, given, warmups=1):
    "Seconds of each repetition, after warm-ups."
    found = []
    for turn in range(warmups + given.repeats):
        taken = {}
        with stopwatch(given.device, taken):
            work()
        if turn >= warmups:
            found.append(taken["seconds"])
    return found


# Models and rollouts

SHAPES = {"0.5b": "Qwen/Qwen2.5-0.5B", "1.5b": "Qwen/Qwen2.5-1.5B", "7b": "Qwen/Qwen2.5-7B"}
Lengths = collections.namedtuple("Lengths", "mean longest shortest_prompt longest_prompt")


def lengths(given, mean=800, longest=3072, shortest_prompt=100, longest_prompt=200):
    "Lengths of completions, long-tailed, and of prompts, evenly spread, in tokens; tiny ones in a rehearsal."
    return Lengths(8, 24, 4, 9) if given.rehearse else Lengths(mean, longest, shortest_prompt, longest_prompt)


def shape_of(name, rehearse):
    "A shape by its short name; a tiny one in a rehearsal."
    from spurious_rlvr import plan

    known = plan.SHAPES[SHAPES[name]]
    return plan.Shape(f"tiny, in place of {name}", 128, 2, 4, 2, 256, 256, known.tied) if rehearse else known


def random_policy(shape, device, seed=0, kind="qwen2"):
    "A policy of a shape with random weights, made on the device, float32; its tokens are w0, w1, ..."
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    from spurious_rlvr.policy import Policy
    from spurious_rlvr.tasks import get_template

    words = {"<pad>": 0, "<end>": 1, "<unknown>": 2} | {f"w{i}": i + 3 for i in range(shape.vocabulary - 3)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>"
    )
    config, model = dict(qwen2=(Qwen2Config, Qwen2ForCausalLM), llama=(LlamaConfig, LlamaForCausalLM))[kind]
    config = config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.mlp,
        max_position_embeddings=8192,
        tie_word_embeddings=shape.tied,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    with torch.device(device):
        model = model(config).eval()
    return Policy(model, tokenizer, get_template("none"), f"{kind} random {shape.name}")


def end_often(policy, mean):
    """Lets one token in `mean` end a completion. Random weights hold all tokens about equally likely, so that lengths
    are long-tailed with about this mean, in any engine."""
    policy.model.generation_config.eos_token_id = [1, *range(3, policy.model.config.vocab_size, int(mean))]
    return policy


def sharpen(policy, wanted=5.0):
    """Scales the last norm until logits are spread as a trained model's are: the likeliest token then has a probability
    of some tenths and a logit of some twenty, where bfloat16 is coarse."""
    import torch

    with torch.no_grad():
        ids = torch.arange(3, 67, device=policy.device)[None]
        policy.model.model.norm.weight *= wanted / policy.model(input_ids=ids).logits.float().std(-1).mean()
    return policy


def problems(count, policy, words, seed=0):
    "Problems whose prompts have so many words, evenly spread."
    import random

    from spurious_rlvr.core import Problem

    draw, known = random.Random(seed), policy.model.config.vocab_size - 3
    numbers = [draw.randint(words.shortest_prompt, words.longest_prompt) for _ in range(count)]
    return [Problem(" ".join(f"w{draw.randrange(known)}" for _ in range(number)), "1") for number in numbers]


@functools.cache
def end_probability(mean, longest):
    "The chance to end at every step under which lengths, cut off at `longest`, have this mean."
    low, high = 1e-9, 1.0
    for _ in range(200):
        p = (low + high) / 2
        low, high = (p, high) if (1 - (1 - p) ** longest) / p > mean else (low, p)
    return low


def forced_length(mean, longest, *key):
    "A length of that long-tailed distribution, the same for the same key."
    from spurious_rlvr.core import keyed_rng

    return min(int(keyed_rng(0, "forced length", *key).geometric(end_probability(mean, longest))), longest)


def made_rollouts(policy, given, generations, words):
    "Random tokens with long-tailed lengths, rewards of a coin, and advantages; as if they had been sampled."
    from spurious_rlvr.core import Rollout, keyed_rng

    rng, rollouts, vocabulary = keyed_rng(0, "made rollouts"), [], policy.model.config.vocab_size
    for group, problem in enumerate(given):
        rewards = rng.permutation([k % 2 for k in range(generations)])
        for sample in range(generations):
            length = forced_length(words.mean, words.longest, group, sample)
            rollouts.append(
                Rollout(
                    phase=1,
                    group=group,
                    sample=sample,
                    problem_id=problem.id,
                    prompt=problem.question,
                    completion="",
                    gold="1",
                    token_ids=rng.integers(3, vocabulary, length).tolist(),
                    logprob_sampler=[-math.log(vocabulary)] * length,
                    finish_reason="length",
                    reward=float(rewards[sample]),
                    advantage=2.0 * rewards[sample] - 1,
                )
            )
    return rollouts


FLOPS = (
    "6 x weights of the blocks x tokens (each prompt once) + 6 x weights of the head x completion tokens + 6 x layers x"
    " width of the queries x (P² for each prompt, (P + C)² - P² for each completion); forward 1/3, backward 2/3; what"
    " is computed again under checkpointing does not count; the share of the peak is that over seconds x peak"
)


def model_flops(shape, groups):
    "Floating-point operations that an update needs; groups: (prompt tokens, [completion tokens, ...])."
    tokens = sum(prompt + sum(completions) for prompt, completions in groups)
    written = sum(sum(completions) for _, completions in groups)
    squares = sum(prompt**2 + sum((prompt + c) ** 2 - prompt**2 for c in completions) for prompt, completions in groups)
    queries = shape.heads * (shape.head_width or shape.hidden // shape.heads)
    return (
        6 * shape.layers * shape.layer_weights * tokens
        + 6 * shape.vocabulary * shape.hidden * written
        + 6 * shape.layers * queries * squares
    )


def groups_of(state, rollouts):
    "Lengths for `model_flops`."
    found = {}
    for rollout in rollouts:
        found.setdefault(rollout.group, (len(state.encoded[rollout.problem_id]), []))[1].append(len(rollout.token_ids))
    return list(found.values())


def prepare(policy, given, config, engine=None):
    "`train.prepare` in a process that may have trained under another precision or on another device before."
    from accelerate.state import AcceleratorState

    from spurious_rlvr import train

    AcceleratorState._reset_state(reset_partial_state=True)
    return train.prepare(policy, given, train.check_config(config), engine)


def make_update(state, config, rollouts):
    "One update of some rollouts, cut up anew, and its statistics."
    from spurious_rlvr import train

    places = list(range(len(rollouts)))
    update = train.Update(train.cut_pieces(state, config, rollouts, places), places)
    signal = train.signal_of(rollouts, state.accelerator.device)
    tokens = [len(r.token_ids) for r in rollouts]
    statistics, records = train.make_update(state, config, update, signal, config.clip, tokens)
    train.record_tokens(records, rollouts, update, 0, False)
    return statistics
