"""Prices: exact, dated, and a bound before sending that no answer exceeds."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis_sft.errors import RecipeError
from genesis_sft.recipe.synthesis import PriceSection, ProviderSection
from genesis_sft.synthesis.asking.request import Request, Usage
from genesis_sft.synthesis.price import prices
from genesis_sft.synthesis.price.prices import Price, price_of

TEXTS = st.text(max_size=60)


def request(shared: str = "", system: str = "", text: str = "Hi", max_tokens: int = 100) -> Request:
    return Request(0, 0, "question", "a-model", shared, system, (("user", text),), max_tokens)


def test_haiku_costs_what_its_price_list_says() -> None:
    # 1 + 5 + 1.25 + 0.10 dollars for a million tokens of each kind
    million = Usage(input=10**6, output=10**6, cache_write=10**6, cache_read=10**6)
    price = price_of(ProviderSection(model="claude-haiku-4-5"))
    assert price.cost(million, batch=False) == 7_350_000_000
    assert price.cost(million, batch=True) == 3_675_000_000
    assert (price.cache_minimum, str(price.as_of)) == (4096, "2026-11-23")


def test_a_half_nano_dollar_is_rounded_up() -> None:
    # 3 tokens at 125 nano-dollars, half of it: 187.5
    price = Price(100, 500, 125, 10, batch_share=Fraction(1, 2))
    assert price.cost(Usage(cache_write=3), batch=True) == 188


def test_a_long_prompt_costs_more_and_is_reserved_as_such() -> None:
    price = price_of(ProviderSection(model="claude-haiku-5-5"))
    short, long = Usage(input=100_000, output=10), Usage(input=99_000, cache_read=1_001, output=10)
    assert price.cost(short, batch=False) == 100_000 * 100 + 10 * 500
    assert price.cost(long, batch=False) == 5 * (99_000 * 100 + 1_001 * 10 + 10 * 500)
    assert price.most(request("x" * 100_000), batch=False) >= 5 * (100_000 * 125 + 100 * 500)


@given(TEXTS, TEXTS, TEXTS, st.integers(1, 5000), st.data())
def test_no_answer_costs_more_than_was_reserved(
    shared: str, system: str, text: str, max_tokens: int, data: st.DataObject
) -> None:
    price = price_of(ProviderSection(model="claude-haiku-4-5"))
    asked = request(shared, system, text, max_tokens)
    shares = sorted(data.draw(st.lists(st.integers(0, asked.num_bytes), min_size=2, max_size=2)))
    usage = Usage(
        input=shares[0],
        cache_write=shares[1] - shares[0],
        cache_read=asked.num_bytes - shares[1],
        output=data.draw(st.integers(0, max_tokens)),
    )
    for batch in (False, True):
        assert price.cost(usage, batch=batch) <= price.most(asked, batch=batch)


def test_the_recipe_overrides_the_table() -> None:
    section = ProviderSection(price=PriceSection(input=2, output=8, cache_read=0.5, batch_discount=0.25))
    price = price_of(section)
    assert (price.input, price.output, price.cache_write, price.cache_read) == (
        2000,
        8000,
        2500,
        500,
    )  # writing to the cache: 5/4
    assert price.batch_share == Fraction(3, 4)
    assert (price.as_of, price.source) == (None, "the recipe")
    assert price.cache_minimum == 4096  # of the model, which the recipe cannot know better


@pytest.mark.parametrize(("input", "expected"), [(3.0, 3750), (0.001, 2)])
def test_filling_the_cache_of_anthropic_is_reserved_where_the_recipe_does_not_price_it(
    input: float, expected: int
) -> None:
    given = PriceSection(input=input, output=15)
    price = price_of(ProviderSection(model="claude-next", price=given))
    assert (price.cache_write, price.cache_read) == (expected, price.input)
    everywhere_else = price_of(ProviderSection(api="openai", model="next", price=given))
    assert everywhere_else.cache_write == everywhere_else.input
    own = price_of(ProviderSection(price=PriceSection(input=3, output=15, cache_write=3)))
    assert own.cache_write == 3000


def test_a_price_of_the_recipe_leaves_the_models_long_prompts_dearer() -> None:
    price = price_of(ProviderSection(model="claude-haiku-5-5", price=PriceSection(input=1, output=5)))
    assert (price.long_prompt, price.long_factor) == (100_000, 5)


def test_fractions_of_a_nano_dollar_are_refused() -> None:
    assert price_of(ProviderSection(price=PriceSection(input=0.075, output=0.001))).output == 1
    with pytest.raises(RecipeError, match=r"provider\.price\.input with at most three decimals.*0\.0375"):
        price_of(ProviderSection(price=PriceSection(input=0.0375, output=1)))


def test_an_unknown_model_needs_a_price_and_is_told_how() -> None:
    with pytest.raises(RecipeError, match=r"'claude-none'.*claude-haiku-4-5") as raised:
        price_of(ProviderSection(model="claude-none"))
    assert "provider: {price: {input: 1.0, output: 5.0}}" in str(raised.value.hint)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:11434/v1",
        "http://localhost:8000/v1",
        "http://192.168.1.4:8000/v1",
        "http://gpu-box/v1",
        "http://[::1]:8000/v1",
        "http://box.local/v1",
        "http://0.0.0.0:8000/v1",
    ],
)
def test_a_local_server_is_free_and_says_so(url: str) -> None:
    price = price_of(ProviderSection(api="openai", model="llama", base_url=url))
    assert price.is_free
    assert "nothing is paid" in price.source


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com/v1",
        "http://8.8.8.8/v1",
        "http://134744072/v1",  # 8.8.8.8 too, as are the next ones, for whoever resolves them
        "http://0x08080808/v1",
        "http://010.8.8.8/v1",
        "http://8.526344/v1",
        "http://[::ffff:8.8.8.8]/v1",
        "http://１３４７４４０７２/v1",
        None,
    ],
)
def test_a_server_elsewhere_is_not_free(url: str | None) -> None:
    with pytest.raises(RecipeError, match="expected a price"):
        price_of(ProviderSection(api="openai", model="llama", base_url=url))


def test_a_known_model_is_not_free_behind_a_local_proxy() -> None:
    section = ProviderSection(api="openai", model="gpt-4o-mini", base_url="http://127.0.0.1:4000/v1")
    assert price_of(section).output == 600


def test_every_model_of_the_table_has_a_price(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = prices.read_yaml_model(prices.TABLE, prices._Table)
    for name in table.models:
        price = price_of(ProviderSection(model=name))
        assert 0 < price.cache_read < price.input <= price.cache_write < price.output
    broken = tmp_path / "prices.yaml"
    broken.write_text(prices.TABLE.read_text().replace("input: 1.0", "inputs: 1.0"))
    monkeypatch.setattr(prices, "TABLE", broken)
    with pytest.raises(RecipeError, match=r"claude-haiku-4-5\.inputs"):
        price_of(ProviderSection())
