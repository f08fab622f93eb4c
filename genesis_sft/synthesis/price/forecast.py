"""What the rest of a plan will ask and cost, before anything of it is asked.

The chain of every planned conversation is walked: answers in the store cost nothing any more, and for the others
stand-ins are given (`expected_answers`), since what is sent next holds what was answered before. Of
conversations that have begun, and of those that have not, a sample is walked and scaled: one out of each of 300 equal
stretches of the plan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from genesis_sft.recipe.synthesis import SynthesisSection
from genesis_sft.synthesis.asking.chain import Chain, Ended, Finished
from genesis_sft.synthesis.asking.request import Answer, Request, Step, Usage
from genesis_sft.synthesis.planning.scenario import Scenario
from genesis_sft.synthesis.price.expected_answers import (
    HIGH,
    LOW,
    TYPICAL,
    Assumptions,
    Measured,
    assumed_answer,
    caches,
)
from genesis_sft.synthesis.price.forecast_numbers import Example, Forecast, StepForecast
from genesis_sft.synthesis.price.prices import Price
from genesis_sft.synthesis.store.replay import replay

if TYPE_CHECKING:
    from genesis_sft.synthesis.store.job_store import ReadStore

SAMPLE = 300
"""Conversations that are walked at most of those that have begun, and of those that have not."""

_Begun = tuple[Scenario, dict[tuple[Step, int], Answer]]  # a conversation and the answers that it has

_FIRST_WAVE = 4
"""Requests that are under way before the first answer has filled the provider's cache, as a run begins."""


@dataclass(slots=True)
class _Walked:
    """What walks of conversations add up to."""

    steps: dict[Step, StepForecast] = field(default_factory=dict)
    variance: float = 0.0  # of the cost, from the sampling of conversations
    assumed: dict[Step, None] = field(default_factory=dict)
    examples: dict[Step, Example] = field(default_factory=dict)
    most: int = 0

    @property
    def cost(self) -> float:
        return sum(step.cost for step in self.steps.values())


def forecast(
    chain: Chain, scenarios: Sequence[Scenario], price: Price, section: SynthesisSection, store: ReadStore | None
) -> Forecast:
    """Say what the rest of a plan will ask and cost.

    Args:
        chain: Says what is asked next.
        scenarios: The plan.
        price: Prices of the model.
        section: The recipe's section.
        store: Answers that have come, if any have.

    Example:
        Of 10,000 planned conversations 20 are finished: ``finished == 20``, ``sampled == 300``, ``assumed == ()``,
        and ``expected`` is what the other 9,980 will cost.
    """
    measured, begun = Measured(section.steps.follow_ups), list[_Begun]()
    asked = {number for number in store.scenarios() if number < len(scenarios)} if store is not None else set[int]()
    finished = ended = 0
    for number in sorted(asked):
        assert store is not None  # it has them
        scenario = scenarios[number]
        found = replay(chain, scenario, store)
        for stored in found.answers.values():
            measured.add(stored.request, stored.answer, scenario)
        finished += isinstance(found.outcome, Finished)
        ended += isinstance(found.outcome, Ended)
        if isinstance(found.outcome, Request):
            begun.append((scenario, {place: stored.answer for place, stored in found.answers.items()}))
    others: list[_Begun] = [(scenario, {}) for scenario in scenarios if scenario.number not in asked]
    groups = [(group, _one_of_each_stretch(group)) for group in (begun, others) if group]

    def walk(level: Assumptions) -> _Walked:
        measured.restart()
        walked = _Walked()
        for group, sample in groups:
            walker = _Walker(chain, price, section, measured, level, len(group) / len(sample), walked)
            costs = [walker.walk(scenario, dict(answers)) for scenario, answers in sample]
            walked.variance += _variance_of_total(costs, len(group))
        _fill_the_cache(walked, measured, level, price, section)
        return walked

    typical = walk(TYPICAL)
    low, high = (walk(LOW).cost, walk(HIGH).cost) if typical.assumed else (typical.cost, typical.cost)
    error = _standard_error(typical, measured)
    return Forecast(
        conversations=len(scenarios),
        finished=finished,
        ended=ended,
        under_way=sum(bool(answers) for _, answers in begun),
        steps=typical.steps,
        low=max(0, round(low - 2 * error)),
        expected=round(typical.cost),
        high=round(high + 2 * error),
        standard_error=round(error),
        sampled=sum(len(sample) for group, sample in groups if len(sample) < len(group)),
        assumed=tuple(typical.assumed),
        examples=typical.examples,
        most_at_once=typical.most,
        warnings=_warnings(typical, measured, price, section),
    )


@dataclass(frozen=True, slots=True)
class _Walker:
    """Walks conversations from their answers to their ends; each stands for ``weight`` of them."""

    chain: Chain
    price: Price
    section: SynthesisSection
    measured: Measured
    level: Assumptions
    weight: float
    walked: _Walked

    def walk(self, scenario: Scenario, answers: dict[tuple[Step, int], Answer]) -> float:
        """Return what the rest of one conversation costs, in nano-dollars."""
        walked, batches, total = self.walked, self.section.provider.batches, 0.0
        num_answered = len(answers)
        while isinstance(request := self.chain.next(scenario, answers), Request):
            answer = self._stand_in(request, scenario)
            cost = self.price.cost(answer.usage, batch=batches)
            walked.steps.setdefault(request.step, StepForecast()).add(answer.usage, cost, self.weight)
            walked.examples.setdefault(request.step, Example(request, len(answers) > num_answered))
            walked.most = max(walked.most, self.price.most(request, batch=batches))
            total += cost
            if request.step == "conversation":  # the whole of it: nothing follows
                break
            answers[request.step, request.turn] = answer
        return total

    def _stand_in(self, request: Request, scenario: Scenario) -> Answer:
        if self.measured.knows(request.step):
            return self.measured.stand_in(request, scenario, batches=self.section.provider.batches)
        self.walked.assumed[request.step] = None
        return assumed_answer(request, scenario, self.level, self.section, self.price)


def _fill_the_cache(
    walked: _Walked, measured: Measured, level: Assumptions, price: Price, section: SynthesisSection
) -> None:
    """Add what the first requests of a run pay for filling the provider's cache, which the walks take to be filled."""
    if section.provider.batches or not walked.steps:
        return
    step, sums = next(iter(walked.steps.items()))
    if not sums.cache_read:
        return
    cached = round(sums.cache_read / sums.requests)
    seen = measured.requests_that_filled_the_cache if measured.knows(step) else 0
    wanted = seen or (section.provider.concurrency if level is HIGH else min(_FIRST_WAVE, section.provider.concurrency))
    requests = min(float(wanted), sums.requests)
    extra = price.cost(Usage(cache_write=cached), batch=False) - price.cost(Usage(cache_read=cached), batch=False)
    sums.cost += requests * extra
    sums.cache_write += requests * cached
    sums.cache_read -= requests * cached


def _one_of_each_stretch(group: Sequence[_Begun]) -> list[_Begun]:
    """Return one conversation out of each of `SAMPLE` equal stretches, or all where there are no more."""
    if len(group) <= SAMPLE:
        return list(group)
    random, length = Random(len(group)), len(group) / SAMPLE
    bounds = [(math.ceil(place * length), math.ceil((place + 1) * length)) for place in range(SAMPLE)]
    return [group[random.randrange(start, end)] for start, end in bounds]


def _variance_of_total(costs: Sequence[float], population: int) -> float:
    """Return the variance of a total estimated from a sample of its parts: ``N^2 s^2 / n (1 - n / N)``.

    That of a simple random sample without replacement (Cochran, Sampling Techniques, 3rd ed., section 2.6); one out of
    each stretch of a balanced plan is not less exact.
    """
    n = len(costs)
    if not 1 < n < population:
        return 0.0
    mean = sum(costs) / n
    variance = sum((cost - mean) ** 2 for cost in costs) / (n - 1)
    return population**2 * variance / n * (1 - n / population)


def _standard_error(walked: _Walked, measured: Measured) -> float:
    """Return the standard error of a forecast, in nano-dollars.

    Of the sampling of conversations, and of the answers' mean lengths, as if those of all steps erred the same way.
    """
    lengths = sum(
        sums.cost * measured.output_spread(step) for step, sums in walked.steps.items() if measured.knows(step)
    )
    return math.hypot(math.sqrt(walked.variance), lengths)


def _warnings(walked: _Walked, measured: Measured, price: Price, section: SynthesisSection) -> tuple[str, ...]:
    shared = [example.request for example in walked.examples.values() if example.request.shared]
    if section.provider.api != "anthropic" or section.steps.principles != "all" or not shared:
        return ()
    tokens = round(len(shared[0].shared.encode()) * TYPICAL.tokens_per_byte)
    if not caches(shared[0], TYPICAL, section, price):
        return (
            f"what all requests begin with has about {tokens:,} tokens; {section.provider.model} caches nothing below "
            f"{price.cache_minimum:,}, so that every request pays for it in full. synthesis.steps.principles: sampled "
            "sends less, a longer constitution is cached.",
        )
    known = [step for step in walked.steps if measured.knows(step)]
    if known and not any(measured.steps[step].cache_read + measured.steps[step].cache_write for step in known):
        return ("the provider cached nothing of what was sent so far, though the requests ask for it.",)
    return ()
