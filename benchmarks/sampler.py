"""Seconds that the transformers engine and `model.generate` take for the same samples, alternating in one process.

    python benchmarks/sampler.py [--json FILE] [--repeats 5] [--prompts 64] [--samples 16] [--tokens 64] [--rows 256]

The model is a Qwen2 with random weights: 4 layers, 128 wide, 4 heads over 2 key heads, vocabulary 512, tied, float32.
Three cases. "fixed": end tokens are forbidden on both sides, so that every completion has all tokens. "long_tail": the
end token's logit is raised on both sides by the same bias, so that lengths follow one geometric law, cut at the limit,
with a mean of about 0.3 of it. "in_turns": the same, with room for `--rows` completions at a time; our side refills
rows that are done, the other takes as many prompts at a time as fill the rows. Elsewhere both sides have the whole
batch at once. SDPA attention, inference mode and temperature 1 throughout.
"""

import argparse
import json
import math
import platform
import statistics
import time
import warnings

import numpy as np
import torch
import transformers
from transformers import GenerationConfig
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM

from spurious_rlvr.core import keyed_rng, keyed_seed
from spurious_rlvr.policy import Policy, piece_tokenizer
from spurious_rlvr.rollout import Request, TransformersEngine
from spurious_rlvr.tasks import get_template

END = 1


def build(end_probability=None):
    "The policy; where a probability is given, its end token has about that one at every step."
    config = Qwen2Config(
        vocab_size=512,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=512,
        tie_word_embeddings=True,
        eos_token_id=END,
        pad_token_id=0,
        bos_token_id=None,
        max_position_embeddings=4096,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).eval()
    assert model.config._attn_implementation == "sdpa"
    if end_probability:
        head = torch.nn.Linear(128, 512)
        head.weight = model.get_input_embeddings().weight
        with torch.no_grad():
            head.bias.zero_()
            head.bias[END] = math.log(end_probability * 511 / (1 - end_probability))
        model.set_output_embeddings(head)
    return Policy(model, piece_tokenizer([f"w{i} " for i in range(509)]), get_template("chain"), name="qwen2-128x4")


def ours(policy, prompts, samples, tokens, fixed, repeat, rows):
    requests = [
        Request(prompt, keyed_seed(0, "sampler", repeat, i, k))
        for i, prompt in enumerate(prompts)
        for k in range(samples)
    ]
    completions = TransformersEngine(policy, max_rows=rows).generate(
        requests, max_completion_length=tokens, forbidden_ids=[END] if fixed else []
    )
    return [len(c.token_ids) for c in completions]


def theirs(policy, prompts, samples, tokens, fixed, repeat, rows):
    size = max(1, rows // samples)
    chunks = [prompts[i : i + size] for i in range(0, len(prompts), size)]
    return [length for chunk in chunks for length in their_chunk(policy, chunk, samples, tokens, fixed)]


def their_chunk(policy, prompts, samples, tokens, fixed):
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts])
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        num_return_sequences=samples,
        max_new_tokens=tokens,
        min_new_tokens=tokens if fixed else None,
        pad_token_id=0,
        eos_token_id=END,
    )
    with torch.inference_mode():
        output = policy.model.generate(ids, attention_mask=(ids != 0).long(), generation_config=config)
    written = output[:, longest:]
    ended = (written == END).int()
    return torch.where(ended.any(1), ended.argmax(1) + 1, written.shape[1]).tolist()


def measure(arguments, fixed, rows):
    policy = build(None if fixed else arguments.end_probability)
    rng = keyed_rng(0, "sampler prompts")
    prompts = [tuple(rng.integers(3, 512, rng.integers(12, 21)).tolist()) for _ in range(arguments.prompts)]
    sides = dict(ours=ours, generate=theirs)
    found = {name: [] for name in sides}
    for repeat in range(-1, arguments.repeats):  # the first round is a warm-up
        for name, run in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            lengths = run(policy, prompts, arguments.samples, arguments.tokens, fixed, repeat, rows)
            if repeat >= 0:
                found[name].append(
                    dict(
                        wall=time.perf_counter() - wall,
                        cpu=time.process_time() - cpu,
                        tokens=sum(lengths),
                        mean_over_max=float(np.mean(lengths) / arguments.tokens),
                    )
                )

    def summary(rows):
        def spread(key):
            return dict(
                median=statistics.median(r[key] for r in rows),
                low=min(r[key] for r in rows),
                high=max(r[key] for r in rows),
            )

        return dict(
            wall_seconds=spread("wall"),
            cpu_seconds=spread("cpu"),
            tokens=statistics.median(r["tokens"] for r in rows),
            mean_over_max=round(statistics.median(r["mean_over_max"] for r in rows), 3),
        )

    result = {name: summary(rows) for name, rows in found.items()}

    def per_token(name, key):
        return result[name][key]["median"] / result[name]["tokens"]

    return result | dict(
        speedup=dict(
            cpu=per_token("generate", "cpu_seconds") / per_token("ours", "cpu_seconds"),
            wall=per_token("generate", "wall_seconds") / per_token("ours", "wall_seconds"),
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures to this file")
    for name, default in (("repeats", 5), ("prompts", 64), ("samples", 16), ("tokens", 64), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rows", type=int, default=256, help="completions at a time in the case in_turns")
    parser.add_argument("--end-probability", type=float, default=0.052, help="of the long-tailed case, at every step")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    result = dict(
        work=vars(arguments),
        versions=dict(python=platform.python_version(), torch=torch.__version__, transformers=transformers.__version__),
    )
    everything = arguments.prompts * arguments.samples
    for name, rows in (("fixed", everything), ("long_tail", everything), ("in_turns", arguments.rows)):
        result[name] = case = measure(arguments, name == "fixed", rows)
        for side in ("ours", "generate"):
            print(
                f"{name:9} {side:8} "
                + "  ".join(
                    f"{key} {case[side][key]['median']:6.2f} s ({case[side][key]['low']:.2f} to"
                    f" {case[side][key]['high']:.2f})"
                    for key in ("cpu_seconds", "wall_seconds")
                )
                + f"  {case[side]['tokens']:.0f} tokens, mean/max {case[side]['mean_over_max']}"
            )
        print(
            f"{name:9} per token ours is {case['speedup']['cpu']:.2f}x faster in CPU seconds,"
            f" {case['speedup']['wall']:.2f}x in wall seconds"
        )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(result, file, indent=2)


if __name__ == "__main__":
    main()
