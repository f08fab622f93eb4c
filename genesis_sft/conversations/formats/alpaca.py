"""Rows of instruction, input and output: Alpaca, GPTeacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genesis_sft.conversations.conversation import Message, make_message
from genesis_sft.conversations.faults import missing_field, wrong_type


def from_alpaca(row: Mapping[str, Any]) -> tuple[Message, ...]:
    r"""Read a row of ``instruction``, ``input`` and ``output``; the input follows the instruction after a blank line.

    One row of GPTeacher (output shortened)::

        {"instruction": "Write a C++ program that calculates the area of a rectangle, given its width and height.",
         "input": "width: 5, height: 8",
         "output": "#include <iostream>\nusing namespace std;\n\nint main() {..."}

    ``input`` may be empty or absent. An ``output`` that begins with ``<think>…</think>`` has reasoning.

    Raises:
        BadRow: A field is missing or is not text.
    """
    for field in ("instruction", "output"):
        if field not in row:
            raise missing_field(field, row)
    question, context = row["instruction"], row.get("input")
    if not isinstance(question, str):
        raise wrong_type("instruction", "text", question)
    if context is not None and not isinstance(context, str):
        raise wrong_type("input", "text", context)
    if context and context.strip():
        question = f"{question}\n\n{context}"
    return (make_message("user", question, turn=0), make_message("assistant", row["output"], turn=1))
