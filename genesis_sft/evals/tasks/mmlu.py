"""MMLU, test and dev: 57 subjects, 14,042 questions, 5 dev rows each (MIT).

::

    {"question": "Find the degree for the given field extension Q(sqrt(2), sqrt(3), sqrt(18)) over Q.",
     "subject": "abstract_algebra", "choices": ["0", "4", "2", "6"], "answer": 1}
"""

from __future__ import annotations

from typing import Any

from genesis_sft.evals.package_data import read_splits


def read(task: str) -> dict[str, Any]:
    """Return the test and dev splits of a subject, e.g. of ``"mmlu_anatomy"``."""
    return read_splits("hails/mmlu_no_train", task.removeprefix("mmlu_"), ["test", "dev"])
