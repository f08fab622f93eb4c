"""What is likely to be wrong when training does not come to the textbook's loss and gradient, told from the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from genesis_sft.training.proof.gradients import Comparison, Tolerance
from genesis_sft.training.proof.textbook import Reference

SHIFTED = "labels are shifted against the outputs that predict them"
UNMASKED = "tokens outside the trained spans are trained"
LEFT_OUT = "tokens inside the trained spans are not trained"
POSITIONS = "positions do not start again from 0 in each conversation"
BOUNDARY = "a conversation sees another one: a document boundary is missing in the attention"
BLIND = "the model does not see its input"
PADDING = "padding is computed as if it were text"
ELSEWHERE = "another process computes something else than this one: its device or its software"
REPORTED = "the loss that is reported is averaged in another way than the gradient"
NORMALISER = "a wrong normaliser: {} is averaged by itself, instead of all trained tokens of the step together"
TIMES = "the gradient is added {} times instead of once"
SCALED = "a wrong normaliser: the gradient is {} times what it should be"
LOST = "the gradient of some forward passes is lost"
UNEVEN = "conversations count {} times instead of once each: a wrong normaliser, or passes that are added twice"
OTHER_NUMBERS = "the forward pass is not that of transformers: the attention kernel, the loss, or a compiled layer"
OTHER_GRADIENT = (
    "the backward pass does not belong to the forward pass: the attention kernel, the loss, or recomputation"
)

_NEAR = 0.05
"""How near the numbers have to come to those of a mistake for it to be named; mistakes are further apart."""


@dataclass(frozen=True)
class Measured:
    """What training came to in one way of cutting its work.

    Attributes:
        loss: Nats per trained token, as reported.
        gradient: Beside the textbook's.
        loss_passed, gradient_passed: Whether they are within the tolerance.
    """

    loss: float
    gradient: Comparison
    loss_passed: bool
    gradient_passed: bool

    @property
    def passed(self) -> bool:
        """Whether both are."""
        return self.loss_passed and self.gradient_passed


def mistake_in_one_pass(measured: Measured, reference: Reference, limits: Tolerance, world_size: int) -> str:
    """Name what is wrong where all conversations in one forward pass already come to something else."""
    if not measured.loss_passed and math.isclose(measured.loss, reference.unshifted_loss, rel_tol=limits.loss):
        return SHIFTED
    factor = measured.gradient.factor
    if not measured.gradient_passed and measured.gradient.beyond_factor <= limits.gradient:
        if world_size > 1 and _is_one_of(factor, (world_size, 1 / world_size)):
            return NORMALISER.format("each process")
        return (TIMES if _is_one_of(factor, range(2, 100)) else SCALED).format(f"{factor:.2g}")
    if measured.gradient_passed:
        return REPORTED
    return OTHER_GRADIENT if measured.loss_passed else OTHER_NUMBERS


def mistake_in_adding(
    measured: Measured, weights: Sequence[float], counts: Sequence[int], layout: Sequence[Sequence[Sequence[int]]]
) -> str:
    """Name what is wrong where one forward pass is right and several are not.

    Args:
        measured: Of the several.
        weights: How often each conversation is in the gradient; once would be right.
        counts: Trained tokens of each conversation.
        layout: Of each process, its forward passes: which conversations. See `lay_out`.
    """
    if measured.gradient_passed:
        return REPORTED
    if _is_one_of(max(weights), [min(weights)]):
        times = f"{weights[0]:.2g}"
        return TIMES.format(times) if _is_one_of(weights[0], range(2, 100)) else SCALED.format(times)
    if _averages_each(weights, counts, [group for process in layout for group in process]):
        return NORMALISER.format("each forward pass")
    if _averages_each(weights, counts, [[index for group in process for index in group] for process in layout]):
        return NORMALISER.format("each process")
    if any(abs(weight) < _NEAR for weight in weights):
        return LOST
    return UNEVEN.format(", ".join(f"{weight:.2g}" for weight in weights))


def _averages_each(weights: Sequence[float], counts: Sequence[int], groups: Sequence[Sequence[int]]) -> bool:
    """Whether conversations weigh the less, the more trained tokens their group has."""
    products = [weights[index] * sum(counts[other] for other in group) for group in groups for index in group]
    return _is_one_of(max(products), [min(products)])


def _is_one_of(value: float, others: Sequence[float]) -> bool:
    return any(math.isclose(value, other, rel_tol=_NEAR) for other in others)
