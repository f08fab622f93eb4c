"""All that a report is made of, as its records state it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genesis_sft.evals.record import EvalRecord
from genesis_sft.report.changes import Comparison
from genesis_sft.report.clean_subset import CleanChange
from genesis_sft.report.flips import TaskFlips


@dataclass(frozen=True)
class RunResults:
    """What a run left.

    Attributes:
        recipe_name: Name of the run.
        base_name: What the base model is, as the recipe names it.
        comparison: Of ``before`` and ``after``.
        before: The record of the base model; its chat answers are shown.
        after: The record of the tuned model, of the same evaluation.
        ledger: What became of the rows of each source, and the examples and tokens of each; ``ledger.json``.
        metrics: Rows with ``step``, ``loss`` and, where a step was skipped, ``skipped``; in order.
        events: Rows with ``step`` and ``kind``: held-out losses and alarms of the training; in order.
        check: What the check of the base model found; ``verdict``, ``nats_per_token``, ``uniform``, ``unigram``, ...
        provenance: Plain JSON values; each mapping in it becomes a table under its key. Under ``seconds`` (stage to
            duration) numbers are shown as durations.
        untouched: Benchmarks of which the sources hold items, on all items and on the others.
        flips: The items of each benchmark that went from wrong to right, and the other way round.
    """

    recipe_name: str
    base_name: str
    comparison: Comparison
    before: EvalRecord
    after: EvalRecord
    ledger: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    check: Mapping[str, Any]
    provenance: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]] = ()
    untouched: Sequence[CleanChange] = ()
    flips: Sequence[TaskFlips] = ()
