"""The files of a source: one, or all that match a pattern; and what decides the rows in them."""

from __future__ import annotations

import glob
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from genesis_sft.errors import DataError
from genesis_sft.recipe import SourceSection
from genesis_sft.run_dir import hash_file


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source.

    Attributes:
        name: Its name; for a pattern, its path below the pattern's fixed part. Tells nothing of the machine.
        path: Where it lies.
        num_bytes: Its size.
    """

    name: str
    path: Path
    num_bytes: int


def find_files(section: SourceSection) -> tuple[SourceFile, ...]:
    """Return the files of a source, sorted by name: every run reads them in the same order.

    Raises:
        DataError: There is no file at the path, or none that matches the pattern.
    """
    assert section.path is not None
    path = Path(section.path)
    where = f"source {section.name}: "
    if path.is_file() or not glob.has_magic(section.path):
        return (_source_file(path, path.name, where),)
    root, pattern = split_pattern(section.path)
    found = {Path(match).relative_to(root).as_posix(): Path(match) for match in glob.glob(section.path, recursive=True)}
    files = tuple(_source_file(found[name], name, where) for name in sorted(found) if not found[name].is_dir())
    if not files:
        raise DataError(
            f"{where}expected files of conversations that match {pattern} in {root}, found none",
            hint="Correct the source's path; it is relative to the recipe.",
        )
    return files


def source_identity(section: SourceSection) -> str:
    """Return what decides the rows of a source; where its files lie and what they are called does not count.

    For one file it is its SHA-256; for several, the SHA-256 of theirs in order of name; for a Hub data set
    ``owner/name@revision:config:split``.

    Raises:
        DataError: There is no such file.
    """
    if section.path is None:
        return f"{section.hub}@{section.revision}:{section.config or 'default'}:{section.split}"
    hashes = [file_sha256(file.path) for file in find_files(section)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file, computed once a process while size and time of change stay the same."""
    found = path.stat()
    return _hash(path, found.st_size, found.st_mtime_ns)


def split_pattern(path: str) -> tuple[Path, str]:
    """Return the folder where a pattern begins, and the pattern below it.

    Example:
        >>> split_pattern("/data/set/*/train-*.jsonl")
        (PosixPath('/data/set'), '*/train-*.jsonl')
    """
    parts = Path(path).parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:fixed]), "/".join(parts[fixed:])


def _source_file(path: Path, name: str, where: str) -> SourceFile:
    if path.is_file():
        return SourceFile(name, path, path.stat().st_size)
    found = "a folder" if path.is_dir() else "a pipe or device" if path.exists() else "nothing"
    hint = "Correct the source's path; it is relative to the recipe."
    if path.is_dir():
        hint = f"Say which of its files, e.g. {path.name}/*.jsonl."
    elif path.name == "conversations.jsonl" and not path.exists():
        hint += " What `genesis-sft synthesize` is to write has to be written first."
    raise DataError(f"{where}expected a file of conversations at {path}, found {found}", hint=hint)


@lru_cache(maxsize=4096)
def _hash(path: Path, num_bytes: int, mtime_ns: int) -> str:
    return hash_file(path)
