"""The constitution's files are read whole, and what is wrong with them is said with file and line."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from genesis_sft.conversations.identity import held_out_bucket
from genesis_sft.errors import RecipeError
from genesis_sft.recipe.synthesis import StepsSection
from genesis_sft.synthesis.asking.wording import Wording
from genesis_sft.synthesis.planning.framework import Framework, load_framework
from genesis_sft.synthesis.planning.templates import PlainText, fill

CONSTITUTION = Path(__file__).resolve().parents[2] / "constitution"
EVALS = Path(__file__).resolve().parents[2] / "genesis_sft" / "evals"


@pytest.fixture(scope="module")
def shipped() -> Framework:
    return load_framework(CONSTITUTION)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped folder, to change."""
    return Path(shutil.copytree(CONSTITUTION, tmp_path / "constitution"))


def replace(path: Path, old: str, new: str) -> int:
    """Replace the first occurrence of a text in a file; return its line, from 1."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return text[: text.index(old)].count("\n") + 1


def test_the_shipped_taxonomy_is_rich(shipped: Framework) -> None:
    taxonomy = shipped.taxonomy
    assert {area.id for area in taxonomy.areas} == {area.id for area in shipped.areas}
    assert all(len(area.topics) >= 40 for area in taxonomy.areas)
    assert len(taxonomy.personas) >= 25
    assert len(taxonomy.tones) >= 12
    assert len(taxonomy.systems) >= 20
    english = next(language.weight for language in taxonomy.languages if language.code == "en")
    assert 0.8 < english / sum(language.weight for language in taxonomy.languages) < 0.9
    share = {area.id: area.reasoning for area in taxonomy.areas}
    assert max(share, key=lambda area: share[area]) == "reasoning"
    assert min(share, key=lambda area: share[area]) == "personality"


def test_the_shared_part_is_long_enough_for_a_prompt_cache(shipped: Framework) -> None:
    """Claude Haiku 4.5 caches from 4,096 tokens on; English prose has fewer than 4.9 bytes to a token."""
    shared = Wording(shipped, StepsSection()).shared
    assert len(shared.encode()) > 4_096 * 4.9
    for principle in shipped.principles:
        assert principle.statement.split(".")[0] in shared  # what follows may speak of others, by their names
        assert principle.follows.assistant in shared
        assert principle.breaks.assistant in shared
    for messages in shipped.examples.values():
        assert all(message.content in shared for message in messages)


def test_for_a_short_context_the_shared_part_quotes_no_principle(shipped: Framework) -> None:
    shared = Wording(shipped, StepsSection(principles="sampled")).shared
    assert 0 < len(shared.encode()) < 3_000
    assert not any(principle.statement in shared for principle in shipped.principles)


def test_quoted_conversations_are_not_held_out(shipped: Framework) -> None:
    first = [next(each.content for each in messages if each.role == "user") for messages in shipped.examples.values()]
    assert len(first) >= 4
    assert min(map(held_out_bucket, first)) >= 1_000  # a tenth of 10,000 is held out


def test_the_taxonomy_keeps_away_from_what_models_are_measured_on() -> None:
    def runs(texts: list[str]) -> set[tuple[str, ...]]:
        words = [re.findall(r"\w+", text.lower()) for text in texts]
        return {tuple(each[i : i + 4]) for each in words for i in range(len(each) - 3)}

    measured = []
    for file in ("chat_prompts.yaml", "instruction_prompts.yaml"):
        for entry in yaml.safe_load((EVALS / file).read_text(encoding="utf-8"))["prompts"]:
            measured += [entry["prompt"]] if "prompt" in entry else [each["content"] for each in entry["messages"]]
    own = [(CONSTITUTION / file).read_text(encoding="utf-8") for file in ("taxonomy.yaml", "prompts.yaml")]
    assert runs(own) & runs(measured) == set()


@pytest.mark.parametrize("file", ["principles.yaml", "taxonomy.yaml", "prompts.yaml"])
def test_comments_and_layout_do_not_change_the_hash(folder: Path, shipped: Framework, file: str) -> None:
    path = folder / file
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text("# another layout\n" + json.dumps(values, indent=3), encoding="utf-8")
    again = load_framework(folder)
    assert (again.hash, again.prompts_hash) == (shipped.hash, shipped.prompts_hash)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("principles.yaml", "Find out what the person really needs", "Find out what somebody really needs"),
        ("taxonomy.yaml", "small talk about the day", "small talk about the week"),
        ("taxonomy.yaml", "weight: 50", "weight: 51"),
        ("prompts.yaml", "Real people write briefly", "People write briefly"),
        ("conversations/safety.jsonl", "love the garden grid!", "love the grid!"),
    ],
)
def test_every_change_of_content_changes_the_hash(
    folder: Path, shipped: Framework, file: str, old: str, new: str
) -> None:
    replace(folder / file, old, new)
    changed = load_framework(folder)
    assert changed.hash != shipped.hash
    assert (changed.prompts_hash != shipped.prompts_hash) == (file == "prompts.yaml")


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("prompts.yaml", '"- $name: $statement"', '"- $name: $statement $colour"', "$colour"),
        ("prompts.yaml", '"- $name: $statement"', '"- $name: $statement for $5"', "a dollar sign is $$"),
        ("prompts.yaml", '  focus: "- $name"', '  focus: "- it"', "expected $name"),
        ("prompts.yaml", '  no_critique: "There is none.', '  no_critique: "$answer', "no variables"),
        ("prompts.yaml", "  - safety-030", "  - safety-999", "safety-999"),
        ("prompts.yaml", "draft:", "drafts:", "did you mean draft"),
        ("taxonomy.yaml", "  - id: safety", "  - id: security", "security"),
        (
            "taxonomy.yaml",
            "      - odd facts and what they lead to",
            "      - family quarrels at celebrations",
            "twice",
        ),
        ("taxonomy.yaml", "  - {count: 2, weight: 32}", "  - {count: 1, weight: 32}", "twice"),
        ("taxonomy.yaml", "  - {count: 2, weight: 32}", "  - {count: 2, weight: 0}", "greater than 0"),
        ("taxonomy.yaml", "  - {count: 2, weight: 32}", "  - {count: 0, weight: 1}", "greater than or equal to 1"),
        ("taxonomy.yaml", "    areas: [personality]", "    areas: [personalty]", "personalty"),
        ("taxonomy.yaml", "system_share: 0.5", "system_share: 1.5", "less than or equal to 1"),
        ("principles.yaml", "  - id: be_curious", "  - id: be_helpful", "twice"),
        ("principles.yaml", "    areas: [personality]", "    areas: [personality, mood]", "mood"),
    ],
)
def test_a_fault_is_named_with_file_and_line(folder: Path, file: str, old: str, new: str, expected: str) -> None:
    line = replace(folder / file, old, new)
    with pytest.raises(RecipeError) as caught:
        load_framework(folder)
    assert expected in str(caught.value)
    places = {int(number) for number in re.findall(rf"{re.escape(str(folder / file))}:(\d+)", str(caught.value))}
    assert line in places


def edit(folder: Path, file: str, change: Any) -> None:
    path = folder / file
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(yaml.safe_dump(values), encoding="utf-8")


def test_an_area_needs_two_principles(folder: Path) -> None:
    def leave_one(values: Any) -> None:
        for principle in values["principles"][1:]:
            principle["areas"] = [area for area in principle["areas"] if area != "safety"] or ["personality"]

    edit(folder, "principles.yaml", leave_one)
    with pytest.raises(RecipeError, match=r"at least two principles with the area safety.*found 1"):
        load_framework(folder)


def test_an_area_needs_a_system_prompt_where_some_are_wanted(folder: Path) -> None:
    def leave_one(values: Any) -> None:
        values["systems"] = [{"text": "Be brief.", "areas": ["safety"]}]

    edit(folder, "taxonomy.yaml", leave_one)
    with pytest.raises(RecipeError, match="expected a system prompt for the area reasoning"):
        load_framework(folder)
    edit(folder, "taxonomy.yaml", lambda values: values.update(system_share=0))
    load_framework(folder)


def test_an_area_without_scenarios_is_not_planned_and_no_fault(folder: Path) -> None:
    def leave_out(values: Any) -> None:
        values["areas"] = [area for area in values["areas"] if area["id"] != "safety"]
        values["systems"] = [each for each in values["systems"] if isinstance(each, str) or "areas" not in each]

    edit(folder, "taxonomy.yaml", leave_out)
    assert len(load_framework(folder).taxonomy.areas) == 3


@pytest.mark.parametrize("key", ["areas", "personas", "tones", "difficulties", "turns", "languages", "angles"])
def test_there_is_at_least_one_of_everything(folder: Path, key: str) -> None:
    edit(folder, "taxonomy.yaml", lambda values: values.update({key: []}))
    with pytest.raises(RecipeError, match=key):
        load_framework(folder)


@pytest.mark.parametrize("file", ["principles.yaml", "taxonomy.yaml", "prompts.yaml"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(RecipeError, match=re.escape(str(folder / file))) as caught:
        load_framework(folder)
    assert "constitution/" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"id": "x"}', '{"id": "x", "messages": [{"role": "user", "content": 1}]}']
)
def test_a_broken_conversation_is_named_with_its_line(folder: Path, line: str) -> None:
    path = folder / "conversations" / "safety.jsonl"
    path.write_text(f"{path.read_text(encoding='utf-8')}{line}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=re.escape(f"{path}:85: expected a conversation")):
        load_framework(folder)


@given(st.text(st.sampled_from("$ {}ab\n") | st.characters(codec="utf-8"), min_size=1))
def test_a_text_that_is_accepted_can_be_filled_in(text: str) -> None:
    try:
        accepted = TypeAdapter(PlainText).validate_python(text)
    except ValidationError:
        assert "$" in text
    else:
        assert fill(accepted) == text.replace("$$", "$").strip()


def test_what_is_filled_in_stays_as_it_is() -> None:
    assert fill("<$name>", name="$name costs $$5 ${x}") == "<$name costs $$5 ${x}>"
