"""How often the comparison's tests and intervals are wrong, by simulation.

    python bench/paired_statistics.py            # 2,000 draws a scenario, about two minutes

Each scenario draws pairs of evaluations, before and after, from a known law. Without a true difference a p-value of 5 %
or less is a false positive: at most 5 % of the draws may give one. With a true difference the 95 % interval has to hold
it in 93 to 97 % of the draws; where right and wrong are counted and few items flip, it holds it more often, as counts
are coarse.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from genesis_sft.report import paired
from genesis_sft.report.paired import PairedDifference

MMLU_SIZES = (
    *(100, 135, 152, 100, 265, 144, 100, 100, 100, 173, 102, 100, 235, 114, 145, 378, 126, 100, 310, 203, 100, 165),
    *(198, 193, 390, 270, 238, 151, 545, 216, 204, 237, 223, 131, 121, 108, 163, 112, 103, 234, 100, 783, 346, 895),
    *(306, 311, 324, 282, 1534, 272, 612, 110, 245, 201, 100, 166, 171),
)
"""Questions of MMLU's 57 subjects, in the order of their names."""

HUMANITIES_SIZES = (126, 165, 204, 237, 121, 108, 163, 346, 895, 311, 324, 1534, 171)

RESAMPLES = 999
"""Of each test: fewer than the comparison takes, and enough for 5 %."""

Draw = Callable[[np.random.Generator, float], PairedDifference]
"""Draws one pair of evaluations with a true difference, and compares it."""


@dataclass(frozen=True)
class Scenario:
    """A law of paired outcomes.

    Attributes:
        name: What it is.
        draw: Draws and compares.
        difference: The true difference for which the interval is tested; without it false positives are counted.
        other: The test that would be wrong here, for contrast; None where there is none.
    """

    name: str
    draw: Draw
    difference: float
    other: Draw | None = None


@dataclass(frozen=True)
class Result:
    """Of the draws without a true difference those with p <= 0.05, and of all draws with one the covered ones."""

    false_positives: float
    coverage: float
    other_false_positives: float | None


def right_or_wrong(n: int, flipping: float) -> Draw:
    """Independent items, of which a share of ``flipping`` changes."""

    def draw(random: np.random.Generator, difference: float) -> PairedDifference:
        right, wrong = (flipping + difference) / 2, (flipping - difference) / 2
        to_right, to_wrong, _ = random.multinomial(n, [right, wrong, 1 - flipping])
        before = [0.0] * to_right + [1.0] * (n - to_right)
        after = [1.0] * to_right + [0.0] * to_wrong + [1.0] * (n - to_right - to_wrong)
        return paired.compare_outcomes(before, after)

    return draw


def nats(n: int, skew: str, sizes: str, noise: float = 0.3) -> Draw:
    """Losses of ``n`` units, whose differences are skewed as the gains on rare words are."""

    def draw(random: np.random.Generator, difference: float) -> PairedDifference:
        tokens = np.ones(n, int) if sizes == "one" else np.maximum(8, random.lognormal(4.5, 0.6, n)).astype(int)
        before = random.gamma(2.0, 1.5, n)
        change = random.exponential(1.0, n) - 1 if skew == "skewed" else random.normal(0, 1, n)
        after = before + noise * change + difference
        return paired.compare_totals((before * tokens).tolist(), (after * tokens).tolist(), tokens.tolist(), RESAMPLES)

    return draw


def subjects(sizes: Sequence[int], spread: float, flipping: float = 0.3, *, clustered: bool = True) -> Draw:
    """Items of subjects; the true difference of a subject is normal around the mean of all."""

    def draw(random: np.random.Generator, difference: float) -> PairedDifference:
        counts = np.array(sizes)
        own = np.clip(difference + random.normal(0, spread, len(counts)), -flipping, flipping)
        to_right = random.binomial(counts, (flipping + own) / 2)
        to_wrong = random.binomial(counts - to_right, (flipping - own) / (2 - flipping - own))
        before, after = [], []
        for n, right, wrong in zip(counts.tolist(), to_right.tolist(), to_wrong.tolist(), strict=True):
            before += [0.0] * right + [1.0] * (n - right)
            after += [1.0] * right + [0.0] * wrong + [1.0] * (n - right - wrong)
        if not clustered:
            return paired.compare_outcomes(before, after)
        return paired.compare_in_clusters(before, after, np.repeat(np.arange(len(counts)), counts).tolist(), RESAMPLES)

    return draw


def scenarios() -> list[Scenario]:
    """Return all of them: few items and many, skewed ones, subjects."""
    quarter, few, humanities = (
        [size // 4 for size in MMLU_SIZES],
        [size // 10 for size in MMLU_SIZES],
        [size // 4 for size in HUMANITIES_SIZES],
    )
    return [
        Scenario("right or wrong, 40 items, 30 % flip", right_or_wrong(40, 0.3), 0.1),
        Scenario("right or wrong, 500 items, 20 % flip", right_or_wrong(500, 0.2), 0.05),
        Scenario("right or wrong, 500 items, 4 % flip", right_or_wrong(500, 0.04), 0.02),
        Scenario("nats per word, 40 items", nats(40, "normal", "one"), 0.1),
        Scenario("nats per word, 40 items, skewed", nats(40, "skewed", "one"), 0.1),
        Scenario("nats per word, 500 items, skewed", nats(500, "skewed", "one"), 0.1),
        Scenario("loss, 40 conversations of unequal length", nats(40, "normal", "unequal"), 0.1),
        Scenario("loss, 200 conversations, skewed", nats(200, "skewed", "unequal"), 0.1),
        Scenario(
            "MMLU, a quarter of each subject", subjects(quarter, 0.08), 0.02, subjects(quarter, 0.08, clustered=False)
        ),
        Scenario("MMLU, a tenth of each subject", subjects(few, 0.08), 0.02, subjects(few, 0.08, clustered=False)),
        Scenario("MMLU, subjects alike", subjects(few, 0.0), 0.02, subjects(few, 0.0, clustered=False)),
        Scenario(
            "humanities, 13 subjects", subjects(humanities, 0.08), 0.02, subjects(humanities, 0.08, clustered=False)
        ),
    ]


def simulate(scenario: Scenario, draws: int, seed: int = 0) -> Result:
    """Return the rates of a scenario over so many draws."""
    random = np.random.default_rng(seed)
    false_positives = [_refuses(scenario.draw(random, 0.0)) for _ in range(draws)]
    covered = [_holds(scenario.draw(random, scenario.difference), scenario.difference) for _ in range(draws)]
    other = [_refuses(scenario.other(random, 0.0)) for _ in range(draws)] if scenario.other else None
    return Result(sum(false_positives) / draws, sum(covered) / draws, sum(other) / draws if other else None)


def _refuses(found: PairedDifference) -> bool:
    return found.p_value is not None and found.p_value <= paired.ALPHA


def _holds(found: PairedDifference, difference: float) -> bool:
    return (found.low is None or found.low <= difference) and (found.high is None or found.high >= difference)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--draws", type=int, default=2000)
    draws, started = parser.parse_args().draws, time.monotonic()
    print(f"{draws:,} draws each; a rate of 5 % has a standard error of {math.sqrt(0.05 * 0.95 / draws):.1%}\n")
    print(f"{'scenario':42} {'false positives':>15} {'coverage':>9}  {'McNemar instead':>15}")
    for scenario in scenarios():
        found = simulate(scenario, draws)
        other = "" if found.other_false_positives is None else f"{found.other_false_positives:.1%}"
        print(f"{scenario.name:42} {found.false_positives:>15.1%} {found.coverage:>9.1%}  {other:>15}", flush=True)
    print(f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
