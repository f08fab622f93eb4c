"""WinoGrande XL, validation: 1,267 rows (CC BY 4.0). The harness scores the end of the sentence under both options.

::

    {"sentence": "Sarah was a much better surgeon than Maria so _ always got the easier cases.",
     "option1": "Sarah", "option2": "Maria", "answer": "2"}
"""

from __future__ import annotations

from typing import Any

from genesis_sft.evals.package_data import read_splits


def read(_task: str) -> dict[str, Any]:
    """Return the validation split."""
    return read_splits("winogrande", "winogrande_xl", ["validation"])
