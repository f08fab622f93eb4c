"""Which attention kernel a run uses: the fastest of those that agree with the reference on the run's first batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from genesis_sft.batches.collate import Batch, Example, collate
from genesis_sft.errors import CheckFailed, InputError
from genesis_sft.training.forward.attention import (
    FLASH_ATTENTION,
    SEGMENT_ATTENTION,
    VARLEN_ATTENTION,
    forward_hidden,
    usable_kernels,
)
from genesis_sft.training.proof.gradients import compare, tolerance
from genesis_sft.training.proof.textbook import as_float32, autocast, observed_parameters, without_dropout

NAMES = {"segments": SEGMENT_ATTENTION, "varlen": VARLEN_ATTENTION, "flash": FLASH_ATTENTION}
"""The recipe's names of the kernels."""

_REPEATS = 5


@dataclass(frozen=True)
class KernelChoice:
    """A kernel, and why it was chosen.

    Attributes:
        name: As it is registered; see :mod:`genesis_sft.training.forward.attention`.
        milliseconds: Of a forward and backward pass, median, for each kernel that was tried and agrees.
        differences: Of each that ran: largest relative difference of hidden states or a gradient from the reference
            kernel's.
        refused: Why others are not used, by name.
    """

    name: str
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    differences: Mapping[str, float] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """Return it as one line."""
        tried = [f"{name} {value:.1f} ms" for name, value in self.milliseconds.items()]
        tried += [f"{name} refused ({reason})" for name, reason in self.refused.items()]
        return f"attention: {self.name}" + (f" of {', '.join(tried)}" if tried else "")


def choose_kernel(
    model: PreTrainedModel,
    examples: Sequence[Example],
    wanted: str = "auto",
    *,
    autocast_dtype: torch.dtype | None = None,
) -> KernelChoice:
    """Choose the attention kernel; where only one is possible, as on CPU, no time is spent.

    Args:
        model: The run's model, not yet wrapped; its attention is left as it was, and it has no gradients afterwards.
        examples: Some conversations of the run.
        wanted: The recipe's ``training.attention``.
        autocast_dtype: Data type of matrix products where it is not that of the weights.

    Raises:
        InputError: The wanted kernel does not work on this device, in this data type, or is not installed.
        CheckFailed: The wanted kernel computes something else than the reference.
    """
    dtype = autocast_dtype or model.dtype
    candidates = _without_those_that_cannot_drop_out(model, usable_kernels(model.device, dtype))
    if wanted != "auto":
        candidates = _only(NAMES[wanted], candidates, model.device, dtype)
    if len(candidates) == 1:
        return KernelChoice(candidates[0])
    choice = _fastest(model, collate(examples).to(model.device), candidates, autocast_dtype)
    if wanted not in ("auto", "segments") and choice.refused:
        raise CheckFailed(
            f"expected {wanted} attention to agree with the reference kernel; {choice.refused[NAMES[wanted]]}",
            hint="Set training.attention to auto or segments.",
        )
    return KernelChoice(NAMES[wanted], choice.milliseconds, choice.differences) if wanted != "auto" else choice


def _without_those_that_cannot_drop_out(model: PreTrainedModel, kernels: Sequence[str]) -> list[str]:
    """Leave PyTorch's varlen kernel out where the model drops attention weights in training: it has no such thing."""
    drops_out = bool(getattr(model.config, "attention_dropout", 0.0))
    return [name for name in kernels if name != VARLEN_ATTENTION or not drops_out]


def _only(wanted: str, candidates: Sequence[str], device: torch.device, dtype: torch.dtype) -> list[str]:
    if wanted not in candidates:
        usable = ", ".join(name for name, kernel in NAMES.items() if kernel in candidates)
        raise InputError(
            f"expected an attention kernel for {device.type} in {str(dtype).removeprefix('torch.')} ({usable}); "
            f"found {next(name for name, kernel in NAMES.items() if kernel == wanted)}",
            hint="Set training.attention to auto.",
        )
    return [SEGMENT_ATTENTION] if wanted == SEGMENT_ATTENTION else [SEGMENT_ATTENTION, wanted]


def _fastest(
    model: PreTrainedModel, batch: Batch, candidates: Sequence[str], autocast_dtype: torch.dtype | None
) -> KernelChoice:
    milliseconds: dict[str, float] = {}
    differences: dict[str, float] = {}
    refused: dict[str, str] = {}
    limit = tolerance(autocast_dtype or model.dtype, model.device).gradient
    before = model.config._attn_implementation
    try:
        with without_dropout(model):
            expected = _hidden_and_gradients(model, batch, candidates[0], autocast_dtype)
            for name in candidates:
                try:
                    found = _hidden_and_gradients(model, batch, name, autocast_dtype)
                except Exception as error:  # whatever its code met on this device: there are other kernels
                    refused[name] = f"it does not run: {(str(error) or repr(error)).splitlines()[0]}"
                    continue
                differences[name] = compare(found, expected).difference
                if differences[name] <= limit:
                    milliseconds[name] = _median_milliseconds(model, batch, name, autocast_dtype)
                else:
                    refused[name] = f"it is {differences[name]:.1e} off, where rounding is at most {limit:.0e}"
    finally:
        model.set_attn_implementation(before)
    return KernelChoice(min(milliseconds, key=milliseconds.__getitem__), milliseconds, differences, refused)


def _hidden_and_gradients(
    model: PreTrainedModel, batch: Batch, kernel: str, autocast_dtype: torch.dtype | None
) -> dict[str, torch.Tensor]:
    """Return the hidden states, and the gradients of a random function of them, on the CPU."""
    model.set_attn_implementation(kernel)
    observed = observed_parameters(model)
    with autocast(model.device, autocast_dtype):
        hidden = forward_hidden(model, batch)
    direction = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0)).to(hidden)
    gradients = torch.autograd.grad((hidden * direction).sum(), list(observed.values()), allow_unused=True)
    found = {name: as_float32(grad, observed[name]) for name, grad in zip(observed, gradients, strict=True)}
    return {"hidden states": as_float32(hidden, hidden), **found}


def _median_milliseconds(
    model: PreTrainedModel, batch: Batch, kernel: str, autocast_dtype: torch.dtype | None
) -> float:
    """Return the time of a forward and backward pass."""
    model.set_attn_implementation(kernel)
    times = []
    for _ in range(_REPEATS):
        _wait(model.device)
        started = time.perf_counter()
        with autocast(model.device, autocast_dtype):
            hidden = forward_hidden(model, batch)
        torch.autograd.grad(hidden.sum(), [p for p in model.parameters() if p.requires_grad], allow_unused=True)
        _wait(model.device)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
