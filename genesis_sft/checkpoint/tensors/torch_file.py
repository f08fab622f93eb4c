"""Read the weights in a ``.pt`` or ``.pth`` file: a state dict, or dictionaries that hold one."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from genesis_sft.checkpoint.tensors.left_out import is_optimizer_state, split_entries
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

_MOST_ENTRIES = 2_000_000  # a 70B training checkpoint has some thousands
_DEEPEST = 50
_SAVE_WEIGHTS_ONLY = (
    "In the environment that trained it, save the weights alone: "
    "torch.save({name: t.detach().cpu() for name, t in model.state_dict().items()}, 'weights.pt')"
)


@dataclass(frozen=True, slots=True)
class TorchFileSource:
    """The weights in a ``.pt`` file (see ``TensorSource``); their bytes stay in the file until they are read."""

    path: Path
    tensors: Mapping[str, StoredTensor]
    left_out: Mapping[str, int]
    mapped: Mapping[str, torch.Tensor]
    kind: str = "PyTorch state dict"

    def read(self, name: str) -> torch.Tensor:
        """Return a copy of one tensor.

        Raises:
            ModelError: It repeats fewer numbers than it has elements.
        """
        tensor = self.mapped[name]
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise ModelError(f"expected {tensor.nbytes:,} bytes for {name} in {self.path}; fewer are stored")
        return own_memory(tensor, copy=True)


def open_torch_file(path: Path) -> TorchFileSource:
    """Return the weights in a ``.pt`` file.

    Nested dictionaries are flattened with dots: ``{"model": {"wte": t}, "step": 3}`` holds ``"model.wte"``. A file of
    before torch 1.6 is read into memory as a whole, a newer one stays on disk.

    Raises:
        ModelError: It is damaged, it needs a class that plain weights do not need, or a weight is no plain tensor.
    """
    content = _load(path)
    if not isinstance(content, Mapping):
        raise ModelError(
            f"expected a dictionary of tensors in {path}; found {type(content).__name__}", hint=_SAVE_WEIGHTS_ONLY
        )
    found: dict[str, torch.Tensor | None] = {}
    for count, (name, value) in enumerate(_flatten(content, path)):
        if name in found or count > _MOST_ENTRIES:
            raise ModelError(f"expected every name once in {path}; {name} occurs again and again")
        found[name] = value
    entries = {name: None if value is None else _describe(path, name, value) for name, value in found.items()}
    tensors, left_out = split_entries(entries.items())
    mapped = {name: value for name in tensors if (value := found[name]) is not None}
    return TorchFileSource(path, tensors, left_out, mapped)


def _load(path: Path) -> Any:
    try:
        is_archive = zipfile.is_zipfile(path)
        if is_archive:
            with open(path, "rb") as handle:
                check_archive(handle, most_bytes=path.stat().st_size, most_pickle_bytes=None, checksums=False)
        return load_plain(path, mmap=is_archive)
    except ForeignClass as error:
        raise ModelError(
            f"{path} asks for {error}, which plain weights do not need; nothing of it was run", hint=_SAVE_WEIGHTS_ONLY
        ) from None
    except (DamagedFile, OSError) as error:
        raise ModelError(f"{path} cannot be read: {error}", hint="It is damaged or cut short: copy it again.") from None


def _flatten(content: Mapping[Any, Any], path: Path) -> Iterator[tuple[str, torch.Tensor | None]]:
    """Yield every leaf under its dotted name; None for what is no tensor."""
    waiting: list[tuple[str, Any, int]] = [("", content, 0)]
    while waiting:
        name, value, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ModelError(f"expected dictionaries at most {_DEEPEST} deep in {path}; {name[:80]} ... goes deeper")
        if isinstance(value, Mapping):
            children = value.items()
        elif isinstance(value, (list, tuple)) and type(value) is not torch.Size:
            children = enumerate(value)  # type: ignore[assignment]
        else:
            yield name, value if isinstance(value, torch.Tensor) else None
            continue
        prefix = f"{name}." if name else ""
        waiting.extend((f"{prefix}{key}", child, depth + 1) for key, child in reversed(list(children)))


def _describe(path: Path, name: str, tensor: torch.Tensor) -> StoredTensor | None:
    if is_optimizer_state(name):
        return None
    if problem := why_not_plain(tensor):
        raise ModelError(f"expected plain tensors in {path}; {name} is {problem}", hint=_SAVE_WEIGHTS_ONLY)
    return StoredTensor(tuple(tensor.shape), tensor.dtype)
