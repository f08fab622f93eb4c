"""The record of a benchmark: one metric, the outcome of every item, and how the questions were put."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genesis_sft.evals.error_bars import wilson_interval

Surface = Literal["raw", "chat"]
"""How a benchmark's question is put: as plain text, or as a user's turn of a conversation."""

DOUBTFUL_AS_CHAT = ("lambada_oneline", "lambada_openai", "winogrande")
"""Tasks that, on the chat surface, ask an assistant to go on with the user's text: a change there says little."""

MOST_NATS = 100.0
"""A perplexity of e^100 stands for anything worse: it has to stay a number."""


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


def task_label(task: str, num_fewshot: int, surface: Surface) -> str:
    """Return ``"mmlu 5-shot (chat)"``; of 0-shot and raw nothing is said."""
    shots = f" {num_fewshot}-shot" if num_fewshot else ""
    return f"{task}{shots}{' (chat)' if surface == 'chat' else ''}"
