"""``taxonomy.yaml``: areas, topics, users, tones and the like, each with a weight, that scenarios are drawn from."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from genesis_sft.recipe.base import PositiveInt, Section, Text

Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=80)]
Weight = Annotated[float, Field(gt=0, le=1_000_000)]
Share = Annotated[float, Field(ge=0, le=1)]


class Choice(Section):
    """One of several, and how often it is taken relative to the others; plain text where the weight is 1."""

    text: Text
    weight: Weight = 1.0

    @model_validator(mode="before")
    @classmethod
    def _plain_text(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value


class SystemPrompt(Choice):
    """A system prompt that a conversation may have."""

    areas: Annotated[tuple[Identifier, ...], Field(strict=False)] = ()  # a list, once `_plain_text` has seen it
    """Areas in which it is used; all when absent."""


class AreaScenarios(Section):
    """What the conversations of an area are about."""

    id: Identifier
    weight: Weight = 1.0
    reasoning: Share
    """Share of the conversations whose answers have reasoning."""

    topics: Annotated[tuple[Choice, ...], Field(min_length=1)]


class Difficulty(Section):
    """How hard it is to answer well."""

    id: Identifier
    meaning: Text
    weight: Weight = 1.0


class Turns(Section):
    """A number of exchanges."""

    count: Annotated[int, Field(ge=1, le=20)]
    weight: Weight = 1.0


class Language(Section):
    """A language that conversations are held in."""

    code: Annotated[str, Field(pattern=r"^[a-z]{2}$")]
    """ISO 639-1."""

    name: Text
    weight: Weight = 1.0


class Taxonomy(Section):
    """``taxonomy.yaml``: what a scenario is drawn from."""

    version: PositiveInt
    areas: Annotated[tuple[AreaScenarios, ...], Field(min_length=1)]
    personas: Annotated[tuple[Choice, ...], Field(min_length=1)]
    tones: Annotated[tuple[Choice, ...], Field(min_length=1)]
    difficulties: Annotated[tuple[Difficulty, ...], Field(min_length=1)]
    turns: Annotated[tuple[Turns, ...], Field(min_length=1)]
    languages: Annotated[tuple[Language, ...], Field(min_length=1)]
    system_share: Share
    """Share of the conversations that have a system prompt."""

    systems: tuple[SystemPrompt, ...] = ()
    angles: Annotated[tuple[Text, ...], Field(min_length=1)]
    """Hints for the user's first message, so that messages on one topic differ."""
