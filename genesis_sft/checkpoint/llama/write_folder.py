"""Write a stored model as a Hugging Face folder, tensor by tensor: one shard of it is in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from genesis_sft.checkpoint.model_dir import CONFIG, WEIGHTS, WEIGHTS_INDEX
from genesis_sft.checkpoint.quiet import quiet_transformers
from genesis_sft.console import progress
from genesis_sft.errors import RunDirError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHARD_BYTES = 1_000_000_000


def write_folder(
    folder: Path,
    tensors: Iterable[tuple[str, torch.Tensor]],
    config: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerFast,
    *,
    dtype: torch.dtype,
    num_tensors: int,
) -> None:
    """Write weights, config, generation config and tokenizer into an existing, empty folder.

    Args:
        folder: Where to.
        tensors: By transformers' names, one at a time.
        config: What ``config.json`` shall hold.
        tokenizer: Goes along; its special ids go into the configs.
        dtype: Of the weights.
        num_tensors: How many are expected, for the progress bar.

    Raises:
        RunDirError: The folder cannot be written; perhaps the disk is full.
    """
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    try:
        _write_weights(folder, tensors, dtype, num_tensors)
        _write_json(folder / CONFIG, {**config, **ids})
        _write_json(folder / "generation_config.json", {name: id_ for name, id_ in ids.items() if id_ is not None})
        with quiet_transformers():
            tokenizer.save_pretrained(folder)
    except (OSError, RuntimeError) as error:
        raise RunDirError(f"could not write {folder}: {error}", hint="Is there room left on the disk?") from error
    except Exception as error:
        if "SafetensorError" in type(error).__name__:
            raise RunDirError(f"could not write {folder}: {error}", hint="Is there room left on the disk?") from error
        raise


def _write_weights(
    folder: Path, tensors: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype, num_tensors: int
) -> None:
    shard: dict[str, torch.Tensor] = {}
    shards: list[list[str]] = []
    num_bytes = total_bytes = 0
    with progress("writing weights", num_tensors, "tensors") as bar:
        for name, tensor in tensors:
            tensor = tensor.to(dtype).contiguous()
            if shard and num_bytes + tensor.nbytes > SHARD_BYTES:
                shards.append(_write_shard(folder, len(shards), shard))
                shard, num_bytes = {}, 0
            shard[name] = tensor
            num_bytes += tensor.nbytes
            total_bytes += tensor.nbytes
            bar.advance()
        shards.append(_write_shard(folder, len(shards), shard))
    if len(shards) == 1:
        _part(folder, 0).rename(folder / WEIGHTS)
        return
    weight_map = {}
    for number, names in enumerate(shards):
        file = folder / f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        _part(folder, number).rename(file)
        weight_map.update(dict.fromkeys(names, file.name))
    _write_json(folder / WEIGHTS_INDEX, {"metadata": {"total_size": total_bytes}, "weight_map": weight_map})


def _write_shard(folder: Path, number: int, shard: dict[str, torch.Tensor]) -> list[str]:
    save_file(shard, _part(folder, number), metadata={"format": "pt"})
    _part(folder, number).chmod(0o644)  # safetensors would let nobody but the owner read it
    return list(shard)


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number}.safetensors"


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
