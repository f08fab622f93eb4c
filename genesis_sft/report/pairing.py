"""Outcomes of both records in one order: by document, not by line; the same questions, or an error that names one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from genesis_sft.errors import InputError
from genesis_sft.evals.task_record import TaskRecord
from genesis_sft.report.same_evaluation import refuse, refuse_unless_same, score_name, short

T = TypeVar("T")


@dataclass(frozen=True)
class PairedItems:
    """Outcomes of the same items, in the order of the record before.

    Attributes:
        before, after: 1.0 or 0.0; for perplexity the nats of the word: its log-likelihood with the other sign.
        subjects: Of each item, for MMLU; else empty.
        groups: Of each item, for MMLU; else empty.
    """

    before: tuple[float, ...]
    after: tuple[float, ...]
    subjects: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    def of_group(self, name: str) -> PairedItems:
        """Return the items of one group."""
        places = [place for place, group in enumerate(self.groups) if group == name]
        return PairedItems(
            tuple(self.before[place] for place in places),
            tuple(self.after[place] for place in places),
            tuple(self.subjects[place] for place in places),
            tuple(self.groups[place] for place in places),
        )


@dataclass(frozen=True)
class _Item:
    outcome: float
    subject: str
    group: str
    prompt: str | None
    target: str | None


def pair_items(before: TaskRecord, after: TaskRecord) -> PairedItems:
    """Pair the items of two records of one score by document, and in MMLU by subject as well.

    Prompts and right answers are compared by their hashes where both records state them.

    Raises:
        InputError: They are not the same items, or a record does not fit together; the first item is named.
    """
    name = score_name(before)
    if before.n != after.n:
        refuse(name, f"{before.n} items", f"{after.n}")
    old, new = _by_document(name, before), _by_document(name, after)
    refuse_unless_same(f"a document of {name},", old, new)
    for document, item in old.items():
        other = new[document]
        _refuse_another(f"the prompt of document {short(document)} of {name}", item.prompt, other.prompt)
        _refuse_another(f"the right answer of document {short(document)} of {name}", item.target, other.target)
    return PairedItems(
        before=tuple(item.outcome for item in old.values()),
        after=tuple(new[document].outcome for document in old),
        subjects=tuple(item.subject for item in old.values()) if before.subjects else (),
        groups=tuple(item.group for item in old.values()) if before.subjects else (),
    )


def _refuse_another(what: str, before: str | None, after: str | None) -> None:
    if before is not None and after is not None and before != after:
        refuse(what, f"the hash {before[:12]}", after[:12])


def _by_document(name: str, record: TaskRecord) -> dict[str, _Item]:
    """Return document to item; a document that stands twice in a task is numbered, as both records have it twice."""
    n = len(record.items)
    subjects = [(part.name, part.group) for part in record.subjects for _ in range(part.n)] or [("", "")] * n
    documents = _of_every_item(name, "documents", record.doc_hashes, n)
    prompts = _of_every_item(name, "prompts", record.prompt_hashes or [None] * n, n)
    targets = _of_every_item(name, "right answers", record.target_hashes or [None] * n, n)
    _of_every_item(name, "subjects", subjects, n)
    seen: Counter[str] = Counter()
    items = {}
    for place, outcome in enumerate(record.items):
        subject, group = subjects[place]
        document = f"{subject}/{documents[place]}" if subject else str(documents[place])
        seen[document] += 1
        numbered = document if seen[document] == 1 else f"{document} ({seen[document]})"
        value = -outcome if record.metric == "perplexity" else outcome
        items[numbered] = _Item(value, subject, group, prompts[place], targets[place])
    return items


def _of_every_item(name: str, what: str, values: Sequence[T], n: int) -> Sequence[T]:
    if not n or len(values) != n:
        raise InputError(
            f"{name}: expected one outcome per document, found {n} outcomes and {len(values)} {what}",
            hint="The record is damaged; evaluate the model again.",
        )
    return values
