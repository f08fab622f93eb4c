"""Loss on conversations that are never trained on, source by source, while training goes on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from genesis_sft.batches.collate import collate
from genesis_sft.batches.layout import lay_out
from genesis_sft.mixture.table import TokenTable
from genesis_sft.training.processes.parallel import Ranks, Trainable


def choose_evenly(table: TokenTable, max_tokens: int) -> list[int]:
    """Return indices of conversations, each source's from its first on, until ``max_tokens`` tokens are reached.

    The next conversation is always one of the source that has the fewest tokens so far; when a source has no more, the
    others go on. Conversations without a trained token are left out.

    Sources a and b with conversations of 5, 5, 5 and of 9, 9 tokens, 18 tokens at most: a, b, a (19 tokens).
    """
    waiting: dict[str, list[int]] = {}
    for index in reversed(range(len(table))):  # popped from the end
        if table.num_trained(index):
            waiting.setdefault(table.source(index), []).append(index)
    taken = dict.fromkeys(sorted(waiting, key=lambda source: waiting[source][-1]), 0)
    chosen: list[int] = []
    while sum(taken.values()) < max_tokens and any(waiting.values()):
        source = min((name for name in taken if waiting[name]), key=taken.__getitem__)
        index = waiting[source].pop()
        taken[source] += table.num_tokens(index)
        chosen.append(index)
    return chosen


def held_out_losses(
    trainable: Trainable, table: TokenTable, chosen: Sequence[int], max_tokens: int, ranks: Ranks
) -> dict[str, float]:
    """Return the loss of each source, in nats per trained token, and of all together under ``""``.

    Every process reads its share and all return the same.

    Args:
        trainable: The wrapped model; in training mode again when this returns.
        table: The held-out conversations.
        chosen: Which of them, see `choose_evenly`.
        max_tokens: Budget of a forward pass.
        ranks: The processes.
    """
    names = sorted({table.source(index) for index in chosen})
    sums, counts = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    trainable.module.eval()
    with torch.no_grad():
        for group in lay_out([table.num_tokens(index) for index in chosen], max_tokens, ranks.world_size)[ranks.rank]:
            indices = [chosen[place] for place in group]
            batch = collate([(table.input_ids(index), table.trained(index)) for index in indices]).to(ranks.device)
            losses = trainable(batch, 1.0)[1].double()  # (N,)
            for index, part in zip(indices, losses.split([table.num_trained(i) for i in indices]), strict=True):
                sums[table.source(index)] += float(part.sum())
                counts[table.source(index)] += table.num_trained(index)
    trainable.let_go()
    trainable.module.train()
    totals = ranks.sum([*sums.values(), *counts.values()])
    by_source = zip(names, totals[: len(names)], totals[len(names) :], strict=True)
    everything = sum(totals[: len(names)]) / sum(totals[len(names) :])
    return {name: loss / count for name, loss, count in by_source} | {"": everything}
