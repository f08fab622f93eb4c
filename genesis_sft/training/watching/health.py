"""How the rows of the control tokens fare, and how far the weights move: measured in a step, with no pass of its own.

The rows that a base model was given for ``<|im_start|>`` and the others are what a fine-tuning run most often gets
wrong without a sign in the loss: frozen, zero, or never trained to be predicted. `find_alarms` reads what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from genesis_sft.batches.collate import collate
from genesis_sft.mixture.table import TokenTable
from genesis_sft.training.processes.parallel import Ranks, Trainable, full

NUM_MATRICES = 6
"""Matrices whose updates are looked at, evenly from the first layer to the last: they are copied for one update, which
for Genesis-1B is about 110 MB."""

NUM_CONVERSATIONS = 1000
"""Conversations whose ends of turns are counted, evenly over all sources."""


class Health:
    """Looks at some updates from both sides: an `UpdateWatch`, to be called by all processes.

    Args:
        trainable: The wrapped model.
        control_ids: Names and ids of the control tokens.
        ranks: The processes.
        every_steps: Steps between looks; the first step is looked at too.
    """

    def __init__(self, trainable: Trainable, control_ids: Mapping[str, int], ranks: Ranks, *, every_steps: int) -> None:
        self._trainable, self._control_ids, self._ranks = trainable, dict(control_ids), ranks
        self._every_steps = every_steps
        self._looks = False
        self._before: dict[str, torch.Tensor] = {}
        self._shares: dict[str, dict[str, float | None]] = {}
        self._measured: dict[str, Any] | None = None

    def start(self, step: int) -> None:
        """Say which step is next, counted from 1; what an earlier one left is forgotten."""
        self._looks = step == 1 or step % self._every_steps == 0
        self._measured = None

    def before_update(self) -> None:
        """Keep the weights of some matrices, and measure the control tokens' share of the gradient."""
        if not self._looks:
            return
        self._before = {name: _local(weight).clone() for name, weight in self._matrices().items()}
        self._shares = self._gradient_shares()

    def after_update(self) -> None:
        """Measure the rows as they are now, and how far the matrices have moved."""
        if not self._looks:
            return
        model = self._trainable.objective.model
        rows = {
            table: {name: {**facts, "gradient_share": self._shares[table][name]} for name, facts in of_table.items()}
            for table, of_table in _measure_tables(model, self._control_ids).items()
        }
        self._measured = {"rows": rows, **self._measure_updates()}
        self._before, self._shares = {}, {}

    def take(self) -> dict[str, Any] | None:
        """Return what was measured in this step, once; None where nothing was.

        Returns:
            Plain numbers, None where one is not finite::

                {"rows": {"embedding": {"<|im_end|>": {"norm": 1.2, "norm_ratio": 0.9, "cosine_to_mean": 0.4,
                                                       "gradient_share": 0.01}, ...}, "head": {...}},
                 "matrices": {"layers.0.self_attn.q_proj.weight": {"rms": 0.03, "update": 0.0007}, ...},
                 "lost_updates": 0.6}

            ``head`` where it is not tied to the embedding. ``norm_ratio`` is to the median norm of the other tokens'
            rows, ``cosine_to_mean`` to their mean, ``gradient_share`` of the squared norm of the whole gradient.
            ``update`` is the root mean square of the update over that of the weights. ``lost_updates`` is the share of
            the matrices' weights with a gradient that the update left as they were; None with float32 weights.
        """
        measured, self._measured = self._measured, None
        return measured

    def _matrices(self) -> dict[str, nn.Parameter]:
        """Return `NUM_MATRICES` of the layers' matrices by name."""
        model = self._trainable.objective.model
        tables = {id(weight) for weight in _tables(model).values()}
        found = [
            (name.removeprefix("model."), weight)
            for name, weight in model.named_parameters()
            if weight.ndim == 2 and weight.requires_grad and id(weight) not in tables
        ]
        chosen = np.unique(np.linspace(0, len(found) - 1, NUM_MATRICES).astype(int)).tolist()
        return dict(found[number] for number in chosen) if found else {}

    def _gradient_shares(self) -> dict[str, dict[str, float | None]]:
        gradients = [p.grad for p in self._trainable.module.parameters() if p.grad is not None]
        whole = float(full(nn.utils.get_total_norm(gradients))) ** 2
        shares: dict[str, dict[str, float | None]] = {}
        for table, weight in _tables(self._trainable.objective.model).items():
            if weight.grad is None:
                shares[table] = dict.fromkeys(self._control_ids, 0.0)
                continue
            rows = full(weight.grad)[list(self._control_ids.values())].float()
            squares = rows.square().sum(dim=1).tolist()
            shares[table] = {
                name: _ratio(square, whole) for name, square in zip(self._control_ids, squares, strict=True)
            }
        return shares

    def _measure_updates(self) -> dict[str, Any]:
        """Compare the matrices with what they were. Processes that hold the same part count it alike: ratios stay."""
        matrices = self._matrices()
        measured = [_measure_update(self._before[name], weight) for name, weight in matrices.items()]
        sums = self._ranks.sum([value for update in measured for value in update.values])
        updates = [_Update(*sums[start : start + 5]) for start in range(0, len(sums), 5)]
        kept_low = any(weight.dtype.itemsize < 4 for weight in matrices.values())
        lost = _ratio(sum(u.num_lost for u in updates), sum(u.num_wanted for u in updates)) if kept_low else None
        return {
            "matrices": {
                name: {"rms": _root(u.weight_squares, u.num_weights), "update": _root(u.squares, u.weight_squares)}
                for name, u in zip(matrices, updates, strict=True)
            },
            "lost_updates": lost,
        }


@dataclass(frozen=True)
class _Update:
    """Sums over the part of a matrix that one process holds.

    Attributes:
        squares: Of the changes.
        weight_squares: Of the weights before.
        num_weights: How many there are.
        num_wanted: How many have a gradient that is not zero, so that AdamW wants to move them.
        num_lost: How many of those did not change.
    """

    squares: float
    weight_squares: float
    num_weights: float
    num_wanted: float
    num_lost: float

    @property
    def values(self) -> tuple[float, ...]:
        return (self.squares, self.weight_squares, self.num_weights, self.num_wanted, self.num_lost)


@torch.no_grad()
def _measure_update(before: torch.Tensor, weight: nn.Parameter) -> _Update:
    after, gradient = _local(weight), _local(weight.grad) if weight.grad is not None else None
    wanted = gradient != 0 if gradient is not None else torch.zeros_like(after, dtype=torch.bool)
    return _Update(
        squares=float(torch.linalg.vector_norm(after.float() - before.float())) ** 2,
        weight_squares=float(torch.linalg.vector_norm(before, dtype=torch.float32)) ** 2,
        num_weights=before.numel(),
        num_wanted=int(wanted.sum()),
        num_lost=int((wanted & (after == before)).sum()),
    )


def row_facts(model: PreTrainedModel, control_ids: Mapping[str, int]) -> dict[str, Any]:
    """Return how the rows of the control tokens are before the first step; for `find_alarms`.

    Args:
        model: As it will be trained: what is frozen is frozen. All processes have to ask where it is sharded.
        control_ids: Names and ids of the control tokens.

    Returns:
        ``{"control_ids": {name: id}, "rows": {"embedding": {name: {"norm", "norm_ratio", "cosine_to_mean"}}, "head":
        ...}, "frozen": ["embedding", ...]}``; see `Health.take`.
    """
    return {
        "control_ids": dict(control_ids),
        "rows": _measure_tables(model, control_ids),
        "frozen": [table for table, weight in _tables(model).items() if not weight.requires_grad],
    }


def data_facts(table: TokenTable, end_of_turn: int) -> dict[str, Any]:
    """Return how many ends of assistant turns are trained, among `NUM_CONVERSATIONS` of a table; for `find_alarms`.

    Args:
        table: The conversations to train on.
        end_of_turn: Id of the token that ends a turn.

    Returns:
        ``{"end_of_turn": id, "turn_ends": 1300, "trained_turn_ends": 1300, "trained_turn_ends_share": 1.0}``; the share
        is None where there is no end.
    """
    chosen = np.unique(np.linspace(0, len(table) - 1, min(len(table), NUM_CONVERSATIONS)).astype(int))
    turn_ends = trained = 0
    for index in chosen.tolist():
        batch = collate([(table.input_ids(index), table.trained(index))], end_of_turn=end_of_turn)
        turn_ends += len(batch.turn_ends)
        trained += int(torch.isin(batch.turn_ends, batch.predict_from).sum())
    return {
        "end_of_turn": end_of_turn,
        "turn_ends": turn_ends,
        "trained_turn_ends": trained,
        "trained_turn_ends_share": _ratio(trained, turn_ends),
    }


def _tables(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Return the matrices with a row per token: a tied head is the embedding itself."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return {"embedding": embedding} if head is embedding else {"embedding": embedding, "head": head}


def _measure_tables(
    model: PreTrainedModel, control_ids: Mapping[str, int]
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Compare the control tokens' rows with those of all other tokens; rows that only pad the table are none."""
    vocab_size = int(model.config.vocab_size)
    return {
        table: _measure_rows(full(weight.detach())[:vocab_size], control_ids)
        for table, weight in _tables(model).items()
    }


@torch.no_grad()
def _measure_rows(rows: torch.Tensor, control_ids: Mapping[str, int]) -> dict[str, dict[str, float | None]]:
    """Return norm, its ratio to the median of the others, and cosine to their mean.

    Args:
        rows: (vocabulary, hidden_size).
        control_ids: Names and ids.
    """
    ids = list(control_ids.values())
    chosen = rows[ids].double()  # (control tokens, hidden_size)
    mean = rows.sum(dim=0, dtype=torch.float32).double() - chosen.sum(dim=0)  # its length does not matter
    others = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    others[ids] = False
    usual = float(torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32)[others].median())
    norms = chosen.norm(dim=1).tolist()
    products = (chosen @ mean).tolist()
    length = float(mean.norm())
    return {
        name: {"norm": _finite(norm), "norm_ratio": _ratio(norm, usual), "cosine_to_mean": _ratio(dot, norm * length)}
        for name, norm, dot in zip(control_ids, norms, products, strict=True)
    }


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """Return the part of a tensor that this process holds."""
    from torch.distributed.tensor import DTensor

    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _ratio(value: float, to: float) -> float | None:
    return _finite(value / to) if to else None


def _root(squares: float, over: float) -> float | None:
    ratio = _ratio(squares, over)
    return None if ratio is None else math.sqrt(ratio)
