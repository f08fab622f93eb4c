"""The passes of one forest, dealt out to several processes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from genesis_sft.evals.shared_prefix.forest import Pass, with_last_uses


def deal_out(passes: Sequence[Pass], num_ranks: int) -> list[list[Pass]]:
    """Return what each process reads: consecutive passes of about as many tokens.

    Together they are the same passes whatever the number of processes, so that scores are the same too. Where a share
    begins amid passes with a common header, the header is read again, without any requests: it is scored once.
    """
    ends = list(itertools.accumulate(len(one) for one in passes))
    shares: list[list[Pass]] = [[] for _ in range(num_ranks)]
    open_: list[Pass] = []  # headers that the next pass stands behind
    for one, end in zip(passes, ends, strict=True):
        while open_ and len(open_[-1].header) + len(open_[-1]) > len(one.header):
            open_.pop()
        middle = end - len(one) / 2
        share = shares[min(num_ranks - 1, int(middle * num_ranks / ends[-1]))]
        if not share:
            share += [replace(header, rows=(), places=()) for header in open_]
        share.append(one)
        if one.is_header:
            open_.append(one)
    return [with_last_uses(share) for share in shares]
