"""Read a PyTorch DCP folder: sharded state dicts (FSDP1) and DTensors (FSDP2), saved from any number of ranks.

One process, no process group, and only the byte ranges of the tensors that are asked for: a file that holds nothing
but optimizer state is not even opened.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch

from genesis_sft.checkpoint.tensors.chunks import what_is_wrong
from genesis_sft.checkpoint.tensors.dcp_metadata import Blob, Chunk, DcpMetadata, read_dcp_metadata
from genesis_sft.checkpoint.tensors.kinds import DCP_METADATA
from genesis_sft.checkpoint.tensors.left_out import split_entries
from genesis_sft.checkpoint.tensors.source import StoredTensor
from genesis_sft.checkpoint.tensors.torch_load import (
    DamagedFile,
    ForeignClass,
    check_archive,
    load_plain,
    own_memory,
    why_not_plain,
)
from genesis_sft.errors import ModelError

_MOST_PICKLE_BYTES = 16_384  # torch describes one tensor in about 150
_COPY_AGAIN = "Copy this file again from where the checkpoint was saved, or take another step of the run."


@dataclass(frozen=True, slots=True)
class DcpSource:
    """The weights in a DCP folder (see ``TensorSource``)."""

    path: Path
    tensors: Mapping[str, StoredTensor]
    left_out: Mapping[str, int]
    chunks: Mapping[str, Sequence[Chunk]]
    kind: str = "PyTorch DCP folder"

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor, put together from its chunks.

        Takes the tensor's memory, plus that of its largest chunk where there are several.

        Raises:
            ModelError: A blob is damaged, holds another tensor than the metadata says, or asks for foreign classes.
        """
        stored, chunks = self.tensors[name], self.chunks[name]
        if len(chunks) == 1:
            return _read_chunk(self.path, name, chunks[0], stored.dtype)
        tensor = torch.empty(stored.shape, dtype=stored.dtype)  # every element is written: open_dcp has checked it
        for chunk in chunks:
            place = tuple(slice(start, end) for start, end in zip(chunk.offsets, chunk.ends, strict=True))
            tensor[place] = _read_chunk(self.path, name, chunk, stored.dtype)
        return tensor


def open_dcp(folder: Path) -> DcpSource:
    """Return the weights in a DCP folder, checked for completeness.

    Raises:
        ModelError: The metadata is missing, damaged or hostile, a shard that holds weights is missing or cut short, or
            the chunks of a tensor do not make up the whole of it.
    """
    if not (folder / DCP_METADATA).is_file():
        raise ModelError(
            f"expected {DCP_METADATA} in {folder}; there are only shards",
            hint="It is written last: this save was not finished, or the file was left behind as hidden files are.",
        )
    metadata = read_dcp_metadata(folder / DCP_METADATA)
    tensors, left_out = split_entries(metadata.entries.items())
    chunks = {name: metadata.chunks[name] for name in tensors}
    _check_files(folder, metadata, chunks)
    for name, stored in tensors.items():
        _check_chunks(folder, name, stored, chunks[name])
    return DcpSource(folder, tensors, left_out, chunks)


def _check_files(folder: Path, metadata: DcpMetadata, chunks: Mapping[str, Sequence[Chunk]]) -> None:
    """Check each file that holds weights: a plain file of the folder, there, and long enough for all that is in it."""
    holds: dict[str, set[str]] = {}
    for name, parts in chunks.items():
        for chunk in parts:
            holds.setdefault(chunk.blob.file, set()).add(name)
    for file, names in sorted(holds.items()):
        found = _length(folder, file, names)
        if found < metadata.least_bytes[file]:
            raise ModelError(
                f"the shard {file} of {folder} is cut short: expected {metadata.least_bytes[file]:,} bytes or more, "
                f"found {found:,}",
                hint=_COPY_AGAIN,
            )


def _length(folder: Path, file: str, names: set[str]) -> int:
    if file in ("", ".", "..") or any(sign in file for sign in "/\\\0:"):
        raise ModelError(f"expected the name of a file in {folder}; its {DCP_METADATA} points to {file!r}")
    path = folder / file
    if path.is_symlink() and path.resolve().parent != folder.resolve():
        raise ModelError(f"expected the shard {file} in {folder}; it is a link to a file elsewhere")
    try:
        status = path.stat()
    except (OSError, ValueError):
        raise ModelError(
            f"the shard {file} is missing from {folder}; {len(names)} tensors of the model lie in it, "
            f"{min(names)} among them",
            hint="Each rank wrote shards of its own: copy those of all machines into one folder.",
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"expected the shard {file} of {folder} to be a file; it is something else")
    return status.st_size


def _check_chunks(folder: Path, name: str, stored: StoredTensor, chunks: Sequence[Chunk]) -> None:
    problem = what_is_wrong(stored.shape, chunks)
    for chunk in chunks:
        num_bytes = StoredTensor(chunk.sizes, stored.dtype).num_bytes
        if chunk.blob.length < num_bytes:
            problem = problem or f"{num_bytes:,} bytes cannot lie in {chunk.blob.length:,} bytes of {chunk.blob.file}"
        if chunk.blob.transforms:
            problem = problem or f"{chunk.blob.file} was transformed by {', '.join(chunk.blob.transforms)}"
    if problem:
        raise ModelError(
            f"the tensor {name} in {folder} cannot be put together: {problem}",
            hint="The save was not finished, or ranks saved different things; take another step of the run.",
        )


def _read_chunk(folder: Path, name: str, chunk: Chunk, dtype: torch.dtype) -> torch.Tensor:
    blob = chunk.blob
    try:
        with open(folder / blob.file, "rb", opener=_open_plain) as handle:
            tensor = _read_blob(handle, blob)
    except ForeignClass as error:
        raise ModelError(
            f"{blob.file} asks for {error} where the tensor {name} should lie; nothing of it was run",
            hint="Do not load this checkpoint with torch: it may run code. Ask where it comes from.",
        ) from None
    except (DamagedFile, OSError) as error:
        raise ModelError(f"{blob.file} is damaged where the tensor {name} lies: {error}", hint=_COPY_AGAIN) from None
    if not isinstance(tensor, torch.Tensor) or (problem := why_not_plain(tensor)):
        found = problem if isinstance(tensor, torch.Tensor) else f"a {type(tensor).__name__}"
        raise ModelError(f"expected a plain tensor in {blob.file} for {name}; found {found}")
    if tuple(tensor.shape) != chunk.sizes or tensor.dtype != dtype:
        raise ModelError(
            f"expected {chunk.sizes} of {dtype} in {blob.file} for {name}; found {tuple(tensor.shape)} of "
            f"{tensor.dtype}",
            hint=_COPY_AGAIN,
        )
    return own_memory(tensor)


def _read_blob(handle: io.BufferedReader, blob: Blob) -> object:
    with _Range(handle, blob.offset, blob.length) as section:
        file = cast(IO[bytes], section)
        check_archive(file, most_bytes=blob.length, most_pickle_bytes=_MOST_PICKLE_BYTES)
        file.seek(0)
        return load_plain(file)


def _open_plain(path: str, flags: int) -> int:
    """Open without waiting, should a pipe have taken the place of the file that was checked."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


class _Range(io.RawIOBase):
    """A range of bytes of an open file, as a file of its own."""

    def __init__(self, handle: io.BufferedReader, offset: int, length: int) -> None:
        self._handle, self._offset, self._length, self._position = handle, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        if start + offset < 0:
            raise ValueError(f"position {start + offset} lies before the beginning")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._length - self._position))
        self._handle.seek(self._offset + self._position)
        found = self._handle.readinto(view[:wanted])
        self._position += found
        return found
