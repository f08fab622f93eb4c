"""Rows of query and response: MetaMathQA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genesis_sft.conversations.conversation import Message, make_message
from genesis_sft.conversations.faults import missing_field


def from_metamath(row: Mapping[str, Any]) -> tuple[Message, ...]:
    r"""Read a row of ``query`` and ``response``.

    One row in MetaMathQA's layout::

        {"query": "Natalia sold clips to 48 of her friends in April, and then she sold half... How many...?",
         "response": "Natalia sold 48/2 = 24 clips in May.\n...\n#### 72\nThe answer is: 72",
         "type": "GSM_Rephrased", "original_question": "Natalia sold clips to 48 of her friends in April..."}

    Raises:
        BadRow: A field is missing or is not text.
    """
    for field in ("query", "response"):
        if field not in row:
            raise missing_field(field, row)
    return (make_message("user", row["query"], turn=0), make_message("assistant", row["response"], turn=1))
