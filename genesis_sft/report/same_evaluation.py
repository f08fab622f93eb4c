"""Whether two records are of the same evaluation; if not, the first difference is named.

What a user chose comes first, in words: tasks, numbers of items, surfaces. Settings come next, and hashes last.

Raises :class:`genesis_sft.errors.InputError` throughout.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from genesis_sft.errors import InputError
from genesis_sft.evals.record import EvalRecord
from genesis_sft.evals.task_record import TaskRecord

MADE_BY = "made_by"
"""Setting of a record that was read from another program's output: who wrote it."""

MAY_DIFFER = ("batch_size", "data", "device", "held_out", "pass_tokens", "seed", "tasks", "threads")
"""Settings that change no outcome but by rounding, or whose effect shows in the documents themselves. All others must
agree."""

_ROUNDED_BY = ("device", "threads")

_HINT = "Evaluate both models with the same evals section of the recipe, or the same options of `genesis-sft eval`."
_SAME_QUESTIONS = (
    "Evaluate both models with the same --tasks, --limit and --surfaces, or with the same evals section of a recipe."
)
_DIGITS = 12
"""Of a hash, in a message."""


def score_name(task: TaskRecord) -> str:
    """Return what tells a score from others of its record: ``"piqa (acc)"``, ``"mmlu 5-shot (chat) (acc)"``."""
    return f"{task.label} ({task.metric})"


def shared_scores(before: EvalRecord, after: EvalRecord) -> tuple[EvalRecord, EvalRecord, tuple[str, ...]]:
    """Return two records as they are; where another program wrote one, the benchmark scores that both have.

    Another program's output states fewer settings, and has no held-out loss nor chat answers. Its scores on the chat
    surface are not compared with ours: it counts the prompt's last line break as part of the answer.

    Returns:
        Both records, and a sentence on what was left out where something was.

    Raises:
        InputError: No score stands in both.
    """
    makers = [record.settings.get(MADE_BY) for record in (before, after)]
    if makers == [None, None]:
        return before, after, ()
    mixed = makers[0] != makers[1]
    old, new = ({score_name(task) for task in one.tasks} for one in (before, after))
    chat = {score_name(task) for task in before.tasks if task.surface == "chat"} if mixed else set()
    both = (old & new) - chat
    if not both:
        raise InputError(
            "expected two evaluations with a benchmark score in common, found "
            f"{', '.join(sorted(old)) or 'none'} before and {', '.join(sorted(new)) or 'none'} after",
            hint="Evaluate both models on the same tasks, with as many answered questions, on the same surface.",
        )
    left_out = sorted((old | new) - both)
    note = f"Left out, as only one of the two evaluations has it in this form: {', '.join(left_out)}."
    settings = before.settings.keys() & after.settings.keys() - {MADE_BY}
    sides = [
        replace(
            record,
            settings={name: record.settings[name] for name in settings},
            tasks=tuple(task for task in record.tasks if score_name(task) in both),
            held_out=(),
            chat=(),
            plain_text=(),
        )
        for record in (before, after)
    ]
    return sides[0], sides[1], (note,) if left_out else ()


def refuse_other_questions(before: Sequence[TaskRecord], after: Sequence[TaskRecord]) -> None:
    """Refuse records of other benchmarks, of another number of items, or put in another way."""
    old, new = ({one.label: one.n for one in tasks} for tasks in (before, after))
    if old != new:
        raise InputError(
            "expected two records of the same evaluation; the one given as BEFORE asked "
            f"{_in_words(old)}, the one given as AFTER asked {_in_words(new)}",
            hint=_SAME_QUESTIONS,
        )


def _in_words(asked: Mapping[str, int]) -> str:
    words = (f"{label} ({n:,} item{'s' if n != 1 else ''})" for label, n in sorted(asked.items()))
    return ", ".join(words) or "no benchmark"


def refuse_other_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Refuse settings that differ where they could change an outcome; those that hold hashes are looked at last."""
    names = sorted({*before, *after} - {*MAY_DIFFER})
    for name in sorted(names, key=lambda name: isinstance(before.get(name, after.get(name)), Mapping)):
        old, new = before.get(name), after.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            name, old, new = _first_other(name, old, new)
        if old != new:
            refuse(f"the setting {name}", _shown(old), _shown(new))


def _first_other(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, Any, Any]:
    """Return the first entry that differs, under its dotted name; nothing that differs where all agree."""
    entries = [(f"{name}.{key}", old.get(key), new.get(key)) for key in sorted({*old, *new})]
    return next((entry for entry in entries if entry[1] != entry[2]), (name, None, None))


def _shown(value: Any) -> str:
    """Return a setting as YAML has it; of a hash its beginning."""
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return ", ".join(value) or "none"
    if value is None or isinstance(value, Mapping):
        return "none" if value is None else f"{len(value)} entries"
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{text[:_DIGITS]}…" if re.fullmatch(r"[0-9a-f]{32,}", text) else text


def note_other_rounding(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """Say of each setting that decides the order of sums, and hence rounding, where it differs."""
    return tuple(
        f"Measured with {name} {before[name]} before training and {name} {after[name]} after: sums are rounded "
        "differently, and a greedy answer can depend on that where two tokens are nearly as likely."
        for name in _ROUNDED_BY
        if name in before and name in after and before[name] != after[name]
    )


def refuse_unless_same(what: str, before: Iterable[str], after: Iterable[str]) -> None:
    """Refuse two collections that do not hold the same things; name the first that only one of them holds."""
    old, new = dict.fromkeys(before), dict.fromkeys(after)
    for side, names, others in (("BEFORE", old, new), ("AFTER", new, old)):
        for name in names:
            if name not in others:
                found = f"{what} {short(name)} stands only in the record given as {side}"
                raise InputError(f"expected two records of the same evaluation; {found}", hint=_HINT)


def short(document: str) -> str:
    """Return the name of a document with the beginning of its hash: ``"anatomy/5fec62b1a0de…"``."""
    return re.sub(rf"\b([0-9a-f]{{{_DIGITS}}})[0-9a-f]{{20,}}\b", r"\1…", document)


def refuse(what: str, before: str, after: str) -> None:
    """Refuse, saying what it is and how it was before and after."""
    raise InputError(
        f"expected two records of the same evaluation; {what} has {before} in BEFORE and {after} in AFTER",
        hint=_HINT,
    )
