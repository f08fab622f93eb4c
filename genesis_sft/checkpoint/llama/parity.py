"""Parity: does an exported folder, opened by transformers in a process of its own, compute what the checkpoint means?

The other side is the plain forward pass (``forward``) over the checkpoint's own tensors. Or, where the training code
left some logits of its own in a file, those: nothing else tells an export with another RoPE theta or norm epsilon than
the training had from a right one (a few hundredths of a nat on short text).
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from genesis_sft.checkpoint.llama.conventions import Conventions
from genesis_sft.checkpoint.llama.forward import trace
from genesis_sft.checkpoint.llama.stored import StoredLlama
from genesis_sft.errors import ModelError

TOLERANCE = 1e-4
"""Largest difference of two logits in float32; times a tenth of the largest logit, where that is over 10."""

GREEDY_TOKENS = 24
_LAYER_TOLERANCE = 1e-3  # of the hidden states' root mean square: a fault is far above, rounding far below
_REFERENCE_SHARE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}  # of the logits' deviation
_WORKER = "genesis_sft.checkpoint.llama.hf_outputs"


@dataclass(frozen=True)
class Parity:
    """How far an exported folder is from what it is compared with.

    Attributes:
        against: ``"checkpoint"`` or ``"reference"``.
        max_abs_delta_logit: Largest difference of two logits.
        tolerance: What is allowed.
        same_greedy_ids: Whether the likeliest token is the same at every position, and in the folder's own greedy text.
        first_differing_part: ``"embedding"``, ``"layer 3"``, ``"final norm"`` or ``"head"``; None where none differs,
            and against a reference, which has logits only.
        num_tokens: Positions compared.
    """

    against: str
    max_abs_delta_logit: float
    tolerance: float
    same_greedy_ids: bool
    first_differing_part: str | None
    num_tokens: int

    @property
    def holds(self) -> bool:
        """Whether the two compute the same."""
        return self.max_abs_delta_logit < self.tolerance and (self.same_greedy_ids or self.against == "reference")

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"holds": self.holds}

    def summary(self) -> str:
        """Return one line."""
        differs = f"; {self.first_differing_part} differs first" if self.first_differing_part else ""
        greedy = "same greedy text" if self.same_greedy_ids else "other greedy text"
        return (
            f"{'holds' if self.holds else 'does not hold'} against the {self.against}: max |delta logit| "
            f"{self.max_abs_delta_logit:.1e} (allowed {self.tolerance:.0e}), {greedy}, "
            f"{self.num_tokens} tokens{differs}"
        )


def measure_parity(stored: StoredLlama, conventions: Conventions, folder: Path, ids: list[int]) -> Parity:
    """Compare an exported folder with the checkpoint, part by part.

    Args:
        stored: The checkpoint.
        conventions: How it is to be computed.
        folder: The export.
        ids: Some text; the folder's own greedy continuation of its first half is compared as well.
    """
    prompt = ids[: max(1, len(ids) // 2)]
    exported = run_in_fresh_process(folder, torch.tensor(ids), prompt=torch.tensor(prompt))
    greedy_ids = exported["greedy_ids"].tolist()
    delta, largest, same, first = 0.0, 0.0, True, None
    num_rows = exported["head"].shape[-1]
    for part, mine in trace(stored, conventions, torch.tensor([ids])):
        theirs = exported[part]
        if part == "head":
            mine = mine[..., :num_rows]
            delta, largest = float((mine[0] - theirs).abs().max()), float(mine.abs().max())
            same = bool((mine[0].argmax(-1) == theirs.argmax(-1)).all())
        if first is None and _differs(mine[0], theirs):
            first = part
    *_, (_, again) = trace(stored, conventions, torch.tensor([greedy_ids]))
    same = same and again[0, len(prompt) - 1 : -1].argmax(-1).tolist() == greedy_ids[len(prompt) :]
    tolerance = TOLERANCE * max(1.0, largest / 10)
    return Parity("checkpoint", delta, tolerance, same, first, len(ids))


def measure_against_reference(folder: Path, reference: Path) -> Parity:
    """Compare an exported folder with logits that the training code left in a safetensors file.

    Args:
        folder: The export.
        reference: Holds ``input_ids`` (T,) integers and ``logits`` (T, rows) in float32, bfloat16 or float16.

    Raises:
        ModelError: The file holds something else.
    """
    ids, logits = read_reference(reference)
    found = run_in_fresh_process(folder, ids)["head"]
    if logits.shape[1] > found.shape[1]:
        raise ModelError(
            f"{reference} has logits of {logits.shape[1]} rows; the model in {folder} has {found.shape[1]}"
        )
    expected, found = logits.float(), found[:, : logits.shape[1]]
    tolerance = _REFERENCE_SHARE[logits.dtype] * float(expected.std())
    same = bool((expected.argmax(-1) == found.argmax(-1)).all())
    return Parity("reference", float((expected - found).abs().max()), tolerance, same, None, len(ids))


def read_reference(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ids (T,) and logits (T, rows) of a file that the training code left.

    Raises:
        ModelError: It holds something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            if {"input_ids", "logits"} <= set(file.keys()):
                ids, logits = file.get_tensor("input_ids"), file.get_tensor("logits")
                ids, logits = ids.reshape(-1), logits.reshape(-1, logits.shape[-1])
                if len(ids) == len(logits) > 0 and logits.dtype in _REFERENCE_SHARE and not ids.is_floating_point():
                    return ids.long(), logits
    except Exception as error:  # safetensors has no public base for its errors
        raise ModelError(f"{path} cannot be read as safetensors: {error}") from None
    raise ModelError(
        f"expected input_ids of (T,) and logits of (T, rows) in {path}, for one sequence",
        hint="docs/intake.md shows the five lines that write it in the training code.",
    )


def run_in_fresh_process(
    folder: Path, ids: torch.Tensor, prompt: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Return what a folder computes when a new process opens it with transformers.

    Args:
        folder: A Hugging Face folder of a Llama.
        ids: (T,) token ids.
        prompt: (P,) ids to go on from greedily.

    Returns:
        For each part, as ``trace`` names them, its output (T, ...), and ``greedy_ids`` (P + 24,) with the prompt.

    Raises:
        ModelError: The process ended with an error.
    """
    with TemporaryDirectory() as scratch:
        given, found = Path(scratch, "given.safetensors"), Path(scratch, "found.safetensors")
        save_file({"ids": ids} | ({} if prompt is None else {"prompt": prompt}), given)
        command = [sys.executable, "-m", _WORKER, str(folder), str(given), str(found)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not found.exists():
            last = (done.stderr.strip().splitlines() or ["it was ended from outside; was there enough memory?"])[-1]
            raise ModelError(f"a fresh process could not compute with {folder}: {last}")
        outputs: dict[str, torch.Tensor] = load_file(found)
        return outputs


def _differs(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    size = float(mine.pow(2).mean().sqrt())
    return not float((mine - theirs).abs().max()) <= _LAYER_TOLERANCE * max(size, 1e-6)
