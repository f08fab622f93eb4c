"""Results of the finished parts of an evaluation, kept until all of it is done.

::

    .genesis-parts/identity.json    what is being measured, with which settings; parts of another are thrown away
    .genesis-parts/task-piqa.json   what a part gave, written at once when the part is done
    .genesis-lock                   locked while a process measures into this folder, then removed
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeVar

from genesis_sft.console import say
from genesis_sft.errors import InputError, RunDirError
from genesis_sft.evals.check_record import check_record
from genesis_sft.evals.processes import Team
from genesis_sft.evals.record import ChatAnswer, EvalRecord, HeldOutRecord, PartTime
from genesis_sft.evals.record_files import RECORD, from_values
from genesis_sft.evals.settings import tasks_in_words
from genesis_sft.evals.task_record import TaskRecord
from genesis_sft.run_dir import canonical_json, write_json, write_text

PARTS, LOCK = ".genesis-parts", ".genesis-lock"

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
            _check(part)
        except (ValueError, RecursionError, OverflowError):
            say(f"  {name}: its file is damaged, it is done again")
            return None
        say(f"  {name}: done before the interruption")
        return part


def refuse_another(out: Path, identity: Mapping[str, Any]) -> None:
    """Refuse a folder with another evaluation in it, finished or interrupted; that of other versions is not another.

    Raises:
        InputError: There is one: of another model, with other settings, or of a version that cannot be read.
    """
    for file in (out / RECORD, out / PARTS / "identity.json"):
        if not file.is_file():
            continue
        if (found := _another(file, identity)) is not None:
            raise InputError(
                f"expected a folder without another evaluation at {out}; {found}",
                hint="Name another folder, or replace what lies there with --replace.",
            )


def _another(file: Path, identity: Mapping[str, Any]) -> str | None:
    """Say what is different about the evaluation that a file belongs to; None where it is the same."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        model, settings = values["model"], {**values["settings"]}
        tasks = tasks_in_words(settings["tasks"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return "found one that cannot be read"
    if model != identity["model"]:
        return f"found one of another model (hash {str(model)[:12]}, this one {identity['model'][:12]})"
    wanted = json.loads(json.dumps(identity["settings"]))  # a tuple is a list there
    for name in wanted:
        if settings.get(name) != wanted[name]:
            found, here = json.dumps(settings.get(name)), json.dumps(wanted[name])
            if name == "tasks":
                found, here = tasks, tasks_in_words(wanted[name])
            return f"found one of this model with {name} {found}, this one has {here}"
    return None


@contextmanager
def held(out: Path, team: Team) -> Iterator[None]:
    """Hold a folder for this evaluation: two that write to one remove each other's parts.

    Raises:
        RunDirError: Another process holds it, or it cannot be made.
    """
    with ExitStack() as stack:
        team.from_first(lambda: stack.enter_context(_locked(out)))
        yield


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    file = out / LOCK
    try:
        out.mkdir(parents=True, exist_ok=True)
        while (handle := _lock(file)) is None:
            pass
    except BlockingIOError:
        raise RunDirError(
            f"another genesis-sft works in {out}", hint="Wait for it to end, or name another folder."
        ) from None
    except OSError as error:
        raise RunDirError(f"expected a folder to write to at {out}: {error.strerror}") from None
    with handle:
        try:
            yield
        finally:
            file.unlink(missing_ok=True)  # before the lock is given up


def _lock(file: Path) -> IO[str] | None:
    """Return the locked file, or None where its last holder has removed it since: another may lock a new one."""
    with ExitStack() as stack:
        handle = stack.enter_context(open(file, "a"))
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle.fileno()), file.stat()):
                stack.pop_all()  # stays open
                return handle
    return None


def _check(part: Any) -> None:
    """Refuse a part that cannot be what was measured, before a record is made of it (ValueError)."""
    record = EvalRecord("", {}, {}, times={"part": part.time})
    if isinstance(part, ChatPart):
        record = replace(record, chat=part.answers)
    elif isinstance(part, LossPart):
        record = replace(record, held_out=part.records)
    else:
        record = replace(record, tasks=part.records)
        if any(one.n != len(part.samples) for one in part.records):
            raise ValueError("expected a sample of every item")
    if not (record.tasks or record.held_out or record.chat):
        raise ValueError("expected a record of what was measured, found none")
    check_record(record)
