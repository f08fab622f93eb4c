"""Checks of several conversations in one forward pass: right labels, positions of their own, no sight of each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from genesis_sft.batches.collate import Batch, Example, collate
from genesis_sft.training.processes.parallel import Trainable
from genesis_sft.training.proof import mistakes
from genesis_sft.training.proof.textbook import IGNORED, textbook_labels


@dataclass(frozen=True)
class Row:
    """One check of a certificate.

    Attributes:
        check: What was checked.
        expected: What should be.
        found: What training came to.
        difference: How far apart they are, as the check measures it; None where it is no number.
        tolerance: How far they may be.
        passed: Whether they are no further.
        mistake: What is wrong, where the check says it by itself.
    """

    check: str
    expected: str
    found: str
    difference: float | None
    tolerance: float
    passed: bool
    mistake: str = ""


def check_labels(whole: Batch, examples: Sequence[Example]) -> Row:
    """Check that each trained token, and no other, is the target of the output before it."""
    expected = torch.cat(textbook_labels(examples))
    found = torch.full_like(expected, IGNORED)
    found[(whole.predict_from + 1).clamp(max=len(found) - 1)] = whole.targets
    extra = int(((found != IGNORED) & (expected == IGNORED)).sum())
    missing = int(((found == IGNORED) & (expected != IGNORED)).sum())
    wrong = int((found != expected).sum())
    mistake = ""
    if wrong:
        shifted = extra == missing or wrong > extra + missing
        mistake = mistakes.SHIFTED if shifted else mistakes.UNMASKED if extra else mistakes.LEFT_OUT
    return Row(
        check="labels",
        expected=f"{int((expected != IGNORED).sum())} trained tokens, each predicted by the output before it",
        found=f"{wrong} positions with another label" if wrong else "the same",
        difference=float(wrong),
        tolerance=0.0,
        passed=not wrong,
        mistake=mistake,
    )


def check_apart(trainable: Trainable, examples: Sequence[Example], device: torch.device, limit: float) -> list[Row]:
    """Check that conversations in one forward pass have positions of their own, and that none sees another.

    Args:
        trainable: The wrapped model; all processes call this.
        examples: The conversations.
        device: Where it computes.
        limit: Nats by which rounding may move a loss.
    """
    positions: list[torch.Tensor] = []

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        positions.append(kwargs["position_ids"][0].cpu())

    hook = trainable.objective.model.get_decoder().register_forward_pre_hook(look, with_kwargs=True)
    try:
        leak_row = _leak_row(trainable, examples, device, limit)
    finally:
        hook.remove()
    return [_positions_row(positions[0], examples), leak_row]


def _positions_row(found: torch.Tensor, examples: Sequence[Example]) -> Row:
    """Compare positions themselves: rotary embeddings see only their differences, so that no loss would tell."""
    wrong = int((found != torch.cat([torch.arange(len(ids)) for ids, _ in examples])).sum())
    return Row(
        check="positions",
        expected="0, 1, 2, ... in each conversation",
        found=f"{wrong} other positions" if wrong else "the same",
        difference=float(wrong),
        tolerance=0.0,
        passed=not wrong,
        mistake=mistakes.POSITIONS if wrong else "",
    )


def _leak_row(trainable: Trainable, examples: Sequence[Example], device: torch.device, limit: float) -> Row:
    """Change every second conversation, and then the others: so each, left as it is, has once changed neighbours."""
    before = _losses_of_each(trainable, examples, device)
    moved_itself, moved_others = math.inf, 0.0
    for parity in (0, 1):
        changed = [_other_tokens(trainable, one) if n % 2 == parity else one for n, one in enumerate(examples)]
        after = _losses_of_each(trainable, changed, device)
        moved = [float((one - other).abs().max()) for one, other in zip(before, after, strict=True)]
        moved_itself = min(moved_itself, *moved[parity::2])
        # a loss that is no number has moved, however it compares
        moved_others = max(moved_others, *(math.inf if math.isnan(one) else one for one in moved[1 - parity :: 2]))
    sighted, sealed = moved_itself > limit, moved_others <= limit
    return Row(
        check="leak",
        expected="the loss of a conversation changes when its tokens do, and only then",
        found=f"others move by {moved_others:.1e} nats, the changed ones by {moved_itself:.1e} or more",
        difference=moved_others if math.isfinite(moved_others) else None,
        tolerance=limit,
        passed=sighted and sealed,
        mistake="" if sighted and sealed else mistakes.BLIND if sealed else mistakes.BOUNDARY,
    )


def _other_tokens(trainable: Trainable, example: Example) -> Example:
    ids, spans = example
    return (ids + 1) % np.int64(trainable.objective.model.config.vocab_size), spans


@torch.no_grad()
def _losses_of_each(trainable: Trainable, examples: Sequence[Example], device: torch.device) -> list[torch.Tensor]:
    """Return the losses of the trained tokens of each conversation, all from one forward pass."""
    batch = collate(examples)
    losses = trainable(batch.to(device), 1.0)[1].cpu()
    starts = torch.tensor([len(ids) for ids, _ in examples]).cumsum(0)
    owners = torch.searchsorted(starts, batch.predict_from, right=True)
    return [losses[owners == number] for number in range(len(examples))]
