"""Does the model do what it is told? Prompts whose demands a program can verify, and how many answers obey.

A prompt has one to three rules, such as ``{"kind": "most_words", "count": 30}``; ``instruction_kinds.py`` defines them.
An answer obeys when it fulfils all of them (the strict, prompt-level measure of IFEval, Zhou et al. 2023,
arXiv:2311.07911, section 2.2); an answer without text obeys nothing. Whether the turn was ended does not matter here,
nor whether the answer is true: both are other questions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from genesis_sft.conversations.conversation import Message
from genesis_sft.errors import InputError
from genesis_sft.evals.chat_prompts import ChatPrompt, first_of, read_entries
from genesis_sft.evals.error_bars import wilson_interval
from genesis_sft.evals.instruction_kinds import KINDS
from genesis_sft.evals.record import ChatAnswer

PROMPTS_FILE = "instruction_prompts.yaml"


def read_instruction_prompts(count: int | None = None) -> tuple[ChatPrompt, ...]:
    """Return the first ``count`` shipped prompts with verifiable demands; all of them when absent.

    The first ones are of many kinds, so that a small count is a fair choice.

    Raises:
        RecipeError: There are not so many.
    """
    prompts = tuple(
        ChatPrompt(entry["id"], (Message("user", entry["prompt"]),), rules=tuple(entry["rules"]))
        for entry in read_entries(PROMPTS_FILE)
    )
    return first_of(prompts, count, "evals.instructions")


def fulfils(text: str, rule: Mapping[str, Any]) -> bool:
    """Return whether a text fulfils one rule; a text without anything in it fulfils none.

    ``fulfils("Aye, captain.", {"kind": "most_words", "count": 3})`` is true.

    Raises:
        InputError: There is no such kind, or it demands something else.
    """
    demand = dict(rule)
    kind = demand.pop("kind", None)
    function = KINDS.get(kind) if isinstance(kind, str) else None
    if function is None:
        raise InputError(f"expected a rule of one of the kinds {', '.join(KINDS)}; found {kind!r}")
    try:
        return function(text, **demand) and bool(text.strip())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "its fields"
        raise InputError(f"expected a rule of the kind {kind} in order; {field}: {first['msg']}") from None


def obeys(answer: ChatAnswer) -> bool | None:
    """Return whether an answer fulfils all rules of its prompt; None where the prompt has none.

    Raises:
        InputError: A rule is none.
    """
    if not answer.rules:
        return None
    outcomes = [fulfils(answer.answer, rule) for rule in answer.rules]  # every rule is looked at
    return all(outcomes)


@dataclass(frozen=True)
class KindRate:
    """How often rules of one kind were fulfilled, with the Wilson interval (95 %; Wilson 1927, JASA 22:209).

    Attributes:
        kind: Of the rules, e.g. ``"most_words"``.
        fulfilled: Number of rules of this kind that answers fulfilled.
        n: Number of rules of this kind.
        low, high: Interval of ``fulfilled / n``.
    """

    kind: str
    fulfilled: int
    n: int
    low: float
    high: float


def rates_by_kind(answers: Iterable[ChatAnswer]) -> tuple[KindRate, ...]:
    """Return how often rules were fulfilled, kind by kind, in the order of ``KINDS``.

    Raises:
        InputError: A rule is none.
    """
    outcomes: defaultdict[str, list[bool]] = defaultdict(list)
    for answer in answers:
        for rule in answer.rules:
            fulfilled = fulfils(answer.answer, rule)
            outcomes[rule["kind"]].append(fulfilled)
    return tuple(_rate(kind, outcomes[kind]) for kind in KINDS if kind in outcomes)


def _rate(kind: str, outcomes: Sequence[bool]) -> KindRate:
    fulfilled, n = sum(outcomes), len(outcomes)
    return KindRate(kind, fulfilled, n, *wilson_interval(fulfilled, n))
