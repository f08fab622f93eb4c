"""Memory of a training process: an estimate before the start, what is there, and what was used."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from genesis_sft.recipe import TrainingSection
from genesis_sft.training.forward.keep_less import is_rms_norm, is_swiglu
from genesis_sft.training.forward.loss import CHUNK_TOKENS
from genesis_sft.training.processes.parallel import Ranks, decoder_layers

_GB = 1e9
_LEFT_FREE = 0.1
"""Share of the memory that is not counted on: fragments, buffers of communication, what else is running."""

_PARTS = ("weights", "gradients", "optimizer", "activations", "loss", "holes", "program")

_HOLES = 0.5
"""Share of gradients, activations and loss. Nine runs of three sizes, up to 135M parameters, peaked from 6 % below to
18 % above the estimate. Where every tensor has pages of its own (``MALLOC_MMAP_THRESHOLD_=65536``, for some more time)
there are no holes, and peaks were from 7 % below to 18 % above the other parts; the smaller the model, the higher."""

_BYTES = {"float32": 4, "bfloat16": 2, "pure_bfloat16": 2}
"""Of a number in the forward pass, by precision."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that one process is thought to need at its peak, at the end of the forward pass of a full micro-batch.

    Attributes:
        weights: Parameters, and their copies in bfloat16 where there are.
        gradients: As the optimizer reads them.
        optimizer: AdamW's two states.
        activations: What the layers keep for the backward pass, and the gradients of the layer in work.
        loss: Logits of a chunk, and the gradients of head and embedding on their way.
        holes: What the C library keeps between the tensors of one step and the next, in main memory.
        program: Interpreter and libraries, in main memory; on CUDA only what PyTorch allocates is counted.
        host: Bytes of main memory that weights, gradients and optimizer states take with ``cpu_offload``, on CUDA.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    loss: int
    holes: int = 0
    program: int = 0
    host: int = 0

    @property
    def total(self) -> int:
        """Bytes on the device."""
        return sum(getattr(self, name) for name in _PARTS)

    def lines(self) -> list[str]:
        """Return what a user is told before the start."""
        parts = [f"{name} {_gb(getattr(self, name))}" for name in _PARTS if getattr(self, name)]
        found = [f"memory of a process, estimated: {_gb(self.total)} GB = {' + '.join(parts)}"]
        return found + ([f"and in main memory {_gb(self.host)} GB"] if self.host else [])


def estimate_memory(
    model: PreTrainedModel,
    section: TrainingSection,
    *,
    world_size: int = 1,
    local_world_size: int | None = None,
) -> MemoryEstimate:
    """Return what one process is going to need, as its parts.

    Activations are those of a Llama layer, counted tensor by tensor; layers of other families keep a little more (norms
    of queries and keys) or less.

    Args:
        model: Whole, with vocabulary padded and embeddings frozen as they are trained.
        section: The recipe's training section; ``parallel: auto`` counts as ``ddp``.
        world_size: Number of processes.
        local_world_size: Of those, how many are on this machine; all of them when absent.
    """
    over = {"fsdp": world_size, "hybrid": local_world_size or world_size}.get(section.parallel, 1)
    shards = section.parallel in ("fsdp", "hybrid")
    parameters = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    size = 2 if section.precision == "pure_bfloat16" else 4
    states = _state_bytes(section, size)
    device = next(model.parameters()).device
    kept = (parameters * size // over, trainable * size // over, int(trainable * states / over))
    offloads = section.cpu_offload and device.type == "cuda"
    weights, gradients, optimizer = (0, 0, 0) if offloads else kept
    activations, loss, on_cpu = _activations(model, section), _loss(model, section), device.type == "cpu"
    return MemoryEstimate(
        weights=weights + _working_copies(model, section, shards),
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        loss=loss,
        holes=int(_HOLES * (gradients + activations + loss)) if on_cpu else 0,
        program=_program(model) if on_cpu else 0,
        host=sum(kept) if offloads else 0,
    )


def choose_parallel(
    section: TrainingSection, model: PreTrainedModel, ranks: Ranks, available_bytes: int
) -> Literal["ddp", "fsdp"]:
    """Return how processes share the work where the recipe leaves it open; all processes have to ask.

    DDP exchanges gradients once a step, whatever the accumulation, and FSDP weights twice a micro-batch: so DDP, unless
    it does not fit into the memory of every process. One process alone has nothing to share.

    Args:
        section: The recipe's training section.
        model: Already where it is trained, so that its weights have taken their memory.
        ranks: The processes.
        available_bytes: What this process may still take, see `available_memory`.
    """
    if ranks.world_size == 1:
        return "ddp"
    whole = estimate_memory(model, section.model_copy(update={"parallel": "ddp"}), world_size=ranks.world_size)
    there_already = sum(p.numel() * p.element_size() for p in model.parameters()) + whole.program
    share = 1 if ranks.device.type == "cuda" else ranks.local_world_size
    fits = whole.total - there_already <= available_bytes * (1 - _LEFT_FREE) / share
    return "fsdp" if ranks.any(not fits) else "ddp"


def available_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device, or in main memory within the limits of the container."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # what PyTorch has taken and not in use is free too
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    free = _free_memory()
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return free if limit == "max" else min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no container, or one of another kind
        return free


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that were in use so far: PyTorch's allocator on CUDA, all of the process on CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would begin with what the parent process had in use
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def measured_line(measured: int, estimate: MemoryEstimate | None = None) -> str:
    """Return the line that a user reads after the first step, or after the last one, when the peak is known.

    Args:
        measured: See `peak_memory`.
        estimate: Made before the start, of the peak; absent after the first step, when later ones may take more.
    """
    if estimate is None:
        return f"memory of a process after the first step: {_gb(measured)} GB"
    off = measured / estimate.total - 1
    side = "above" if off > 0 else "below"
    return f"memory of a process at its peak: {_gb(measured)} GB, {100 * abs(off):.0f} % {side} the estimate"


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / _GB:.2f}" if num_bytes < 10 * _GB else f"{num_bytes / _GB:.1f}"


def _state_bytes(section: TrainingSection, size: int) -> float:
    """Bytes of optimizer states for each trainable parameter."""
    if section.optimizer == "adamw_8bit":
        return 2 * (1 + 4 / 256)  # a byte each, and a float32 scale for each block of 256
    return 2 * size


def _working_copies(model: PreTrainedModel, section: TrainingSection, shards: bool) -> int:
    """Weights beside the parameters: of autocast, in bfloat16, for as long as a forward pass; or gathered by FSDP."""
    layers = decoder_layers(model)
    inside = sum(parameter.numel() for layer in layers for parameter in layer.parameters())
    total = sum(p.numel() for p in model.parameters())
    if shards:  # embedding and head stay from forward to backward; one layer is in work, the next one on its way
        return int(_BYTES[section.precision] * (total - inside + 2 * inside // len(layers)))
    return 2 * total if section.precision == "bfloat16" else 0


def _activations(model: PreTrainedModel, section: TrainingSection) -> int:
    """What layers keep for the backward pass, and what the one in work needs for its gradients."""
    config, number = model.config, _BYTES[section.precision]
    tokens = max(section.micro_batch_tokens, section.pad_to or 0)
    hidden, heads = config.hidden_size, config.num_attention_heads
    # what some families do not say: GPT-2 and its like
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    head_size = getattr(config, "head_dim", None) or hidden // heads
    queries, keys = heads * head_size, (getattr(config, "num_key_value_heads", None) or heads) * head_size
    # The residual stream is in the data type of the embedding, which FSDP casts too; norms are in float32
    low = section.precision == "bfloat16" and section.parallel in ("fsdp", "hybrid")
    precision = "pure_bfloat16" if low else section.precision
    stream = hidden * (2 if precision == "pure_bfloat16" else 4)
    less_norm, less_gated = _keeps_less(model, section)
    # Two norms keep their input; where a compiler decides, also what goes into 5 matrices, each time cast anew; others
    # keep more, in float32
    norms = 2 * stream
    if not less_norm or section.compile:
        cast = {"float32": 16, "bfloat16": 18, "pure_bfloat16": 8}[precision]
        norms = cast * hidden + (0 if less_norm else 8 * hidden)
    # queries, keys, values and their mix, in order from the first on a CPU
    mixes = 1 if next(model.parameters()).device.type == "cpu" else 2
    attended = number * ((1 + mixes) * queries + 2 * keys)
    gated = number * (2 if less_gated else 4) * inner  # gate and up, others also activated gate and product
    kept = {"none": norms + attended + gated, "selective": norms + stream + attended, "full": stream}
    again = {"none": 0, "selective": gated, "full": norms + attended + gated}
    choice = section.activation_checkpointing
    in_work = again[choice] + number * (2 * inner + queries + 2 * hidden)
    ends = 3 * 4 * hidden  # last norm, and the hidden states that the head reads, with their gradient
    return int(tokens * (config.num_hidden_layers * kept[choice] + in_work + ends))


def _keeps_less(model: PreTrainedModel, section: TrainingSection) -> tuple[bool, bool]:
    """Tell whether norms and gated layers are among those of `keep_less`, or of a compiler that does alike."""
    parts = [module for layer in decoder_layers(model) for module in layer.modules()]
    return (
        section.compile or any(is_rms_norm(module) for module in parts),
        section.compile or any(is_swiglu(module) for module in parts),
    )


def _loss(model: PreTrainedModel, section: TrainingSection) -> int:
    """Logits of a chunk, as numbers of float32 and of the forward pass, and the head's gradient before it is added."""
    head = model.get_output_embeddings().weight
    chunk = min(CHUNK_TOKENS, section.micro_batch_tokens)
    casts = 0 if section.precision == "float32" else 2 * 2
    return int(chunk * head.shape[0] * (4 + casts) + 2 * 4 * head.numel() * bool(head.requires_grad))


def _program(model: nn.Module) -> int:
    """Main memory that is in use beside the model's weights."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return max(0, _resident_memory() - weights)


def _resident_memory() -> int:
    """Main memory that this process has now; where that cannot be read, the most that it has had."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # not Linux
        return peak_memory(torch.device("cpu"))
    return pages * os.sysconf("SC_PAGE_SIZE")


def _free_memory() -> int:
    """Main memory that programs can still take; where that cannot be read, all that there is."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
