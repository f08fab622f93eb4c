"""What `plan` says of the numbers that a recipe asks for."""

from __future__ import annotations

from pathlib import Path

from genesis_sft.mixture.expected import expected_counts
from genesis_sft.recipe import (
    BaseSection,
    BatchSection,
    DataSection,
    EvalsSection,
    Recipe,
    TrainingSection,
    load_recipe,
)
from tests.mixture.world import section

RECIPES = Path(__file__).parents[2] / "recipes"


def recipe(*sources, expected_total=None, sequences=32, drop_last=False):
    return Recipe(
        name="small",
        base=BaseSection(model="base"),
        evals=EvalsSection(),
        data=DataSection(sources=sources, expected_total=expected_total),
        training=TrainingSection(batch=BatchSection(sequences=sequences), drop_last=drop_last),
    )


def test_the_published_mixture_is_missing_50_577():
    assert expected_counts(load_recipe(RECIPES / "genesis-1b-sft-v1.yaml")) == (
        "constitutional: take 10,000",
        "smoltalk: take 100,000",
        "openhermes: take 200,000",
        "tulu: take 100,000",
        "metamath: take 50,000",
        "the takes add up to 460,000: 50,577 fewer than the 510,577 expected",
        "steps an epoch, at 32 conversations a step: 14,375 against 15,955",
    )


def test_a_source_taken_whole_is_not_guessed():
    assert expected_counts(load_recipe(RECIPES / "genesis-1b-sft.yaml"))[-2:] == (
        "the takes add up to 450,000, without constitutional: 60,577 would have to come from there for the 510,577 "
        "expected",
        "steps an epoch, at 32 conversations a step: 15,956 for the conversations expected",
    )
    assert expected_counts(recipe(section("a"))) == ("a: all",)
    assert expected_counts(recipe(section("a"), expected_total=64))[1:] == (
        "64 conversations are expected; how many there are is known when they were read",
        "steps an epoch, at 32 conversations a step: 2 for the conversations expected",
    )


def test_every_way_to_ask():
    sources = (
        section("a", share=0.25), section("b", share=0.2, epochs=3), section("c", take=40, epochs=2),
        section("d", epochs=0.5),
    )  # fmt: skip
    assert expected_counts(recipe(*sources)) == (
        "a: share 25 % of the trained tokens",
        "b: share 20 % of the trained tokens, each up to 3 times",
        "c: take 40, each up to 2 times",
        "d: all, 0.5 times",
        "the takes add up to 40, without a and b and d",
    )


def test_more_as_many_and_the_last_step():
    a, b = section("a", take=50), section("b", take=30)
    assert expected_counts(recipe(a, b, expected_total=80))[2:] == (
        "the takes add up to 80, as expected",
        "steps an epoch, at 32 conversations a step: 3",
    )
    assert expected_counts(recipe(a, b, expected_total=60, drop_last=True))[2:] == (
        "the takes add up to 80: 20 more than the 60 expected",
        "steps an epoch, at 32 conversations a step: 2 against 1",
    )
