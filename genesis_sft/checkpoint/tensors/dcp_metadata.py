"""What the ``.metadata`` file of a PyTorch DCP folder says: tensors, their chunks, and where the bytes of each lie.

The file is a pickle of ``torch.distributed.checkpoint.metadata.Metadata``; it is read as data and never unpickled (see
``safe_pickle``). The names below are those that torch 2.0 to 2.13 write, for sharded tensors (FSDP1) and DTensors
(FSDP2) alike; the version of 2.2 and before kept ``TensorProperties`` in ``torch.distributed._shard``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from genesis_sft.checkpoint.tensors.left_out import is_optimizer_state
from genesis_sft.checkpoint.tensors.safe_pickle import DamagedPickle, Record, Symbol, UnsafePickle, read_pickle
from genesis_sft.checkpoint.tensors.source import StoredTensor
from genesis_sft.errors import ModelError

_METADATA = "torch.distributed.checkpoint.metadata"
_SHARDED = "torch.distributed._shard.sharded_tensor.metadata"
_DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
_LARGEST_SIZE = 2**63 - 1
ALLOWED = frozenset(
    (
        (_METADATA, "Metadata"),
        (_METADATA, "TensorStorageMetadata"),
        (_METADATA, "BytesStorageMetadata"),
        (_METADATA, "ChunkStorageMetadata"),
        (_METADATA, "TensorProperties"),
        (_METADATA, "_MEM_FORMAT_ENCODING"),
        (_METADATA, "MetadataIndex"),
        (_METADATA, "StorageMeta"),
        (_SHARDED, "TensorProperties"),
        (_SHARDED, "MEM_FORMAT_ENCODING"),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        ("torch.serialization", "_get_layout"),
        ("torch", "Size"),
        *(("torch", name) for name in _DTYPES),
        ("collections", "OrderedDict"),
        *((module, f"{kind}Path") for module in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows")),
    )
)
Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Blob:
    """Where the bytes of one chunk lie: a file of the folder, and the range in it, in bytes."""

    file: str
    offset: int
    length: int
    transforms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A box of a tensor, e.g. rows 5 to 9 of a ``(10, 4)`` matrix: offsets ``(5, 0)``, sizes ``(5, 4)``."""

    offsets: Sizes
    sizes: Sizes
    blob: Blob

    @property
    def ends(self) -> Sizes:
        """Where the box ends in each dimension, exclusive."""
        return tuple(start + size for start, size in zip(self.offsets, self.sizes, strict=True))


@dataclass(frozen=True, slots=True)
class DcpMetadata:
    """What the folder says of itself.

    Attributes:
        entries: Every stored name; None for what is no tensor. Optimizer tensors are None too: they are not looked at.
        chunks: The chunks of each tensor that is not the optimizer's; empty ones are left out.
        least_bytes: File name to the length that it must have at least.
    """

    entries: Mapping[str, StoredTensor | None]
    chunks: Mapping[str, tuple[Chunk, ...]]
    least_bytes: Mapping[str, int]


def read_dcp_metadata(file: Path) -> DcpMetadata:
    """Return what a ``.metadata`` file says.

    Raises:
        ModelError: It names anything but the classes that torch writes there, or it is damaged.
    """
    try:
        data = file.read_bytes()
        return _describe(_fields(read_pickle(data, ALLOWED), "Metadata"), most_chunks=len(data))
    except UnsafePickle as error:
        raise ModelError(
            f"{file} asks for {error}, which the metadata of a PyTorch checkpoint never holds; nothing of it was run",
            hint="Do not load this checkpoint with torch: it may run code. Ask where it comes from.",
        ) from None
    except (DamagedPickle, ValueError, TypeError, KeyError, OverflowError) as error:
        raise ModelError(f"{file} is damaged: {error}", hint="Copy the checkpoint again.") from None
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}") from None


def _describe(metadata: Mapping[str, Any], most_chunks: int) -> DcpMetadata:
    blobs: dict[tuple[str, Sizes | None], Blob] = {}
    least_bytes: dict[str, int] = {}
    for key, value in _typed(metadata.get("storage_data"), dict).items():
        blob = _blob(_fields(value, "_StorageInfo"))
        blobs[_index(_fields(key, "MetadataIndex"))] = blob
        least_bytes[blob.file] = max(least_bytes.get(blob.file, 0), blob.offset + blob.length)
    entries: dict[str, StoredTensor | None] = {}
    chunks: dict[str, tuple[Chunk, ...]] = {}
    for name, value in _typed(metadata.get("state_dict_metadata"), dict).items():
        entries[_typed(name, str)] = None
        if _typed(value, Record).made_by.name == "BytesStorageMetadata" or is_optimizer_state(name):
            continue
        fields = _fields(value, "TensorStorageMetadata")
        most_chunks -= len(_typed(fields["chunks"], list))
        if most_chunks < 0:  # each takes more than a byte, unless one list is named again and again
            raise DamagedPickle("it names more chunks than it has room for")
        entries[name] = StoredTensor(_size(fields["size"]), _dtype(fields["properties"]))
        chunks[name] = tuple(chunk for stored in fields["chunks"] if (chunk := _chunk(name, stored, blobs)))
    return DcpMetadata(entries, chunks, least_bytes)


def _blob(fields: Mapping[str, Any]) -> Blob:
    transforms = tuple(_typed(name, str) for name in _typed(fields.get("transform_descriptors") or [], list, tuple))
    return Blob(_typed(fields["relative_path"], str), _whole(fields["offset"]), _whole(fields["length"]), transforms)


def _index(fields: Mapping[str, Any]) -> tuple[str, Sizes | None]:
    offset = fields.get("offset")
    return _typed(fields["fqn"], str), None if offset is None else _size(offset)


def _chunk(name: str, stored: object, blobs: Mapping[tuple[str, Sizes | None], Blob]) -> Chunk | None:
    fields = _fields(stored, "ChunkStorageMetadata")
    offsets, sizes = _size(fields["offsets"]), _size(fields["sizes"])
    if len(offsets) != len(sizes):
        raise DamagedPickle(f"a chunk of {name!r} has {len(offsets)} offsets and {len(sizes)} sizes")
    if 0 in sizes:  # a rank that got no row of this tensor
        return None
    blob = blobs.get((name, offsets)) or blobs.get((name, None))
    if blob is None:
        raise DamagedPickle(f"it does not say where the chunk of {name!r} at {offsets} lies")
    return Chunk(offsets, sizes, blob)


def _fields(value: object, kind: str) -> Mapping[str, Any]:
    """Return the attributes of an object, by its class's name."""
    if not isinstance(value, Record) or value.made_by.name != kind:
        raise DamagedPickle(f"expected {kind}, found {_kind(value)}")
    return _typed(value.state, dict)  # type: ignore[no-any-return]


def _dtype(properties: object) -> torch.dtype:
    """Return the dtype from TensorProperties, whose state is (dtype, layout, requires_grad, memory format, pinned)."""
    if not isinstance(properties, Record) or properties.made_by.name != "TensorProperties":
        raise DamagedPickle(f"expected TensorProperties, found {_kind(properties)}")
    symbol = _typed(properties.state, tuple)[0] if properties.state else None
    if not isinstance(symbol, Symbol) or symbol.name not in _DTYPES:
        raise DamagedPickle(f"expected a dtype, found {_kind(symbol)}")
    return _DTYPES[symbol.name]


def _size(value: object) -> Sizes:
    """Return the numbers of a torch.Size, which is stored as a call with one tuple."""
    if isinstance(value, Record) and value.made_by.name == "Size" and len(value.arguments) == 1:
        return tuple(map(_whole, _typed(value.arguments[0], tuple, list)))
    return tuple(map(_whole, _typed(value, tuple)))


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST_SIZE:
        raise DamagedPickle(f"expected a number of bytes or elements, found {_kind(value)}")
    return value


def _typed(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise DamagedPickle(f"expected {' or '.join(kind.__name__ for kind in kinds)}, found {_kind(value)}")
    return value


def _kind(value: object) -> str:
    """Return a few words for a value of unknown depth, which must not be printed as a whole."""
    if isinstance(value, Record):
        return f"an object of {value.made_by}"
    if isinstance(value, int):
        return "a negative or huge number" if value.bit_length() > 40 or value < 0 else f"the number {value}"
    return f"a value of type {type(value).__name__}"
