"""What every reader of weights offers, whatever the files look like."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that lies on disk, before it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Memory that it takes once read."""
        return self.dtype.itemsize * math.prod(self.shape)


class TensorSource(Protocol):
    """Weights on disk, read one tensor at a time."""

    @property
    def kind(self) -> str:
        """What it is: PyTorch DCP folder, PyTorch state dict, safetensors file or safetensors folder."""

    @property
    def path(self) -> Path:
        """The file or folder."""

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """Every tensor of the model by its stored (flattened, dotted) name; optimizer state is not among them."""

    @property
    def left_out(self) -> Mapping[str, int]:
        """What was not taken: reason to number of entries, e.g. ``{"optimizer state": 580, "no tensor": 3}``."""

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor: on the CPU, in its stored dtype, contiguous, in memory of its own.

        Raises:
            ModelError: Its bytes are damaged.
        """
