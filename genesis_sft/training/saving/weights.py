"""The weights as they leave training: whole, in one file, as transformers names them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from genesis_sft.run_dir import replacing
from genesis_sft.training.forward.padding import VocabRows, without_padding
from genesis_sft.training.processes.parallel import Trainable
from genesis_sft.training.saving.storage import WHEN_FULL, disk_errors


def write_weights(trainable: Trainable, path: Path, rows: VocabRows) -> None:
    """Write the whole weights as safetensors, under the model's own names; on disk when the call returns.

    All processes call; the first one writes. Tied tensors are written once, and the padding of the vocabulary is not.

    Args:
        trainable: Holds the weights, whole or cut over the processes.
        path: File to write.
        rows: How many rows of embedding and head are real.

    Raises:
        RunDirError: In the first process: it could not be written.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    # empty in all processes but the first
    whole = cast(dict[str, torch.Tensor], get_model_state_dict(trainable.module, options=options))
    if dist.is_initialized() and dist.get_rank() > 0:
        return
    model = trainable.objective.model
    named = {name.removeprefix("model."): tensor for name, tensor in whole.items()}
    written = without_padding({name: named[name] for name in named.keys() - _tied_names(model)}, model, rows)
    tensors = {name: tensor.contiguous() for name, tensor in sorted(written.items())}
    with disk_errors(f"could not write to {path}", hint=WHEN_FULL), replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
        temporary.chmod(0o644)  # safetensors keeps files to their owner; a shared folder is read by others
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())


def _tied_names(model: torch.nn.Module) -> set[str]:
    """Return the names of parameters that have another name too, by which they are written."""
    return {name for name, _ in model.named_parameters(remove_duplicate=False)} - {
        name for name, _ in model.named_parameters()
    }
