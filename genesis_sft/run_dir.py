"""Where the results of a run live, and how a finished stage is recognised.

A run folder::

    runs/quickstart/
      .genesis-run               marks the folder; locked while a process works in it
      recipe.yaml                the resolved recipe of the last run
      base/  before/  data/ ...  one folder a finished stage, each with its manifest.json
      partial/                   what stages at work have written so far; training goes on from here after a kill
      replaced/                  results of earlier versions of the recipe; taken back when the recipe returns to them

A stage's result exists when its manifest does. A stage writes into ``partial/``, the manifest is written there last,
and the folder is renamed into place: there is no moment at which half a result looks like a whole one. The manifest
holds a *key*, the hash of all that decides the result (stage version, recipe section, hashes of input files, keys of
the stages before it), so that the key of every stage is known before anything runs, and a changed recipe field redoes
exactly the stages that depend on it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

from genesis_sft.errors import RunDirError
from genesis_sft.file_lock import lock_file

MANIFEST = "manifest.json"
MARKER = ".genesis-run"
"""Marks a run folder as one, and is what a working process locks; a folder with other things in it is never used."""

_HASHED_BYTES = 1024 * 1024
_KEY_DIGITS = 12
_MOST_SHOWN = 100  # characters of a changed setting
_ABSENT = object()
_RECORDED_PACKAGES = ("genesis-sft", "torch", "transformers", "tokenizers", "lm-eval", "datasets", "pyarrow")


@dataclass(frozen=True)
class StageSpec:
    """What decides the result of a stage.

    Attributes:
        name: Folder of the stage in the run folder, e.g. ``"tokens"``.
        version: Raised when the program changes what the stage writes for the same settings and inputs.
        settings: The recipe section, or those fields of it that the stage depends on; plain JSON values.
        inputs: Name to hash of each input: keys of earlier stages, hashes of files.
        resumable: Whether the stage can go on from its own partial folder after a kill.
    """

    name: str
    version: int
    settings: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    resumable: bool = False

    @property
    def key(self) -> str:
        """Hex SHA-256 over all that decides the result."""
        identity = [self.name, self.version, self.settings, self.inputs]
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


@dataclass(frozen=True)
class StageStatus:
    """What ``plan`` says of a stage: done or not, and why not."""

    name: str
    done: bool
    why: str


class RunDir:
    """A run folder.

    Args:
        path: The folder; made when the first stage is.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def folder(self, stage: str) -> Path:
        """Return the folder of a finished stage, whether it exists or not."""
        return self.path / stage

    def status(self, spec: StageSpec) -> StageStatus:
        """Say whether a stage with this key is done, and if not, why not. Writes nothing."""
        if self._is_finished(self.folder(spec.name), spec.key):
            return StageStatus(spec.name, done=True, why="done")
        if self._is_finished(self._replaced(spec), spec.key):
            return StageStatus(spec.name, done=True, why="done earlier, will be taken back from replaced/")
        if spec.resumable and self._partial(spec).is_dir() and any(self._partial(spec).iterdir()):
            return StageStatus(spec.name, done=False, why="was interrupted, goes on from its last checkpoint")
        manifest = read_manifest(self.folder(spec.name))
        if manifest is None:
            why = "not run yet" if not self.folder(spec.name).exists() else "has no valid manifest"
            return StageStatus(spec.name, done=False, why=why)
        return StageStatus(spec.name, done=False, why=_difference(manifest, spec))

    def result_line(self, stage: str) -> str:
        """Return the plain line of result of a finished stage."""
        manifest = read_manifest(self.folder(stage))
        return str(manifest["result"]) if manifest else ""

    def make(self, spec: StageSpec, work: Callable[[Path], str]) -> Path:
        """Return the folder of the stage's result; do the work unless it is done.

        Args:
            spec: What decides the result.
            work: Called with an empty folder to write to (or, for a resumable stage, with the partial folder that a
                killed run left); returns the plain line of result.
        """
        folder = self.folder(spec.name)
        if self._is_finished(folder, spec.key):
            return folder
        if self._is_finished(self._replaced(spec), spec.key):
            self._set_aside(folder)
            self._replaced(spec).rename(folder)
            return folder
        partial = self._partial(spec)
        if not spec.resumable:
            for left_over in partial.parent.glob(f"{spec.name}-*"):
                shutil.rmtree(left_over)
        partial.mkdir(parents=True, exist_ok=True)
        started, clock = datetime.now(UTC), time.monotonic()
        result = work(partial)
        write_json(
            partial / MANIFEST,
            {
                "stage": spec.name,
                "key": spec.key,
                "version": spec.version,
                "settings": spec.settings,
                "inputs": spec.inputs,
                "result": result,
                "started": started.isoformat(timespec="seconds"),
                "elapsed_seconds": round(time.monotonic() - clock, 1),
                "versions": _versions(),
                "files": _list_files(partial),
            },
        )
        self._set_aside(folder)
        partial.rename(folder)
        sync_folder(folder.parent)
        return folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run folder for this process.

        Raises:
            RunDirError: Another process holds it, it cannot be made, or it holds something else than a run.
        """

        def in_use(holder: str) -> NoReturn:
            raise RunDirError(
                f"another genesis-sft (process {holder}) works in {self.path}",
                hint="Wait for it to end, or name another folder with --run-dir.",
            )

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not (self.path / MARKER).exists() and any(self.path.iterdir()):
                raise RunDirError(
                    f"expected an empty folder or a run folder at {self.path}; found other files in it",
                    hint="Name another folder with --run-dir.",
                )
            handle = lock_file(self.path / MARKER, in_use)
        except OSError as error:
            raise RunDirError(f"expected a folder to write to at {self.path}: {error.strerror}") from None
        with handle:
            yield

    def _partial(self, spec: StageSpec) -> Path:
        return self.path / "partial" / f"{spec.name}-{spec.key[:_KEY_DIGITS]}"

    def _replaced(self, spec: StageSpec) -> Path:
        return self.path / "replaced" / f"{spec.name}-{spec.key[:_KEY_DIGITS]}"

    def _is_finished(self, folder: Path, key: str) -> bool:
        manifest = read_manifest(folder)
        if manifest is None or manifest.get("key") != key:
            return False
        return all(_is_intact(folder / name, entry) for name, entry in manifest["files"].items())

    def _set_aside(self, folder: Path) -> None:
        """Move a result of another key, or what is no result, to ``replaced/``; nothing is removed."""
        if not folder.exists():
            return
        manifest = read_manifest(folder)
        finished = manifest is not None and self._is_finished(folder, manifest["key"])
        name = f"{folder.name}-{manifest['key'][:_KEY_DIGITS] if manifest and finished else 'damaged'}"
        places = (self.path / "replaced" / f"{name}{suffix}" for suffix in ("", *(f".{n}" for n in range(1, 1000))))
        target = next(place for place in places if not place.exists())
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a stage's folder; None where there is none, or a damaged one."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        shapes = {"key": str, "result": str, "files": dict, "settings": dict, "inputs": dict}
        whole: bool = all(isinstance(manifest[name], kind) for name, kind in shapes.items())
        whole = whole and all({"bytes", "sha256"} <= entry.keys() for entry in manifest["files"].values())
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return manifest if whole else None


def _is_intact(path: Path, entry: Mapping[str, Any]) -> bool:
    """Whether a file is as it was written: by size, and by hash where that takes no time."""
    if not path.is_file() or path.stat().st_size != entry["bytes"]:
        return False
    return bool(entry["bytes"] > _HASHED_BYTES or hash_file(path) == entry["sha256"])


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no white space: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: after a crash the file is the old one or the new one, never a part."""
    write_text(path, json.dumps(without_nan(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def without_nan(value: Any) -> Any:
    """Return plain values with null in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, and see it onto the disk."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give another name to write a file under; it takes its place when the block ends well.

    After a kill the file is the old one or the new one, never a part.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of `replacing` a file, or of doing so to write the file that was to replace it.

    The caller holds the lock under which the file is replaced.
    """
    name = re.escape(path.name)
    left_over = re.compile(rf"\.{name}\.(\d{{1,9}})\.tmp|\.\.{name}\.\d{{1,9}}\.tmp\.(\d{{1,9}})\.tmp")
    for found in path.parent.iterdir():
        match = left_over.fullmatch(found.name)
        if match and not _is_alive(int(match[1] or match[2])) and found.is_file() and not found.is_symlink():
            found.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def hash_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _list_files(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": hash_file(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }


def _difference(manifest: Mapping[str, Any], spec: StageSpec) -> str:
    """Say what changed since the result on disk was made."""
    changes = [
        f"{name} was {_in_short(before)}, is {_in_short(after)}"
        for name, before, after in _changed(manifest.get("settings"), spec.settings)
    ]
    before_inputs = manifest.get("inputs", {})
    changes += [f"{name} changed" for name, value in spec.inputs.items() if before_inputs.get(name) != value]
    if manifest.get("version") != spec.version:
        changes.append("the program's own stage changed")
    return "; ".join(changes) or "its files are damaged"


def _changed(before: Any, after: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted name, before, after) of the values that differ; ``_ABSENT`` where only one side has the name."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}):
            inner = f"{where}.{key}" if where else str(key)
            yield from _changed(before.get(key, _ABSENT), after.get(key, _ABSENT), inner)
    elif isinstance(before, list | tuple) and isinstance(after, list | tuple):
        for index, (one, other) in enumerate(zip_longest(before, after, fillvalue=_ABSENT)):
            yield from _changed(one, other, f"{where}.{index}")
    elif before != after:
        yield where, before, after


def _in_short(value: Any) -> str:
    """Return a setting as YAML has it in one line, cut where it is long."""
    if value is _ABSENT:
        return "absent"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _RECORDED_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def sync_folder(folder: Path) -> None:
    """See the names in a folder onto the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
