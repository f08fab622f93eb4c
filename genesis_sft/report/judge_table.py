"""A table of benchmark results, called what it is: what differs from chance, and whether the export is likely broken.

Accuracies say what a model can do (:mod:`genesis_sft.report.judge_chance`), never that its export is broken: an
untrained model is at chance as well. LAMBADA's perplexity can say so (:mod:`genesis_sft.report.judge_lambada`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from genesis_sft.evals.tasks import TASKS
from genesis_sft.report import numbers
from genesis_sft.report.judge_chance import CLAIM, against_chance, chance_of, correct, num_items
from genesis_sft.report.judge_lambada import Yardstick, judge_perplexity
from genesis_sft.report.paired import FEWEST_ITEMS
from genesis_sft.report.scores import ACCURACIES, JudgedRow, ScoreRow, judged

VERIFY = (
    "Verify the export before anything is trained or judged on it: genesis-sft base verify MODEL. "
    "Where it fails, genesis-sft base diagnose looks for the cause."
)
MEASURE_LAMBADA = "Measure LAMBADA's perplexity too: genesis-sft eval MODEL --tasks lambada_openai"

_PER_WORD = {name for key, task in TASKS.items() if task.has_perplexity for name in (key, task.name_in_package)}


@dataclass(frozen=True)
class TableVerdict:
    """The verdict on a table.

    Attributes:
        verdict: In one sentence.
        broken: Whether the export is refused.
        rows: Every row of the file, in its order.
        advice: What to do now; None where there is nothing.
        notes: What the numbers rest on.
    """

    verdict: str
    broken: bool
    rows: tuple[JudgedRow, ...]
    advice: str | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain JSON values."""
        rows = [{name: value for name, value in asdict(row).items() if name != "written"} for row in self.rows]
        return {
            "verdict": self.verdict,
            "broken": self.broken,
            "rows": rows,
            "advice": self.advice,
            "notes": list(self.notes),
        }

    def table(self) -> str:
        """Return the verdict as plain text: the sentence, the advice, a line a row, the notes."""
        cells = [(row.task, row.metric, row.written, row.text) for row in self.rows]
        widths = [max(len(row[place]) for row in cells) for place in range(3)]
        lines = [
            f"  {task:<{widths[0]}}  {metric:<{widths[1]}}  {written:>{widths[2]}}  {text}"
            for task, metric, written, text in cells
        ]
        advice = [self.advice] if self.advice else []
        return "\n".join([self.verdict, *advice, "", *lines, "", *self.notes]).rstrip()


def judge_table(rows: Sequence[ScoreRow], yardstick: Yardstick | None = None) -> TableVerdict:
    """Say of every row, and of all together, what the numbers allow one to say.

    Args:
        rows: At least one; see :func:`genesis_sft.report.read_table.read_table`.
        yardstick: Training loss, vocabulary and pieces a word, where they are known.
    """
    yardstick = yardstick or Yardstick()
    all_rows = correct([_judge_row(row, rows, yardstick) for row in rows])
    broken = any(row.kind == "broken" for row in all_rows)
    return TableVerdict(_headline(all_rows), broken, all_rows, _advice(all_rows), _notes(all_rows, yardstick))


def _judge_row(row: ScoreRow, rows: Sequence[ScoreRow], yardstick: Yardstick) -> JudgedRow:
    if why := _why_not(row, rows):
        return judged(row, "not judged", f"not judged: {why}")
    if row.task not in _PER_WORD:
        return against_chance(row)
    assert row.value is not None
    if row.n is not None and row.n < FEWEST_ITEMS:
        return judged(row, "open", f"fewer than {FEWEST_ITEMS} items allow no claim", n=row.n)
    if row.metric == "perplexity":
        accuracy = next((one.value for one in rows if (one.task, one.metric) == (row.task, "acc")), None)
        return judged(row, *judge_perplexity(row.value, accuracy, yardstick))
    n = num_items(row)
    right = "no word" if not row.value else numbers.percent(row.value)
    return judged(row, "note", f"{right} of {numbers.count(n)} right; a word cannot be had by guessing", n=n)


def _why_not(row: ScoreRow, rows: Sequence[ScoreRow]) -> str:
    """Return why a row cannot be judged; ``""`` where it can."""
    if row.value is None:
        return "the value is not a single number"
    if row.task in _PER_WORD and row.metric in ("acc", "perplexity"):
        return _said_before(row, [one for one in rows if (one.task, one.metric) == (row.task, row.metric)])
    if row.metric not in ACCURACIES or row.task in _PER_WORD:
        return f"there is no rule for {row.metric or 'a score without a metric'}"
    if row.task.startswith("mmlu_") and any(one.task == "mmlu" for one in rows):
        return "its questions are part of mmlu"
    if chance_of(row) is None:
        return "what guessing scores is not known (column chance)"
    if num_items(row) is None and not row.standard_error:
        return "the number of items is not known (column n)"
    same = [one for one in rows if one.task == row.task and one.metric in ACCURACIES and one.value is not None]
    counts = TASKS[row.task].metric if row.task in TASKS else ""
    return _said_before(row, sorted(same, key=lambda one: one.metric != counts))


def _said_before(row: ScoreRow, same: Sequence[ScoreRow]) -> str:
    if same[0] is row:
        return ""
    if same[0].metric == row.metric:
        return f"there is another {row.metric} of {row.task}"
    return f"the same questions as {same[0].metric}, which is the metric that counts"


def _headline(rows: Sequence[JudgedRow]) -> str:
    first = {row.kind: row for row in reversed(rows)}
    tests = [row for row in rows if row.p_value is not None]
    above = sum(row.kind == "above" for row in tests)
    counted = f"{above} of {len(tests)} accuracies {'is' if above == 1 else 'are'} above chance" if tests else ""
    if row := first.get("broken"):
        return f"The export is most likely broken. {row.task}: {row.text}."
    if row := first.get("doubtful"):
        return f"These numbers do not go together. {row.task}: {row.text}"
    if row := first.get("weak"):
        return f"The model has learned little. {row.task}: {row.text}."
    if row := first.get("plausible"):
        return f"Nothing here speaks for a broken export. {row.task}: {row.text}{f'. {counted}' if tests else ''}."
    if not tests:
        return "Nothing in this table can be judged."
    if above:
        return f"{counted}; whether the export is right cannot be told without LAMBADA's perplexity."
    return (
        "This table says nothing either way: no accuracy is above chance, as with an untrained model and with a broken "
        "export, and LAMBADA's perplexity, which tells more, is missing."
    )


def _advice(rows: Sequence[JudgedRow]) -> str | None:
    kinds = {row.kind for row in rows}
    if "broken" in kinds:
        return VERIFY
    return None if kinds & {"doubtful", "weak", "plausible"} else MEASURE_LAMBADA


def _notes(rows: Sequence[JudgedRow], yardstick: Yardstick) -> tuple[str, ...]:
    """Return what the numbers rest on, one sentence each."""
    kinds = {row.kind for row in rows}
    tests = [row for row in rows if row.p_value is not None]
    found = []
    if kinds & {"broken", "doubtful", "weak", "plausible"}:
        found.append(yardstick.assumed())
    if "broken" in kinds and yardstick.training_loss is None:
        found.append("A model that was hardly trained looks the same: its training loss (--training-loss) tells.")
    if "plausible" in kinds:
        found.append("Small faults, such as a wrong RoPE theta or norm epsilon, hardly show in such a table.")
    if any(row.standard_error_from == "computed" for row in tests):
        found.append(
            "Standard errors that the file does not state are sqrt(p (1 - p) / n); an n that it does not state is that "
            "of the whole set."
        )
    if len(tests) > 1:
        by_luck = 1 - (1 - math.erfc(CLAIM / math.sqrt(2))) ** len(tests)
        found.append(
            f"Of {len(tests)} accuracies at chance, one or more lie {CLAIM:g} standard errors off in {by_luck:.0%} of "
            "such tables; Holm's correction allows for that."
        )
    return tuple(note for note in found if note)
