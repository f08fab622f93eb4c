"""What the store's answers make of a scenario: the conversation, its end, or the request that is missing.

An answer counts by the key of its request: after a change of prompts or model, answers to the old requests are left in
the store and not used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from genesis_sft.synthesis.asking.chain import Chain, Ended, Finished
from genesis_sft.synthesis.asking.request import Answer, Request, Step
from genesis_sft.synthesis.planning.scenario import Scenario
from genesis_sft.synthesis.store.job_store import ReadStore
from genesis_sft.synthesis.store.records import Stored

UNANSWERABLE = "not answerable"
"""Reason of a conversation's end where the provider cannot answer a request of it, e.g. too long for the model."""


@dataclass(frozen=True, slots=True)
class Replay:
    """How far a scenario has come.

    Attributes:
        outcome: The conversation, why there will be none, or the request that is to be asked next.
        answers: The answers that led there.
    """

    outcome: Request | Finished | Ended
    answers: Mapping[tuple[Step, int], Stored]


def replay(chain: Chain, scenario: Scenario, store: ReadStore) -> Replay:
    """Take a scenario as far as the stored answers carry it."""
    known, unanswerable = store.by_key(scenario.number), store.unanswerable(scenario.number)
    used: dict[tuple[Step, int], Stored] = {}

    def answer_to(request: Request) -> Answer | None:
        stored = None if request.key in unanswerable else known.get(request.key)
        if stored is None:
            return None
        used[request.step, request.turn] = stored
        return stored.answer

    outcome = chain.follow(scenario, answer_to)
    if isinstance(outcome, Request) and outcome.key in unanswerable:
        return Replay(Ended(UNANSWERABLE, unanswerable[outcome.key]), used)
    return Replay(outcome, used)


@dataclass(frozen=True, slots=True)
class Survey:
    """How far a plan has come.

    Attributes:
        finished: Number of scenarios whose conversation is there.
        ended: Reason to number of scenarios that come to no conversation.
        begun: Number of scenarios of which something is answered or under way, and something is still to be asked.
        open: Scenarios of which something is still to be asked, begun or not, in the plan's order.
        stale: Answers that are out of use, because prompts, model or switches changed.
    """

    finished: int
    ended: Mapping[str, int]
    begun: int
    open: tuple[Scenario, ...]
    stale: int


def survey(chain: Chain, scenarios: Sequence[Scenario], store: ReadStore) -> Survey:
    """Say how far the stored answers carry each scenario of a plan."""
    asked, under_way = set(store.scenarios()), store.under_way()
    finished, begun, used, ended, open_ = 0, 0, 0, Counter[str](), []
    for scenario in scenarios:
        if scenario.number not in asked:
            open_.append(scenario)
            continue
        found = replay(chain, scenario, store)
        used += len(found.answers)
        if isinstance(found.outcome, Finished):
            finished += 1
        elif isinstance(found.outcome, Ended):
            ended[found.outcome.reason] += 1
        else:
            begun += bool(found.answers) or found.outcome.key in under_way
            open_.append(scenario)
    planned = {scenario.number for scenario in scenarios}
    of_plan = sum(count for number, count in store.answers_by_scenario() if number in planned)
    return Survey(finished, dict(ended), begun, tuple(open_), of_plan - used)
