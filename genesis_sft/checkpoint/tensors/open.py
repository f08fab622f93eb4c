"""Open weights by what lies at a path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from genesis_sft.checkpoint.tensors.dcp import open_dcp
from genesis_sft.checkpoint.tensors.kinds import Kind, checkpoint_kind, is_checkpoint
from genesis_sft.checkpoint.tensors.safetensors_files import open_safetensors
from genesis_sft.checkpoint.tensors.source import TensorSource
from genesis_sft.checkpoint.tensors.torch_file import open_torch_file
from genesis_sft.errors import ModelError

_OPENERS: dict[Kind, Callable[[Path], TensorSource]] = {
    "dcp": open_dcp,
    "torch": open_torch_file,
    "safetensors": open_safetensors,
}


def open_tensors(path: Path) -> TensorSource:
    """Return the weights at a path, listed and checked, not yet read.

    Args:
        path: A PyTorch DCP folder, a ``.pt``, ``.pth`` or ``.safetensors`` file, or a folder of safetensors files.

    Raises:
        ModelError: There is nothing of the kind, it is damaged or incomplete, it needs code to be unpickled, or it
            holds no weights.
    """
    try:
        kind = checkpoint_kind(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
    if kind is None:
        raise _nothing_to_open(path)
    source = _OPENERS[kind](path)
    if not source.tensors:
        others = ", ".join(f"{count} x {reason}" for reason, count in source.left_out.items()) or "nothing"
        raise ModelError(f"expected weights of a model in {path}; found {others}")
    return source


def _nothing_to_open(path: Path) -> ModelError:
    found = "nothing" if not path.exists() else "a folder of another kind" if path.is_dir() else "another file"
    inside = sorted(child for child in path.iterdir() if is_checkpoint(child)) if path.is_dir() else []
    return ModelError(
        f"expected a checkpoint at {path}; found {found}",
        hint=f"There is one at {inside[0]}."
        if inside
        else "A checkpoint is a PyTorch DCP folder (.metadata and *.distcp), a .pt, .pth or .safetensors file, "
        "or a folder of *.safetensors without config.json.",
    )
