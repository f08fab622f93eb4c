"""The files of a constitution's folder: principles, the taxonomy of scenarios, prompts. Users edit these, not code.

::

    principles.yaml ─┐
    taxonomy.yaml ───┼──> Framework ──> plan, chain
    prompts.yaml ────┘  (+ the conversations that the prompts quote)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import BaseModel, Field

from genesis_sft.conversations.conversation import Message, check_messages, make_message
from genesis_sft.errors import DataError, RecipeError
from genesis_sft.recipe.base import PositiveInt, Section, Text
from genesis_sft.recipe.yaml_model import Location, check, read_yaml, show_value
from genesis_sft.synthesis.planning.taxonomy import Identifier, Taxonomy
from genesis_sft.synthesis.planning.templates import Prompts

ModelT = TypeVar("ModelT", bound=BaseModel)

_HINT = "constitution/ in the project's repository holds the three files; copy the folder and change it."


class Exchange(Section):
    """A user's message and an answer."""

    user: Text
    assistant: Text


class Area(Section):
    """A part of the assistant's behaviour."""

    id: Identifier
    name: Text
    statement: Text


class Principle(Section):
    """What the assistant should do, with an answer that follows it and one that breaks it."""

    id: Identifier
    name: Text
    statement: Text
    follows: Exchange
    breaks: Exchange
    areas: Annotated[tuple[Identifier, ...], Field(min_length=1)]
    """Where it is mainly shown."""


class PrinciplesFile(Section):
    """``principles.yaml``."""

    version: PositiveInt
    areas: Annotated[tuple[Area, ...], Field(min_length=1)]
    principles: Annotated[tuple[Principle, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Framework:
    """A constitution's folder, read and checked.

    Attributes:
        principles_file, taxonomy, prompts: The three files.
        examples: Messages of the conversations that the prompts quote, by their id.
    """

    principles_file: PrinciplesFile
    taxonomy: Taxonomy
    prompts: Prompts
    examples: dict[str, tuple[Message, ...]]

    @property
    def principles(self) -> tuple[Principle, ...]:
        """All principles, in the order of their file."""
        return self.principles_file.principles

    @property
    def areas(self) -> tuple[Area, ...]:
        """All areas, in the order of their file."""
        return self.principles_file.areas

    def principles_of(self, area: str) -> tuple[Principle, ...]:
        """Return the principles that are mainly shown in an area."""
        return tuple(principle for principle in self.principles if area in principle.areas)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of what the files say, with the conversations they quote; white space and comments do not count."""
        files = (self.principles_file, self.taxonomy, self.prompts)
        quoted = {key: [(m.role, m.content, m.reasoning) for m in messages] for key, messages in self.examples.items()}
        return _sha256([file.model_dump(mode="json") for file in files] + [quoted])

    @cached_property
    def prompts_hash(self) -> str:
        """SHA-256 of what ``prompts.yaml`` says."""
        return _sha256(self.prompts.model_dump(mode="json"))


def load_framework(folder: Path) -> Framework:
    """Read ``principles.yaml``, ``taxonomy.yaml`` and ``prompts.yaml`` of a folder, and check them together.

    Raises:
        RecipeError: A file is missing or no YAML, has an unknown key or a wrong value, names an area, principle or
            conversation that does not exist, or a prompt has a variable that it cannot have; names file and line.
    """
    principles, places = _read(folder / "principles.yaml", PrinciplesFile)
    _check_principles(principles, places)
    taxonomy, places = _read(folder / "taxonomy.yaml", Taxonomy)
    _check_taxonomy(taxonomy, principles, places)
    prompts, places = _read(folder / "prompts.yaml", Prompts)
    return Framework(principles, taxonomy, prompts, _read_examples(folder / "conversations", prompts, places))


def _read(path: Path, model: type[ModelT]) -> tuple[ModelT, dict[Location, str]]:
    values, places = read_yaml(path, what="a constitution's file", hint=_HINT)
    return check(values, places, model, path), places


def _check_principles(file: PrinciplesFile, places: dict[Location, str]) -> None:
    _unique(places, ("areas",), "id", (area.id for area in file.areas))
    _unique(places, ("principles",), "id", (principle.id for principle in file.principles))
    known = [area.id for area in file.areas]
    for number, principle in enumerate(file.principles):
        _known(places, ("principles", number, "areas"), principle.areas, known)


def _check_taxonomy(file: Taxonomy, principles: PrinciplesFile, places: dict[Location, str]) -> None:
    known = [area.id for area in principles.areas]
    planned = [area.id for area in file.areas]
    _known(places, ("areas",), planned, known, "id")
    _unique(places, ("areas",), "id", planned)
    for number, area in enumerate(file.areas):
        _unique(places, ("areas", number, "topics"), "text", (topic.text for topic in area.topics))
        shown = sum(area.id in principle.areas for principle in principles.principles)
        if shown < 2:
            raise RecipeError(
                f"{places['areas', number]}: expected at least two principles with the area {area.id}, as a scenario "
                f"shows two or three; found {shown}"
            )
        if file.system_share and not any(not system.areas or area.id in system.areas for system in file.systems):
            raise RecipeError(
                f"{places['system_share',]}: expected a system prompt for the area {area.id}, found none",
                hint="Add one under systems, or set system_share: 0.",
            )
    for number, system in enumerate(file.systems):
        _known(places, ("systems", number, "areas"), system.areas, planned)
    _unique(places, ("personas",), "text", (persona.text for persona in file.personas))
    _unique(places, ("tones",), "text", (tone.text for tone in file.tones))
    _unique(places, ("difficulties",), "id", (difficulty.id for difficulty in file.difficulties))
    _unique(places, ("turns",), "count", (str(turns.count) for turns in file.turns))
    _unique(places, ("systems",), "text", (system.text for system in file.systems))
    _unique(places, ("languages",), "code", (language.code for language in file.languages))


def _unique(places: dict[Location, str], location: Location, key: str, values: Iterable[str]) -> None:
    seen = set()
    for number, value in enumerate(values):
        if value in seen:
            where = places.get((*location, number, key), places[*location, number])
            raise RecipeError(f"{where}: {show_value(value)} stands here twice")
        seen.add(value)


def _known(places: dict[Location, str], location: Location, found: Iterable[str], known: list[str], *key: str) -> None:
    for number, value in enumerate(found):
        if value not in known:
            where, path = places[*location, number, *key], ".".join(map(str, (*location, number, *key)))
            raise RecipeError(f"{where}: {path}: expected an area ({', '.join(known)}), found {show_value(value)}")


def _read_examples(folder: Path, prompts: Prompts, places: dict[Location, str]) -> dict[str, tuple[Message, ...]]:
    """Return the conversations that the prompts quote."""
    known = _read_conversations(folder) if prompts.examples else {}
    for number, name in enumerate(prompts.examples):
        if name not in known:
            raise RecipeError(
                f"{places['examples', number]}: expected the id of a conversation in {folder}, found {show_value(name)}"
            )
    return {name: known[name] for name in prompts.examples}


def _read_conversations(folder: Path) -> dict[str, tuple[Message, ...]]:
    found: dict[str, tuple[Message, ...]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        try:
            lines = path.read_bytes().splitlines()
        except OSError as error:
            raise RecipeError(f"expected conversations at {path}: {error.strerror}") from None
        for number, line in enumerate(lines, start=1):
            try:
                row = orjson.loads(line)
                messages = tuple(
                    make_message(message["role"], message["content"], message.get("reasoning"), turn=turn)
                    for turn, message in enumerate(row["messages"])
                )
                check_messages(messages)
                found[row["id"]] = messages
            except (ValueError, KeyError, TypeError, AttributeError, DataError) as error:
                raise RecipeError(
                    f"{path}:{number}: expected a conversation with id and messages: {type(error).__name__}: {error}"
                ) from None
    return found


def _sha256(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
