"""The files of a result, known by their digests: what this command did not write, or what was changed, is not replaced.

``written.json`` beside them holds the SHA-256 of each file as this command wrote it, or is about to::

    {"written_by": "genesis-sft synthesize",
     "files": {"card.md": ["9f86d081..."], "/elsewhere/steps.jsonl": ["60303ae2...", "fd61a03a..."]}}

The digest of a new file is put there beside the old one's before the new file takes its place, and stands there alone
after it. Killed at any moment, what lies there is known.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from genesis_sft.console import say
from genesis_sft.errors import InputError, RunDirError
from genesis_sft.file_lock import lock_file, require_lock
from genesis_sft.run_dir import hash_file, remove_leftovers, replacing, sync_folder, write_json
from genesis_sft.synthesis.output.card import WRITTEN_BY
from genesis_sft.synthesis.project import STORE

CONVERSATIONS, REJECTED = "conversations.jsonl", "rejected.jsonl"
CARD, CARD_PAGE, CARD_PLOT = "card.json", "card.md", "card.svg"
WRITTEN = "written.json"
_LOCK = f"{WRITTEN}.lock"
_RESULT = (CONVERSATIONS, REJECTED, CARD, CARD_PAGE, CARD_PLOT)


class OwnOutput:
    """The files that this command wrote into a folder, or elsewhere from what is in it.

    Args:
        folder: Where ``written.json`` is; its files are listed relative to it, so that it may be moved.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    @contextmanager
    def hold(cls, folder: Path, *elsewhere: Path) -> Iterator[OwnOutput]:
        """Be the one process that writes such files; waits for another that does, and tidies up after killed ones.

        Args:
            folder: Of the result.
            elsewhere: Files that are to be written besides those of the result.

        Raises:
            RunDirError: Something else than a lock lies there, or a file cannot be written, e.g. for a full disk.
        """

        def in_use(holder: str) -> None:
            say(f"  waiting for another genesis-sft (process {holder}) that writes the files in {folder} ...")

        with _disk_errors(folder), lock_file(folder / _LOCK, in_use):
            for path in (*(folder / name for name in (*_RESULT, WRITTEN)), *elsewhere):
                remove_leftovers(path)
            yield cls(folder)

    @contextmanager
    def replacing(self, path: Path) -> Iterator[Path]:
        """Give another name to write a file under; it takes its place when the block ends well.

        Raises:
            InputError: Another file lies there, or one that was changed; it is left alone.
            RunDirError: It cannot be written, e.g. for a full disk.
        """
        with _disk_errors(path):
            with replacing(path) as temporary:
                yield temporary
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
                digest, old = hash_file(temporary), self.require(path)
                self._list(path, [digest] if old is None or old == digest else [old, digest])
                self.require(path)  # it may have been changed while the list was on its way to the disk
            sync_folder(path.parent)  # after a power cut, too, the new file is there before the old one is forgotten
            self._list(path, [digest])

    def require(self, path: Path) -> str | None:
        """Return the digest of a file that this command wrote; ``None`` where there is no file.

        Raises:
            InputError: Another file lies there, or one that was changed; or ``written.json`` is not this command's.
        """
        known = self._files().get(self._name(path), [])
        if not os.path.lexists(path):
            return None
        try:
            digest = hash_file(path) if path.is_file() else None
        except OSError:
            digest = None
        # read again: another process may have replaced the file, and listed the new one, since
        if digest is None or digest not in (*known, *self._files().get(self._name(path), [])):
            raise InputError(
                f"expected no file {path}, or one that this command wrote; found another, or one that was changed",
                hint="Move it away; the answers stay in requests.sqlite, and the file is written anew from them."
                if self._name(path) in _RESULT
                else "Move it away, or name another place.",
            )
        return digest

    def _list(self, path: Path, digests: Sequence[str]) -> None:
        files, name = self._files(), self._name(path)
        if files.get(name) != digests:
            files = dict(sorted({**files, name: digests}.items()))
            write_json(self._folder / WRITTEN, {"written_by": WRITTEN_BY, "files": files})
            sync_folder(self._folder)

    def _files(self) -> dict[str, Any]:
        """Return name to digests."""
        path, files = self._folder / WRITTEN, None
        if not os.path.lexists(path):
            return {}
        try:
            found: Any = orjson.loads(path.read_bytes()) if path.is_file() else None  # a pipe would be waited for
            files = found["files"] if found["written_by"] == WRITTEN_BY else None
        except (OSError, ValueError, TypeError, KeyError):
            pass
        if not isinstance(files, dict) or not all(_are_digests(found) for found in files.values()):
            raise InputError(
                f"expected no file {path}, or the list of digests that this command keeps; found another, or a "
                "damaged one",
                hint="Move it away, with the files beside it that are listed in it: "
                "`genesis-sft synthesize export` writes them anew.",
            )
        return files

    def _name(self, path: Path) -> str:
        place, folder = path.parent.resolve() / path.name, self._folder.resolve()
        name = place.relative_to(folder) if place.is_relative_to(folder) else place
        return os.fsencode(name).decode(errors="backslashreplace")


def _are_digests(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(digest, str) for digest in found)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Say of an error of the system what could not be written, and that nothing is lost by it.

    Args:
        path: Of the file, or of the folder where it is not known of which file.

    Raises:
        RunDirError: In place of any `OSError`.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        room = {errno.ENOSPC: "Make room. ", errno.EDQUOT: "Make room. ", errno.EFBIG: "Raise `ulimit -f`. "}
        raise RunDirError(
            f"could not write {path}: {reason}",
            hint=f"{room.get(error.errno or 0, '')}Every answer is kept, and the same command goes on from there.",
        ) from None


def require_own_output(folder: Path) -> None:
    """Refuse a folder that cannot be written to, or in which one of the names is taken by somebody else's file.

    Called before anything is asked, so that nobody pays for what cannot be written.

    Raises:
        InputError: It is so.
    """
    nearest = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    hint = "Name another one as synthesis.out."
    if not os.path.isdir(nearest):
        raise InputError(f"expected a folder at {nearest}, found a file", hint=hint)
    if not os.access(nearest, os.W_OK | os.X_OK, effective_ids=True):
        raise InputError(f"expected a folder to write to at {nearest}, found one without permission", hint=hint)
    with _disk_errors(folder / _LOCK):
        require_lock(folder / _LOCK)
    for name in _RESULT:
        OwnOutput(folder).require(folder / name)


def require_own_steps(folder: Path, path: Path) -> None:
    """Refuse a place for the file of steps where something else lies or belongs.

    Args:
        folder: Of the result.
        path: Of the file of steps.

    Raises:
        InputError: Something does, or there is no folder for it.
    """
    if not path.parent.is_dir():
        raise InputError(f"expected a folder {path.parent} to write {path.name} to, found none", hint="Make it first.")
    if path.parent.resolve() == folder.resolve() and path.name.startswith((*_RESULT, WRITTEN, STORE)):
        raise InputError(
            f"expected a file of its own for the steps, found {path}, a name of the result",
            hint="Name another place.",
        )
    OwnOutput(folder).require(path)
