"""The record of an evaluation: every outcome, with what is needed to compare it with another one item by item.

A record folder::

    record.json      this record: settings, versions, scores, outcomes of all items
    samples.jsonl    one line an item of a benchmark: hashes, log-likelihoods, outcomes
    answers.jsonl    one line a chat answer
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from genesis_sft.console import format_duration
from genesis_sft.errors import InputError
from genesis_sft.evals.check_record import check_record
from genesis_sft.evals.error_bars import wilson_interval
from genesis_sft.run_dir import write_text

RECORD, SAMPLES, ANSWERS = "record.json", "samples.jsonl", "answers.jsonl"
RECORD_VERSION = 1

T = TypeVar("T")


@dataclass(frozen=True)
class FirstRequest:
    """How a task's first request begins, as the model sees it: whether a BOS token stands there can be read off.

    Attributes:
        ids: The first token ids, 12 at most.
        pieces: The same tokens as the tokenizer spells them.
        num_tokens: Length of the whole request, context and continuation.
    """

    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    num_tokens: int


@dataclass(frozen=True)
class PartScore:
    """Score on a part of a task's items: a subject or a group of subjects of MMLU.

    Attributes:
        name: E.g. ``"anatomy"`` or ``"stem"``.
        group: The group that a subject belongs to; the name itself for a group.
        standard_error: sd / sqrt(n) of the part's items; 0 for a single item.
    """

    name: str
    group: str
    value: float
    standard_error: float
    n: int


@dataclass(frozen=True)
class TaskRecord:
    """One metric of one benchmark.

    Attributes:
        task: Name of the standard task, e.g. ``"hellaswag"``. ``"lambada_oneline"`` is LAMBADA without line breaks.
        metric: ``"acc"``, ``"acc_norm"``, or ``"perplexity"`` (per word).
        value: Mean of the items; for perplexity exp(-mean).
        standard_error: sd / sqrt(n) of the items; for perplexity by the delta method, value * sd / sqrt(n).
        n: Number of items.
        chance: What guessing scores, the mean over the items of 1 / number of choices; nominal for ``acc_norm``. None
            where there are no choices.
        items: Outcome of each item: 1.0 or 0.0; for perplexity the log-likelihood of its word, in nats.
        doc_hashes: The harness's hash of each item's document.
        num_choices: Number of choices of each item; empty where there are none.
        num_truncated: Requests that were longer than the model's context and lost their beginning.
        first_request: How the first request begins.
        subjects: For MMLU, the subjects in the order in which the items lie.
        groups: For MMLU, its four groups.
    """

    task: str
    metric: str
    value: float
    standard_error: float
    n: int
    chance: float | None
    items: tuple[float, ...]
    doc_hashes: tuple[str, ...]
    num_choices: tuple[int, ...] = ()
    num_truncated: int = 0
    first_request: FirstRequest | None = None
    subjects: tuple[PartScore, ...] = ()
    groups: tuple[PartScore, ...] = ()

    @property
    def above_chance(self) -> bool | None:
        """Whether the value less two standard errors is above chance; None where chance is not defined."""
        return None if self.chance is None else self.value - 2 * self.standard_error > self.chance


@dataclass(frozen=True)
class HeldOutRecord:
    """Loss on held-out conversations of one source.

    Attributes:
        source: Name of the source in the recipe.
        nats_per_token: Sum of the losses over the number of trained tokens.
        standard_error: Of that ratio, with conversations as the independent units (Cochran, *Sampling Techniques*,
            3rd ed. 1977, section 2.11).
        n_tokens: Trained tokens, those that the loss is taken over.
        n_conversations: Conversations.
        rows: Row of each conversation in its source's file, from 0.
        losses: Sum of the losses of each conversation, in nats.
        tokens: Trained tokens of each conversation.
    """

    source: str
    nats_per_token: float
    standard_error: float
    n_tokens: int
    n_conversations: int
    rows: tuple[int, ...]
    losses: tuple[float, ...]
    tokens: tuple[int, ...]


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
    """

    id: str
    messages: tuple[dict[str, str], ...]
    answer: str
    reasoning: str | None
    ended: bool
    num_tokens: int
    sample: bool

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
        times: Part to what it took.
    """

    model: str
    settings: dict[str, Any]
    versions: dict[str, str]
    tasks: tuple[TaskRecord, ...] = ()
    held_out: tuple[HeldOutRecord, ...] = ()
    chat: tuple[ChatAnswer, ...] = ()
    times: dict[str, PartTime] = field(default_factory=dict)
    version: int = RECORD_VERSION

    @property
    def stop_rate(self) -> StopRate | None:
        """Share of chat answers that ended with an answer (an empty one does not count); None without chat answers."""
        if not self.chat:
            return None
        ended, n = sum(answer.answered for answer in self.chat), len(self.chat)
        return StopRate(ended / n, *wilson_interval(ended, n), n)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return asdict(self)

    def save(self, folder: Path) -> None:
        """Write ``record.json``, atomically."""
        write_text(folder / RECORD, _as_lines(self.to_json()) + "\n")

    @classmethod
    def open(cls, path: str | Path) -> EvalRecord:
        """Read a record back, exactly as it was.

        Args:
            path: A record folder, or a ``record.json``.

        Raises:
            InputError: There is no record, or it is of another version, or it is damaged: what it says does not fit
                together, or a number in it cannot have been measured.
        """
        file = Path(path) / RECORD if Path(path).is_dir() else Path(path)
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            found = values.get("version") if isinstance(values, dict) else None
            if found != RECORD_VERSION:
                raise InputError(
                    f"expected an evaluation record of version {RECORD_VERSION} in {file}, found {found!r}"
                )
            record = from_values(cls, values)
            check_record(record)
            return record
        except OSError as error:
            raise InputError(
                f"expected an evaluation record at {file}: {error.strerror}",
                hint="Name a folder that `genesis-sft eval --out` or the stages before and after of a run wrote.",
            ) from None
        except (ValidationError, ValueError, RecursionError) as error:
            first = (str(error).splitlines() or ["empty"])[0]
            raise InputError(f"expected an evaluation record in {file}, found a damaged one: {first}") from None

    def summary(self) -> str:
        """Return the record in one line."""
        parts = [f"{task.task} {task.value:.3g}" for task in self.tasks if task.metric != "perplexity"]
        parts += [f"{one.source} {one.nats_per_token:.3f} nats/token" for one in self.held_out]
        if rate := self.stop_rate:
            ended = sum(answer.answered for answer in self.chat)
            parts.append(f"{ended} of {rate.n} chat prompts answered to the end")
        seconds = sum(part.elapsed_seconds for part in self.times.values())
        return f"{', '.join(parts) or 'nothing measured'} in {format_duration(seconds)}"

    def table(self) -> str:
        """Return the scores as plain text lines."""
        from genesis_sft.evals.table import format_record

        return format_record(self)


def from_values(kind: type[T], values: Any) -> T:
    """Build a dataclass from the values that ``dataclasses.asdict`` gave, e.g. after a round trip through JSON.

    Raises:
        ValueError: They are not.
    """
    return TypeAdapter(kind).validate_python(values)


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write JSON lines, atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _as_lines(value: Any, indent: str = "") -> str:
    """Return JSON with one line a field, and lists of numbers or names on one line."""
    inner = indent + "  "
    if isinstance(value, Mapping) and value:
        fields = (f"{inner}{json.dumps(key)}: {_as_lines(entry, inner)}" for key, entry in value.items())
        return "{\n" + ",\n".join(fields) + f"\n{indent}}}"
    if isinstance(value, (list, tuple)) and any(isinstance(entry, Mapping) for entry in value):
        return "[\n" + ",\n".join(f"{inner}{_as_lines(entry, inner)}" for entry in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)
