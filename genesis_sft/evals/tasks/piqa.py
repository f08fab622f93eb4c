"""PIQA, validation: 1,838 rows (AFL-3.0).

::

    {"goal": "How do I ready a guinea pig cage for it's new occupants?", "sol1": "Provide the guinea pig with ...",
     "sol2": "Provide the guinea pig with ...", "label": 0}
"""

from __future__ import annotations

from typing import Any

from genesis_sft.evals.package_data import read_splits


def read(_task: str) -> dict[str, Any]:
    """Return the validation split."""
    return read_splits("piqa", "plain_text", ["validation"])
