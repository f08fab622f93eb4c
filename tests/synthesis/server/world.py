"""All that the server knows."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from tests.synthesis.server.script import Fault, Script

if TYPE_CHECKING:
    from tests.synthesis.server.batches import Batch


@dataclass
class World:
    """Its script, what it was asked, its prompt cache and its batches."""

    script: Script
    log_file: int
    num_requests: int = 0
    under_way: int = 0
    tries: dict[tuple[str, str], int] = field(default_factory=dict)
    fault_counts: dict[int, int] = field(default_factory=dict)
    cache: dict[bytes, tuple[float, float]] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)

    def next_id(self, prefix: str) -> str:
        return f"{prefix}_{self.num_requests:024d}"

    def write_log(self, **entry: Any) -> None:
        os.write(self.log_file, orjson.dumps({"time": time.time(), **entry}) + b"\n")

    def fault_for(self, path: str, key: str, body: bytes) -> Fault | None:
        """The first fault of the script that strikes this request, if any."""
        tried = self.tries[path, key] = self.tries.get((path, key), 0) + 1
        for place, fault in enumerate(self.script.faults):
            if fault.strikes(path, key, body, tried, self.num_requests, self.script.seed):
                if fault.at_most is not None and self.fault_counts.get(place, 0) >= fault.at_most:
                    continue
                self.fault_counts[place] = self.fault_counts.get(place, 0) + 1
                return fault
        return None
