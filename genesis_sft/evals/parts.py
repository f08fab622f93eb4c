"""Results of the finished parts of an evaluation, kept until all of it is done.

::

    .genesis-parts/identity.json    what is being measured, with which settings; parts of another are thrown away
    .genesis-parts/task-piqa.json   what a part gave, written at once when the part is done
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from genesis_sft.console import say
from genesis_sft.evals.processes import Team
from genesis_sft.evals.record import ChatAnswer, HeldOutRecord, PartTime, TaskRecord, from_values
from genesis_sft.run_dir import canonical_json, write_json, write_text

PARTS = ".genesis-parts"

T = TypeVar("T")


@dataclass(frozen=True)
class TaskPart:
    """A finished benchmark."""

    records: tuple[TaskRecord, ...]
    samples: tuple[dict[str, Any], ...]
    time: PartTime


@dataclass(frozen=True)
class LossPart:
    """A finished loss, on held-out conversations or on plain text."""

    records: tuple[HeldOutRecord, ...]
    time: PartTime


@dataclass(frozen=True)
class ChatPart:
    """Finished chat answers."""

    answers: tuple[ChatAnswer, ...]
    time: PartTime


class Parts:
    """One file a part; the first process reads and writes them.

    Args:
        folder: Where they lie.
        identity: What is measured; parts of another evaluation are removed.
        team: The processes.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], team: Team) -> None:
        self.folder, self._team = folder, team
        if team.is_first:
            self._prepare(canonical_json(identity))

    def make(self, name: str, kind: type[T], work: Callable[[], T], *, together: bool = False) -> T:
        """Return the part that is kept under this name; do the work and keep it when there is none.

        Args:
            name: E.g. ``"task-piqa"``.
            kind: The dataclass.
            work: Makes it.
            together: Whether all processes work; else the first does, and the others are given the result.
        """
        kept = self._team.from_first(lambda: self._kept(name, kind))
        if kept is not None:
            return kept
        part = work() if together else self._team.from_first(work)
        if self._team.is_first:
            write_json(self.folder / f"{name}.json", asdict(part))  # type: ignore[call-overload]  # all are dataclasses
        return part

    def remove(self) -> None:
        """Remove them: the record holds what they held."""
        shutil.rmtree(self.folder)

    def _prepare(self, wanted: str) -> None:
        file = self.folder / "identity.json"
        if self.folder.exists() and not (file.is_file() and file.read_bytes() == wanted.encode()):
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(file, wanted)

    def _kept(self, name: str, kind: type[T]) -> T | None:
        file = self.folder / f"{name}.json"
        if not file.is_file():
            return None
        try:
            part = from_values(kind, json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, RecursionError):
            say(f"  {name}: its file is damaged, it is done again")
            return None
        say(f"  {name}: done before the interruption")
        return part
