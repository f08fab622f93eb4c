"""What both sides of a comparison of training are measured with: one clock, one idea of peak memory, the same rows.

Runs in our environment and in a peer's, which may have PyTorch and nothing of ours.

A comparison is described by a specification, a JSON object that `ours_train.py` and `peers/trl_train.py` both read::

    {"rows": "rows.jsonl", "sequences": 8, "steps": 4, "warmup": 1,
     "model": "base/model", "shape": null, "device": "cpu", "precision": "float32",
     "learning_rate": 2e-5, "ours": {"micro_batch_tokens": 1024}, "trl": {"per_device": 2, "padding_free": true}}

`rows` are examples, `{"input_ids": [...], "labels": [...]}` a line, in the order in which they are trained: the first
`sequences` of them are the first step. `model` is a folder, or null where `shape` gives the sizes of a Llama with
random weights.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

VERSIONS_OF = ("torch", "transformers", "trl", "accelerate", "flash-attn", "liger-kernel", "kernels", "triton")
WEIGHT_DECAY, BETAS, MAX_GRAD_NORM = 0.01, (0.9, 0.95), 1.0
"""AdamW and clipping as in the published run, on both sides; the learning rate is constant."""


class StepClock:
    """Wall time from the end of one optimizer step to the end of the next: batches, bookkeeping and all.

    Args:
        device: ``"cpu"`` or ``"cuda"``, whose work is waited for at every step's end.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._ends = [self._now()]

    def step_ended(self) -> None:
        """Note the end of a step."""
        self._ends.append(self._now())

    @property
    def seconds(self) -> list[float]:
        """Of every step; the first one is with all that happens once."""
        return [stop - start for start, stop in zip(self._ends, self._ends[1:], strict=False)]

    def _now(self) -> float:
        if self._device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def peak_bytes(device: str) -> dict[str, int]:
    """Return the highest memory of this process so far.

    On the CPU the high-water mark of its resident set: not ``ru_maxrss``, which starts with that of the parent. On a
    CUDA device what the allocator handed out, and what it held.
    """
    if device == "cuda":
        return {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return {"resident": next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))}


def random_llama(shape: dict[str, Any], device: str, attention: str) -> Any:
    """Return a Llama of these sizes with the same random float32 weights each time."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(
            LlamaConfig(**shape), attn_implementation=attention, dtype=torch.float32
        )


def read_specification() -> tuple[dict[str, Any], Path]:
    """Return the specification that the command line names, and the file to answer to."""
    return json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])


def read_rows(specification: dict[str, Any]) -> list[dict[str, list[int]]]:
    """Return the examples of all steps, in order."""
    wanted = specification["sequences"] * specification["steps"]
    with open(specification["rows"], encoding="utf-8") as lines:
        rows = [json.loads(line) for _, line in zip(range(wanted), lines, strict=False)]
    assert len(rows) == wanted, f"{len(rows)} rows for {wanted}"
    return rows


def write_answer(out: Path, specification: dict[str, Any], clock: StepClock, losses: list[float], **more: Any) -> None:
    """Write what was measured.

    Args:
        out: File to write.
        specification: As it was read.
        clock: It ticked at every step's end.
        losses: Nats per trained token of every step, before its update.
        more: Whatever else is to be kept.
    """
    rows, size = read_rows(specification), specification["sequences"]
    tokens = [sum(len(row["input_ids"]) for row in rows[at : at + size]) for at in range(0, len(rows), size)]
    answer = {
        "seconds": clock.seconds,
        "tokens": tokens,
        "losses": losses,
        "warmup": specification["warmup"],
        "peak_bytes": peak_bytes(specification["device"]),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        **more,
    }
    out.write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Return the versions of what decides speed, as far as it is installed."""
    found = {"python": platform.python_version()}
    for name in VERSIONS_OF:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
