"""The numbers of a forecast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genesis_sft.synthesis.asking.request import Request, Step, Usage


@dataclass(slots=True)
class StepForecast:
    """What one step of all conversations will ask, on average over what it may be.

    Attributes:
        requests: Number of requests.
        input: Tokens sent that no cache holds.
        cache_write: Tokens sent that the provider writes to its cache.
        cache_read: Tokens sent that its cache holds.
        output: Tokens of the answers.
        cost: Nano-dollars (1e-9 USD).
    """

    requests: float = 0.0
    input: float = 0.0
    cache_write: float = 0.0
    cache_read: float = 0.0
    output: float = 0.0
    cost: float = 0.0

    def add(self, usage: Usage, cost: float, weight: float) -> None:
        """Count a request that stands for ``weight`` of them."""
        self.requests += weight
        self.input += weight * usage.input
        self.cache_write += weight * usage.cache_write
        self.cache_read += weight * usage.cache_read
        self.output += weight * usage.output
        self.cost += weight * cost


@dataclass(frozen=True, slots=True)
class Example:
    """A request as it will be asked, or nearly.

    Attributes:
        request: The request.
        has_stand_ins: Whether something that it quotes of the model stands in for an answer that has not come yet.
    """

    request: Request
    has_stand_ins: bool


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is still to be asked, and what it will cost.

    Attributes:
        conversations: Planned conversations.
        finished: Of them, those whose answers are all in the store.
        ended: Those that cannot go on (refused, cut off, ...): nothing more is spent on them.
        under_way: Those that have some answers.
        steps: What each step will ask.
        low: Nano-dollars that it will cost at least: two standard errors below, or by the low assumptions.
        expected: Nano-dollars that it is expected to cost.
        high: As ``low``, above.
        standard_error: Nano-dollars; of the sampling of conversations and the mean lengths of answers.
        sampled: Conversations that were walked in the place of all; 0 if all were.
        assumed: Steps whose answers' lengths are assumptions, for want of answers.
        examples: One request of each step.
        most_at_once: Nano-dollars that one request reserves at most while it is under way.
        warnings: What the user should know before it is paid.
    """

    conversations: int
    finished: int
    ended: int
    under_way: int
    steps: Mapping[Step, StepForecast]
    low: int
    expected: int
    high: int
    standard_error: int
    sampled: int
    assumed: tuple[Step, ...]
    examples: Mapping[Step, Example]
    most_at_once: int
    warnings: tuple[str, ...]

    @property
    def requests(self) -> int:
        """Requests that are still to be answered."""
        return round(sum(step.requests for step in self.steps.values()))

    def to_json(self) -> dict[str, Any]:
        """Return plain values; money in US dollars."""
        steps = {
            name: {
                "requests": round(step.requests),
                "input_tokens": round(step.input),
                "cache_write_tokens": round(step.cache_write),
                "cache_read_tokens": round(step.cache_read),
                "output_tokens": round(step.output),
                "cost_usd": round(step.cost / 1e9, 6),
            }
            for name, step in self.steps.items()
        }
        return {
            "conversations": self.conversations,
            "finished": self.finished,
            "ended": self.ended,
            "under_way": self.under_way,
            "requests": self.requests,
            "steps": steps,
            "cost_usd": {
                "low": self.low / 1e9,
                "expected": self.expected / 1e9,
                "high": self.high / 1e9,
                "standard_error": self.standard_error / 1e9,
            },
            "sampled_conversations": self.sampled,
            "assumed_lengths": list(self.assumed),
            "warnings": list(self.warnings),
        }
