"""What an answer that has not come yet will look like: as those that have come, or by stated assumptions.

What is sent holds earlier answers, so that a forecast of its length needs texts, not only numbers: stand-ins of the
length that is expected are given for answers that nobody has written yet.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from random import Random

from genesis_sft.recipe.synthesis import SynthesisSection
from genesis_sft.synthesis.asking.request import Answer, Request, Step, Usage
from genesis_sft.synthesis.planning.scenario import Scenario
from genesis_sft.synthesis.price.prices import Price

LEAST_ANSWERS = 10
"""Answers of a step from which on they are believed rather than the assumptions."""

_KEPT_ANSWERS = 400
_STAND_IN = "This sentence stands in for an answer that nobody has written yet. "

Group = tuple[Step, bool, bool]  # step, first exchange of its conversation or a later one, with reasoning or without


@dataclass(frozen=True, slots=True)
class Assumptions:
    """How long answers are taken to be before there are any, in tokens; and how text becomes tokens.

    Models differ by factors in how much they write: that is what the range from ``LOW`` to ``HIGH`` is for.

    Attributes:
        tokens_per_byte: Tokens of a byte of text sent; English is at a quarter, other languages above it.
        question: A user's turn.
        answer: A draft or a revision, without reasoning.
        reasoning: Reasoning of a draft or a revision that has some.
        critique: A critique.
        batch_cache: Share of the requests in a batch that find their beginning in the provider's prompt cache.
            Anthropic's documentation of batches gives 30 % to 98 %, depending on traffic.
        cache_tokens_per_byte: As ``tokens_per_byte``, where the question is whether the shared beginning is long enough
            to be cached: a dear forecast takes it to be short.
    """

    tokens_per_byte: float
    question: int
    answer: int
    reasoning: int
    critique: int
    batch_cache: float
    cache_tokens_per_byte: float

    def output_tokens(self, request: Request, scenario: Scenario, section: SynthesisSection) -> tuple[int, int]:
        """Return (tokens of reasoning, tokens of text) of the answer to a request."""
        reasoning = self.reasoning if scenario.reasoning and section.steps.reasoning else 0
        if request.step == "conversation":
            turns = scenario.turns if section.steps.follow_ups else 1
            tokens = turns * (self.question + self.answer + reasoning)
            return 0, min(tokens, request.max_tokens)
        if request.step in ("question", "critique"):
            return 0, min(self.question if request.step == "question" else self.critique, request.max_tokens)
        text = min(self.answer, request.max_tokens)
        return min(reasoning, request.max_tokens - text), text


LOW = Assumptions(0.21, 25, 70, 60, 60, batch_cache=0.98, cache_tokens_per_byte=0.34)
TYPICAL = Assumptions(0.25, 80, 280, 220, 180, batch_cache=0.6, cache_tokens_per_byte=0.25)
HIGH = Assumptions(0.34, 250, 800, 700, 450, batch_cache=0.3, cache_tokens_per_byte=0.21)


@dataclass(slots=True)
class _StepSums:
    """Sums over the answers of one step."""

    answers: int = 0
    sent_bytes: int = 0
    sent_tokens: int = 0
    cache_read: int = 0
    cache_write: int = 0
    wrote_cache: int = 0
    """Answers to requests that filled the cache."""


@dataclass(slots=True)
class Measured:
    """The answers that have come: how long they are, and what was counted for what was sent.

    Args:
        follow_ups: Whether conversations have the exchanges that were planned, or one; see the recipe's steps.
        seed: Decides which answers stand in for which.
    """

    follow_ups: bool = True
    seed: int = 0
    steps: dict[Step, _StepSums] = field(default_factory=lambda: defaultdict(_StepSums))
    _pools: dict[Group, list[tuple[Answer, int]]] = field(default_factory=lambda: defaultdict(list))
    """Answers, each with the number of exchanges that it holds."""

    _seen: dict[Group, int] = field(default_factory=lambda: defaultdict(int))
    _random: Random = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Draw the same stand-ins again from here on."""
        self._random = Random(self.seed)

    def add(self, request: Request, answer: Answer, scenario: Scenario) -> None:
        """Count an answer; some hundreds of each group are kept, all alike likely to be."""
        usage, sums = answer.usage, self.steps[request.step]
        sums.answers += 1
        sums.sent_bytes += request.num_bytes
        sums.sent_tokens += usage.input + usage.cache_read + usage.cache_write
        sums.cache_read += usage.cache_read
        sums.cache_write += usage.cache_write
        sums.wrote_cache += usage.cache_write > 0
        group = _group(request, scenario)
        self._seen[group] += 1
        pool = self._pools[group]
        slim = Answer(answer.text, answer.stop, usage, answer.model, answer.reasoning)
        kept = slim, self._exchanges(request, scenario)
        if len(pool) < _KEPT_ANSWERS:
            pool.append(kept)
        elif (place := self._random.randrange(self._seen[group])) < _KEPT_ANSWERS:
            pool[place] = kept

    def knows(self, step: Step) -> bool:
        """Whether enough answers of a step have come to go by them."""
        return step in self.steps and self.steps[step].answers >= LEAST_ANSWERS

    @property
    def requests_that_filled_the_cache(self) -> int:
        """How many requests wrote to the provider's prompt cache."""
        return sum(sums.wrote_cache for sums in self.steps.values())

    def stand_in(self, request: Request, scenario: Scenario, *, batches: bool) -> Answer:
        """Return an answer of the same step, drawn from those that came; its usage is that of the request at hand.

        Of an answer that holds a whole conversation the output counts by the exchange: a pilot's conversations may have
        had fewer than those to come.
        """
        step, first, reasoning = _group(request, scenario)
        sums = self.steps[step]
        alike = self._pools.get((step, first, reasoning), [])
        if len(alike) < LEAST_ANSWERS:
            alike = [answer for group, pool in self._pools.items() if group[0] == step for answer in pool]
        drawn, exchanges = self._random.choice(alike)
        output = drawn.usage.output * self._exchanges(request, scenario) / exchanges
        sent = request.num_bytes * sums.sent_tokens / max(sums.sent_bytes, 1)
        read, write = (sent * part / max(sums.sent_tokens, 1) for part in (sums.cache_read, sums.cache_write))
        if not batches:  # there, only the first requests of a run fill the cache: see `forecast`
            read, write = read + write, 0.0
        usage = Usage(round(sent - read - write), round(write), round(read), round(output))
        return Answer(drawn.text, drawn.stop, usage, drawn.model, drawn.reasoning)

    def output_spread(self, step: Step) -> float:
        """Return the relative standard error of the mean length of a step's answers."""
        pools = [pool for group, pool in self._pools.items() if group[0] == step]
        lengths = [answer.usage.output / exchanges for pool in pools for answer, exchanges in pool]
        mean = sum(lengths) / len(lengths)
        variance = sum((length - mean) ** 2 for length in lengths) / max(len(lengths) - 1, 1)
        return math.sqrt(variance / len(lengths)) / mean if mean else 0.0

    def _exchanges(self, request: Request, scenario: Scenario) -> int:
        """Return how many exchanges the answer to a request holds; of a part of one: 1."""
        return scenario.turns if request.step == "conversation" and self.follow_ups else 1


def assumed_answer(
    request: Request, scenario: Scenario, level: Assumptions, section: SynthesisSection, price: Price
) -> Answer:
    """Return a stand-in of the length that is assumed, with the usage that goes with it."""
    reasoning, text = level.output_tokens(request, scenario, section)
    sent = request.num_bytes * level.tokens_per_byte
    shared = len(request.shared.encode()) * level.tokens_per_byte
    read = write = 0.0
    if caches(request, level, section, price):
        read = shared * (level.batch_cache if section.provider.batches else 1.0)
        write = shared - read
    usage = Usage(math.ceil(sent - read - write), round(write), round(read), reasoning + text)
    thought = f"<think>\n{_text(reasoning, level)}\n</think>\n\n" if reasoning else ""
    return Answer(thought + _text(text, level), "end", usage, request.model)


def caches(request: Request, level: Assumptions, section: SynthesisSection, price: Price) -> bool:
    """Whether the provider is taken to cache the beginning of a request: where we ask for it, and it is long enough."""
    tokens = len(request.shared.encode()) * level.cache_tokens_per_byte
    return section.provider.api == "anthropic" and tokens > 0 and tokens >= price.cache_minimum


def _text(tokens: int, level: Assumptions) -> str:
    num_bytes = max(1, round(tokens / level.tokens_per_byte))
    return (_STAND_IN * (num_bytes // len(_STAND_IN) + 1))[:num_bytes].strip() or "."


def _group(request: Request, scenario: Scenario) -> Group:
    return request.step, request.turn == 0, scenario.reasoning
