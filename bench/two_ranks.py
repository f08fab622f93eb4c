"""One of two ranks with sharded weights (FSDP2) under a cap on its memory; bench/train_gpu.py starts both.

    python bench/two_ranks.py SPECIFICATION.json ANSWER.json RANK        (see bench/measure.py)

``"ranks"`` in the specification says how they meet:

- ``nccl``: each has a GPU.
- ``gloo``: both share one GPU, as NCCL refuses to; what they exchange goes through main memory, so time means nothing,
  and a reduce-scatter takes a copy of its input that NCCL does not take. Losses are real.
- ``fake``: one process that believes it is rank 0 of two. Its memory is that of a real one, losses are not real.

``"cap_bytes"`` is what PyTorch's allocator may hold in each process; going beyond it is an error.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist
from measure import StepClock, read_specification, write_answer
from ours_train import Steps, load, training_section

from genesis_sft.training.forward.objective import Objective
from genesis_sft.training.forward.recompute import recompute_activations
from genesis_sft.training.processes.parallel import Ranks, Trainable


def main(rank: int) -> None:
    """Train, and write what was measured."""
    specification, out = read_specification()
    device = own_device(specification, rank)
    meet(specification, rank)
    ranks = Ranks(rank, 2, 2, device)
    section = training_section(specification)
    model = load(specification, section)
    recompute_activations(model, section.activation_checkpointing)
    trainable = Trainable(Objective(model).train(), ranks, section)
    steps = Steps(specification, section, trainable, ranks)
    clock = StepClock(device.type)
    for step in range(specification["steps"]):
        steps.train(step)
        clock.step_ended()
    write_answer(out, specification, clock, steps.losses, micro_batches=steps.num_micro_batches)
    dist.destroy_process_group()


def own_device(specification: dict[str, Any], rank: int) -> torch.device:
    """Return this rank's device, capped."""
    if specification["device"] == "cpu":
        return torch.device("cpu")
    device = torch.device("cuda", rank if specification["ranks"] == "nccl" else 0)
    torch.cuda.set_device(device)
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, specification["cap_bytes"] / total), device)
    return device


def meet(specification: dict[str, Any], rank: int) -> None:
    """Join the other rank, by a file, or pretend to."""
    if specification["ranks"] == "fake":
        from torch.testing._internal.distributed.fake_pg import FakeStore

        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
        return
    backend = "cpu:gloo,cuda:nccl" if specification["ranks"] == "nccl" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{specification['meeting']}", rank=rank, world_size=2)


if __name__ == "__main__":
    main(int(sys.argv[3]))
