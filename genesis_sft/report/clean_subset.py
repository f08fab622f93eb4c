"""The benchmarks again, without the items that stand in the training data.

Whether conversations with such items were left out or kept, the reader sees both: the score on all items, and on those
that no conversation of the sources holds.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from genesis_sft.evals.error_bars import clustered_mean_and_error, mean_and_error
from genesis_sft.evals.record import EvalRecord
from genesis_sft.evals.task_record import PartScore, TaskRecord
from genesis_sft.report import numbers
from genesis_sft.report.changes import TaskChange
from genesis_sft.report.compare import compare
from genesis_sft.report.tables import Table


@dataclass(frozen=True)
class CleanChange:
    """A benchmark of which the training data hold some items.

    Attributes:
        whole: All items, before and after.
        clean: Those that no conversation holds; None where there are no others.
    """

    whole: TaskChange
    clean: TaskChange | None

    @property
    def num_touched(self) -> int:
        """Items that some conversation holds."""
        return self.whole.n - (self.clean.n if self.clean else 0)


def compare_untouched(
    before: EvalRecord,
    after: EvalRecord,
    samples: Iterable[Mapping[str, Any]],
    touched: Mapping[str, Collection[int]],
) -> tuple[CleanChange, ...]:
    """Compare the benchmarks on all items and on untouched ones; only those of which an item is touched.

    Args:
        before: Record of the base.
        after: Record of the tuned model, of the same evaluation.
        samples: Lines of ``samples.jsonl`` of either record.
        touched: Harness's task (for MMLU, subject) to the ``doc_id`` of the items that some conversation holds.

    Raises:
        InputError: The records are not of the same evaluation.

    Example:
        With ``touched = {"mmlu_anatomy": [0, 7]}``, both of them asked, one entry: ``mmlu``, ``num_touched`` 2.
    """
    documents: dict[str, set[str]] = {}
    for sample in samples:
        if sample["doc_id"] in touched.get(sample["part"], ()):
            documents.setdefault(sample["task"], set()).add(sample["doc_hash"])
    changes = compare(_of_tasks(before, before.tasks), _of_tasks(after, after.tasks)).tasks
    clean_before, clean_after = (
        _of_tasks(record, [_without(one, documents.get(one.task, set())) for one in record.tasks])
        for record in (before, after)
    )
    clean = {one.name: one for one in compare(clean_before, clean_after).tasks}
    both = [CleanChange(whole, clean.get(whole.name)) for whole in changes if whole.task in documents]
    return tuple(change for change in both if change.num_touched)


def clean_subset_table(changes: Iterable[CleanChange]) -> Table:
    """Return each benchmark on all items, and on those that no conversation of the sources holds."""
    return Table(
        columns=(
            "Benchmark",
            "Metric",
            "Items",
            "In the sources",
            "Before, all",
            "After, all",
            "Difference (95 %), all",
            "Before, others",
            "After, others",
            "Difference (95 %), others",
        ),
        align="llrrrrrrrr",
        rows=tuple(
            (
                change.whole.label,
                change.whole.metric,
                numbers.count(change.whole.n),
                numbers.count(change.num_touched),
                *_scores(change.whole),
                *_scores(change.clean),
            )
            for change in changes
        ),
    )


def _of_tasks(record: EvalRecord, tasks: Iterable[TaskRecord | None]) -> EvalRecord:
    kept = tuple(task for task in tasks if task is not None)
    return replace(record, tasks=kept, held_out=(), plain_text=(), chat=())


def _without(task: TaskRecord, documents: set[str]) -> TaskRecord | None:
    """Return the record of the other documents only; None where there are none."""
    kept = [number for number, document in enumerate(task.doc_hashes) if document not in documents]
    if not kept:
        return None
    items = tuple(task.items[number] for number in kept)
    num_choices = tuple(task.num_choices[number] for number in kept) if task.num_choices else ()
    subjects = _subjects_without(task, kept)
    clusters = [subject.name for subject in subjects for _ in range(subject.n)]
    value, error = clustered_mean_and_error(items, clusters) if subjects else mean_and_error(items)
    if task.metric == "perplexity":
        value = math.exp(-value)
        error *= value
    return replace(
        task,
        value=value,
        standard_error=error,
        n=len(items),
        chance=math.fsum(1 / count for count in num_choices) / len(num_choices) if num_choices else task.chance,
        items=items,
        doc_hashes=tuple(task.doc_hashes[number] for number in kept),
        prompt_hashes=tuple(task.prompt_hashes[number] for number in kept) if task.prompt_hashes else (),
        target_hashes=tuple(task.target_hashes[number] for number in kept) if task.target_hashes else (),
        num_choices=num_choices,
        subjects=subjects,
        groups=(),
    )


def _subjects_without(task: TaskRecord, kept: Sequence[int]) -> tuple[PartScore, ...]:
    """Return the subjects with the items that are kept; one of which none is goes."""
    owners = [place for place, subject in enumerate(task.subjects) for _ in range(subject.n)]
    items: dict[int, list[float]] = {}
    for number in kept if owners else ():
        items.setdefault(owners[number], []).append(task.items[number])
    scores = [(task.subjects[place], those, *mean_and_error(those)) for place, those in sorted(items.items())]
    return tuple(replace(one, value=value, standard_error=error, n=len(those)) for one, those, value, error in scores)


def _scores(change: TaskChange | None) -> tuple[str, str, str]:
    if change is None:
        return numbers.MISSING, numbers.MISSING, numbers.MISSING
    if change.unit == "share":
        difference = f"{numbers.points_interval(change.difference, change.low, change.high)} points"
        return numbers.percent(change.before), numbers.percent(change.after), difference
    difference = f"{numbers.nats_interval(change.difference, change.low, change.high)} nats"
    return numbers.perplexity(change.before), numbers.perplexity(change.after), difference
