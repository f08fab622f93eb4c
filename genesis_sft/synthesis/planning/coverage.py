"""How a plan covers the taxonomy, in numbers that are shown before the first request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from genesis_sft.synthesis.planning.framework import Framework
from genesis_sft.synthesis.planning.scenario import Scenario

_SHOWN_IN_FULL = 8  # values of a dimension whose counts fit on one line


@dataclass(frozen=True)
class Coverage:
    """How often a plan uses what there is.

    Attributes:
        num_scenarios: Length of the plan.
        counts: By dimension and value; a value that the plan does not use counts 0.
        num_cells: Combinations of area, main principle of the area, and difficulty.
        num_cells_hit: Those that the plan has at least once.
    """

    num_scenarios: int
    counts: dict[str, dict[str, int]]
    num_cells: int
    num_cells_hit: int

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values of JSON."""
        return {
            "num_scenarios": self.num_scenarios,
            "cells": {"of": "area x main principle x difficulty", "all": self.num_cells, "hit": self.num_cells_hit},
            "dimensions": {
                name: {
                    "values": len(counts),
                    "used": _used(counts),
                    "smallest": min(counts.values()),
                    "largest": max(counts.values()),
                    "counts": counts,
                }
                for name, counts in self.counts.items()
            },
        }

    def lines(self) -> tuple[str, ...]:
        """Return it for the terminal, a line for each dimension."""
        width = max(len(name) for name in self.counts)
        lines = [f"{name:<{width}}  {_describe(counts)}" for name, counts in self.counts.items()]
        hit = f"{self.num_cells_hit:,} of {self.num_cells:,} cells ({self.num_cells_hit / self.num_cells:.0%})"
        return (*lines, f"{'together':<{width}}  {hit} of area x main principle x difficulty")


def coverage(framework: Framework, scenarios: Sequence[Scenario]) -> Coverage:
    """Count what a plan uses of its framework.

    Example:
        Of 10,000 scenarios in four areas of equal weight, ``counts["area"]["safety"]`` is 2,500.
    """
    taxonomy = framework.taxonomy
    areas = [area.id for area in taxonomy.areas]
    principles = [principle.id for principle in framework.principles]
    counts = {
        "area": _count(areas, (each.area for each in scenarios)),
        "main principle": _count(principles, (each.principles[0] for each in scenarios)),
        "any principle": _count(principles, (principle for each in scenarios for principle in each.principles)),
        "topic": _count(
            [f"{area.id}: {topic.text}" for area in taxonomy.areas for topic in area.topics],
            (f"{each.area}: {each.topic}" for each in scenarios),
        ),
        "persona": _count((persona.text for persona in taxonomy.personas), (each.persona for each in scenarios)),
        "tone": _count((tone.text for tone in taxonomy.tones), (each.tone for each in scenarios)),
        "difficulty": _count((level.id for level in taxonomy.difficulties), (each.difficulty for each in scenarios)),
        "turns": _count((str(turns.count) for turns in taxonomy.turns), (str(each.turns) for each in scenarios)),
        "system prompt": _count(
            ["none", *(system.text for system in taxonomy.systems)], (each.system or "none" for each in scenarios)
        ),
        "language": _count((language.code for language in taxonomy.languages), (each.language for each in scenarios)),
        "reasoning": _count(["with", "without"], ("with" if each.reasoning else "without" for each in scenarios)),
    }
    num_cells = sum(len(framework.principles_of(area)) for area in areas) * len(taxonomy.difficulties)
    hit = {(each.area, each.principles[0], each.difficulty) for each in scenarios}
    return Coverage(len(scenarios), counts, num_cells, len(hit))


def _count(values: Iterable[str], found: Iterable[str]) -> dict[str, int]:
    counts = dict.fromkeys(values, 0)
    for value in found:
        counts[value] += 1
    return counts


def _used(counts: dict[str, int]) -> int:
    return sum(count > 0 for count in counts.values())


def _describe(counts: dict[str, int]) -> str:
    if len(counts) <= _SHOWN_IN_FULL:
        return ", ".join(f"{value} {count:,}" for value, count in counts.items())
    smallest, largest = min(counts.values()), max(counts.values())
    return f"{_used(counts):,} of {len(counts):,} used, {smallest:,} to {largest:,} times each"
