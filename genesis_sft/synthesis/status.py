"""How far a synthesis is, from its store alone: also while another process writes to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genesis_sft.synthesis.asking.request import Step, Usage
from genesis_sft.synthesis.project import Project
from genesis_sft.synthesis.store.records import OpenBatch, StepTotals, Totals
from genesis_sft.synthesis.store.replay import survey

_NOTHING = Totals(0, 0, 0, 0, {}, Usage(), 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Status:
    """How far a synthesis is.

    Attributes:
        planned: Conversations of the plan, or of its beginning that was asked for.
        finished: Those whose answers are all there.
        ended: Reason to number of those that cannot go on.
        under_way: Those that have some answers, or a request under way.
        stale: Answers that are out of use: the prompts, the model or the steps are others now.
        totals: Requests, attempts, tokens and money, of the whole store.
        steps: Sums over the answers to each step.
        batches: Batches whose results are not collected.
        budget: What may be spent in all, in nano-dollars; ``None``: no bound.
    """

    planned: int
    finished: int
    ended: Mapping[str, int]
    under_way: int
    stale: int
    totals: Totals
    steps: Mapping[Step, StepTotals]
    batches: tuple[OpenBatch, ...]
    budget: int | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values; money in US dollars."""
        totals = self.totals
        return {
            "conversations": {
                "planned": self.planned,
                "finished": self.finished,
                "ended": dict(self.ended),
                "under_way": self.under_way,
                "to_begin": self.to_begin,
            },
            "requests": {
                "recorded": totals.requests,
                "answered": totals.answered,
                "unanswerable": totals.unanswerable,
                "open": totals.requests - totals.answered - totals.unanswerable,
                "out_of_use": self.stale,
            },
            "attempts": {"sent": totals.attempts, "under_way": totals.under_way, "faults": dict(totals.faults)},
            "tokens": _tokens(totals.usage),
            "steps": {step: {"answers": sums.answers, **_tokens(sums.usage)} for step, sums in self.steps.items()},
            "spent_usd": totals.spent / 1e9,
            "maybe_spent_usd": totals.maybe_spent / 1e9,
            "reserved_usd": totals.reserved / 1e9,
            "budget_usd": None if self.budget is None else self.budget / 1e9,
            "batches": [
                {"id": batch.server_id, "created_at": batch.created_at, "requests": batch.count}
                for batch in self.batches
            ],
        }

    @property
    def to_begin(self) -> int:
        """Conversations of which nothing was answered yet, and nothing is under way."""
        return self.planned - self.finished - sum(self.ended.values()) - self.under_way


def read_status(project: Project) -> Status:
    """Read how far a project is.

    Raises:
        RunDirError: The store is another program's file, or damaged.
    """
    with project.reading() as store:
        if store is None:
            return Status(len(project.scenarios), 0, {}, 0, 0, _NOTHING, {}, (), project.budget)
        found = survey(project.chain, project.scenarios, store)
        return Status(
            planned=len(project.scenarios),
            finished=found.finished,
            ended=dict(sorted(found.ended.items())),
            under_way=found.begun,
            stale=found.stale,
            totals=store.totals(),
            steps=store.by_step(),
            batches=tuple(store.open_batches()),
            budget=project.budget,
        )


def _tokens(usage: Usage) -> dict[str, int]:
    return {
        "input": usage.input,
        "cache_write": usage.cache_write,
        "cache_read": usage.cache_read,
        "output": usage.output,
    }
