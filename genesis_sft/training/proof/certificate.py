"""The proof, before the first step, that training computes the textbook's loss and gradient, however its work is cut.

A few conversations of the run's first batch go through the very functions that training calls, in every way that it
cuts them: all in one forward pass, one after the other, padded, spread over the processes. Each loss and gradient is
compared with that of ``textbook.py``. And some conversations are changed, which the others must not notice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from genesis_sft.batches.collate import Batch, Example, collate
from genesis_sft.batches.layout import lay_out
from genesis_sft.errors import CheckFailed
from genesis_sft.training.processes.parallel import Ranks, Trainable, full
from genesis_sft.training.proof.gradients import Tolerance, compare, shares, tolerance
from genesis_sft.training.proof.leak import Row, check_apart, check_labels
from genesis_sft.training.proof.mistakes import ELSEWHERE, PADDING, Measured, mistake_in_adding, mistake_in_one_pass
from genesis_sft.training.proof.textbook import Reference, as_float32, without_dropout
from genesis_sft.training.step import accumulate_gradients

ONE_PASS, ACCUMULATED, PADDED, SPREAD = "one forward pass", "accumulated", "padded", "spread over processes"

Layout = list[list[list[int]]]


@dataclass(frozen=True)
class Certificate:
    """What was proven, or not.

    Attributes:
        rows: The checks.
        mistakes: Where one failed: what the numbers say that is likely to be wrong.
        num_tokens: Tokens of the conversations that it was proven on.
        dtype: Data type of matrix products.
    """

    rows: tuple[Row, ...]
    mistakes: tuple[str, ...]
    num_tokens: int
    dtype: str

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return all(row.passed for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"passed": self.passed, **asdict(self)}

    def summary(self) -> str:
        """Return it as one line."""
        if not self.passed:
            return "certificate: failed in " + ", ".join(row.check for row in self.rows if not row.passed)
        loss, gradient = (
            max(row.difference or 0.0 for row in self.rows if row.check.endswith(kind)) for kind in ("loss", "gradient")
        )
        return (
            f"certificate: {len(self.rows)} checks passed on {self.num_tokens} tokens of the first batch, in "
            f"{self.dtype}; {loss:.1e} from the textbook's loss, {gradient:.1e} from its gradient"
        )

    def require(self) -> None:
        """Go on only if it was proven.

        Raises:
            CheckFailed: It was not; the message names the checks and what is likely to be wrong.
        """
        if self.passed:
            return
        failed = [f"{row.check}: expected {row.expected}, found {row.found}" for row in self.rows if not row.passed]
        raise CheckFailed(
            f"training does not compute what it should ({'; '.join(failed)}). Likely: {'; '.join(self.mistakes)}",
            hint="Where a kernel is to blame, training.attention: segments and training.compile: false go around it; "
            "otherwise please report this, with certificate.json from the folder of the run's training.",
        )


def certify(
    trainable: Trainable,
    reference: Reference,
    examples: Sequence[Example],
    ranks: Ranks,
    *,
    end_of_turn: int | None = None,
) -> Certificate:
    """Prove training's functions on a few conversations; all processes call it. Gradients are left cleared.

    Args:
        trainable: The wrapped model, in training mode, before the first step.
        reference: What the textbook says of these conversations.
        examples: See `cut_examples`.
        ranks: The processes.
        end_of_turn: See `collate`.
    """
    limits = tolerance(reference.dtype, ranks.device)
    whole = collate(examples, end_of_turn=end_of_turn)
    with without_dropout(trainable.objective.model):
        # before the gradients: a forward pass alone leaves sharded weights gathered, a backward pass does not
        rows = [
            check_labels(whole, examples),
            *check_apart(trainable, examples, ranks.device, limits.leak),
        ]
        mistakes = [row.mistake for row in rows if row.mistake]
        measured = {}
        for name, micro_batches in _cuts(examples, ranks, end_of_turn).items():
            measured[name] = _measure(trainable, micro_batches, ranks, reference, limits)
            rows += _loss_and_gradient(name, measured[name], reference, limits)
        if ranks.any(not all(row.passed for row in rows)):
            rows.append(_everywhere(all(row.passed for row in rows)))
            if not ranks.any(bool(mistakes)):
                mistakes = [_find_mistake(measured, trainable, reference, limits, examples, ranks)]
            mistakes = mistakes or [ELSEWHERE]
    return Certificate(tuple(rows), tuple(mistakes), whole.num_tokens, str(reference.dtype).removeprefix("torch."))


def _layout(name: str, examples: Sequence[Example], ranks: Ranks) -> Layout:
    """Return the forward passes of each process, one conversation each: so their numbers of trained tokens differ."""
    return lay_out([len(ids) for ids, _ in examples], 1, ranks.world_size if name == SPREAD else 1)


def _cuts(examples: Sequence[Example], ranks: Ranks, end_of_turn: int | None) -> dict[str, list[Batch]]:
    """Return this process's forward passes for each way to cut the work.

    All but the last are done by every process alike; the mean over processes is then that of each.
    """

    def passes(groups: Sequence[Sequence[int]]) -> list[Batch]:
        return [collate([examples[index] for index in group], end_of_turn=end_of_turn) for group in groups]

    longest = max(len(ids) for ids, _ in examples)
    cuts = {
        ONE_PASS: [collate(examples, end_of_turn=end_of_turn)],
        ACCUMULATED: passes(_layout(ACCUMULATED, examples, ranks)[0]),
        PADDED: [collate(examples, end_of_turn=end_of_turn, pad_to=longest + 1)],
    }
    if ranks.world_size > 1:
        cuts[SPREAD] = passes(_layout(SPREAD, examples, ranks)[ranks.rank])
    return cuts


def _gradients(
    trainable: Trainable, micro_batches: Sequence[Batch], ranks: Ranks, names: Sequence[str]
) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the loss that training reports for a step, and the named gradients that it leaves."""
    trainable.clear_gradients()
    sums = accumulate_gradients(trainable, micro_batches, ranks)
    parameters = dict(trainable.objective.model.named_parameters())
    found = {
        name: as_float32(None if (grad := parameters[name].grad) is None else full(grad), parameters[name])
        for name in names
    }
    trainable.module.zero_grad(set_to_none=True)
    return sums.loss / sums.num_trained, found


def _measure(
    trainable: Trainable, micro_batches: Sequence[Batch], ranks: Ranks, reference: Reference, limits: Tolerance
) -> Measured:
    loss, gradients = _gradients(trainable, micro_batches, ranks, list(reference.gradients))
    comparison = compare(gradients, reference.gradients)
    return Measured(
        loss=loss,
        gradient=comparison,
        loss_passed=abs(loss - reference.loss) <= limits.loss * abs(reference.loss),
        gradient_passed=comparison.difference <= limits.gradient,
    )


def _loss_and_gradient(name: str, measured: Measured, reference: Reference, limits: Tolerance) -> list[Row]:
    gradient, difference = measured.gradient, abs(measured.loss - reference.loss) / abs(reference.loss)
    return [
        Row(
            check=f"{name}: loss",
            expected=f"{reference.loss:.7g} nats",
            found=f"{measured.loss:.7g} nats",
            difference=_number(difference),
            tolerance=limits.loss,
            passed=measured.loss_passed,
        ),
        Row(
            check=f"{name}: gradient",
            expected=f"a norm of {gradient.expected_norm:.5g}",
            found=f"a norm of {gradient.found_norm:.5g}, {gradient.difference:.1e} off in {gradient.where}",
            difference=_number(gradient.difference),
            tolerance=limits.gradient,
            passed=measured.gradient_passed,
        ),
    ]


def _everywhere(passed_here: bool) -> Row:
    return Row(
        check="in all processes",
        expected="the checks above passed",
        found="they did not in another process" if passed_here else "they did not in this one",
        difference=None,
        tolerance=0.0,
        passed=False,
    )


def _find_mistake(
    measured: Mapping[str, Measured],
    trainable: Trainable,
    reference: Reference,
    limits: Tolerance,
    examples: Sequence[Example],
    ranks: Ranks,
) -> str:
    """Name what is wrong, told from the ways of cutting that are right and those that are not."""
    failed = [name for name, one in measured.items() if not one.passed]
    # of no consequence which process speaks, as gradients are the same in all; but all have to go the same way
    first = ranks.from_first(failed[0] if failed else None)
    if first is None:
        return ELSEWHERE
    if first == ONE_PASS:
        return mistake_in_one_pass(measured[first], reference, limits, ranks.world_size)
    if first == PADDED:
        return PADDING
    names, counts = list(reference.gradients), [sum(stop - start for start, stop in spans) for _, spans in examples]
    parts = []
    for example, count in zip(examples, counts, strict=True):
        alone = _gradients(trainable, [collate([example])], ranks, names)[1]  # of its own mean
        parts.append({name: grad * (count / reference.num_trained) for name, grad in alone.items()})
    found = _gradients(trainable, _cuts(examples, ranks, None)[first], ranks, names)[1]
    layout = _layout(first, examples, ranks)
    return mistake_in_adding(measured[first], shares(found, parts), counts, layout)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
