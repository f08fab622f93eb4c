"""Training: tokens a second, peak memory and share of the machine's matmul rate, against TRL's SFTTrainer, on the CPU.

    python bench/train.py --out bench/results/train_cpu.json

SmolLM2-135M in float32 on the conversations of ../shared/data/sft, mixed, tokenised once by us; TRL gets ids and
labels. Ours trains in passes of at most 768 tokens, where it needs no more memory than TRL's best, and of 1024. Every
run is a fresh process that trains the same steps from the same weights, one step as warm-up; the sides take turns. Only
tokens of conversations count, never padding. Every row padded to 2048, as in the published run, TRL takes minutes a
step: it trains steps of fewer conversations, and ours trains the same ones beside it. The losses of both sides have to
agree, or the comparison is void. The first run makes TRL's environment in bench/.peers.

Useful work is 6 x parameters x tokens and attention within conversations, divided by what `matmul.py` measures in the
same run (the best of its measurements). Memory is the largest resident set of the process, loading included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from machine import origin
from prepare import environment
from processes import LONGEST_RUN_SECONDS, output_of, run_program
from transformers import AutoConfig

from genesis_sft.batches.order import StepPlan
from genesis_sft.checkpoint.base import prepare_base
from genesis_sft.mixture.store import TokenStore
from genesis_sft.mixture.table import TokenTable
from genesis_sft.recipe import BaseSection, BatchSection
from genesis_sft.run_dir import write_json
from genesis_sft.tokens.chatml import IM_END
from genesis_sft.tokens.show import load_tokenizer
from genesis_sft.training.flops import step_flops

HERE = Path(__file__).resolve().parent
MODEL = "package:smollm2-135m-instruct"
OURS, OURS_FEW = "genesis-sft", "genesis-sft, the rows of the fixed layout"
OURS_LARGE, LARGE_TOKENS = "genesis-sft, 1024 tokens at a time", 1024
TRL = {
    "TRL padding_free, 2 at a time": {"per_device": 2, "padding_free": True},
    "TRL padded to the longest, 1 at a time": {"per_device": 1},
    "TRL padded to the longest, 2 at a time": {"per_device": 2},
}
FIXED, FIXED_LENGTH = "TRL every row at 2048, 2 at a time", 2048
LOSS_TOLERANCE = 1e-4
"""Relative: float32, sums in another order, and after the first step weights that differ by as much."""


def main() -> int:
    """Measure, print, write; 1 if the two sides do not train the same."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = arguments.model or prepare_base(BaseSection(model=MODEL), folder / "base").model.path
        store = prepare_rows(arguments.data, model, folder)
        specification = specify(arguments, model, store, folder)
        bench = Bench(specification, folder, arguments.peers != "none")
        for number in range(arguments.rounds):
            bench.round(last=number == arguments.rounds - 1)
        if arguments.peers != "none" and arguments.fixed_sequences:
            bench.fixed_layout(arguments.fixed_sequences)
        result = bench.result() | origin(arguments.commit)
    show(result)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out, result)
    print(f"\nwritten: {arguments.out}")
    return 0 if result["losses"]["agree"] else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = HERE.parent.parent / "shared" / "data" / "sft"
    parser.add_argument("--out", type=Path, default=HERE / "results" / "train_cpu.json", help="file to write")
    parser.add_argument("--data", type=Path, default=shared, help="folder of .jsonl.gz files")
    parser.add_argument("--model", type=Path, help=f"model folder with the control tokens; without it {MODEL}")
    parser.add_argument("--peers", default="trl", choices=["trl", "none"])
    parser.add_argument("--sequences", type=int, default=8, help="conversations in a step")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each run")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each side")
    parser.add_argument("--fixed-sequences", type=int, default=4, help="conversations in a step at 2048; 0: none")
    parser.add_argument("--micro-batch-tokens", type=int, default=768, help="ours: budget of a forward pass")
    parser.add_argument("--seed", type=int, default=1, help="decides which conversations are trained")
    parser.add_argument("--commit", help="of the measured tree, where there is no git")
    return parser.parse_args()


def prepare_rows(data: Path, model: Path, folder: Path) -> TokenTable:
    """Tokenise the conversations as a run does."""
    files = sorted(map(str, data.glob("*.jsonl.gz")))
    assert files, f"no .jsonl.gz file in {data}"
    command = [sys.executable, "-m", "genesis_sft", "data", "prepare", *files, "--tokenizer", str(model)]
    command += ["--out", str(folder / "store"), "--json", "--set", f"tokens.max_length={FIXED_LENGTH}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=LONGEST_RUN_SECONDS)
    return TokenStore.open(folder / "store").train


def specify(arguments: argparse.Namespace, model: Path, table: TokenTable, folder: Path) -> dict[str, Any]:
    """Write the rows of all steps, in order, and return the specification that all runs share; see `measure`."""
    steps = 1 + arguments.steps
    plan = StepPlan(table.num_tokens_per_row, BatchSection(sequences=arguments.sequences), seed=arguments.seed)
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as lines:
        for index in np.concatenate([plan.examples_of_step(step) for step in range(steps)]):
            ids, labels = table.input_ids(int(index)), np.full(table.num_tokens(int(index)), -100)
            for start, stop in table.trained(int(index)):
                labels[start:stop] = ids[start:stop]
            lines.write(json.dumps({"input_ids": ids.tolist(), "labels": labels.tolist()}) + "\n")
    return {
        "rows": str(folder / "rows.jsonl"),
        "sequences": arguments.sequences,
        "steps": steps,
        "warmup": 1,
        "model": str(model),
        "tokenizer": str(model),
        "shape": None,
        "device": "cpu",
        "precision": "float32",
        "learning_rate": 2e-5,
        "end_of_turn": int(load_tokenizer(model).convert_tokens_to_ids(IM_END)),
        "ours": {"micro_batch_tokens": arguments.micro_batch_tokens},
    }


class Bench:
    """The runs of all sides, in turns, and what they come to."""

    def __init__(self, specification: dict[str, Any], folder: Path, with_trl: bool) -> None:
        self._specification, self._folder = specification, folder
        self._sides: dict[str, dict[str, Any]] = TRL if with_trl else {}
        self._runs: dict[str, list[dict[str, Any]]] = {}
        self._gflops: list[float] = []

    def round(self, *, last: bool) -> None:
        """Run every side once, between measurements of the machine."""
        self._measure_machine()
        self._run(OURS, {})
        self._run(OURS_LARGE, {"ours": {"micro_batch_tokens": LARGE_TOKENS}})
        for name, settings in self._sides.items():
            self._run(name, {"trl": settings})
        if last:
            self._measure_machine()

    def fixed_layout(self, sequences: int) -> None:
        """Run the published layout on one step of few conversations after one as warm-up, and ours on the same."""
        few = {"sequences": sequences, "steps": 2}
        self._run(OURS_FEW, few)
        self._run(FIXED, few | {"trl": {"per_device": 2, "pad_to_multiple_of": FIXED_LENGTH}})
        self._measure_machine()

    def _run(self, name: str, changes: dict[str, Any]) -> None:
        program = [sys.executable, "ours_train.py"]
        if "trl" in changes:
            program = [str(environment("trl")), "peers/trl_train.py"]
        found = run_program(program, self._specification | changes, self._folder) | {"changes": changes}
        self._runs.setdefault(name, []).append(found)
        print(f"{name}: {rate([found]):.1f} tokens/s, {found['peak_bytes']['resident'] / 1e9:.2f} GB", flush=True)

    def _measure_machine(self) -> None:
        tokens = str(self._specification["ours"]["micro_batch_tokens"])
        answer = output_of([sys.executable, str(HERE / "matmul.py"), self._specification["model"], tokens])
        self._gflops.append(json.loads(answer)["gflops"])
        print(f"matrix products: {self._gflops[-1]:.1f} GFLOP/s", flush=True)

    def result(self) -> dict[str, Any]:
        """Return all that was measured, and what follows of it."""
        config = AutoConfig.from_pretrained(self._specification["model"], local_files_only=True)
        lengths = [len(row["input_ids"]) for row in self._rows()]
        return {
            "benchmark": "train_cpu",
            "model": {"name": MODEL, "config": config.to_diff_dict()},
            "settings": {
                name: value for name, value in self._specification.items() if name not in ("rows", "model", "tokenizer")
            },
            "lengths": lengths,
            "matmul_gflops": {"best": max(self._gflops), "measured": self._gflops},
            "sides": {name: self._side(runs, config, lengths) for name, runs in self._runs.items()},
            "losses": compare_losses(self._runs),
            "ratios": compare_rates(self._runs),
        }

    def _rows(self) -> list[dict[str, Any]]:
        with open(self._specification["rows"], encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def _side(self, runs: list[dict[str, Any]], config: Any, lengths: list[int]) -> dict[str, Any]:
        size = runs[0]["changes"].get("sequences", self._specification["sequences"])
        steps = [lengths[at : at + size] for at in range(0, len(lengths), size)][: len(runs[0]["seconds"])]
        useful = sum(step_flops(config, step) for run in runs for step in steps[run["warmup"] :])
        gflops = useful / seconds(runs) / 1e9
        return {
            "tokens_per_second": rate(runs),
            "useful_gflops": gflops,
            "share_of_matmul_rate": gflops / max(self._gflops),
            "peak_gb": max(run["peak_bytes"]["resident"] for run in runs) / 1e9,
            "runs": runs,
        }


def seconds(runs: list[dict[str, Any]]) -> float:
    return sum(sum(run["seconds"][run["warmup"] :]) for run in runs)


def rate(runs: list[dict[str, Any]]) -> float:
    return sum(sum(run["tokens"][run["warmup"] :]) for run in runs) / seconds(runs)


def compare_losses(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return how far the losses of every run are from ours on the same rows, relative, step by step."""
    difference = {}
    for name, those in runs.items():
        reference = runs[OURS_FEW if name in (OURS_FEW, FIXED) else OURS][0]["losses"]
        pairs = ((found, ours) for run in those for found, ours in zip(run["losses"], reference, strict=True))
        difference[name] = max(abs(found / ours - 1) for found, ours in pairs)
    agree = all(value <= LOSS_TOLERANCE for value in difference.values())
    return {"largest_relative_difference": difference, "tolerance": LOSS_TOLERANCE, "agree": agree}


def compare_rates(runs: dict[str, list[dict[str, Any]]]) -> dict[str, float | str]:
    """Return our speed and memory in units of TRL's."""
    exact = {name: those for name, those in runs.items() if name in TRL}
    found: dict[str, float | str] = {}
    if exact:
        best = max(exact, key=lambda name: rate(exact[name]))
        peaks = {name: max(run["peak_bytes"]["resident"] for run in those) for name, those in runs.items()}
        found |= {
            "trl_best": best,
            "speed_over_trl_best": rate(runs[OURS]) / rate(exact[best]),
            "speed_over_trl_best_at_1024": rate(runs[OURS_LARGE]) / rate(exact[best]),
            "memory_over_trl_best": peaks[OURS] / peaks[best],
            "memory_over_trl_best_at_1024": peaks[OURS_LARGE] / peaks[best],
            "memory_over_trl_least": peaks[OURS] / min(peaks[name] for name in exact),
        }
    if FIXED in runs:
        found["speed_over_trl_fixed"] = rate(runs[OURS_FEW]) / rate(runs[FIXED])
    return found


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    print(f"\nmatrix products at the model's shapes: {result['matmul_gflops']['best']:.1f} GFLOP/s at best")
    print("| side | tokens/s | share of matmul rate | peak memory |\n| --- | --- | --- | --- |")
    for name, side in result["sides"].items():
        share = side["share_of_matmul_rate"]
        print(f"| {name} | {side['tokens_per_second']:.1f} | {share:.0%} | {side['peak_gb']:.2f} GB |")
    for name, value in result["ratios"].items():
        print(f"{name}: {value if isinstance(value, str) else format(value, '.2f')}")
    for name, value in result["losses"]["largest_relative_difference"].items():
        print(f"losses, {name}: at most {value:.1e} from ours, relative")
    if not result["losses"]["agree"]:
        print(f"VOID: the losses differ by more than {LOSS_TOLERANCE:g}; the sides do not train the same")


if __name__ == "__main__":
    sys.exit(main())
