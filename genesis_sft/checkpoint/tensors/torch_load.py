"""torch.load, kept to plain tensors and plain data, with errors that name the culprit.

``weights_only=True`` makes torch follow the pickle itself and call nothing but its own functions that rebuild tensors.
Classes that a program has added with ``torch.serialization.add_safe_globals`` (importing ``torch.distributed.tensor``
does) are taken off the list meanwhile.
"""

from __future__ import annotations

import pickle
import re
import threading
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

_CULPRITS = (
    r"GLOBAL (\S+) was not an allowed global",
    r"unsupported GLOBAL (\S+) whose module",
    r"(?:unrecognized function|[Uu]nsupported class|but got) (.{1,100})",
)
_PIECE = 1 << 20  # bytes checked at a time
_ONE_AT_A_TIME = threading.RLock()  # the list of allowed classes belongs to the process


class ForeignClass(Exception):
    """The pickle asks for a class or function that plain weights do not need; the text names it."""


class DamagedFile(Exception):
    """The bytes are not what ``torch.save`` writes, or were changed."""


def load_plain(file: IO[bytes] | Path, *, mmap: bool = False) -> Any:
    """Return what ``torch.save`` wrote, on the CPU.

    Args:
        file: An open file of bytes, or a path.
        mmap: Leave the tensors' bytes in the file until they are used; needs a path.

    Raises:
        ForeignClass: It needs a class that torch does not allow for weights; nothing of it was run.
        DamagedFile: It cannot be read.
    """
    try:
        with _no_added_classes(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise _explain(error) from None
    except MemoryError:
        raise
    except Exception as error:  # torch raises whatever its reader stumbles over
        raise DamagedFile(_first_line(error)) from None


def why_not_plain(tensor: torch.Tensor) -> str | None:
    """Return what makes a tensor something else than numbers in memory, or None: ``"a sparse_coo tensor"``."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return f"a {type(tensor).__name__}"
    if tensor.is_quantized:
        return "a quantised tensor"
    if tensor.layout != torch.strided or tensor.is_nested:
        return f"a {'nested' if tensor.is_nested else str(tensor.layout).removeprefix('torch.')} tensor"
    if tensor.device.type != "cpu":
        return f"a tensor on device {tensor.device}, which holds no numbers"
    return None


def own_memory(tensor: torch.Tensor, *, copy: bool = False) -> torch.Tensor:
    """Return the tensor's numbers: contiguous, without gradient, in memory that holds nothing else.

    Args:
        tensor: A plain tensor; may be a view, or a parameter.
        copy: Never return the memory that was given, e.g. because it is a mapped file.
    """
    plain = tensor.detach().resolve_conj().resolve_neg()
    alone = plain.is_contiguous() and plain.untyped_storage().nbytes() == plain.nbytes
    return plain if alone and not copy else plain.clone(memory_format=torch.contiguous_format)


def check_archive(file: IO[bytes], *, most_bytes: int, most_pickle_bytes: int | None, checksums: bool = True) -> None:
    """Check the zip archive that ``torch.save`` writes: nothing compressed, nothing larger than the file, checksums.

    torch reads such archives without looking at the checksums that they carry.

    Args:
        file: The archive.
        most_bytes: Its length.
        most_pickle_bytes: The length that its pickle may have at most.
        checksums: Read all of it and compare.

    Raises:
        DamagedFile: It is not as it was written.
        ForeignClass: It is a TorchScript program.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if any(member.filename.endswith("/constants.pkl") for member in members):
                raise ForeignClass("TorchScript code")
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise DamagedFile("its contents are compressed, which torch.save never does")
            if sum(member.file_size for member in members) > most_bytes:
                raise DamagedFile("its table of contents promises more bytes than there are")
            pickles = [member.file_size for member in members if member.filename.endswith("data.pkl")]
            if most_pickle_bytes is not None and max(pickles, default=0) > most_pickle_bytes:
                raise DamagedFile(f"it describes one tensor in {max(pickles)} bytes")
            for member in members:
                if checksums and member.CRC:  # zero where the program that saved turned checksums off
                    _read_through(archive, member)
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError) as error:
        raise DamagedFile(_first_line(error)) from None


def _read_through(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    with archive.open(member) as handle:
        while handle.read(_PIECE):
            pass


@contextmanager
def _no_added_classes() -> Iterator[None]:
    with _ONE_AT_A_TIME:
        added = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        try:
            yield
        finally:
            torch.serialization.add_safe_globals(added)


def _explain(error: Exception) -> ForeignClass | DamagedFile:
    """Return the error that torch's text describes; the text itself advises to run what it refused."""
    for pattern in _CULPRITS:
        if found := re.search(pattern, str(error)):
            return ForeignClass(found[1].strip(" .`'"))
    last = str(error).split("\n\n")
    return DamagedFile(_first_line(ValueError(last[1] if len(last) > 1 else last[0])))


def _first_line(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
