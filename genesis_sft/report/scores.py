"""One score of a file of benchmark results, names and numbers checked; and the same with what may be said of it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from genesis_sft.console import visible
from genesis_sft.errors import InputError

ACCURACIES = ("acc", "acc_norm")
_METRIC_OF = {"accuracy": "acc", "normalized_accuracy": "acc_norm", "ppl": "perplexity"}
_TASK_OF = {"arc_c": "arc_challenge", "arc_e": "arc_easy", "lambada": "lambada_openai"}
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")


@dataclass(frozen=True)
class ScoreRow:
    """One score of a file.

    Attributes:
        task: Name as the harness writes it, e.g. ``"arc_challenge"``; as in the file where it is not known.
        metric: ``"acc"``, ``"acc_norm"``, ``"perplexity"``, or what the file says.
        value: 0.2594 for 25.94 %; None where the file has no single number.
        standard_error: As the file states it; None where it does not.
        n: Number of items; None where the file does not state it.
        chance: What guessing scores; None where the file does not state it.
        written: The value as it stands in the file.
    """

    task: str
    metric: str
    value: float | None
    standard_error: float | None = None
    n: int | None = None
    chance: float | None = None
    written: str = ""


RowKind = Literal["above", "below", "open", "chance", "broken", "doubtful", "weak", "plausible", "note", "not judged"]


@dataclass(frozen=True)
class JudgedRow:
    """A row of the table with what may be said of it.

    Attributes:
        task: Name of the task.
        metric: Its metric.
        value: None where the file has no single number.
        kind: What may be said, in a word; see ``text``.
        text: The same as a sentence, with the numbers behind it.
        n: Items, as the file states them or of the whole set.
        chance: What guessing scores, as the file states it or nominal.
        standard_error: Of an accuracy.
        standard_error_from: ``"file"``; ``"computed"``: sqrt(p (1 - p) / n); ``"at chance"``: the same of chance, where
            the other is 0.
        standard_errors_from_chance: Below chance it is negative.
        p_value: Two-sided, of a normal distribution.
        p_holm: The same, corrected for the number of accuracies in the file.
    """

    task: str
    metric: str
    value: float | None
    kind: RowKind
    text: str
    n: int | None = None
    chance: float | None = None
    standard_error: float | None = None
    standard_error_from: Literal["file", "computed", "at chance"] | None = None
    standard_errors_from_chance: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    written: str = field(default="", repr=False)


def judged(row: ScoreRow, kind: RowKind, text: str, *, n: int | None = None, chance: float | None = None) -> JudgedRow:
    """Return a row of a file with what may be said of it."""
    return JudgedRow(row.task, row.metric, row.value, kind, text, n, chance, written=row.written)


def task_name(written: str) -> str:
    """Return ``"arc_challenge"`` for "ARC-Challenge" and "arc-c"; a name of another kind as it is."""
    name = re.sub(r"[\s()-]+", "_", written.casefold()).strip("_")
    name = _TASK_OF.get(name, name)
    return name if re.fullmatch(r"[a-z0-9_]+", name) else shown(written, quoted=False)


def metric_name(written: str) -> str:
    """Return ``"acc_norm"`` for "acc norm", ``"perplexity"`` for "ppl"; another name in small letters."""
    name = shown(re.sub(r"[\s-]+", "_", written.strip().casefold()), quoted=False)
    return _METRIC_OF.get(name, name)


def read_number(text: str, where: str) -> float:
    """Return ``0.2594`` for "25.94 %", ``3360048`` for "3,360,048"."""
    text = text.strip()
    share = text.removesuffix("%").strip()
    plain = share.replace(",", "") if _THOUSANDS.fullmatch(share) else share
    try:
        value = float(plain)
    except ValueError:
        raise InputError(f"expected a number in {where}, found {shown(text)}") from None
    return as_number(value / 100 if text.endswith("%") else value, where)


def as_number(value: Any, where: str) -> float:
    """Return a number of JSON, or one that was read, if it is finite."""
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(
            f"expected a finite number in {where}, found {shown(str(value))}",
            hint="A model whose outputs are not numbers is broken: genesis-sft base verify MODEL says more.",
        )
    return number


def check_row(row: ScoreRow, path: Path) -> None:
    """Refuse an accuracy or a chance outside 0 to 1, a perplexity below 1, an error below 0, an n below 1.

    Raises:
        InputError: Says which.
    """
    where = f"{row.metric} of {row.task} in {path}"
    shares = {"the value": row.value if row.metric in ACCURACIES else None, "the chance": row.chance}
    for name, share in shares.items():
        if share is not None and not 0 <= share <= 1:
            raise InputError(
                f"expected {name} from 0 to 1 as {where}, found {share:.6g}",
                hint="Write 0.2594, or 25.94 % with the sign.",
            )
    if row.metric == "perplexity" and row.value is not None and row.value < 1:
        raise InputError(f"expected at least 1 as {where}, found {row.value:.6g}")
    if row.standard_error is not None and row.standard_error < 0:
        raise InputError(f"expected a standard error of at least 0 as {where}, found {row.standard_error:.6g}")


def shown(text: str, *, quoted: bool = True) -> str:
    """Return foreign text on one line, short and harmless."""
    line = " ".join(visible(text).split())
    line = line if len(line) <= 80 else f"{line[:77]}..."
    return f'"{line}"' if quoted else line
