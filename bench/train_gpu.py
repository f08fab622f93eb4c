"""Training on a GPU at the shape of Genesis 1B: tokens a second, MFU, memory, kernels, TRL, and what fits 24 GB.

    python bench/train_gpu.py                                   # make bench-gpu
    python bench/train_gpu.py --shape tiny --device cpu         # tries the script; its numbers mean nothing

Random weights, bfloat16 autocast over float32 weights, AdamW; made-up conversations whose lengths are log-normal with a
mean of about 716 tokens and at most 2048, 73 % of them trained, as in the published mixture. Every run is a process of
its own; one that fails is noted with its error, and the others go on. Useful work is 6 x parameters x tokens and causal
attention within conversations, divided by the device's dense peak.

TRL takes part where its package is installed (--trl-python names another Python that has it), in each attention that is
at hand there, with Liger's kernels where they are. The losses of the first step have to agree.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_runs import parts_of, run_two_ranks, trl_settings
from machine import origin
from processes import RunFailed, run_program
from transformers import LlamaConfig

from genesis_sft.run_dir import write_json
from genesis_sft.training.flops import device_peak_flops, step_flops

HERE = Path(__file__).resolve().parent
GENESIS: dict[str, Any] = {
    "hidden_size": 1536,
    "num_hidden_layers": 32,
    "num_attention_heads": 12,
    "num_key_value_heads": 6,
    "head_dim": 128,
    "intermediate_size": 4736,
    "vocab_size": 49_156,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
TINY = GENESIS | {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "vocab_size": 516,
}
SHAPES = {"genesis-1b": GENESIS, "tiny": TINY}
LOSS_TOLERANCE = 5e-3
"""Relative, of the first step: bfloat16 keeps 8 bits, and the mean over thousands of tokens evens most of it out."""


def main() -> int:
    """Measure, print, write; 1 if TRL and we do not train the same, 2 if there is nothing to measure on."""
    arguments = parse_arguments()
    if refusal := why_not(arguments.shape, arguments.device):
        print(refusal, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(specify(arguments, Path(scratch)), Path(scratch), arguments.device)
        for part in arguments.parts:
            if part == "trl":
                bench.trl(arguments.trl_python)
            elif part == "fit":
                bench.fit(arguments.cap_gb)
            else:
                bench.ours(part)
        result = bench.result(arguments.shape) | origin(arguments.commit)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out, result)
    print(f"written: {arguments.out}")
    return 0 if result["losses"]["agree"] else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "train_gpu.json", help="file to write")
    parser.add_argument("--shape", choices=list(SHAPES), default="genesis-1b")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each run")
    parser.add_argument("--sequences", type=int, default=32, help="conversations in a step")
    parser.add_argument("--micro-batch-tokens", type=int, default=16_384, help="ours: budget of a forward pass")
    parts = ["attention", "compile", "recompute", "micro_batch", "vocabulary", "trl", "fit"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="what to measure; all when absent")
    parser.add_argument("--trl-python", default=sys.executable, help="a Python that has TRL")
    parser.add_argument("--cap-gb", type=float, default=23.0, help="fit: what each rank's allocator may hold, of 24 GB")
    parser.add_argument("--commit", help="of the measured tree, where there is no git")
    return parser.parse_args()


def why_not(shape: str, device: str) -> str | None:
    """Return what is in the way, if anything is."""
    if device == "cuda" and not torch.cuda.is_available():
        return (
            "expected a CUDA device; PyTorch finds none\n"
            "hint: bench/train_gpu.py --shape tiny --device cpu tries the script without one."
        )
    if device == "cpu" and shape != "tiny":
        return f"expected --shape tiny with --device cpu; {shape} takes hours there"
    return None


def specify(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write rows and a tokenizer, and return the specification that all runs share; see `measure`."""
    shape, steps = SHAPES[arguments.shape], 2 + arguments.steps
    write_rows(folder / "rows.jsonl", steps * arguments.sequences, shape["vocab_size"])
    write_tokenizer(folder / "tokenizer")
    return {
        "rows": str(folder / "rows.jsonl"),
        "sequences": arguments.sequences,
        "steps": steps,
        "warmup": 2,
        "model": None,
        "tokenizer": str(folder / "tokenizer"),
        "shape": shape,
        "device": arguments.device,
        "precision": "bfloat16",
        "learning_rate": 2e-5,
        "end_of_turn": 1,
        "profile": True,
        "ours": {"micro_batch_tokens": arguments.micro_batch_tokens, "attention": "segments"},
    }


def write_rows(path: Path, count: int, vocab_size: int) -> None:
    """Write made-up conversations."""
    draw = np.random.default_rng(0)
    # of this log-normal, cut off at 2048, the mean is 716
    lengths = np.clip(draw.lognormal(6.365, 0.7, count).astype(int), 16, 2048)
    with open(path, "w", encoding="utf-8") as lines:
        for length in lengths:
            ids = draw.integers(2, vocab_size, length).tolist()
            masked = round(length * 0.268)
            lines.write(json.dumps({"input_ids": ids, "labels": [-100] * masked + ids[masked:]}) + "\n")


def write_tokenizer(folder: Path) -> None:
    """Write the least tokenizer that TRL's trainer accepts; the rows are tokenised already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    engine = Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<pad>"))
    PreTrainedTokenizerFast(tokenizer_object=engine, pad_token="<pad>", eos_token="<end>").save_pretrained(folder)


class Bench:
    """The runs and what they come to."""

    def __init__(self, specification: dict[str, Any], folder: Path, device: str) -> None:
        self._specification, self._folder, self._device = specification, folder, device
        self._peak = device_peak_flops(torch.device(device), specification["precision"])
        self._runs: dict[str, dict[str, Any]] = {}

    def ours(self, part: str) -> None:
        """Run what belongs to a part, each beside the settings that all share."""
        for changes in parts_of(part, self._device):
            name = "ours " + " ".join(f"{field}={value}" for field, value in changes.items())
            settings = self._specification["ours"] | changes
            # profiling is for eager kernels: a compiled step's names say little, and it takes minutes to trace
            more = {"ours": settings, "profile": not settings.get("compile", False)}
            self._run(name, [sys.executable, "ours_train.py"], more)

    def trl(self, python: str) -> None:
        """Run TRL in every setting that is at hand in that Python."""
        for settings in trl_settings(python, self._device):
            name = "TRL " + " ".join(f"{field}={value}" for field, value in settings.items())
            self._run(name, [python, "peers/trl_train.py"], {"trl": settings})

    def fit(self, cap_gb: float) -> None:
        """Train on two ranks with sharded weights, each under the cap, at 4,096 tokens a forward pass.

        Where both share a GPU their speed means nothing; see `two_ranks`.
        """
        specification = self._specification | {
            "ours": self._specification["ours"] | {"micro_batch_tokens": 4096, "parallel": "fsdp"},
            "cap_bytes": int(cap_gb * 1e9),
            "steps": 3,
            "warmup": 1,
        }
        if self._device == "cuda":
            specification["ours"]["attention"] = "varlen"
        for kind in ("none", "selective", "full"):
            more = {"ours": specification["ours"] | {"activation_checkpointing": kind}}
            run = partial(run_two_ranks, specification | more, self._folder)
            self._note(f"two ranks activation_checkpointing={kind}", run)

    def _run(self, name: str, program: list[str], changes: dict[str, Any]) -> None:
        self._note(name, partial(run_program, program, self._specification | changes, self._folder))

    def _note(self, name: str, run: Callable[[], dict[str, Any]]) -> None:
        try:
            found = run()
        except RunFailed as failure:
            self._runs[name] = {"error": str(failure)}
            print(f"{name}: failed: {str(failure).strip().splitlines()[-1]}", flush=True)
            return
        self._runs[name] = self._figures(found) | found
        one, mfu = self._runs[name], self._runs[name]["mfu"]
        share = f", MFU {mfu:.1%}" if mfu is not None else ""
        peak = max(found["peak_bytes"].values()) / 1e9
        print(f"{name}: {one['tokens_per_second']:,.0f} tokens/s{share}, peak {peak:.2f} GB", flush=True)

    def _figures(self, found: dict[str, Any]) -> dict[str, Any]:
        """Return speed, over the timed steps."""
        config, size = LlamaConfig(**self._specification["shape"]), self._specification["sequences"]
        seconds = sum(found["seconds"][found["warmup"] :])
        rows = self._rows()[found["warmup"] * size : len(found["seconds"]) * size]
        lengths = [len(row["input_ids"]) for row in rows]
        trained = sum(label != -100 for row in rows for label in row["labels"])
        peak = self._peak[0]
        return {
            "tokens_per_second": sum(lengths) / seconds,
            "mfu": step_flops(config, lengths) / seconds / peak if peak else None,
            "mfu_without_untrained_head": step_flops(config, lengths, trained) / seconds / peak if peak else None,
            "data_share": sum(found.get("data_seconds", [])[found["warmup"] :]) / seconds,
        }

    def _rows(self) -> list[dict[str, list[int]]]:
        with open(self._specification["rows"], encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def result(self, shape: str) -> dict[str, Any]:
        """Return all that was measured, and what follows of it."""
        hidden = ("rows", "tokenizer")
        done = {name: run for name, run in self._runs.items() if "error" not in run}
        return {
            "benchmark": "train_gpu",
            "shape": shape,
            "settings": {name: value for name, value in self._specification.items() if name not in hidden},
            "mean_length": float(np.mean([len(row["input_ids"]) for row in self._rows()])),
            "device_peak_flops": {"value": self._peak[0], "source": self._peak[1]},
            "runs": self._runs,
            "losses": compare_losses(done),
            "ratios": compare_rates(done),
        }


def compare_losses(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return how far the first loss of every run is from the first run's, relative; simulated ranks have none."""
    first = {name: run["losses"][0] for name, run in runs.items() if run.get("ranks") != "fake"}
    reference = next(iter(first.values()), 1.0)
    difference = {name: abs(loss / reference - 1) for name, loss in first.items()}
    agree = all(value <= LOSS_TOLERANCE for value in difference.values())
    return {"relative_difference": difference, "tolerance": LOSS_TOLERANCE, "agree": agree}


def compare_rates(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the fastest of both sides, and their ratio."""
    fastest = {
        side: max((name for name in runs if name.startswith(side)), key=lambda name: runs[name]["tokens_per_second"])
        for side in ("ours ", "TRL ")
        if any(name.startswith(side) for name in runs)
    }
    if len(fastest) < 2:
        return {"fastest": list(fastest.values())}
    ours, theirs = (runs[name]["tokens_per_second"] for name in fastest.values())
    return {"fastest": list(fastest.values()), "speed_over_trl": ours / theirs}


if __name__ == "__main__":
    sys.exit(main())
