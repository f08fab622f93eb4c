"""What kind of checkpoint lies at a path, told from names alone (no torch, nothing is opened)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Kind = Literal["dcp", "torch", "safetensors"]

DCP_METADATA, DCP_SUFFIX = ".metadata", ".distcp"
TORCH_SUFFIXES = (".pt", ".pth")
SAFETENSORS_SUFFIX, INDEX_SUFFIX = ".safetensors", ".safetensors.index.json"


def is_checkpoint(path: Path) -> bool:
    """Say whether raw pretraining weights lie at a path, rather than a Hugging Face folder or something else.

    True for a PyTorch DCP folder, a ``.pt``, ``.pth`` or ``.safetensors`` file, and a folder of safetensors files that
    has no ``config.json``.
    """
    return checkpoint_kind(path) is not None


def checkpoint_files(path: Path) -> list[Path]:
    """Return the files that decide the weights, sorted by name; empty where there is no checkpoint."""
    kind = checkpoint_kind(path)
    if kind is None or path.is_file():
        return [path] if kind else []
    endings = (DCP_METADATA, DCP_SUFFIX) if kind == "dcp" else (SAFETENSORS_SUFFIX, INDEX_SUFFIX)
    return sorted(file for file in path.iterdir() if file.name.endswith(endings) and file.is_file())


def checkpoint_kind(path: Path) -> Kind | None:
    """Return the kind of checkpoint at a path, or None.

    A folder with shards but without ``.metadata`` counts as DCP: opening it then says what is missing.
    """
    if path.is_file():
        if path.suffix in TORCH_SUFFIXES:
            return "torch"
        return "safetensors" if path.suffix == SAFETENSORS_SUFFIX else None
    if not path.is_dir():
        return None
    names = [file.name for file in path.iterdir()]
    if DCP_METADATA in names or any(name.endswith(DCP_SUFFIX) for name in names):
        return "dcp"
    if "config.json" not in names and any(name.endswith((SAFETENSORS_SUFFIX, INDEX_SUFFIX)) for name in names):
        return "safetensors"
    return None
