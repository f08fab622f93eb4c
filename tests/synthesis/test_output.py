"""What is written from a store: rows, rejects and card, the same bytes for the same answers."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from genesis_sft.conversations.reading.block import parse_block
from genesis_sft.conversations.reading.source import open_source
from genesis_sft.recipe import SourceSection, SynthesisRecipe
from genesis_sft.synthesis.asking.chain import Chain
from genesis_sft.synthesis.asking.request import Answer, Fault, Request, Usage
from genesis_sft.synthesis.output.files import OutputSummary, write_output, write_steps
from genesis_sft.synthesis.planning.plan import make_plan
from genesis_sft.synthesis.price.prices import Price
from genesis_sft.synthesis.store.job_store import JobStore
from genesis_sft.synthesis.store.replay import replay
from tests.synthesis.tiny_framework import tiny_framework, tiny_section

FRAMEWORK = tiny_framework()
PRICE = Price(1000, 5000, 1250, 100)
USAGE = Usage(input=10, cache_read=100, output=7)
COST = 10 * 1000 + 100 * 100 + 7 * 5000
NAMES = ("conversations.jsonl", "rejected.jsonl", "card.json", "card.md")


def recipe_of(conversations: int = 12) -> SynthesisRecipe:
    return SynthesisRecipe(seed=3, synthesis=tiny_section(conversations=conversations))


def usual(request: Request) -> Answer:
    """Answer with words that no other request gets."""
    words = random.Random(f"{request.scenario} {request.turn} {request.step}").sample(range(100_000), 12)
    text = " ".join(f"w{word}" for word in words)
    wants_thought = "Think." in request.system + request.messages[-1][1]
    thought = f"<think>thought {request.scenario}</think>" if wants_thought else ""
    return Answer(thought + text, "end", USAGE, "writer-1")


def fill(
    store: JobStore, numbers: Sequence[int], reply: Callable[[Request], Answer] = usual, *, most: int = 100
) -> None:
    """Answer requests of scenarios in the order of the numbers, at most so many each."""
    recipe = recipe_of()
    chain, plan = Chain(FRAMEWORK, recipe.synthesis), make_plan(FRAMEWORK, recipe.seed, 12)

    async def work() -> None:
        for number in numbers:
            for _ in range(most):
                request = replay(chain, plan[number], store).outcome
                if not isinstance(request, Request):
                    break
                attempt = await store.reserve(request, 10**6)
                await store.answered(attempt, reply(request), COST)

    asyncio.run(work())


def write(folder: Path, store: JobStore, conversations: int = 12) -> OutputSummary:
    recipe = recipe_of(conversations)
    return write_output(folder, Chain(FRAMEWORK, recipe.synthesis), store, recipe, FRAMEWORK, PRICE)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def refusing(request: Request) -> Answer:
    """Refuse scenario 2, and let scenario 4 tell what it is."""
    if request.scenario == 2 and request.step == "draft":
        return Answer("", "refusal", USAGE, "writer-1")
    if request.scenario == 4 and request.step == "revision":
        return Answer("As an AI language model, I would not know.", "end", USAGE, "writer-1")
    return usual(request)


def test_rows_have_all_that_is_known_in_the_order_of_the_plan(tmp_path: Path) -> None:
    with JobStore.open(tmp_path / "requests.sqlite", budget=None) as store:
        fill(store, [5, 4, 3, 2, 1, 0], refusing)
        fill(store, [6], most=2)  # not to its end
        summary = write(tmp_path, store)
    plan = make_plan(FRAMEWORK, 3, 12)
    kept, rejected = rows(tmp_path / "conversations.jsonl"), rows(tmp_path / "rejected.jsonl")
    assert [row["id"] for row in kept] == [plan[number].id for number in (0, 1, 3, 5)]
    assert [(row["id"], row["reason"]) for row in rejected] == [
        (plan[2].id, "refused by the provider"),
        (plan[4].id, "leaked instructions"),
    ]
    assert all(row["detail"] for row in rejected)
    row = kept[0]
    assert (row["area"], tuple(row["principles"])) == (plan[0].area, plan[0].principles)
    assert row["scenario"]["topic"] == plan[0].topic
    assert row["scenario"]["language"] == plan[0].language
    assert row["prompts"] == FRAMEWORK.prompts_hash
    assert row["model"] == "writer-1"
    num_requests = 4 * plan[0].turns  # question, draft, critique, revision
    assert row["usage"] == {"input": 10 * num_requests, "cache_write": 0, "cache_read": 100 * num_requests,
                            "output": 7 * num_requests}  # fmt: skip
    assert row["cost_usd"] == pytest.approx(num_requests * COST / 1e9)
    counts = summary.counts
    assert (counts.planned, counts.finished, counts.kept, counts.unfinished) == (12, 5, 4, 6)
    assert counts.rejected == {"leaked instructions": 1}
    assert counts.ended == {"refused by the provider": 1}


def test_answers_with_reasoning_keep_it(tmp_path: Path) -> None:
    with JobStore.open(tmp_path / "requests.sqlite", budget=None) as store:
        fill(store, range(12))
        write(tmp_path, store)
    plan = make_plan(FRAMEWORK, 3, 12)
    thoughtful = {scenario.id: scenario.number for scenario in plan if scenario.reasoning}
    assert 0 < len(thoughtful) < 12
    for row in rows(tmp_path / "conversations.jsonl"):
        answers = [message for message in row["messages"] if message["role"] == "assistant"]
        expected = f"thought {thoughtful[row['id']]}" if row["id"] in thoughtful else None
        assert {answer.get("reasoning") for answer in answers} == {expected}


def test_the_file_is_a_source_of_a_mixture(tmp_path: Path) -> None:
    with JobStore.open(tmp_path / "requests.sqlite", budget=None) as store:
        fill(store, range(12))
        summary = write(tmp_path, store)
    from genesis_sft.conversations.formats import FORMATS, detect_format

    opened = open_source(SourceSection(name="written", path=str(summary.conversations), format="auto"))
    read = [row for block in opened.blocks() for _, row in parse_block(block)]
    assert len(read) == summary.counts.kept == 12
    for row, written in zip(read, rows(summary.conversations), strict=True):
        assert isinstance(row, dict)
        assert detect_format(row) == "messages"
        messages = FORMATS["messages"](row)
        assert [message.content for message in messages] == [message["content"] for message in written["messages"]]


def test_neither_order_nor_losses_change_the_files(tmp_path: Path) -> None:
    with JobStore.open(tmp_path / "one.sqlite", budget=None) as store:
        fill(store, range(12), refusing)
        write(tmp_path / "one", store)
    with JobStore.open(tmp_path / "two.sqlite", budget=None) as store:
        fill(store, [11, 3], refusing, most=1)
        write(tmp_path / "two", store)  # half done, and written over below
        fill(store, [7, 11, 2], refusing, most=3)
    with JobStore.open(tmp_path / "two.sqlite", budget=None) as store:
        fill(store, range(11, -1, -1), refusing)
        write(tmp_path / "two", store)
    for name in NAMES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_the_card_says_what_may_have_been_paid_for_nothing(tmp_path: Path) -> None:
    with JobStore.open(tmp_path / "requests.sqlite", budget=None) as store:
        plan = make_plan(FRAMEWORK, 3, 12)
        request = replay(Chain(FRAMEWORK, recipe_of().synthesis), plan[0], store).outcome
        assert isinstance(request, Request)

        async def lose() -> None:
            await store.failed(await store.reserve(request, 777), Fault("timeout", "no answer", maybe_paid=True))

        asyncio.run(lose())
        fill(store, [0])
        card = write(tmp_path, store).card
    num_requests = 4 * plan[0].turns
    assert card["cost"] == {
        "kept_usd": pytest.approx(num_requests * COST / 1e9),
        "spent_usd": pytest.approx(num_requests * COST / 1e9),
        "maybe_spent_usd": 777 / 1e9,
    }


def test_nothing_finished_makes_empty_files_that_can_be_written_again(tmp_path: Path) -> None:
    with JobStore.open(tmp_path / "requests.sqlite", budget=None) as store:
        assert write(tmp_path, store).counts.kept == 0
        assert (tmp_path / "conversations.jsonl").read_bytes() == b""
        fill(store, [0])
        assert write(tmp_path, store).counts.kept == 1


def test_the_whole_plan_is_shown_whatever_part_was_worked_on(tmp_path: Path) -> None:
    with JobStore.open(tmp_path / "requests.sqlite", budget=None) as store:
        fill(store, range(12))
        write(tmp_path, store)
        fill(store, range(2))  # as a run with a limit does: nothing is left to ask
        assert write(tmp_path, store).counts.kept == 12
        assert write(tmp_path, store, conversations=5).counts.kept == 5  # the recipe itself plans fewer
        assert write(tmp_path, store).counts.kept == 12


def test_steps_are_written_with_their_texts(tmp_path: Path) -> None:
    with JobStore.open(tmp_path / "requests.sqlite", budget=None) as store:
        fill(store, [1, 0])
        recipe = recipe_of()
        chain = Chain(FRAMEWORK, recipe.synthesis)
        count = write_steps(tmp_path, tmp_path / "steps.jsonl", chain, store, recipe, FRAMEWORK)
    found, plan = rows(tmp_path / "steps.jsonl"), make_plan(FRAMEWORK, 3, 12)
    steps = ("question", "draft", "critique", "revision")
    expected = [(plan[n].id, turn, step) for n in (0, 1) for turn in range(plan[n].turns) for step in steps]
    assert [(row["id"], row["turn"], row["step"]) for row in found] == expected
    assert count == len(expected)
    assert len({row["text"] for row in found}) == len(found)
