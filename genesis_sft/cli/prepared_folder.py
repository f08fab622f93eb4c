"""The folder that `data prepare --out` writes: made beside its place, and moved there when all is well.

What is there already is replaced only where every file in it is one that the same command writes.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genesis_sft.errors import InputError

_OWN = re.compile(
    r"(train|held_out)\.arrow|(ledger|touched)\.json|(rejects|dropped)\.jsonl"
    r"|sources/[^/]+/(source\.json|part-\d{5,}\.(arrow|json|samples\.jsonl|rejects\.jsonl))"
)


def refuse_foreign_files(out: Path) -> None:
    """Stop where a folder holds anything that `data prepare` did not write.

    Raises:
        InputError: Names the first such file.
    """
    if not out.exists():
        return
    files = [path for path in sorted(out.rglob("*")) if not path.is_dir()] if out.is_dir() else [out]
    if foreign := next((path for path in files if not _OWN.fullmatch(path.relative_to(out).as_posix())), None):
        raise InputError(
            f"expected an empty folder, or one that `data prepare` made, at {out}; found {foreign}",
            hint="Name another folder with --out: what is in it is replaced.",
        )


@contextmanager
def making(out: Path) -> Iterator[Path]:
    """Give a folder to write to; where the block ends well it takes the place of ``out``.

    Raises:
        InputError: Another process writes to the same place, or something foreign has come there meanwhile.
    """
    folder = out.with_name(f".making-{out.name}")
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another process prepares {out}", hint="Wait for it to end, or name another folder with --out."
            ) from None
        _empty(folder)  # what a killed process left
        try:
            yield folder
            refuse_foreign_files(out)
            shutil.rmtree(out, ignore_errors=True)
            folder.rename(out)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    finally:
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
