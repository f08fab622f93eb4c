"""What requests cost, in whole nano-dollars (1e-9 USD), so that sums are exact and a budget can be kept to the last."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from genesis_sft.errors import RecipeError
from genesis_sft.recipe.base import PositiveInt, Section, Text
from genesis_sft.recipe.synthesis import PriceSection, ProviderSection
from genesis_sft.recipe.yaml_model import read_yaml_model
from genesis_sft.synthesis.asking.request import Request, Usage
from genesis_sft.synthesis.providers.address import is_local, url_of
from genesis_sft.synthesis.providers.tokens import most_input_tokens

NANO = 1_000_000_000
"""Nano-dollars in a US dollar."""

TABLE = Path(__file__).with_name("prices.yaml")

_CACHE_WRITE_FACTOR = Fraction(5, 4)


@dataclass(frozen=True, slots=True)
class Price:
    """Prices of a model in nano-dollars per token; a dollar per million tokens is 1000 of them.

    Attributes:
        input, output, cache_write, cache_read: Per token.
        batch_share: Part of the price that requests in a batch cost, e.g. 1/2.
        cache_minimum: Tokens of the shortest beginning that the prompt cache takes; 0 where the provider has none that
            is asked for.
        long_prompt: Requests with a longer prompt than this many tokens cost ``long_factor`` as much, if not ``None``.
        long_factor: See ``long_prompt``.
        as_of: Date of the table, ``None`` where the price is not from there.
        source: Where the price comes from, in words for the user.
    """

    input: int
    output: int
    cache_write: int
    cache_read: int
    batch_share: Fraction = Fraction(1)
    cache_minimum: int = 0
    long_prompt: int | None = None
    long_factor: int = 1
    as_of: date | None = None
    source: str = "the recipe"

    @property
    def is_free(self) -> bool:
        """Whether nothing is ever paid."""
        return not (self.input or self.output or self.cache_write or self.cache_read)

    def cost(self, usage: Usage, *, batch: bool) -> int:
        """Return what a request cost, rounded up to whole nano-dollars.

        Example:
            >>> Price(1000, 5000, 1250, 100).cost(Usage(input=10, cache_read=4000, output=200), batch=False)
            1410000
        """
        full = (
            usage.input * self.input
            + usage.cache_write * self.cache_write
            + usage.cache_read * self.cache_read
            + usage.output * self.output
        )
        if self._is_long(usage.input + usage.cache_write + usage.cache_read):
            full *= self.long_factor
        return math.ceil(full * self.batch_share) if batch else full

    def most(self, request: Request, *, batch: bool) -> int:
        """Return what a request can cost at most, before it is sent.

        No tokenizer makes more tokens of a text than it has bytes; all of them at the dearest price of input, and an
        answer as long as it may be.
        """
        dearest = max(self.input, self.cache_write, self.cache_read)
        num_input = most_input_tokens(request)
        full = num_input * dearest + request.max_tokens * self.output
        if self._is_long(num_input):
            full *= self.long_factor
        return math.ceil(full * self.batch_share) if batch else full

    def _is_long(self, num_input: int) -> bool:
        return self.long_prompt is not None and num_input > self.long_prompt


def price_of(section: ProviderSection) -> Price:
    """Return the price of a recipe's model: its own section's, the shipped table's, or none on a local server.

    Raises:
        RecipeError: Nobody knows it, or it has more decimals than are counted.
    """
    table = read_yaml_model(TABLE, _Table)
    known = table.models.get(section.model)
    if section.price is not None:
        return _price(section.price, known, section)
    if known is not None:
        return _price(
            known, known, section, as_of=date.fromisoformat(table.as_of), source=f"{TABLE.name} of {table.as_of}"
        )
    if section.api == "openai" and is_local(url_of(section)):
        return Price(0, 0, 0, 0, source="a server on this machine or its network, where nothing is paid")
    raise RecipeError(
        f"expected a price of {section.model!r}: {TABLE.name} of {table.as_of} knows {', '.join(table.models)}",
        hint="Write it into the recipe, in US dollars per million tokens, e.g. provider: {price: {input: 1.0, output: "
        "5.0}}; with 0 for both where nothing is paid.",
    )


class _LongPrompt(Section):
    tokens: PositiveInt
    """Prompts that are longer cost more."""

    factor: Annotated[int, Field(ge=2, le=100)]
    """So many times as much, the answer too."""


class _Entry(PriceSection):
    cache_minimum: Annotated[int, Field(ge=0)] = 0
    """Shortest beginning that the prompt cache takes, in tokens."""

    long_prompt: _LongPrompt | None = None


class _Table(Section):
    as_of: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    """When the prices were looked up."""

    source: Text
    models: dict[str, _Entry]


def _price(section: PriceSection, known: _Entry | None, provider: ProviderSection, **more: Any) -> Price:
    long_prompt = None if known is None else known.long_prompt
    num_input, write, read = _nano(section.input, "input"), section.cache_write, section.cache_read
    # Anthropic is always asked to cache, and takes a quarter more for what it writes for five minutes
    usual_write = math.ceil(num_input * _CACHE_WRITE_FACTOR) if provider.api == "anthropic" else num_input
    return Price(
        input=num_input,
        output=_nano(section.output, "output"),
        cache_write=usual_write if write is None else _nano(write, "cache_write"),
        cache_read=num_input if read is None else _nano(read, "cache_read"),
        batch_share=1 - Fraction(str(section.batch_discount)),
        cache_minimum=0 if known is None else known.cache_minimum,
        long_prompt=None if long_prompt is None else long_prompt.tokens,
        long_factor=1 if long_prompt is None else long_prompt.factor,
        **more,
    )


def _nano(dollars_per_million: float, name: str) -> int:
    """Return nano-dollars per token; ``str`` of a float has the decimals that somebody wrote."""
    nano = Decimal(str(dollars_per_million)) * 1000
    if nano != nano.to_integral_value():
        raise RecipeError(
            f"expected provider.price.{name} with at most three decimals (US dollars per million tokens), "
            f"found {dollars_per_million}",
            hint="Round it up: the budget then holds all the more.",
        )
    return int(nano)
