"""Read weights from one safetensors file, or from a folder of shards with or without an index."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from genesis_sft.checkpoint.tensors.kinds import INDEX_SUFFIX, SAFETENSORS_SUFFIX
from genesis_sft.checkpoint.tensors.left_out import split_entries
from genesis_sft.checkpoint.tensors.source import StoredTensor
from genesis_sft.checkpoint.tensors.torch_load import own_memory
from genesis_sft.errors import ModelError

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NUMBERED = re.compile(r"(.*?)-?(\d+)-of-(\d+)\.safetensors")
_COPY_AGAIN = "Copy the checkpoint again; all its shards belong into one folder."


@dataclass(frozen=True, slots=True)
class SafetensorsSource:
    """The weights in safetensors files (see ``TensorSource``)."""

    kind: str
    path: Path
    tensors: Mapping[str, StoredTensor]
    left_out: Mapping[str, int]
    files: Mapping[str, Path]

    def read(self, name: str) -> torch.Tensor:
        """Return a copy of one tensor.

        Raises:
            ModelError: The file has changed or cannot be read any more.
        """
        file = self.files[name]
        try:
            with safe_open(file, framework="pt", device="cpu") as handle:
                return own_memory(handle.get_tensor(name), copy=True)
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise ModelError(f"{file} is damaged where the tensor {name} lies: {error}", hint=_COPY_AGAIN) from None


def open_safetensors(path: Path) -> SafetensorsSource:
    """Return the weights in a safetensors file or folder.

    Raises:
        ModelError: A header contradicts its file, a shard is missing, or two shards hold the same name.
    """
    if path.is_file():
        listed = {path: _list(path)}
        kind = "safetensors file"
    else:
        listed = {file: _list(file) for file in _shards(path)}
        kind = "safetensors folder"
    found: dict[str, StoredTensor] = {}
    files: dict[str, Path] = {}
    for file, tensors in listed.items():
        for name, tensor in tensors.items():
            if name in files:
                raise ModelError(f"expected every tensor once in {path}; {name} is in {files[name].name}, {file.name}")
            found[name], files[name] = tensor, file
    if path.is_dir() and (index := _index(path)):
        _compare(path, index, files)
    weights, left_out = split_entries(found.items())
    return SafetensorsSource(kind, path, weights, left_out, {name: files[name] for name in weights})


def _shards(folder: Path) -> list[Path]:
    """Return the shards that the index names, or else all files, where numbered ones must be complete."""
    if index := _index(folder):
        names = sorted(set(index.values()))
    else:
        names = sorted(file.name for file in folder.iterdir() if file.name.endswith(SAFETENSORS_SUFFIX))
        names = sorted({*names, *(sibling for name in names for sibling in _siblings(folder, name))})
    for name in names:
        if not name.endswith(SAFETENSORS_SUFFIX) or Path(name).name != name or "\\" in name or "\0" in name:
            raise ModelError(f"expected the name of a safetensors file in the index of {folder}; found {name!r}")
        if not (folder / name).is_file():
            raise ModelError(f"the shard {name} is missing from {folder}", hint=_COPY_AGAIN)
    return [folder / name for name in names]


def _siblings(folder: Path, name: str) -> list[str]:
    """Return the names of all shards that ``model-00002-of-00003.safetensors`` belongs to."""
    numbered = _NUMBERED.fullmatch(name)
    if not numbered:
        return []
    stem, number, last = numbered.groups()
    if not 1 <= int(number) <= int(last) <= len(last) * 10_000:
        raise ModelError(f"expected numbered shards in {folder}; found {name}")
    separator = name[len(stem) : -len(f"{number}-of-{last}{SAFETENSORS_SUFFIX}")]
    return [
        f"{stem}{separator}{count:0{len(number)}}-of-{last}{SAFETENSORS_SUFFIX}" for count in range(1, int(last) + 1)
    ]


def _index(folder: Path) -> dict[str, str] | None:
    """Return the index of a folder: tensor name to file name; None where it has none."""
    files = sorted(file for file in folder.iterdir() if file.name.endswith(INDEX_SUFFIX))
    if not files:
        return None
    if len(files) > 1:
        raise ModelError(f"expected one index in {folder}; found {', '.join(file.name for file in files)}")
    try:
        content: Any = json.loads(files[0].read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{files[0]} cannot be read: {type(error).__name__}", hint=_COPY_AGAIN) from None
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ModelError(f"expected a weight_map of tensor names to file names in {files[0]}", hint=_COPY_AGAIN)
    return names


def _compare(folder: Path, index: Mapping[str, str], files: Mapping[str, Path]) -> None:
    for name, file in index.items():
        if name not in files or files[name].name != file:
            raise ModelError(f"the index of {folder} says that {name} is in {file}; it is not", hint=_COPY_AGAIN)


def _list(file: Path) -> dict[str, StoredTensor]:
    """Return the tensors that a file's header describes; safetensors checks it against the file's length."""
    tensors = {}
    try:
        with safe_open(file, framework="pt", device="cpu") as handle:
            for name in handle.keys():  # noqa: SIM118 - not a dictionary
                stored = handle.get_slice(name)
                dtype = str(stored.get_dtype())
                if dtype not in _DTYPES:
                    raise ModelError(f"expected numbers that torch knows in {file}; {name} is stored as {dtype}")
                tensors[name] = StoredTensor(tuple(stored.get_shape()), _DTYPES[dtype])
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{file} is damaged: {error}", hint=_COPY_AGAIN) from None
    return tensors
