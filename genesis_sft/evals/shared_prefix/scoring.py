"""Log-likelihoods of continuations, the output head on scored positions only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from genesis_sft.evals.shared_prefix.forest import Pass, Row
from genesis_sft.evals.shared_prefix.reading import Reader
from genesis_sft.training.forward.loss import LogitsBuffer

_CHUNK_POSITIONS = 512
"""Positions whose logits exist at one time: 512 x 49,152 float32 are 101 MB."""


@dataclass(frozen=True)
class Request:
    """What is to be scored.

    Attributes:
        read: Ids that the model reads.
        targets: Ids that are scored: the last of them is predicted from the last that is read.
    """

    read: Row
    targets: Row

    @property
    def first(self) -> int:
        """Depth of the position that predicts the first target."""
        return len(self.read) - len(self.targets)


@dataclass(frozen=True)
class Score:
    """What a request came to.

    Attributes:
        log_likelihood: Nats, of all targets together.
        is_greedy: Whether each target was the likeliest token.
    """

    log_likelihood: float
    is_greedy: bool


def score_requests(
    model: PreTrainedModel,
    requests: Sequence[Request],
    passes: Sequence[Pass],
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Score]:
    """Score requests.

    Args:
        model: A causal language model of the Llama family in eval mode.
        requests: In any order.
        passes: See `cut_into_passes`, of what the requests read.
        advance: Told of the tokens of each forward pass that is done.
    """
    head = model.get_output_embeddings()
    buffer = LogitsBuffer(head.weight)
    sums, greedy = np.zeros(len(requests)), np.ones(len(requests), dtype=bool)
    reader = Reader(model)
    for one in passes:
        names, places, targets = _scored(one, requests)
        hidden = reader.read(one)
        if len(places):
            log_likelihoods, hits = _log_likelihoods(head, buffer, hidden, places, targets)
            np.add.at(sums, names, log_likelihoods)
            np.logical_and.at(greedy, names, hits)
        advance(len(one))
    return [Score(float(total), bool(hit)) for total, hit in zip(sums, greedy, strict=True)]


def _scored(one: Pass, requests: Sequence[Request]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return what is scored in a pass: request, token of the pass that predicts, and target."""
    names, places, targets = [], [], []
    header = len(one.header)
    for name, where in zip(one.rows, one.places, strict=True):
        request = requests[name]
        start, stop = max(request.first, header), min(len(request.read), header + len(where))
        if start < stop:
            names.append(np.full(stop - start, name))
            places.append(where[start - header : stop - header])
            targets.append(np.array(request.targets[start - request.first : stop - request.first]))
    if not names:
        none = np.empty(0, dtype=np.int64)
        return none, none, none
    return np.concatenate(names), np.concatenate(places), np.concatenate(targets)


@torch.inference_mode()
def _log_likelihoods(
    head: torch.nn.Linear,
    buffer: LogitsBuffer,
    hidden: torch.Tensor,
    places: NDArray[np.int64],
    targets: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the log-likelihood of each target, and whether it is the likeliest token; a position is computed once."""
    order = np.argsort(places, kind="stable")
    values, hits = np.empty(len(places)), np.empty(len(places), dtype=bool)
    positions, index = np.unique(places[order], return_inverse=True)
    for start in range(0, len(positions), _CHUNK_POSITIONS):
        chunk = torch.from_numpy(positions[start : start + _CHUNK_POSITIONS]).to(hidden.device)
        first, last = np.searchsorted(index, [start, start + len(chunk)])
        here = order[first:last]
        rows = torch.from_numpy(index[first:last] - start).to(hidden.device)
        wanted = torch.from_numpy(targets[here]).to(hidden.device)
        logits = buffer.logits(hidden[chunk], head.bias)  # (n, at least the rows of the head)
        logits[:, head.out_features :] = -torch.inf
        largest, likeliest = logits.max(dim=-1)
        reached = logits[rows, wanted].double()
        # in place; the largest probability is never below 1 / rows: nothing underflows on the way back to log_z
        log_z = largest.double() - torch.softmax(logits, dim=-1, out=logits).amax(dim=-1).double().log()
        values[here] = (reached - log_z[rows]).cpu().numpy()
        hits[here] = (likeliest[rows] == wanted).cpu().numpy()
    return values, hits
