"""Linear layers by oneDNN beside MKL's: `python benchmarks/products.py --json FILE`.

A Llama of each width decodes one step of several rows, and makes a forward and a backward pass over a microbatch.
Both ways take turns in one process of one thread; a cell is the ratio of their medians in CPU seconds, above 1 where
oneDNN is quicker. `quick_products` asks oneDNN only where the processor is not Intel's; here it is asked anyway.
"""

import argparse
import contextlib
import json
import os
import statistics
import time

from machine import described

for name, value in dict(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE").items():
    os.environ.setdefault(name, value)

WIDTHS = ((64, 160, 2), (128, 384, 4), (256, 768, 4), (576, 1536, 2))  # hidden, intermediate, layers
ROWS, MICROBATCHES = (64, 512), ((64, 32), (64, 128))  # of a step; (sequences, tokens each)
VOCABULARY = 512


def llama(hidden, intermediate, layers):
    from transformers import LlamaConfig, LlamaForCausalLM

    from spurious_rlvr.logprobs import use_attention

    heads = dict(num_attention_heads=4, num_key_value_heads=2)
    sizes = dict(hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes, **heads))
    use_attention(model)
    return model


def ratio(work, repeats):
    "How many times quicker the work is by oneDNN."
    from spurious_rlvr import logprobs

    ways, spent = (contextlib.nullcontext, logprobs._QuickProducts), ([], [])
    for _ in range(repeats):
        for way, seconds in zip(ways, spent):
            began = time.process_time()
            with way():
                work()
            seconds.append(time.process_time() - began)
    return round(statistics.median(spent[0]) / statistics.median(spent[1]), 2)


def measure(repeats):
    import torch

    from spurious_rlvr import logprobs

    torch.set_num_threads(1)
    logprobs._onednn_is_quicker = logprobs._has_onednn
    rows = []
    for sizes in WIDTHS:
        model = llama(*sizes)

        def step(count):
            with torch.inference_mode():
                model(input_ids=torch.ones(count, 1, dtype=torch.long))

        def train(shape):
            model(input_ids=torch.ones(shape, dtype=torch.long)).logits.sum().backward()

        row = dict(width=sizes[0])
        row |= {f"step of {count} rows": ratio(lambda count=count: step(count), 20 * repeats) for count in ROWS}
        shapes = {f"microbatch of {n} x {tokens}": (n, tokens) for n, tokens in MICROBATCHES}
        row |= {name: ratio(lambda shape=shape: train(shape), repeats) for name, shape in shapes.items()}
        print(row, flush=True)
        rows.append(row)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", help="write the ratios here")
    given = parser.parse_args()
    found = described() | dict(ratios=measure(given.repeats))
    if given.json:
        with open(given.json, "w") as file:
            file.write(json.dumps(found, indent=1) + "\n")
