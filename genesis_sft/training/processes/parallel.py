"""Several processes as one: who takes part, and how model, gradient and numbers are shared between them.

PyTorch's own engine throughout: ``torchrun`` starts the processes, DistributedDataParallel or FSDP2 joins them. The
loss is a sum over the trained tokens of the whole step divided by their number: gradients are *summed* over processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from genesis_sft.batches.collate import Batch, collate
from genesis_sft.errors import CheckFailed, InputError
from genesis_sft.training.forward.in_place import add_in_place, clear_gradients
from genesis_sft.training.processes.meeting import under_torchrun

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule

    from genesis_sft.recipe import TrainingSection
    from genesis_sft.training.forward.objective import Objective


Kind = Literal["single", "ddp", "fsdp", "hybrid"]


@dataclass(frozen=True)
class Ranks:
    """The processes that train together, as one of them sees it.

    Attributes:
        rank: Number of this process, from 0.
        world_size: How many there are.
        local_world_size: How many there are on this machine.
        device: Where this process computes.
    """

    rank: int
    world_size: int
    local_world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all processes, in float64."""
        if self.world_size == 1:
            return list(values)
        # MPS and some backends know no float64; CPU and CUDA do
        tensor = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return self.sum([float(flag)])[0] > 0

    def from_first(self, value: Any) -> Any:
        """Return the first process's value, a plain one."""
        if self.world_size == 1:
            return value
        box = [value]
        # through main memory, so that processes can speak before it is known whether their GPUs can
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def barrier(self) -> None:
        """Wait for the others."""
        if self.world_size > 1:
            self.sum([0.0])


@contextmanager
def join_ranks(section: TrainingSection) -> Iterator[Ranks]:
    """Meet the other processes that ``torchrun`` started, or be alone; part from them at the end.

    After an error nothing more is exchanged, not even a farewell: the others may be gone, and a communicator that hangs
    can only be left to the end of the process.

    Raises:
        InputError: ``training.device`` is cuda and there is none for this process.
        CheckFailed: The others did not come within ``training.timeout_seconds``, or cannot be reached.
    """
    alone = not under_torchrun()
    local_rank = 0 if alone else int(os.environ["LOCAL_RANK"])
    device = _device(section.device, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if alone and section.parallel not in ("fsdp", "hybrid"):
        yield Ranks(0, 1, 1, device)
        return
    _meet(section, device, alone)
    try:
        local_world_size = 1 if alone else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        yield Ranks(dist.get_rank(), dist.get_world_size(), local_world_size, device)
    except BaseException:
        if alone:
            _part()
        raise
    _part()


_PARTED: list[Any] = []


def _part() -> None:
    """Leave the group, but free it with the process only.

    A thread of gloo that still lets go of its last tensor waits for the interpreter's lock, and freeing the group would
    wait for that thread with the lock held (seen with PyTorch 2.13: one run in ten hung at its end).
    """
    _PARTED.append(dist.group.WORLD)
    dist.destroy_process_group()


def _meet(section: TrainingSection, device: torch.device, alone: bool) -> None:
    """Make the group of processes, with gloo for tensors in main memory and NCCL for those on CUDA devices."""
    place: dict[str, Any] = {}
    if alone:  # one process that cuts its states (cpu_offload) is a group of one
        place = {"store": dist.HashStore(), "rank": 0, "world_size": 1}  # type: ignore[attr-defined]
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=section.timeout_seconds), **place)
    except RuntimeError as error:
        at = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise CheckFailed(
            f"expected {os.environ.get('WORLD_SIZE')} processes to meet at {at} within {section.timeout_seconds} s; "
            f"found: {str(error).splitlines()[0]}",
            hint="Start torchrun on every machine with the same --nnodes and rendezvous; where machines have several "
            "addresses, set GLOO_SOCKET_IFNAME (and NCCL_SOCKET_IFNAME) to the network interface between them.",
        ) from error


class Trainable:
    """An objective, wrapped so that its gradient becomes the sum over all processes.

    Args:
        objective: Model and loss.
        ranks: The processes.
        section: The recipe's training section; ``parallel: auto`` is decided before.

    Attributes:
        objective: The objective inside, for its settings and its model.
        module: What is called with (batch, scale); its parameters are what the optimizer trains.
        kind: ``"single"``, ``"ddp"``, ``"fsdp"`` or ``"hybrid"``.
    """

    def __init__(self, objective: Objective, ranks: Ranks, section: TrainingSection) -> None:
        self.objective = objective
        self.kind: Kind = section.parallel if section.parallel != "auto" else "ddp"
        self.module: nn.Module = objective
        self._mean_over = 1
        # FSDP casts weights itself, layer by layer
        self._casts = section.precision == "bfloat16" and self.kind == "ddp"
        self._device = ranks.device.type
        if self.kind == "ddp" and ranks.world_size == 1:
            self.kind = "single"
            if not section.compile:
                add_in_place(objective)
        elif self.kind == "ddp":
            # gradients are views of what is sent: they exist once. Buffers are constants (rotary frequencies)
            self.module = DistributedDataParallel(objective, gradient_as_bucket_view=True, forward_sync_buffers=False)
            self._mean_over = ranks.world_size  # DDP takes the mean over processes
            self._rehearse(ranks.device)
        else:
            _shard(objective, ranks, section, hybrid=self.kind == "hybrid")

    def __call__(self, batch: Batch, scale: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what the objective does; the first output's gradient, summed over processes, is that of the loss."""
        with torch.autocast(self._device, dtype=torch.bfloat16) if self._casts else nullcontext():
            result: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = self.module(batch, scale * self._mean_over)
        return result

    @contextmanager
    def exchanging(self, last: bool) -> Iterator[None]:
        """Forward and backward within.

        Gradients go to the other processes in the last micro-batch of a step only; where weights are cut, those of
        every micro-batch are reduced onto their owners, and ``hybrid`` sends them to other machines in the last only.
        """
        if self.kind == "hybrid":
            cast("FSDPModule", self.module).set_requires_all_reduce(last)
        copies = isinstance(self.module, DistributedDataParallel)
        with cast(DistributedDataParallel, self.module).no_sync() if copies and not last else nullcontext():
            yield

    def _rehearse(self, device: torch.device) -> None:
        """Go once through forward, backward and exchange, for nothing.

        DDP orders gradients anew after its first exchange, and sums over three processes or more come out differently
        in another order: without this, a resumed run would not be bit for bit the one that was never stopped.
        """
        loss, _, _ = self(collate([(np.zeros(8, dtype=np.int64), [(1, 8)])]).to(device), 1.0)
        loss.backward()
        self.module.zero_grad(set_to_none=True)

    def clear_gradients(self) -> None:
        """Start a step: no gradient, or zeros where gradients are added in place."""
        clear_gradients(self.module.parameters())

    def clip(self, max_norm: float) -> float:
        """Scale gradients down to a norm over all processes; return the norm that they had."""
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), max_norm)
        return float(full(norm))

    def let_go(self) -> None:
        """Cut weights again that a forward pass without a backward pass has left gathered."""
        from torch.distributed.fsdp import FSDPModule

        if isinstance(self.module, FSDPModule):
            self.module.reshard()


def full(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor that may be cut over processes as a whole; all processes have to ask."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _shard(objective: Objective, ranks: Ranks, section: TrainingSection, *, hybrid: bool) -> None:
    """Cut weights, gradients and optimizer states over processes, layer by layer (FSDP2), in place."""
    from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    low = torch.bfloat16 if section.precision == "bfloat16" else None
    pinned = CPUOffloadPolicy(pin_memory=ranks.device.type == "cuda")
    options: dict[str, Any] = {
        "mesh": _mesh(ranks, hybrid),
        # gradients are summed over processes in float32
        "mp_policy": MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32, cast_forward_inputs=False),
        "offload_policy": pinned if section.cpu_offload else OffloadPolicy(),
    }
    for layer in decoder_layers(objective.model):
        fully_shard(layer, **options)
    fully_shard(objective, **options)
    for module in objective.modules():
        if isinstance(module, FSDPModule):
            # a sum instead of the mean; forced, as gloo cannot multiply while it reduces
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def _mesh(ranks: Ranks, hybrid: bool) -> DeviceMesh:
    """Arrange the processes: in one row, or in one row a machine."""
    from torch.distributed.device_mesh import init_device_mesh

    if not hybrid:
        return init_device_mesh(ranks.device.type, (ranks.world_size,), mesh_dim_names=("shard",))
    here = ranks.local_world_size
    total, squares = ranks.sum([here, here**2])
    if total**2 != ranks.world_size * squares:  # not all the same
        raise InputError(
            f"expected as many processes on every machine (training.parallel is hybrid); found {here} of "
            f"{ranks.world_size} on this one, and other numbers elsewhere",
            hint="Start torchrun with the same --nproc-per-node on every machine, or set training.parallel to fsdp.",
        )
    shape = (ranks.world_size // here, here)
    return init_device_mesh(ranks.device.type, shape, mesh_dim_names=("replicate", "shard"))


def decoder_layers(model: nn.Module) -> Sequence[nn.Module]:
    """Return the layers of a transformer: the one list of modules in it.

    Raises:
        InputError: There is no such list.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise InputError("expected a model made of a list of layers; found none", hint="Set training.parallel to ddp.")
    longest: nn.ModuleList = max(lists, key=len)
    return list(longest)


def _device(wanted: str, local_rank: int) -> torch.device:
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    found = torch.cuda.device_count()
    if local_rank >= found:
        raise InputError(
            f"expected a CUDA device for process {local_rank} of this machine; PyTorch finds {found}",
            hint="Set training.device to auto or cpu, or start no more processes than there are devices.",
        )
    return torch.device("cuda", local_rank)
