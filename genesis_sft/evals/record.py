"""The record of an evaluation: every outcome, with what is needed to compare it with another one item by item.

How it lies in a folder stands in ``record_files.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from genesis_sft.console import format_duration
from genesis_sft.evals.error_bars import ratio_and_error, wilson_interval
from genesis_sft.evals.task_record import TaskRecord

RECORD_VERSION = 2


@dataclass(frozen=True)
class HeldOutRecord:
    """Loss on text that was not trained on: held-out conversations of one source, or passages of plain text.

    Attributes:
        source: Name of the source in the recipe; of a passage, its own.
        nats_per_token: Sum of the losses over the number of trained tokens.
        standard_error: Of that ratio, with conversations as the independent units (Cochran, *Sampling Techniques*,
            3rd ed. 1977, section 2.11).
        n_tokens: Trained tokens, those that the loss is taken over.
        n_conversations: Conversations.
        rows: Row of each conversation in its source's file, from 0.
        losses: Sum of the losses of each conversation, in nats.
        tokens: Trained tokens of each conversation.
        num_bytes: UTF-8 bytes of the text that these tokens spell, control tokens left out, of each conversation.
    """

    source: str
    nats_per_token: float
    standard_error: float
    n_tokens: int
    n_conversations: int
    rows: tuple[int, ...]
    losses: tuple[float, ...]
    tokens: tuple[int, ...]
    num_bytes: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, source: str, rows: Sequence[int], losses: Sequence[float], tokens: Sequence[int], num_bytes: Sequence[int]
    ) -> HeldOutRecord:
        """Return the record of some units; its sums follow from them. The arguments are the attributes."""
        value, error = ratio_and_error(losses, tokens)
        units = tuple(rows), tuple(losses), tuple(tokens), tuple(num_bytes)
        return cls(source, value, error, sum(tokens), len(tokens), *units)

    @property
    def bits_per_byte(self) -> float | None:
        """The same loss over the bytes of the text, see `bits_per_byte`; None where they are not stated."""
        return bits_per_byte(math.fsum(self.losses), sum(self.num_bytes))


@dataclass(frozen=True)
class ChatAnswer:
    """What a model answered to one of the shipped chat prompts, greedily.

    Attributes:
        id: Name of the prompt.
        messages: The prompt: ``{"role", "content"}`` each.
        answer: Text of the answer, without reasoning.
        reasoning: What stood between ``<think>`` and ``</think>``, if anything.
        ended: Whether the model ended its turn within the limit.
        num_tokens: Tokens that the model wrote, the one that ended the turn included.
        sample: Whether the report shows it.
        written: All that the model wrote as the tokenizer spells it, control tokens included.
        rules: What the prompt demands and a program can verify, e.g. ``{"kind": "most_words", "count": 30}``.
    """

    id: str
    messages: tuple[dict[str, str], ...]
    answer: str
    reasoning: str | None
    ended: bool
    num_tokens: int
    sample: bool
    written: str = ""
    rules: tuple[dict[str, Any], ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is no text in the answer."""
        return not self.answer.strip()

    @property
    def answered(self) -> bool:
        """Whether it ended with an answer: the turn was ended, and there is text in it."""
        return self.ended and not self.empty


@dataclass(frozen=True)
class StopRate:
    """Share of chat answers that ended with an answer, with its Wilson interval (95 %; Wilson 1927, JASA 22:209)."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class PartTime:
    """What a part of the evaluation took: seconds, and tokens in its forward passes (padding included)."""

    elapsed_seconds: float
    num_tokens: int


@dataclass(frozen=True)
class EvalRecord:
    """All that was measured on one model.

    Attributes:
        model: Content hash of the model folder.
        settings: The recipe's ``evals`` section, seed, device and data type.
        versions: Of the packages that decide the numbers.
        tasks: Benchmarks; LAMBADA has two entries.
        held_out: Loss on held-out conversations, one entry a source.
        chat: Chat answers.
        plain_text: Loss on plain text, one entry a passage: what was known before and may be forgotten.
        times: Part to what it took.
    """

    model: str
    settings: dict[str, Any]
    versions: dict[str, str]
    tasks: tuple[TaskRecord, ...] = ()
    held_out: tuple[HeldOutRecord, ...] = ()
    chat: tuple[ChatAnswer, ...] = ()
    plain_text: tuple[HeldOutRecord, ...] = ()
    times: dict[str, PartTime] = field(default_factory=dict)
    version: int = RECORD_VERSION

    @property
    def stop_rate(self) -> StopRate | None:
        """Share of chat answers that ended with an answer (an empty one does not count); None without chat answers.

        Answers to instructions are left out: the shipped chat prompts stay the same sample whether they are asked or
        not.
        """
        asked = [answer for answer in self.chat if not answer.rules]
        if not asked:
            return None
        ended, n = sum(answer.answered for answer in asked), len(asked)
        return StopRate(ended / n, *wilson_interval(ended, n), n)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return asdict(self)

    def save(self, folder: Path) -> None:
        """Write ``record.json``, atomically."""
        from genesis_sft.evals.record_files import save_record

        save_record(self, folder)

    @classmethod
    def open(cls, path: str | Path) -> EvalRecord:
        """Read a record back, exactly as it was; see :func:`genesis_sft.evals.record_files.open_record`."""
        from genesis_sft.evals.record_files import open_record

        return open_record(Path(path))

    def summary(self) -> str:
        """Return the record in one line."""
        parts = [f"{task.label} {task.value:.3g}" for task in self.tasks if task.metric != "perplexity"]
        parts += [f"{one.source} {one.nats_per_token:.3f} nats/token" for one in self.held_out]
        if rate := self.stop_rate:
            parts.append(f"{round(rate.value * rate.n)} of {rate.n} chat prompts answered to the end")
        seconds = sum(part.elapsed_seconds for part in self.times.values())
        return f"{', '.join(parts) or 'nothing measured'} in {format_duration(seconds)}"

    def table(self) -> str:
        """Return the scores as plain text lines."""
        from genesis_sft.evals.table import format_record

        return format_record(self)


def bits_per_byte(nats: float, num_bytes: int) -> float | None:
    """Return nats / ln 2 / bytes: a loss that does not depend on the tokenizer; None where there are no bytes."""
    return nats / math.log(2) / num_bytes if num_bytes else None
