"""What the rest will cost is said before it is asked, and the server's own bill agrees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genesis_sft.synthesis.asking.chain import Chain
from genesis_sft.synthesis.asking.request import Answer, Request, Usage
from genesis_sft.synthesis.planning.plan import make_plan
from genesis_sft.synthesis.price.expected_answers import LEAST_ANSWERS, Measured
from genesis_sft.synthesis.price.forecast import SAMPLE, forecast
from genesis_sft.synthesis.price.forecast_numbers import Example, Forecast
from genesis_sft.synthesis.project import Project
from genesis_sft.synthesis.store.job_store import JobStore
from genesis_sft.synthesis.store.replay import replay
from genesis_sft.synthesis.writing.run import write_project
from tests.synthesis.command import KEY, anthropic_recipe, openai_recipe, tiny_constitution, write_recipe
from tests.synthesis.conftest import LoopbackServer, StartServer
from tests.synthesis.test_output import FRAMEWORK, PRICE, fill, recipe_of
from tests.synthesis.tiny_framework import tiny_scenario

CONVERSATIONS = 100
PILOT = 20
NANO = 10**9

MODES: dict[str, dict[str, Any]] = {
    "one by one": {},
    "batches": {"batches": True},
    "sampled principles": {"steps": {"principles": "sampled"}},
    "without critique": {"steps": {"critique": False}},
    "one request": {"steps": {"mode": "one_request"}},
}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setattr("genesis_sft.synthesis.writing.batch_waiting.FIRST_POLL_SECONDS", 0.01)


def foresee(recipe: Path, *overrides: str, limit: int | None = None) -> Forecast:
    project = Project.open(recipe, overrides, limit=limit)
    with project.reading() as store:
        return forecast(project.chain, project.scenarios, project.price, project.section, store)


def num_answered(server: LoopbackServer) -> int:
    return len(server.answered_keys())


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_the_forecast_is_what_the_server_bills(mode: str, tmp_path: Path, start_server: StartServer) -> None:
    server = start_server(key=KEY, faults=[{"fault": "rate_limit", "probability": 0.02, "retry_after": "0.01"}])
    recipe = anthropic_recipe(tmp_path, server, conversations=CONVERSATIONS, **MODES[mode])

    cold = foresee(recipe)
    assert server.log() == [], "a forecast asked something"
    write_project(Project.open(recipe, limit=PILOT))
    pilot, answered = server.billed(), num_answered(server)
    warm = foresee(recipe)
    write_project(Project.open(recipe))

    rest = server.billed() - pilot
    assert set(cold.assumed) == set(cold.steps)
    assert cold.low <= pilot + rest <= cold.high
    assert warm.assumed == ()
    assert warm.finished + warm.ended == PILOT
    assert warm.expected == pytest.approx(rest, rel=0.15)
    assert warm.low <= rest <= warm.high
    assert warm.requests == pytest.approx(num_answered(server) - answered, rel=0.05)
    done = foresee(recipe)
    assert (done.requests, done.expected, done.high) == (0, 0, 0)


@pytest.mark.slow
def test_conversations_that_end_early_are_foreseen_to_end_early(tmp_path: Path, start_server: StartServer) -> None:
    """A third of the answers is refused: most conversations are never finished, and what follows is never asked."""
    server = start_server(key=KEY, faults=[{"fault": "refusal", "probability": 0.33}])
    recipe = anthropic_recipe(tmp_path, server, conversations=CONVERSATIONS * 2)
    cold = foresee(recipe)
    write_project(Project.open(recipe, limit=CONVERSATIONS))
    before, answered = server.billed(), num_answered(server)
    warm = foresee(recipe)
    write_project(Project.open(recipe))
    assert warm.requests < 0.6 * cold.requests / 2
    assert warm.requests == pytest.approx(num_answered(server) - answered, rel=0.15)
    assert warm.expected == pytest.approx(server.billed() - before, rel=0.15)


def test_a_large_plan_is_sampled_and_the_sample_agrees_with_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path, conversations=240, constitution=str(tiny_constitution(tmp_path)))
    whole = foresee(recipe)
    assert (whole.sampled, whole.standard_error) == (0, 0)
    monkeypatch.setattr("genesis_sft.synthesis.price.forecast.SAMPLE", 60)
    sampled = foresee(recipe)
    assert sampled.sampled == 60
    assert 0 < sampled.standard_error < 0.1 * whole.expected
    assert abs(sampled.expected - whole.expected) < 3 * sampled.standard_error
    assert abs(sampled.requests - whole.requests) < 0.1 * whole.requests


def test_examples_say_whether_they_hold_stand_ins(tmp_path: Path) -> None:
    """One question has been answered: what follows it is known, and what follows that is not."""
    section = recipe_of().synthesis
    chain, plan = Chain(FRAMEWORK, section), make_plan(FRAMEWORK, recipe_of().seed, 12)
    with JobStore.open(tmp_path / "requests.sqlite", budget=None) as store:
        fill(store, [0], most=1)
        examples = forecast(chain, plan, PRICE, section, store).examples
        assert examples["draft"] == Example(replay(chain, plan[0], store).outcome, has_stand_ins=False)  # type: ignore[arg-type]
    for step in ("critique", "revision"):
        assert examples[step].has_stand_ins
        assert "stands in for an answer" in str(examples[step].request)


def test_the_same_forecast_every_time(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, conversations=SAMPLE + 9, constitution=str(tiny_constitution(tmp_path)))
    assert foresee(recipe) == foresee(recipe)


def test_a_free_model_costs_nothing_and_its_requests_are_counted(tmp_path: Path, start_server: StartServer) -> None:
    found = foresee(openai_recipe(tmp_path, start_server(), conversations=10))
    assert (found.low, found.expected, found.high) == (0, 0, 0)
    assert found.steps["draft"].requests == found.steps["critique"].requests == found.steps["revision"].requests >= 10
    assert found.steps["draft"].output > 0


@pytest.mark.parametrize(
    ("changed", "missing", "left"),
    [
        ("synthesis.steps.critique=false", {"critique"}, {"question", "draft", "revision"}),
        ("synthesis.steps.mode=one_request", {"question", "draft", "critique", "revision"}, {"conversation"}),
    ],
)
def test_steps_that_are_switched_off_are_not_foreseen(
    tmp_path: Path, changed: str, missing: set[str], left: set[str]
) -> None:
    recipe = write_recipe(tmp_path, conversations=20)
    steps = foresee(recipe, changed).steps
    assert not missing & steps.keys()
    assert steps.keys() == left
    assert foresee(recipe, changed).expected < foresee(recipe).expected


def test_a_conversation_of_one_turn_is_counted_by_hand(tmp_path: Path) -> None:
    """Without follow-ups each of 20 conversations is four requests."""
    found = foresee(write_recipe(tmp_path, conversations=20, steps={"follow_ups": False}))
    assert {step: sums.requests for step, sums in found.steps.items()} == {
        "question": 20,
        "draft": 20,
        "critique": 20,
        "revision": 20,
    }
    assert found.requests == 80


def test_batches_cost_half_of_what_is_sent_afresh(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, conversations=20, steps={"principles": "sampled"})
    alone, together = foresee(recipe), foresee(recipe, "synthesis.provider.batches=true")
    assert together.expected == pytest.approx(alone.expected / 2, rel=1e-3)


def test_a_constitution_too_short_for_the_cache_is_a_warning(tmp_path: Path) -> None:
    assert foresee(write_recipe(tmp_path, conversations=20)).warnings == ()
    short = foresee(write_recipe(tmp_path, conversations=20, constitution=str(tiny_constitution(tmp_path))))
    assert "caches nothing below 4,096" in short.warnings[0]
    assert short.steps["draft"].cache_read == 0


def _request(step: Any = "draft") -> Request:
    return Request(0, 0, step, "m", "", "", (("user", "x" * 400),), 100)


def test_few_answers_are_not_believed() -> None:
    measured, scenario = Measured(), tiny_scenario(number=0)
    answer = Answer("word " * 20, "end", Usage(input=200, output=30), "m")
    for _ in range(LEAST_ANSWERS - 1):
        measured.add(_request(), answer, scenario)
    assert not measured.knows("draft")
    measured.add(_request(), answer, scenario)
    assert measured.knows("draft")
    assert not measured.knows("critique")


def test_a_stand_in_is_counted_as_long_as_its_own_request() -> None:
    """400 bytes were 200 tokens, half of them cached: a request of 800 bytes is 400 tokens, 200 of them cached."""
    measured, scenario = Measured(), tiny_scenario(number=0)
    for _ in range(LEAST_ANSWERS):
        measured.add(_request(), Answer("w", "end", Usage(input=100, cache_read=100, output=30), "m"), scenario)
    longer = replace(_request(), messages=(("user", "x" * 800),))
    assert measured.stand_in(longer, scenario, batches=False).usage == Usage(200, 0, 200, 30)
