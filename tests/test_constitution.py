"""The shipped conversations keep the form that their README states, and no two are alike."""

import collections
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

CONSTITUTION = Path(__file__).resolve().parents[1] / "constitution"
AREAS = ("reasoning", "safety", "personality", "instruction_following")
STOCK_PHRASES = (
    "as an ai",
    "great question",
    "i'd be happy",
    "important to note",
    "i understand that",
    "hope this helps",
    "in conclusion",
    "delve",
)


def read(area: str) -> list[dict[str, Any]]:
    text = (CONSTITUTION / "conversations" / f"{area}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


ROWS = [row for area in AREAS for row in read(area)]
PRINCIPLES = yaml.safe_load((CONSTITUTION / "principles.yaml").read_text(encoding="utf-8"))


def answers() -> list[str]:
    return [m["content"] for row in ROWS for m in row["messages"] if m["role"] == "assistant"]


def test_there_are_enough_of_every_kind() -> None:
    assert len(ROWS) >= 320
    assert all(len(read(area)) >= 80 for area in AREAS)
    multi_turn = sum(sum(m["role"] == "user" for m in row["messages"]) > 1 for row in ROWS)
    assert multi_turn >= len(ROWS) / 4
    assert sum(row["messages"][0]["role"] == "system" for row in ROWS) >= 30
    with_reasoning = [any("reasoning" in m for m in row["messages"]) for row in read("reasoning")]
    assert sum(with_reasoning) >= 60


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_a_row_keeps_the_form(row: dict[str, Any]) -> None:
    assert set(row) == {"id", "area", "principles", "messages"}
    assert row["id"].startswith(row["area"])
    known = {principle["id"] for principle in PRINCIPLES["principles"]}
    assert row["principles"]
    assert set(row["principles"]) <= known
    roles = [message["role"] for message in row["messages"]]
    turns = roles[1:] if roles[0] == "system" else roles
    assert turns == ["user", "assistant"] * (len(turns) // 2)
    for message in row["messages"]:
        assert set(message) <= {"role", "content"} | ({"reasoning"} if message["role"] == "assistant" else set())
        for text in (message["content"], message.get("reasoning", "x")):
            assert text
            assert text == text.strip()
            assert not re.search(r"<\|im_|</?think>", text)


def test_ids_are_unique() -> None:
    assert len({row["id"] for row in ROWS}) == len(ROWS)


def test_no_two_are_alike() -> None:
    """No two share more than 15 % of the four-word sequences of the shorter one."""

    def sequences(row: dict[str, Any]) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", " ".join(m["content"] for m in row["messages"]).lower())
        return {tuple(words[i : i + 4]) for i in range(len(words) - 3)}

    known = [(row["id"], sequences(row)) for row in ROWS]
    twins = [
        (one, other)
        for (one, a), (other, b) in itertools.combinations(known, 2)
        if a and b and len(a & b) > 0.15 * min(len(a), len(b))
    ]
    assert twins == []


def test_answers_are_not_formulaic() -> None:
    openings = collections.Counter(" ".join(answer.lower().split()[:2]) for answer in answers())
    assert openings.most_common(1)[0][1] <= 0.03 * len(answers())
    stock = [(phrase, answer) for answer in answers() for phrase in STOCK_PHRASES if phrase in answer.lower()]
    assert stock == []


def test_every_principle_is_shown_and_explained() -> None:
    shown = {principle for row in ROWS for principle in row["principles"]}
    for principle in PRINCIPLES["principles"]:
        assert principle["id"] in shown
        assert {"id", "name", "statement", "follows", "breaks"} <= principle.keys()
        assert {"user", "assistant"} == set(principle["follows"]) == set(principle["breaks"])
    assert {area["id"] for area in PRINCIPLES["areas"]} == set(AREAS)


def test_chat_prompts_are_never_trained_on() -> None:
    path = CONSTITUTION.parent / "genesis_sft" / "evals" / "chat_prompts.yaml"
    prompts = yaml.safe_load(path.read_text(encoding="utf-8"))["prompts"]
    assert len({prompt["id"] for prompt in prompts}) == len(prompts) == 40
    assert [prompt.get("sample", False) for prompt in prompts] == [True] * 3 + [False] * 37
    trained = {" ".join(m["content"].lower().split()) for row in ROWS for m in row["messages"] if m["role"] == "user"}
    asked = {" ".join(p["messages"][-1]["content"].lower().split()) for p in prompts}
    assert not trained & asked
