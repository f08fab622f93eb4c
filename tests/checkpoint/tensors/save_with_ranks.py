"""Save a small sharded model with AdamW state as real training runs do: several gloo ranks on the CPU, PyTorch DCP.

Run as a script it is one rank (``save`` starts them all). The model's weights are filled by formula, so that anyone can
say what each element must be: ``expected_weights`` gives them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

STYLES = ("fsdp1", "fsdp2")
WIDTH, ROWS, NUM_LAYERS = 8, 13, 2  # 13 rows do not divide by 2 or 3 ranks


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Parameter(torch.zeros(WIDTH))
        self.up = nn.Linear(WIDTH, ROWS, bias=False)
        self.down = nn.Linear(ROWS, WIDTH, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x * self.norm)))


class TinyModel(nn.Module):
    """Uneven rows, a bias, a vector with fewer elements than there may be ranks, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(ROWS, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(NUM_LAYERS))
        self.scale = nn.Parameter(torch.zeros(1))
        self.register_buffer("inv_freq", torch.zeros(WIDTH // 2))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return (x * self.scale).sum() + self.inv_freq.sum()


def expected_weights() -> dict[str, torch.Tensor]:
    """Name to weight: tensor number n holds n + 0, n + 1/1000, n + 2/1000 … in row order."""
    return {
        name: (number + torch.arange(value.numel()) / 1000).reshape(value.shape)
        for number, (name, value) in enumerate(TinyModel().state_dict().items())
    }


def save(folder: Path, *, style: str, ranks: int = 2) -> None:
    """Train one step with learning rate 0, so that AdamW has state, and save ``{"model", "optimizer", "step"}``."""
    meeting = folder.parent / f".meeting-{folder.name}"
    command = [sys.executable, "-W", "ignore", str(Path(__file__)), str(folder), style, str(ranks), str(meeting)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True, env=environment)
        for rank in range(ranks)
    ]
    errors = [process.communicate(timeout=120)[1] for process in started]
    meeting.unlink(missing_ok=True)
    assert all(process.returncode == 0 for process in started), "\n".join(errors)


def _run_rank(folder: Path, style: str, ranks: int, meeting: Path, rank: int) -> None:
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    model = TinyModel()
    model.load_state_dict(expected_weights())
    state = _fsdp2_state(model, ranks) if style == "fsdp2" else _fsdp1_state(model)
    dcp.save(state | {"step": 40_000}, checkpoint_id=folder)
    dist.destroy_process_group()


def _fsdp2_state(model: nn.Module, ranks: int) -> dict[str, Any]:
    """Fully sharded DTensors, as ``get_state_dict`` gives them."""
    from torch.distributed.checkpoint.state_dict import get_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (ranks,))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = _step(model)
    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": moments}


def _fsdp1_state(model: nn.Module) -> dict[str, Any]:
    """Sharded tensors, by ``ShardedStateDictConfig(offload_to_cpu=True)``."""
    from torch.distributed._shard.sharded_tensor import ShardedTensor
    from torch.distributed.fsdp import (
        FullyShardedDataParallel,
        ShardedOptimStateDictConfig,
        ShardedStateDictConfig,
        StateDictType,
    )
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    wrapped = FullyShardedDataParallel(
        model, auto_wrap_policy=ModuleWrapPolicy({Layer}), use_orig_params=True, device_id=torch.device("cpu")
    )
    optimizer = _step(wrapped)
    with FullyShardedDataParallel.state_dict_type(
        wrapped,
        StateDictType.SHARDED_STATE_DICT,
        ShardedStateDictConfig(offload_to_cpu=True),
        ShardedOptimStateDictConfig(offload_to_cpu=True),
    ):
        weights = wrapped.state_dict()
        moments = FullyShardedDataParallel.optim_state_dict(wrapped, optimizer)
    assert isinstance(weights["embed.weight"], ShardedTensor)
    return {"model": weights, "optimizer": moments}


def _step(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)
    model(torch.arange(ROWS)[None]).backward()
    optimizer.step()
    return optimizer


if __name__ == "__main__":
    _run_rank(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
