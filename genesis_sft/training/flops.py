"""How much of a device is used: the useful floating-point operations of a step, and what the device can do."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

_TERA = 1e12

_PEAK_TFLOPS = (
    # part of the device's name, bfloat16 (tensor cores, dense, float32 accumulation), float32 (without TF32), source
    ("H200", 989.4, 66.9, "NVIDIA H200 data sheet, 2024"),
    ("H100 PCIe", 756.0, 51.2, "NVIDIA H100 data sheet, 2023"),
    ("H100 NVL", 835.0, 60.0, "NVIDIA H100 NVL data sheet, 2024"),
    ("H100", 989.4, 66.9, "NVIDIA H100 data sheet, SXM, 2023"),
    ("A100", 312.0, 19.5, "NVIDIA A100 data sheet, 2021"),
    ("L40S", 362.0, 91.6, "NVIDIA L40S data sheet, 2023"),
    ("L4", 121.0, 30.3, "NVIDIA L4 data sheet, 2023"),
    ("RTX 6000 Ada", 364.2, 91.1, "NVIDIA Ada architecture paper, 2023"),
    ("RTX A6000", 154.8, 38.7, "NVIDIA RTX A6000 data sheet, 2021"),
    ("RTX 5090", 209.5, 104.8, "NVIDIA RTX Blackwell architecture paper, 2025"),
    ("RTX 4090", 165.2, 82.6, "NVIDIA Ada architecture paper, 2022"),
    ("RTX 3090", 71.2, 35.6, "NVIDIA Ampere GA102 architecture paper, 2021"),
)
"""Longer names before those that they contain. GeForce cards accumulate in float32 at half the advertised rate: what is
here is that half, as that is how PyTorch multiplies."""

_MEASURE_SECONDS = 0.2


def step_flops(
    model: PreTrainedModel | PretrainedConfig, lengths: Sequence[int], num_trained: int | None = None
) -> float:
    """Return the useful floating-point operations of forward and backward pass.

    The convention of Kaplan et al. (2020, arXiv:2001.08361, section 2.1) and of model FLOPs utilization (Chowdhery et
    al., 2022, PaLM, arXiv:2204.02311, appendix B): 6 for each parameter of a matrix product and each token, two forward
    and four backward. The output head counts, the lookup of the embedding does not; nor do padding, norms, activations
    that are computed again. Attention adds, in each layer and conversation, the products of queries with keys and of
    weights with values, 12 * heads * head_size * length ** 2, of which a causal mask leaves half; the paper counts them
    whole.

    Args:
        model: The model, cut over processes or not, or its config.
        lengths: Tokens of each conversation, without padding.
        num_trained: Count the head for so many tokens; for all of them when absent, as is the convention, although
            tokens that are not trained do not need it.

    Example:
        A model of one matrix of 10 parameters in a layer, a head of 5, attention of 2 heads of size 4, and 3 tokens:
        6 * (10 + 5) * 3 + 6 * 1 * 2 * 4 * 3 * (3 + 1).
    """
    config = model.config if isinstance(model, PreTrainedModel) else model
    head = config.vocab_size * config.hidden_size  # without rows of padding
    num_tokens = sum(lengths)
    products = _body_parameters(model) * num_tokens + head * (num_tokens if num_trained is None else num_trained)
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    pairs = sum(length * (length + 1) for length in lengths)
    return float(6 * (products + config.num_hidden_layers * width * pairs))


def device_peak_flops(device: torch.device, precision: str, *, hidden_size: int = 1024) -> tuple[float | None, str]:
    """Return the floating-point operations per second that a device can do, and where the number is from.

    Args:
        device: CUDA devices are looked up by name; None where the name is not in the table. On CPU a matrix product
            like those of a layer is timed.
        precision: See ``training.precision``.
        hidden_size: Of the model, for the product that is timed.
    """
    if device.type != "cuda":
        return _measure(device, precision, hidden_size), f"measured: 512 x {hidden_size} x {4 * hidden_size}"
    name = torch.cuda.get_device_name(device)
    for part, bfloat16, float32, source in _PEAK_TFLOPS:
        if part in name:
            return _TERA * (float32 if precision == "float32" else bfloat16), source
    return None, f"{name} is not in the table of genesis_sft.training.flops"


def mfu(flops: float, seconds: float, peak_flops: float) -> float:
    """Return the share of what the devices can do that was of use: model FLOPs utilization (PaLM, appendix B).

    Args:
        flops: Useful operations, see `step_flops`.
        seconds: Time that they took.
        peak_flops: Operations per second of all devices together.
    """
    return flops / seconds / peak_flops


class Utilization:
    """Model FLOPs utilization of a run's steps, against the peak of the devices.

    The peak that was timed on a CPU is too low where the machine was busy meanwhile. A step that was faster shows it:
    the product is timed again, and the peak is at least what the step did.

    Args:
        device: Of one process.
        precision: See ``training.precision``.
        hidden_size: Of the model.
    """

    def __init__(self, device: torch.device, precision: str, hidden_size: int) -> None:
        self._device, self._precision, self._hidden_size = device, precision, hidden_size
        self._peak = self._find_peak()

    def of_step(self, flops: float, seconds: float, world_size: int) -> float | None:
        """Return the share of the peak that a step was, at most 1 on CPUs; None where no peak is known.

        Args:
            flops: Useful operations of all processes, see `step_flops`.
            seconds: Time that they took.
            world_size: Processes, each with a device of its own.
        """
        if self._peak is None:
            return None
        did = flops / seconds / world_size
        if did > self._peak and self._device.type != "cuda":
            self._peak = max(did, self._find_peak() or 0.0)
        return mfu(did, 1.0, self._peak)

    def _find_peak(self) -> float | None:
        return device_peak_flops(self._device, self._precision, hidden_size=self._hidden_size)[0]


def _body_parameters(model: PreTrainedModel | PretrainedConfig) -> int:
    """Return the parameters of all matrices but embedding and head."""
    if not isinstance(model, PreTrainedModel):
        with torch.device("meta"):  # shapes without memory
            model = AutoModelForCausalLM.from_config(model)
    outside = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    return sum(p.numel() for p in model.parameters() if p.ndim >= 2 and id(p) not in outside)


def _measure(device: torch.device, precision: str, hidden_size: int) -> float:
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    left = torch.ones(512, hidden_size, dtype=dtype, device=device)
    right = torch.ones(hidden_size, 4 * hidden_size, dtype=dtype, device=device)
    fastest, began = float("inf"), time.monotonic()
    torch.mm(left, right)  # the first one sets things up
    while fastest == float("inf") or time.monotonic() - began < _MEASURE_SECONDS:
        started = time.perf_counter()
        torch.mm(left, right)
        fastest = min(fastest, time.perf_counter() - started)
    return 2.0 * left.shape[0] * right.numel() / fastest
