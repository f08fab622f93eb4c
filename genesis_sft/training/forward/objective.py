"""Model and loss as one module, which is what DistributedDataParallel and FSDP wrap: one pass, head included."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from genesis_sft.batches.collate import Batch
from genesis_sft.training.forward.attention import forward_hidden
from genesis_sft.training.forward.loss import head_loss

MOST_OBSERVED = 32
"""Positions of each kind, in a micro-batch, at which the probability of the end of a turn is looked at."""

END_SUMS = ("end_probability", "end_rank", "num_ends", "elsewhere_probability", "num_elsewhere")
"""What the third output of `Objective` holds: sums over positions, and their numbers."""


class Objective(nn.Module):
    """The loss of a micro-batch.

    Args:
        model: Loaded with one of the attentions of :mod:`genesis_sft.training.forward.attention`.
        end_of_turn: Id of the token that ends a turn; observed at the ends of assistant turns and elsewhere.
        z_loss: See `head_loss`.
    """

    def __init__(self, model: PreTrainedModel, *, end_of_turn: int | None = None, z_loss: float = 0.0) -> None:
        super().__init__()
        self.model, self.end_of_turn, self.z_loss = model, end_of_turn, z_loss

    def forward(self, batch: Batch, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what to differentiate, the loss of every trained token, and what is seen of the ends of turns.

        Args:
            batch: Conversations laid end to end.
            scale: Factor on the summed loss, e.g. 1 / (trained tokens of the whole step).

        Returns:
            ``scale`` times the summed loss, a float32 scalar; (N,) nats of each trained token, detached; and a float64
            vector with the sums that `END_SUMS` names, detached.
        """
        hidden, head = forward_hidden(self.model, batch), self.model.get_output_embeddings()  # hidden: (T, hidden_size)
        loss, nll = head_loss(
            hidden.index_select(0, batch.predict_from),
            head,
            batch.targets,
            vocab_size=self.model.config.vocab_size,
            scale=scale,
            z_loss=self.z_loss,
        )
        return loss, nll, self._observe_ends(hidden, head, batch)

    @torch.no_grad()
    def _observe_ends(self, hidden: torch.Tensor, head: nn.Module, batch: Batch) -> torch.Tensor:
        """Look at how likely the end of a turn is where one is, and where none is: the head on a few positions more."""
        sums = torch.zeros(len(END_SUMS), dtype=torch.float64, device=hidden.device)
        if self.end_of_turn is None or not self.training:
            return sums
        ends = _evenly(batch.turn_ends)
        elsewhere = _evenly(batch.predict_from[batch.targets != self.end_of_turn])
        logits = head(hidden[torch.cat([ends, elsewhere])])[:, : self.model.config.vocab_size].float()
        end_logits = logits[:, self.end_of_turn]
        probability = (end_logits - logits.logsumexp(dim=1)).exp().double()
        rank = (logits[: len(ends)] > end_logits[: len(ends), None]).sum(dim=1) + 1
        sums[0], sums[1], sums[2] = probability[: len(ends)].sum(), rank.sum(), len(ends)
        sums[3], sums[4] = probability[len(ends) :].sum(), len(elsewhere)
        return sums


def token_losses(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the negative log-likelihood of every trained token, (N,) float32, in nats, detached.

    Args:
        model: In eval mode, loaded with one of the attentions of :mod:`genesis_sft.training.forward.attention`.
        batch: Conversations laid end to end.
    """
    losses: torch.Tensor = Objective(model)(batch)[1]
    return losses


def _evenly(positions: torch.Tensor) -> torch.Tensor:
    """At most `MOST_OBSERVED` of the positions, spread evenly."""
    step = -(-len(positions) // MOST_OBSERVED) or 1
    return positions[::step]
