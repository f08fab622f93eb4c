"""HellaSwag, validation: 10,042 rows, the Hub's own (MIT).

::

    {"ind": 24, "activity_label": "Roof shingle removal", "ctx_a": "A man is sitting on a roof.", "ctx_b": "he",
     "ctx": "A man is sitting on a roof. he", "endings": ["is using wrap to wrap a pair of skis.", ...],
     "source_id": "activitynet~v_-JhWjGDPHMY", "split": "val", "split_type": "indomain", "label": "3"}
"""

from __future__ import annotations

from typing import Any

from genesis_sft.evals.package_data import read_splits


def read(_task: str) -> dict[str, Any]:
    """Return the validation split."""
    return read_splits("hellaswag", "none", ["validation"])
