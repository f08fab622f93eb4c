"""The texts of ``prompts.yaml``: `string.Template`, whose variables are checked when the file is read."""

from __future__ import annotations

from collections.abc import Iterable
from string import Template
from typing import Annotated

from pydantic import AfterValidator, Field

from genesis_sft.recipe.base import PositiveInt, Section, Text


def fill(template: str, **values: str) -> str:
    """Return a template with its variables filled in, without white space around it.

    What is filled in is not looked at again: a ``$name`` that a user or a model wrote stays as it is.
    """
    return Template(template).substitute(values).strip()


def _variables(needed: str = "", others: str = "") -> AfterValidator:
    """Return a check that a template has all needed variables and no unknown ones; names are separated by spaces."""
    known = {*needed.split(), *others.split()}

    def check(text: str) -> str:
        for number, line in enumerate(text.splitlines(), start=1):
            if not Template(line).is_valid():
                raise ValueError(f"line {number} of the text has a $ that begins no variable; a dollar sign is $$")
            if unknown := [name for name in Template(line).get_identifiers() if name not in known]:
                raise ValueError(f"line {number} of the text has ${unknown[0]}; {_expected(known)}")
        if missing := [name for name in needed.split() if name not in Template(text).get_identifiers()]:
            raise ValueError(f"expected ${missing[0]} in the text, found none")
        return text

    return AfterValidator(check)


def _expected(known: Iterable[str]) -> str:
    names = ", ".join(f"${name}" for name in sorted(known))
    return f"it can have {names}" if names else "it can have no variables; a dollar sign is $$"


_SCENE = "topic persona tone difficulty language principles system_prompt"

PlainText = Annotated[str, Field(min_length=1), _variables()]


class Pieces(Section):
    """Parts that other texts are put together from."""

    area: Annotated[str, _variables("name statement")]
    principle: Annotated[str, _variables("name statement", "user follows breaks")]
    """A principle where the whole constitution is quoted."""

    sampled_principle: Annotated[str, _variables("name statement", "user follows breaks")]
    """A principle where only those of the scenario are quoted."""

    focus: Annotated[str, _variables("name")]
    """A principle that a message only names, as the system prompt quotes it."""

    example: Annotated[str, _variables("conversation")]
    """A conversation that is quoted as an example."""

    system_prompt: Annotated[str, _variables("text")]
    """What is said of the scenario's system prompt."""

    no_system_prompt: PlainText
    """What is said where the scenario has none."""

    reasoning: PlainText
    """Asks for reasoning before an answer, between ``<think>`` and ``</think>``."""

    no_reasoning: PlainText
    """Asks for an answer without reasoning."""

    no_critique: PlainText
    """In place of a critique, where there is none."""


class Shared(Section):
    """The beginning of every system prompt."""

    rules: PlainText
    """What this is for, what a good conversation looks like, what never to do."""

    constitution: Annotated[str, _variables("areas principles", "examples")]
    """The whole constitution; left out with ``principles: sampled``."""

    sampled: Annotated[str, _variables("principles")]
    """The scenario's principles, in place of the constitution; stands after the part that all requests share."""


class Question(Section):
    """Asks for the user's first message."""

    system: PlainText
    message: Annotated[str, _variables(f"{_SCENE} angle number")]


class FollowUp(Section):
    """Asks for the user's next message."""

    system: PlainText
    message: Annotated[str, _variables("conversation persona tone language", f"{_SCENE} turn turns")]


class Draft(Section):
    """Has the conversation answered; its messages are the conversation itself."""

    system: Annotated[str, _variables("system_prompt reasoning", "language")]


class Critique(Section):
    """Asks what is wrong with an answer."""

    system: PlainText
    message: Annotated[str, _variables("conversation answer principles system_prompt")]


class Revision(Section):
    """Asks for a better answer."""

    system: PlainText
    message: Annotated[str, _variables("conversation answer critique principles system_prompt reasoning", "language")]


class WholeConversation(Section):
    """Asks for all turns at once."""

    system: PlainText
    message: Annotated[str, _variables(f"{_SCENE} angle number turns form opening")]
    form: Annotated[str, Field(min_length=1), _variables()]
    """The lines of an exchange without reasoning."""

    form_with_reasoning: Annotated[str, Field(min_length=1), _variables()]
    opening: Annotated[str, _variables("question")]
    """Gives the user's first message, where it comes from a file."""


class Prompts(Section):
    """``prompts.yaml``."""

    version: PositiveInt
    examples: tuple[Text, ...] = ()
    """Ids of conversations in the constitution's folder that the shared part quotes."""

    pieces: Pieces
    shared: Shared
    question: Question
    follow_up: FollowUp
    draft: Draft
    critique: Critique
    revision: Revision
    conversation: WholeConversation
