"""A price as text, to be kept with what was sent at that price."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import date
from fractions import Fraction

from genesis_sft.synthesis.price.prices import Price


def price_to_json(price: Price) -> str:
    """Return a price as JSON; `price_from_json` reads it back exactly."""
    fields = asdict(price)
    fields["batch_share"] = str(price.batch_share)
    fields["as_of"] = None if price.as_of is None else price.as_of.isoformat()
    return json.dumps(fields)


def price_from_json(text: str) -> Price:
    """Return the price that `price_to_json` wrote.

    Raises:
        ValueError: It wrote something else.
    """
    try:
        fields = json.loads(text)
        fields["batch_share"] = Fraction(fields["batch_share"])
        fields["as_of"] = None if fields["as_of"] is None else date.fromisoformat(fields["as_of"])
        return Price(**fields)
    except (KeyError, TypeError) as error:
        raise ValueError(f"expected a price, found {text[:200]!r}") from error
