"""What changed between two evaluations, as data; :mod:`genesis_sft.report.compare` fills it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from genesis_sft.evals.error_bars import Share
from genesis_sft.evals.task_record import Surface, task_label


@dataclass(frozen=True)
class GroupChange:
    """A group of subjects before and after; shares of right answers.

    Attributes:
        n: Items of all its subjects.
        difference: ``after - before``.
        low, high: 95 % interval of the difference, with subjects as the units; None where it has too few of them.
    """

    name: str
    n: int
    before: float
    after: float
    difference: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class TaskChange:
    """One benchmark before and after.

    Attributes:
        unit: ``"share"`` of right answers, 0 to 1; or ``"nats per word"``, the log of a perplexity; less is better.
        before, after: Mean over the items.
        difference: ``after - before``.
        before_standard_error, after_standard_error: Of each by itself; for MMLU with subjects as clusters.
        standard_error: Of the difference, from the item differences, in the same way; None for fewer than two items.
        chance: What guessing scores, where the record states it.
        before_above_chance, after_above_chance: Whether the value less two of its standard errors is above chance, as
            ``TaskRecord.above_chance`` has it; a single item never is.
        to_right, to_wrong: Items that were wrong before and right after, and the other way round; None for nats.
        p_value: Two-sided, of no difference: McNemar's exact test; for MMLU sign flips of the subjects' differences;
            for nats the studentized bootstrap (:mod:`genesis_sft.report.paired`). None where there are too few items.
        smallest_visible: True difference that these items would have shown four times out of five.
        surface: How the questions were put.
        num_fewshot: Answered questions before each.
        low, high: 95 % interval of the difference; None where there are too few items.
        p_holm: ``p_value`` corrected (Holm 1979) for the number of benchmark scores of the same surface: every metric
            of every task, at chance or not, at every number of answered questions.
        groups: For MMLU, its four groups.
        vocab_size, pieces_per_word: Of a perplexity: tokens that the model chooses among, and how many a word has.
    """

    task: str
    metric: str
    unit: Literal["share", "nats per word"]
    n: int
    before: float
    after: float
    before_standard_error: float | None
    after_standard_error: float | None
    difference: float
    standard_error: float | None
    chance: float | None
    before_above_chance: bool | None
    after_above_chance: bool | None
    to_right: int | None
    to_wrong: int | None
    p_value: float | None
    smallest_visible: float | None
    surface: Surface = "raw"
    num_fewshot: int = 0
    low: float | None = None
    high: float | None = None
    p_holm: float | None = None
    groups: tuple[GroupChange, ...] = ()
    vocab_size: int | None = None
    pieces_per_word: float | None = None

    @property
    def label(self) -> str:
        """The task, with how it was put where that is not 0-shot and raw, as ``TaskRecord.label`` has it."""
        return task_label(self.task, self.num_fewshot, self.surface)

    @property
    def name(self) -> str:
        """What the score is called in sentences: ``"piqa (acc)"``, ``"mmlu 5-shot (chat) (acc)"``."""
        return f"{self.label} ({self.metric})"

    @property
    def gain(self) -> float:
        """Return the difference, positive where the change is for the better."""
        return -self.difference if self.unit == "nats per word" else self.difference


@dataclass(frozen=True)
class HeldOutChange:
    """Loss on held-out conversations of one source (or of all), or on passages of plain text; less is better.

    Attributes:
        n_conversations: Independent units: conversations, or passages; a passage is one as a whole.
        before, after: Nats per trained token.
        standard_error: Of the difference, over the units; None for fewer than two.
        low, high: 95 % interval of the difference; None for few units.
        p_value: Of the studentized bootstrap over the units; None for fewer than two.
        before_bits_per_byte, after_bits_per_byte: The same loss over the bytes of the text, which does not depend on
            the tokenizer; None where the record does not state the bytes.
    """

    source: str
    n_conversations: int
    n_tokens: int
    before: float
    after: float
    difference: float
    standard_error: float | None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    before_bits_per_byte: float | None = None
    after_bits_per_byte: float | None = None


@dataclass(frozen=True)
class RateChange:
    """How many chat answers a check holds of, before and after.

    Attributes:
        name: Of the check, e.g. ``"repeats itself"`` or ``"obeys the instruction"``.
        better: Whether more or less of it is better.
        before, after: Over the prompts for which the question arises on both sides.
        to_yes, to_no: Answers of which it holds after and not before, and the other way round.
        p_value: Of McNemar's exact test on these.
        p_holm: The same, corrected for the number of checks (Holm 1979).
    """

    name: str
    better: Literal["more", "less"]
    before: Share
    after: Share
    to_yes: int
    to_no: int
    p_value: float
    p_holm: float | None = None


@dataclass(frozen=True)
class StopChange:
    """How many chat answers ended with an answer: by themselves, within the token limit, and with some text.

    Attributes:
        before, after: Answers that did, of the shipped chat prompts; answers to instructions are not among them.
        before_empty, after_empty: Answers without any text, whether they ended or not; they count as not ended.
    """

    before: Share
    after: Share
    to_ended: int
    to_not_ended: int
    p_value: float
    before_median_tokens: float
    after_median_tokens: float
    before_empty: int
    after_empty: int


@dataclass(frozen=True)
class Comparison:
    """All that changed between two records of the same evaluation; ``notes`` is what to keep in mind beside it.

    Three families of tests are corrected by themselves, as each answers one question by many scores: raw benchmark
    scores, those of the chat surface, and the checks of chat answers. A loss is a question of its own.
    """

    tasks: tuple[TaskChange, ...]
    held_out: tuple[HeldOutChange, ...]
    held_out_total: HeldOutChange | None
    stop: StopChange | None
    plain_text: tuple[HeldOutChange, ...] = ()
    plain_text_total: HeldOutChange | None = None
    rates: tuple[RateChange, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain JSON values."""
        return asdict(self)

    def table(self) -> str:
        """Return verdict and tables as plain text lines."""
        from genesis_sft.report.text_page import render_comparison

        return render_comparison(self)
