"""The shipped chat prompts, which are never trained on; see ``instructions.py`` for those with verifiable demands."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from genesis_sft.conversations.conversation import Message
from genesis_sft.errors import RecipeError

PROMPTS_FILE = "chat_prompts.yaml"


@dataclass(frozen=True)
class ChatPrompt:
    """One of the shipped prompts.

    Attributes:
        id: Its name.
        messages: What is said, the user last.
        sample: Whether the report shows the answer.
        rules: What it demands and a program can verify, e.g. ``{"kind": "most_words", "count": 30}``.
    """

    id: str
    messages: tuple[Message, ...]
    sample: bool = False
    rules: tuple[dict[str, Any], ...] = ()


def read_prompts(count: int | None = None) -> tuple[ChatPrompt, ...]:
    """Return the first ``count`` shipped prompts; all of them when absent.

    Raises:
        RecipeError: There are not so many.
    """
    prompts = tuple(
        ChatPrompt(
            entry["id"],
            tuple(Message(message["role"], message["content"]) for message in entry["messages"]),
            entry.get("sample", False),
        )
        for entry in read_entries(PROMPTS_FILE)
    )
    return first_of(prompts, count, "evals.chat_prompts")


def read_entries(file: str) -> list[dict[str, Any]]:
    """Return the list under ``prompts`` of a file beside this module."""
    text = resources.files(__package__).joinpath(file).read_text(encoding="utf-8")
    entries: list[dict[str, Any]] = yaml.safe_load(text)["prompts"]
    return entries


def first_of(prompts: tuple[ChatPrompt, ...], count: int | None, field: str) -> tuple[ChatPrompt, ...]:
    """Return the first ``count`` prompts; all of them when absent.

    Raises:
        RecipeError: There are not so many; names the recipe's field.
    """
    if count is not None and count > len(prompts):
        raise RecipeError(f"expected {field} to be at most {len(prompts)}, found {count}")
    return prompts[:count]
