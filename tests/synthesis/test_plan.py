"""A plan gives everything its share, and its beginning stays when it is made longer."""

import itertools
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis_sft.synthesis.planning.framework import Framework, load_framework
from genesis_sft.synthesis.planning.plan import Deal, coverage, make_plan
from genesis_sft.synthesis.planning.scenario import Scenario
from tests.synthesis.tiny_framework import tiny_framework, tiny_scenario

seeds = st.integers(0, 2**63 - 1)


@pytest.fixture(scope="module")
def shipped() -> Framework:
    return load_framework(Path(__file__).resolve().parents[2] / "constitution")


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 6), seeds)
def test_after_whole_blocks_each_option_has_its_share(weights: list[int], num_blocks: int, seed: int) -> None:
    deal = Deal(str(seed), list(enumerate(weights)))
    taken = num_blocks * deal.block_length
    counts = Counter(deal.take() for _ in range(taken))
    for option, weight in enumerate(weights):
        assert abs(counts[option] - Fraction(taken * weight, sum(weights))) < 1


@pytest.mark.parametrize(
    ("weights", "block"),
    [([1, 1, 1, 1], 4), ([84, 15, 1], 100), ([0.5, 0.25, 0.25], 4), ([1, 0], 1), ([1, 1_000_000], 1_000)],
)
def test_a_block_is_as_long_as_the_rarest_option_needs(weights: list[float], block: int) -> None:
    assert Deal("", list(enumerate(weights))).block_length == block


def test_a_block_is_shuffled_by_seed_and_number() -> None:
    def blocks(name: str) -> list[tuple[int, ...]]:
        deal = Deal(name, [(option, 1.0) for option in range(12)])
        return [tuple(deal.take() for _ in range(12)) for _ in range(5)]

    assert all(sorted(block) == list(range(12)) for block in blocks("a"))
    assert len({*blocks("a"), *blocks("b")}) == 10
    assert blocks("a") == blocks("a")


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(0, 150), st.integers(0, 150))
def test_a_longer_plan_begins_with_the_shorter_one(seed: int, one: int, other: int) -> None:
    framework = tiny_framework()
    short, long = sorted((one, other))
    assert make_plan(framework, seed, long)[:short] == make_plan(framework, seed, short)


def test_another_seed_is_another_plan(shipped: Framework) -> None:
    plans = [make_plan(shipped, seed, 40) for seed in range(5)]
    assert all(one != other for one, other in itertools.combinations(plans, 2))


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_scenarios_are_of_their_area(seed: int) -> None:
    framework = tiny_framework()
    for number, scenario in enumerate(make_plan(framework, seed, 60)):
        assert scenario.number == number
        known = {principle.id for principle in framework.principles_of(scenario.area)}
        assert set(scenario.principles) <= known
        assert len(set(scenario.principles)) == len(scenario.principles)
        assert 2 <= len(scenario.principles) <= 3
        assert scenario.system != "Be a ruler." or scenario.area == "exact"
        assert not (scenario.area == "calm" and scenario.reasoning)  # its share of reasoning is 0


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_shares_hold_within_each_area(seed: int) -> None:
    """Of 1,200 scenarios 400 are of the area calm and 800 of exact, a whole number of every dimension's blocks."""
    plan = make_plan(tiny_framework(), seed, 1_200)

    def counts(area: str, field: Callable[[Scenario], object]) -> Counter[object]:
        return Counter(field(scenario) for scenario in plan if scenario.area == area)

    assert counts("calm", lambda each: each.topic) == {"rain": 100, "rivers": 300}
    assert counts("calm", lambda each: each.turns) == {1: 300, 2: 100}
    assert counts("calm", lambda each: each.language) == {"en": 320, "de": 80}
    assert counts("calm", lambda each: each.system) == {None: 300, "Be a clock.": 100}
    assert counts("exact", lambda each: each.system) == {None: 600, "Be a clock.": 100, "Be a ruler.": 100}
    assert counts("exact", lambda each: each.reasoning) == {True: 400, False: 400}
    assert counts("exact", lambda each: each.principles) == {("brief", "right"): 400, ("right", "brief"): 400}
    assert max(counts("calm", lambda each: each.principles[0]).values()) == 134  # of 3 principles: 133, 133, 134
    difficult = counts("calm", lambda each: (each.principles[0], each.difficulty)).values()
    assert {66, 67} >= set(difficult)
    assert sum(difficult) == 400


@pytest.mark.parametrize("seed", range(5))
def test_few_scenarios_cover_every_principle_and_topic(shipped: Framework, seed: int) -> None:
    """With areas of equal weight: n scenarios of each, where n is what the area with the most options needs."""
    areas = shipped.taxonomy.areas
    most_principles = max(len(shipped.principles_of(area.id)) for area in areas)
    most_topics = max(len(area.topics) for area in areas)

    def used(count: int) -> tuple[set[tuple[str, str]], set[tuple[str, str]], int]:
        plan = make_plan(shipped, seed, count)
        shown = {(each.area, each.principles[0]) for each in plan}
        return shown, {(each.area, each.topic) for each in plan}, coverage(shipped, plan).num_cells_hit

    everywhere = {(area.id, principle.id) for area in areas for principle in shipped.principles_of(area.id)}
    assert used(len(areas) * most_principles)[0] == everywhere
    assert used(len(areas) * most_topics)[1] == {(area.id, topic.text) for area in areas for topic in area.topics}
    difficulties = shipped.taxonomy.difficulties
    block = Deal("", [(level.id, level.weight) for level in difficulties]).block_length
    assert used(len(areas) * most_principles * block)[2] == len(everywhere) * len(difficulties)


def test_dimensions_have_nothing_to_do_with_each_other(shipped: Framework) -> None:
    """Topics and principles both come in turn; were they in step, a topic would always meet the same principle."""
    plan = make_plan(shipped, 0, 40_000)
    for area in shipped.taxonomy.areas:
        met = Counter((each.topic, each.principles[0]) for each in plan if each.area == area.id)
        cells = len(area.topics) * len(shipped.principles_of(area.id))
        assert len(met) > 0.99 * cells
        assert max(met.values()) < 3 * 10_000 / cells


def test_coverage_counts_what_is_used_and_what_is_not() -> None:
    framework = tiny_framework()
    plan = (
        tiny_scenario(),
        tiny_scenario(number=7, principles=("brief", "right"), language="de", turns=2, reasoning=True),
        tiny_scenario(number=8, area="calm", topic="rain", principles=("kind", "brief", "right"), system="Be a clock."),
    )
    found = coverage(framework, plan)
    assert found.counts == {
        "area": {"calm": 1, "exact": 2},
        "main principle": {"brief": 1, "kind": 1, "right": 1},
        "any principle": {"brief": 3, "kind": 1, "right": 3},
        "topic": {"calm: rain": 1, "calm: rivers": 0, "exact: sums": 0, "exact: dates": 0, "exact: maps": 2},
        "persona": {"a clerk": 0, "a sailor": 3},
        "tone": {"curt": 3},
        "difficulty": {"easy": 0, "hard": 3},
        "turns": {"1": 2, "2": 1},
        "system prompt": {"none": 2, "Be a clock.": 1, "Be a ruler.": 0},
        "language": {"en": 2, "de": 1},
        "reasoning": {"with": 1, "without": 2},
    }
    assert (found.num_cells, found.num_cells_hit) == ((3 + 2) * 2, 3)
    topics = found.to_json()["dimensions"]["topic"]
    assert (topics["values"], topics["used"], topics["smallest"], topics["largest"]) == (5, 2, 0, 2)


def test_coverage_is_a_line_for_each_dimension(shipped: Framework) -> None:
    found = coverage(shipped, make_plan(shipped, 0, 2_000))
    lines = found.lines()
    assert [line.split("  ")[0] for line in lines] == [*found.counts, "together"]
    by_name = {line.split("  ")[0]: line for line in lines}
    assert "safety 500" in by_name["area"]
    num_topics = sum(len(area.topics) for area in shipped.taxonomy.areas)
    smallest, largest = min(found.counts["topic"].values()), max(found.counts["topic"].values())
    assert f"{num_topics} of {num_topics} used, {smallest} to {largest} times" in by_name["topic"]


def test_an_empty_plan_covers_nothing() -> None:
    found = coverage(tiny_framework(), ())
    assert found.num_cells_hit == 0
    assert any("0 of 10 cells (0%)" in line for line in found.lines())
