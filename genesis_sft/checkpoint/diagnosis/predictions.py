"""What a model's predictions show of it, right or wrong, where no convention makes them fit the text.

- *context*: the mutual information of context and next token, H(mean of p) - mean of H(p) in nats over the positions of
  a text. A model that works predicts different tokens in different contexts; an untrained one does not.
- *frequencies*: the correlation of log frequencies, of tokens in the text and in what the model predicts there. It is
  high for any working model in the ids of its own tokenizer, and low where ids mean other tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genesis_sft.checkpoint.diagnosis.cost import ProbeText
from genesis_sft.checkpoint.llama.conventions import Conventions
from genesis_sft.checkpoint.llama.forward import logits
from genesis_sft.checkpoint.llama.stored import StoredLlama

USES_CONTEXT_NATS, IGNORES_CONTEXT_NATS = 1.0, 0.1
FREQUENCIES_FIT = 0.3


@dataclass(frozen=True)
class Predictions:
    """What a model predicts over a text, whatever the text says.

    Attributes:
        context_nats: Mutual information of context and next token, nats.
        frequency_correlation: Of log frequencies in the text and in the predictions.
    """

    context_nats: float
    frequency_correlation: float

    @property
    def ignore_context(self) -> bool:
        """Whether no fault of conventions can explain the model: they do not make predictions all alike."""
        return self.context_nats < IGNORES_CONTEXT_NATS

    @property
    def likely_cause(self) -> str:
        """Say in words which part is most likely wrong."""
        if self.ignore_context:
            return (
                "the output head, or the whole model, is untrained or lost, most likely: what it predicts hardly "
                f"depends on the context ({self.context_nats:.2f} nats)"
            )
        if self.context_nats >= USES_CONTEXT_NATS and self.frequency_correlation < FREQUENCIES_FIT:
            return (
                "the tokenizer is of another training, most likely: the model uses its context "
                f"({self.context_nats:.1f} nats), but predicts other tokens than this tokenizer's text has "
                f"(correlation of their frequencies {self.frequency_correlation:.2f})"
            )
        return (
            "no convention explains it: the weights are damaged or incomplete, or belong to another kind of model "
            f"(what it predicts depends on its context by {self.context_nats:.1f} nats)"
        )


def look_at_predictions(stored: StoredLlama, conventions: Conventions, text: ProbeText) -> Predictions:
    """Return what a model's predictions over a text show of it; one forward pass a window.

    Args:
        stored: The model; keep its tensors in memory.
        conventions: How to compute it.
        text: In the ids of the tokenizer that is in doubt.
    """
    counts = torch.zeros(stored.sizes.vocab_size, dtype=torch.float64)
    sum_of_p, sum_of_entropies, positions = torch.zeros_like(counts), 0.0, 0
    for window in text.ids(conventions):
        ids = torch.tensor([window])
        p = logits(stored, conventions, ids)[0, :-1].double().nan_to_num(0.0, 0.0, 0.0).softmax(-1)  # (T - 1, rows)
        counts += torch.bincount(ids[0, 1:], minlength=len(counts))
        sum_of_p += p.sum(0)
        sum_of_entropies += float(_entropy(p).sum())
        positions += len(p)
    context_nats = float(_entropy(sum_of_p / positions)) - sum_of_entropies / positions
    there = counts > 0
    pair = torch.stack((counts[there].log(), (sum_of_p[there] + 1e-9).log()))
    return Predictions(context_nats, float(torch.corrcoef(pair)[0, 1].nan_to_num(0.0)))


def _entropy(p: torch.Tensor) -> torch.Tensor:
    entropy: torch.Tensor = -torch.special.xlogy(p, p).sum(-1)
    return entropy
