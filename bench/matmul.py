"""The machine's own rate of matrix products at a model's shapes, which bounds what training can reach.

    python bench/matmul.py MODEL NUM_TOKENS        prints GFLOP/s, as JSON

Each linear map of the model counts as often as it is there, with the three products that training makes of it: forward,
gradient of the input, gradient of the weight; NUM_TOKENS at a time. Nothing else is timed: no attention, no norm, no
optimizer.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

SECONDS_EACH = 0.4
"""Time spent on each product, after one that is not counted."""


def main(folder: str, num_tokens: int) -> None:
    """Print the rate."""
    flops = seconds = 0.0
    for (rows, columns), count in linear_shapes(folder).items():
        hidden, weight = torch.randn(num_tokens, columns), torch.randn(rows, columns)
        grad = torch.randn(num_tokens, rows)
        outputs = torch.empty_like(grad), torch.empty_like(hidden), torch.empty_like(weight)
        products = ((hidden, weight.T), (grad, weight), (grad.T, hidden))
        for (left, right), out in zip(products, outputs, strict=True):
            seconds += count * seconds_of(left, right, out)
            flops += count * 2.0 * num_tokens * rows * columns
    print(json.dumps({"gflops": flops / seconds / 1e9, "threads": torch.get_num_threads(), "tokens": num_tokens}))


def linear_shapes(folder: str) -> Counter[tuple[int, int]]:
    """Return (outputs, inputs) of the model's linear maps, output head included, and how many there are of each."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
    maps = (module for module in model.modules() if isinstance(module, nn.Linear))
    return Counter((one.out_features, one.in_features) for one in maps)


def seconds_of(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> float:
    """Return the mean time of a product."""
    torch.mm(left, right, out=out)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS_EACH:
        torch.mm(left, right, out=out)
        count += 1
    return (time.perf_counter() - started) / count


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
