"""Which conversations are to be written: a seeded sample of the taxonomy in which everything gets its share.

Scenario *i* depends on the framework, the seed and *i* alone, so that a plan can be made longer later and its
beginning, which is paid for, stays. Its dimensions are dealt out each for itself::

    area ──> topic, main principle, persona, tone, turns, system prompt, language, reasoning   (within the area)
                    └──> difficulty, the other principles                   (within the area's main principle)
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import Generic, TypeVar

from genesis_sft.synthesis.planning.coverage import Coverage, coverage
from genesis_sft.synthesis.planning.framework import Framework
from genesis_sft.synthesis.planning.scenario import Scenario
from genesis_sft.synthesis.planning.taxonomy import AreaScenarios, Taxonomy

__all__ = ["Coverage", "coverage", "make_plan"]

T = TypeVar("T")

_LONGEST_BLOCK = 1000


def make_plan(framework: Framework, seed: int, count: int) -> tuple[Scenario, ...]:
    """Return the first ``count`` scenarios of a seed.

    After any number of whole blocks (see `Deal`), each option of a dimension has been taken its share of times, give or
    take less than one: areas over the whole plan; topics, main principles, languages and the like over an area;
    difficulties and the other principles over an area's conversations with the same main principle.

    Example:
        The 4 areas of the shipped taxonomy weigh the same, so scenarios 0 to 3 have one of each, as have 4 to 7.
    """
    taxonomy = framework.taxonomy
    areas = {area.id: _AreaPlan(framework, area, f"{seed}/{area.id}") for area in taxonomy.areas}
    order = Deal(f"{seed}/area", [(area.id, area.weight) for area in taxonomy.areas])
    return tuple(areas[order.take()].scenario(number) for number in range(count))


class Deal(Generic[T]):
    """Deals out options for ever in proportion to their weights, shuffled within blocks.

    After every *n* options in unshuffled order, one of share *p* was dealt either floor(*p n*) or ceil(*p n*) times:
    its *j*-th copy (from 0) falls in the slots from floor(*j/p*) + 1 to ceil((*j*+1)/*p*), and among those whose slots
    have begun, the one whose slots end first goes first (Baruah, Cohen, Plaxton and Varvel, "Proportionate progress",
    Algorithmica 15, 1996). All of it is arithmetic of whole numbers. A block is as long as the rarest option needs for
    one copy, and is shuffled by a generator seeded with ``name`` and its number: ``random()`` of a seed is the one part
    of Python's generator that is promised to stay. The unshuffled order repeats itself once every option was dealt its
    exact share: after as many options as the sum of the weights over their greatest common divisor.

    Args:
        name: Of the seed and the dimension; no two dimensions of a plan share it.
        options: What there is, each with its weight; those of weight 0 are left out.
    """

    def __init__(self, name: str, options: Iterable[tuple[T, float]]) -> None:
        weighted = [(option, max(1, round(weight * 1_000_000))) for option, weight in options if weight]
        self._name = name
        self._options = [option for option, _ in weighted]
        self._weights = [weight for _, weight in weighted]
        self._total = sum(self._weights)
        self.block_length = min(-(-self._total // min(self._weights)), _LONGEST_BLOCK)
        self._period = self._total // math.gcd(*self._weights)
        self._order: list[int] = []  # until it repeats itself
        self._slot = self._num_blocks = 0
        self._generator = random.Random()
        self._dealt = [0] * len(weighted)
        self._waiting = [(1, place) for place in range(len(weighted))]  # a heap of (first slot, option)
        self._ready: list[tuple[int, int]] = []  # a heap of (last slot, option)
        self._block: list[T] = []

    def take(self) -> T:
        """Return the next option."""
        if not self._block:
            dealt = [self._next() for _ in range(self.block_length)]
            self._generator.seed(f"{self._name}/{self._num_blocks}")
            draw = self._generator.random
            self._block = [self._options[place] for _, place in sorted([(draw(), place) for place in dealt])]
            self._num_blocks += 1
        return self._block.pop()

    def _next(self) -> int:
        self._slot += 1
        if self._slot > self._period:
            return self._order[(self._slot - 1) % self._period]
        while self._waiting and self._waiting[0][0] <= self._slot:
            _, place = heappop(self._waiting)
            last = -(-(self._dealt[place] + 1) * self._total // self._weights[place])
            heappush(self._ready, (last, place))
        _, place = heappop(self._ready)
        self._dealt[place] += 1
        self._order.append(place)
        heappush(self._waiting, (self._dealt[place] * self._total // self._weights[place] + 1, place))
        return place


class _AreaPlan:
    """The dimensions of an area's scenarios."""

    def __init__(self, framework: Framework, area: AreaScenarios, name: str) -> None:
        taxonomy = framework.taxonomy
        principles = [principle.id for principle in framework.principles_of(area.id)]
        self._area = area.id
        self._principle = Deal(f"{name}/principle", [(principle, 1.0) for principle in principles])
        self._others = {
            main: Deal(f"{name}/others/{main}", _others([other for other in principles if other != main]))
            for main in principles
        }
        levels = [(difficulty.id, difficulty.weight) for difficulty in taxonomy.difficulties]
        self._difficulty = {main: Deal(f"{name}/difficulty/{main}", levels) for main in principles}
        self._topic = Deal(f"{name}/topic", [(topic.text, topic.weight) for topic in area.topics])
        self._persona = Deal(f"{name}/persona", [(persona.text, persona.weight) for persona in taxonomy.personas])
        self._tone = Deal(f"{name}/tone", [(tone.text, tone.weight) for tone in taxonomy.tones])
        self._turns = Deal(f"{name}/turns", [(turns.count, turns.weight) for turns in taxonomy.turns])
        self._system = Deal(f"{name}/system", _systems(taxonomy, area.id))
        self._language = Deal(f"{name}/language", [(language.code, language.weight) for language in taxonomy.languages])
        self._reasoning = Deal(f"{name}/reasoning", [(True, area.reasoning), (False, 1 - area.reasoning)])

    def scenario(self, number: int) -> Scenario:
        """Return the area's next scenario, which has this number in the plan."""
        main = self._principle.take()
        return Scenario(
            number=number,
            area=self._area,
            principles=(main, *self._others[main].take()),
            topic=self._topic.take(),
            persona=self._persona.take(),
            tone=self._tone.take(),
            difficulty=self._difficulty[main].take(),
            turns=self._turns.take(),
            system=self._system.take(),
            language=self._language.take(),
            reasoning=self._reasoning.take(),
        )


def _others(principles: Sequence[str]) -> list[tuple[tuple[str, ...], float]]:
    """Return one or two more principles, each number in half of the cases where there are two."""
    pairs = list(itertools.combinations(principles, 2))
    weight = max(1, len(pairs)) / len(principles)  # together those of one more weigh as much as the pairs
    return [((one,), weight) for one in principles] + [(pair, 1.0) for pair in pairs]


def _systems(taxonomy: Taxonomy, area: str) -> list[tuple[str | None, float]]:
    """Return the system prompts of an area, and none, with their shares."""
    fitting = [system for system in taxonomy.systems if not system.areas or area in system.areas]
    total = sum(system.weight for system in fitting)
    none: list[tuple[str | None, float]] = [(None, 1 - taxonomy.system_share)]
    return none + [(system.text, taxonomy.system_share * system.weight / total) for system in fitting]
