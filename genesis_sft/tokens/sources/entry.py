"""A source's place in the cache.

::

    CACHE/sources/<key>/              a whole store: parts and source.json
    CACHE/sources/.making-<key>/      what a process at work, or one that was killed, has written so far
    CACHE/sources/<key>.lock          held by the process that makes the store
    CACHE/sources/<key>/signatures-<key>/  overlaps-<key>/    found later, for the same conversations

The key is a hash of all that decides the store. Nothing in it names the source or a place: the same rows under another
name, in another recipe, are the same store.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genesis_sft.console import say
from genesis_sft.run_dir import write_json

SOURCE_INFO = "source.json"
_KEY_DIGITS = 24


@dataclass(frozen=True)
class Entry:
    """A source's place in the cache, whether there is something or not.

    Attributes:
        cache: Folder of all of them.
        key: Hex SHA-256 of all that decides the store.
    """

    cache: Path
    key: str

    @property
    def folder(self) -> Path:
        """Where the whole store is, once it is."""
        return self.cache / self.key[:_KEY_DIGITS]

    @property
    def making(self) -> Path:
        """Where it is being made."""
        return self.cache / f".making-{self.key[:_KEY_DIGITS]}"

    def info(self) -> dict[str, Any] | None:
        """Return what the whole store says of itself; ``None`` where there is none."""
        try:
            info: dict[str, Any] = json.loads((self.folder / SOURCE_INFO).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        names = [self.folder / name for name in info.get("files_of_store", ())]
        intact = all(
            path.is_file() and path.stat().st_size == size for path, size in zip(names, info["sizes"], strict=True)
        )
        return info if info.get("key") == self.key and intact else None

    def finish(self, info: Mapping[str, Any]) -> None:
        """Make what was written a whole store."""
        files = sorted(path.name for path in self.making.iterdir() if path.name.startswith("part-") and path.is_file())
        sizes = [(self.making / name).stat().st_size for name in files]
        write_json(self.making / SOURCE_INFO, {**info, "key": self.key, "files_of_store": files, "sizes": sizes})
        if self.folder.exists():  # a damaged one
            shutil.rmtree(self.folder)
        self.making.rename(self.folder)

    def annotation(self, kind: str, key: str) -> str:
        """Return the name of the folder, in the store, of something that was found about the same conversations."""
        return f"{kind}-{key[:_KEY_DIGITS]}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the entry; wait where another process makes it."""
        self.cache.mkdir(parents=True, exist_ok=True)
        with open(self.cache / f"{self.key[:_KEY_DIGITS]}.lock", "w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("  waiting for another process that prepares the same source ...")
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def link(folder: Path, info: Mapping[str, Any], out: Path) -> None:
    """Give a run its own names for the files of a store: hard links, or copies where the cache is on another disk."""
    out.mkdir(parents=True)
    for name in info["files_of_store"]:
        try:
            os.link(folder / name, out / name)
        except OSError:
            shutil.copyfile(folder / name, out / name)
