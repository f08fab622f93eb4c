"""The record of an evaluation: every outcome, with what is needed to compare it with another one item by item.

A record folder::

    record.json      this record: settings, versions, scores, outcomes of all items
    samples.jsonl    one line an item of a benchmark: hashes, log-likelihoods, outcomes
    answers.jsonl    one line a chat answer
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from genesis_sft.console import format_duration
from genesis_sft.errors import InputError
from genesis_sft.evals.check_record import check_record
from genesis_sft.evals.error_bars import ratio_and_error, wilson_interval
from genesis_sft.run_dir import write_text

RECORD, SAMPLES, ANSWERS = "record.json", "samples.jsonl", "answers.jsonl"
RECORD_VERSION = 2

Surface = Literal["raw", "chat"]
"""How a benchmark's question is put: as plain text, or as a user's turn of a conversation."""

DOUBTFUL_AS_CHAT = ("lambada_oneline", "lambada_openai", "winogrande")
"""Tasks that, on the chat surface, ask an assistant to go on with the user's text: a change there says little."""

MOST_NATS = 100.0
"""A perplexity of e^100 stands for anything worse: it has to stay a number."""

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
        standard_error: Of a subject sd / sqrt(n) of its items, 0 for a single item; of a group with its subjects as
            clusters (`clustered_mean_and_error`), so that the spread between them is in it.
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
        standard_error: sd / sqrt(n) of the items; for perplexity by the delta method, value * sd / sqrt(n); for MMLU
            with its subjects as clusters (`clustered_mean_and_error`), so that the spread between them is in it.
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
        surface: How the questions were put; scores of two surfaces are never compared.
        num_fewshot: Answered questions that stand before each.
        prompt_hashes: The harness's hash of what the first request of each item asks.
        target_hashes: The harness's hash of each item's right answer.
        vocab_size, pieces_per_word: Of a perplexity: tokens that the model chooses among, and how many of them a word
            has on average, which say what a guess would cost.
        documents: Where the documents came from, e.g. ``"hub baber/piqa@142f6d7"``.
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
    surface: Surface = "raw"
    num_fewshot: int = 0
    prompt_hashes: tuple[str, ...] = ()
    target_hashes: tuple[str, ...] = ()
    vocab_size: int | None = None
    pieces_per_word: float | None = None
    documents: str = ""

    @property
    def label(self) -> str:
        """The task's name, with how it was put where that is not 0-shot and raw, e.g. ``"mmlu 5-shot (chat)"``."""
        return task_label(self.task, self.num_fewshot, self.surface)

    @property
    def above_chance(self) -> bool | None:
        """Whether the value less two standard errors is above chance; None where chance is not defined.

        Where all items are right, or all wrong, the standard error is 0 and Wilson's interval decides.
        """
        if self.chance is None:
            return None
        if not self.standard_error:
            return wilson_interval(round(self.value * self.n), self.n)[0] > self.chance
        return self.value - 2 * self.standard_error > self.chance


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
                    f"expected an evaluation record of version {RECORD_VERSION} in {file}, found {found!r}",
                    hint="Another version of the program wrote it: evaluate the model again, or run the recipe again.",
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


def task_label(task: str, num_fewshot: int, surface: Surface) -> str:
    """Return ``"mmlu 5-shot (chat)"``; of 0-shot and raw nothing is said."""
    shots = f" {num_fewshot}-shot" if num_fewshot else ""
    return f"{task}{shots}{' (chat)' if surface == 'chat' else ''}"


def bits_per_byte(nats: float, num_bytes: int) -> float | None:
    """Return nats / ln 2 / bytes: a loss that does not depend on the tokenizer; None where there are no bytes."""
    return nats / math.log(2) / num_bytes if num_bytes else None


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
