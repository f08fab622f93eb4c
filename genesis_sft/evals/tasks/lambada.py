"""LAMBADA, test: 5,153 passages whose last word is to be guessed (CC BY 4.0).

OpenAI's version of the texts, but the wheel's copy lost the line breaks::

    {"request": {"context": "In my palm is a clear stone, ... I don't care about", "continuation": " signs"}, ...}

Its scores are not those of ``lambada_openai``, so that records call it ``lambada_oneline``.
"""

from __future__ import annotations

from typing import Any

from genesis_sft.evals.package_data import read_requests


def read(_task: str) -> dict[str, Any]:
    """Return the test split."""
    from datasets import Dataset

    requests = (line["request"] for line in read_requests("lambada/bpb_0shot"))
    return {"test": Dataset.from_list([{"text": one["context"] + one["continuation"]} for one in requests])}
