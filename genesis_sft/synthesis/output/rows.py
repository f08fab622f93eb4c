"""The rows of the conversations' and the rejects' file, which wait on disk until they are screened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import IO, Any

import orjson

from genesis_sft.conversations.conversation import Message, as_dict
from genesis_sft.synthesis.asking.chain import Chain, Finished
from genesis_sft.synthesis.asking.request import Request, Usage
from genesis_sft.synthesis.planning.framework import Framework
from genesis_sft.synthesis.planning.scenario import Scenario
from genesis_sft.synthesis.price.prices import NANO
from genesis_sft.synthesis.screening.candidate import Candidate, Verdict
from genesis_sft.synthesis.store.job_store import ReadStore
from genesis_sft.synthesis.store.records import Stored
from genesis_sft.synthesis.store.replay import replay


class Rows:
    """Rows of all scenarios that came to an end, on disk until their verdicts are there.

    Args:
        file: Where they wait.
        scenarios: The plan.
        prompts_hash: Of the templates.

    Attributes:
        ended: Reason to number of those that came to no conversation.
    """

    def __init__(self, file: IO[bytes], scenarios: Sequence[Scenario], prompts_hash: str) -> None:
        self._file, self._scenarios, self._prompts_hash = file, scenarios, prompts_hash
        self.ended: Counter[str] = Counter()

    def collect(self, chain: Chain, store: ReadStore) -> Iterator[Candidate]:
        """Write the rows, in the plan's order, and yield the finished ones."""
        asked = set(store.scenarios())
        for scenario in self._scenarios:
            found = replay(chain, scenario, store) if scenario.number in asked else None
            if found is None or isinstance(found.outcome, Request):
                continue
            row = _row(scenario, self._prompts_hash, list(found.answers.values()))
            if isinstance(found.outcome, Finished):
                row["messages"] = [as_dict(message) for message in found.outcome.messages]
                yield Candidate(scenario, found.outcome.messages)
            else:
                row |= {"reason": found.outcome.reason, "detail": found.outcome.detail}
                self.ended[found.outcome.reason] += 1
            self._file.write(orjson.dumps([scenario.number, row]) + b"\n")

    def divide(
        self, verdicts: Sequence[Verdict], kept: IO[bytes], rejected: IO[bytes]
    ) -> Iterator[tuple[dict[str, Any], Candidate]]:
        """Write each row to one file or the other, and yield the kept ones."""
        self._file.seek(0)
        left = iter(verdicts)
        for line in self._file:
            number, row = orjson.loads(line)
            verdict = None if "reason" in row else next(left)
            if verdict is not None and verdict.kept:
                kept.write(orjson.dumps(row) + b"\n")
                messages = tuple(Message(**message) for message in row["messages"])
                yield row, Candidate(self._scenarios[number], messages)
            else:
                said = {} if verdict is None else {"reason": verdict.reason, "detail": verdict.detail}
                rejected.write(orjson.dumps(row | said) + b"\n")


@dataclass
class Kept:
    """What the card counts of the kept conversations.

    Attributes:
        plan: All scenarios.
        scenarios: Those of the kept conversations.
        models: Model to number.
        usage: Tokens.
        cost: Nano-dollars.
    """

    plan: Sequence[Scenario]
    scenarios: list[Scenario] = field(default_factory=list)
    models: Counter[str] = field(default_factory=Counter)
    usage: Counter[str] = field(default_factory=lambda: Counter(asdict(Usage())))
    cost: int = 0

    def count(self, rows: Iterator[tuple[dict[str, Any], Candidate]]) -> Iterator[Candidate]:
        """Count rows as they pass by."""
        for row, candidate in rows:
            self.scenarios.append(candidate.scenario)
            self.models[row["model"]] += 1
            self.usage.update(row["usage"])
            self.cost += round(row["cost_usd"] * NANO)
            yield candidate

    def by_area(self, framework: Framework) -> dict[str, dict[str, int]]:
        """Return area to main principle to number, those with none included."""
        areas = {
            area.id: dict.fromkeys((each.id for each in framework.principles_of(area.id)), 0)
            for area in framework.areas
        }
        for scenario in self.scenarios:
            areas[scenario.area][scenario.principles[0]] += 1
        return areas


def _row(scenario: Scenario, prompts_hash: str, answers: Sequence[Stored]) -> dict[str, Any]:
    """Return what is known of a scenario; a source of a mixture reads its ``messages`` and leaves the rest alone."""
    usage = Usage(*(sum(values) for values in zip(*(_tokens(one.answer.usage) for one in answers), strict=True)))
    about = asdict(scenario)
    identity = {"id": scenario.id, "area": about.pop("area"), "principles": about.pop("principles")}
    del about["number"]
    return identity | {
        "scenario": about,
        "messages": [],
        "model": answers[-1].answer.model if answers else None,
        "prompts": prompts_hash,
        "usage": asdict(usage),
        "cost_usd": sum(one.cost for one in answers) / NANO,
    }


def _tokens(usage: Usage) -> tuple[int, int, int, int]:
    return usage.input, usage.cache_write, usage.cache_read, usage.output
