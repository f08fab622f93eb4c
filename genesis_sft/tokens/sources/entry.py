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

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genesis_sft.console import say
from genesis_sft.file_lock import lock_file
from genesis_sft.run_dir import hash_file, write_json

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
        """Return what the whole store says of itself; ``None`` where there is none, or files are missing or cut."""
        try:
            info: dict[str, Any] = json.loads((self.folder / SOURCE_INFO).read_text(encoding="utf-8"))
            if info["key"] != self.key or not isinstance(info["parts"], int):
                return None
            intact = all((self.folder / name).stat().st_size == size for name, size in info["sizes"].items())
            return info if intact and info["hashes"].keys() == info["sizes"].keys() else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def is_intact(self) -> bool:
        """Say whether there is a whole store whose files are as they were written, by their hashes."""
        info = self.info()
        return info is not None and all(
            hash_file(self.folder / name) == found for name, found in info["hashes"].items()
        )

    def finish(self, info: Mapping[str, Any]) -> None:
        """Make what was written a whole store."""
        files = sorted(path.name for path in self.making.iterdir() if path.name.startswith("part-") and path.is_file())
        sizes = {name: (self.making / name).stat().st_size for name in files}
        hashes = {name: hash_file(self.making / name) for name in files}
        write_json(self.making / SOURCE_INFO, {**info, "key": self.key, "sizes": sizes, "hashes": hashes})
        self.making.rename(self.folder)

    def annotation(self, kind: str, key: str) -> str:
        """Return the name of the folder, in the store, of something that was found about the same conversations."""
        return f"{kind}-{key[:_KEY_DIGITS]}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the entry; wait where another process makes it."""
        self.cache.mkdir(parents=True, exist_ok=True)
        waiting = "  waiting for another process that prepares the same source ..."
        with lock_file(self.cache / f"{self.key[:_KEY_DIGITS]}.lock", lambda _: say(waiting)):
            yield


def link(folder: Path, info: Mapping[str, Any], out: Path) -> None:
    """Give a run its own names for the files of a store: hard links, or copies where the cache is on another disk."""
    out.mkdir(parents=True)
    for name in info["sizes"]:
        try:
            os.link(folder / name, out / name)
        except OSError:
            shutil.copyfile(folder / name, out / name)
