"""A tiny world for the writing of conversations: a chain, a price and a provider that need no files and no network."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from genesis_sft.conversations.conversation import Message
from genesis_sft.recipe.synthesis import ProviderSection, SynthesisSection
from genesis_sft.synthesis.asking.chain import Ended, Finished
from genesis_sft.synthesis.asking.request import Answer, Request, Step, Usage
from genesis_sft.synthesis.planning.scenario import Scenario
from genesis_sft.synthesis.price.prices import Price
from genesis_sft.synthesis.screening.candidate import KEPT
from genesis_sft.synthesis.store.job_store import JobStore
from genesis_sft.synthesis.writing.screened import Screened
from genesis_sft.synthesis.writing.work import Work

USAGE = Usage(10, 0, 90, 20)
SHARED = "The beginning of every system prompt. " * 20


def scenario(number: int, turns: int = 1) -> Scenario:
    return Scenario(number, "safety", ("a", "b"), "topic", "persona", "plain", "easy", turns, None, "en", False)


def request(number: int = 0, turn: int = 0, step: Step = "question", text: str = "Ask.", **other: Any) -> Request:
    fields: dict[str, Any] = {"model": "m", "shared": SHARED, "system": "Be brief.", "max_tokens": 50} | other
    return Request(scenario=number, turn=turn, step=step, messages=(("user", text),), **fields)


def answer(text: str = "An answer.", usage: Usage = USAGE, **other: Any) -> Answer:
    return Answer(text=text, stop="end", usage=usage, model="m-1", raw={"text": text}, **other)


class TinyChain:
    """For each turn a question and a draft; an answer of "end" ends the conversation."""

    def __init__(self, model: str = "m") -> None:
        self._model = model

    def next(self, planned: Scenario, answers: Mapping[tuple[Step, int], Answer]) -> Request | Finished | Ended:
        messages: list[Message] = []
        steps: tuple[Step, ...] = ("question", "draft")
        for turn in range(planned.turns):
            for step in steps:
                found = answers.get((step, turn))
                if found is None:
                    said = " / ".join(message.content for message in messages)
                    return request(planned.number, turn, step, f"{step} {turn}: {said}", model=self._model)
                if found.text == "end":
                    return Ended("empty answer", step)
                messages.append(Message("user" if step == "question" else "assistant", found.text))
        return Finished(tuple(messages))

    def follow(self, planned: Scenario, answer_to: Callable[[Request], Answer | None]) -> Request | Finished | Ended:
        answers: dict[tuple[Step, int], Answer] = {}
        while isinstance(found := self.next(planned, answers), Request) and (known := answer_to(found)) is not None:
            answers[found.step, found.turn] = known
        return found


class FlatPrice(Price):
    """A nano-dollar (or so many) for each token of input and output; a request costs at most 1,000, in a batch half."""

    def __init__(self, each: int = 1) -> None:
        super().__init__(input=each, output=each, cache_write=0, cache_read=0, batch_share=Fraction(1, 2))

    def most(self, asked: Request, *, batch: bool) -> int:
        return 500 if batch else 1000


class TinyProvider:
    """Answers with a hash of the request, or as it is told to; counts what it was asked.

    Args:
        behave: Called with each request before it is answered; may wait, raise, or return an answer of its own.
    """

    def __init__(self, behave: Callable[[Request], Awaitable[Answer | None]] | None = None) -> None:
        self._behave = behave
        self.asked: list[str] = []
        self.under_way = self.most_under_way = 0

    async def ask(self, asked: Request) -> Answer:
        self.asked.append(asked.key)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(0)
            own = None if self._behave is None else await self._behave(asked)
            return own or answer(text_for(asked))
        finally:
            self.under_way -= 1

    async def close(self) -> None:
        pass


def text_for(asked: Request) -> str:
    return hashlib.sha256(repr(asked.messages).encode()).hexdigest()[:12]


class NoProgress:
    """A bar that nobody sees; keeps what it was told."""

    def __init__(self) -> None:
        self.done, self.note = 0.0, ""

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.done += amount
        self.note = note


def work_of(
    plan: Sequence[Scenario],
    store: JobStore,
    *,
    chain: Any = None,
    price: Price | None = None,
    stop: asyncio.Event | None = None,
    progress: NoProgress | None = None,
    **provider: Any,
) -> Work:
    """A run's work in the tiny world; ``provider``: fields of the recipe's section."""
    asks: Any = chain or TinyChain()
    return Work(
        asks,
        plan,
        store,
        price or FlatPrice(),
        section(**provider),
        stop or asyncio.Event(),
        progress or NoProgress(),
        Screened(lambda batch: [KEPT] * len(batch)),
    )


def section(**provider: Any) -> SynthesisSection:
    return SynthesisSection(constitution="constitution", out="out", provider=ProviderSection(**provider))
