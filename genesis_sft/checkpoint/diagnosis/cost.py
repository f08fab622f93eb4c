"""What a text costs a stored model under given conventions, token by token; and when a difference counts.

Costs are in nats for each token of the text but the first of every window, so that candidates with and without BOS are
compared over the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch.nn import functional

from genesis_sft.checkpoint.llama.conventions import Conventions
from genesis_sft.checkpoint.llama.forward import logits
from genesis_sft.checkpoint.llama.stored import StoredLlama
from genesis_sft.checkpoint.tokenizer_files import has_dummy_prefix, with_dummy_prefix

BLOCK_TOKENS = 32
"""Neighbouring tokens are not independent: standard errors are taken over the means of blocks of this many."""

CLEAR_ERRORS = 4.0
"""A margin is clear beyond this many standard errors: some thirty candidates are tried, and none may win by chance."""

CLEAR_NATS = 0.005
"""And from this many nats a token on: below, it makes no difference to anything that follows."""

_FEWEST_BLOCKS = 8
_BATCH_TOKENS = 512  # their logits: 100 MB with 49,152 rows
_NOT_A_NUMBER = 100.0  # nats, for a candidate whose logits are no numbers


@dataclass(frozen=True)
class Margin:
    """Mean difference of two costs over the same tokens, nats per token, and its standard error over blocks."""

    nats: float
    standard_error: float

    @property
    def is_clear(self) -> bool:
        """Whether the first is clearly dearer than the second."""
        return self.nats > max(CLEAR_NATS, CLEAR_ERRORS * self.standard_error)

    @property
    def is_nothing(self) -> bool:
        """Whether a difference that matters is ruled out: two standard errors around it lie within ±0.005 nats."""
        return abs(self.nats) + 2 * self.standard_error < CLEAR_NATS

    def __str__(self) -> str:
        error = f" ± {self.standard_error:.3f}" if math.isfinite(self.standard_error) else ""
        return f"{self.nats:+.3f}{error}"


@dataclass(frozen=True)
class ProbeText:
    """Text to try candidates on, cut into windows of the tokenizer's ids.

    Attributes:
        windows: Ids without BOS; a window begins where the one before it ends.
        other_starts: For the first window of each text, by its place in ``windows``, the same text with the other
            convention for a space in front; empty where the tokenizer has no such notion.
        bos_id: The tokenizer's BOS, if it has one.
        dummy_prefix: Whether ``windows`` have the space in front.
    """

    windows: tuple[tuple[int, ...], ...]
    other_starts: Mapping[int, tuple[int, ...]]
    bos_id: int | None
    dummy_prefix: bool | None

    @property
    def num_tokens(self) -> int:
        """Tokens that are predicted."""
        return sum(len(window) - 1 for window in self.windows)

    def ids(self, conventions: Conventions) -> list[list[int]]:
        """Return the windows as the model is to see them."""
        other = conventions.dummy_prefix is not None and conventions.dummy_prefix != self.dummy_prefix
        begin = [self.bos_id] if conventions.bos and self.bos_id is not None else []
        return [
            begin + list(self.other_starts.get(place, window) if other else window)
            for place, window in enumerate(self.windows)
        ]


def probe_text(
    texts: Mapping[str, str], tokenizer: Tokenizer, *, bos_id: int | None, window: int, num_tokens: int
) -> ProbeText:
    """Cut texts into windows, as evenly over the texts as they allow.

    Args:
        texts: Name to text.
        tokenizer: Encodes without special tokens.
        bos_id: The tokenizer's BOS, if it has one.
        window: Longest window, in tokens.
        num_tokens: About how many tokens to take in all.
    """
    prefix = has_dummy_prefix(tokenizer)
    other = None if prefix is None else with_dummy_prefix(tokenizer, not prefix)
    cut: list[list[tuple[int, ...]]] = []
    starts: list[tuple[int, ...] | None] = []
    for text in texts.values():
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        pieces = [tuple(ids[start : start + window]) for start in range(0, len(ids), window)]
        cut.append([piece for piece in pieces if len(piece) > 1])
        changed = other.encode(text, add_special_tokens=False).ids if other is not None else ids
        start = tuple(changed[: len(changed) - (len(ids) - len(pieces[0]))]) if pieces else ()
        starts.append(start if other is not None and len(start) > 1 else None)
    windows: list[tuple[int, ...]] = []
    other_starts: dict[int, tuple[int, ...]] = {}
    for turn in range(max(map(len, cut), default=0)):
        for pieces, other_start in zip(cut, starts, strict=True):
            if turn >= len(pieces) or sum(map(len, windows)) >= num_tokens:
                continue
            if turn == 0 and other_start is not None:
                other_starts[len(windows)] = other_start
            windows.append(pieces[turn])
    return ProbeText(tuple(windows), other_starts, bos_id, prefix)


def token_costs(stored: StoredLlama, conventions: Conventions, text: ProbeText) -> torch.Tensor:
    """Return the nats of each predicted token, (N,) float32, window after window.

    Where a window has more tokens at its start under these conventions, its last ones are taken, so that N is the same
    for all conventions.
    """
    sequences = text.ids(conventions)
    found: dict[int, torch.Tensor] = {}
    by_length: dict[int, list[int]] = {}
    for place, ids in enumerate(sequences):
        by_length.setdefault(len(ids), []).append(place)
    for length, places in by_length.items():
        at_once = max(1, _BATCH_TOKENS // length)
        for start in range(0, len(places), at_once):
            some = places[start : start + at_once]
            inputs = torch.tensor([sequences[place] for place in some])  # (B, T)
            outputs = logits(stored, conventions, inputs)[:, :-1]  # (B, T - 1, rows)
            nats = functional.cross_entropy(outputs.transpose(1, 2), inputs[:, 1:], reduction="none")
            found.update(zip(some, nats.nan_to_num(_NOT_A_NUMBER, _NOT_A_NUMBER), strict=True))
    parts = [_last(found[place], len(window) - 1) for place, window in enumerate(text.windows)]
    return torch.cat(parts)


def margin(dearer: torch.Tensor, cheaper: torch.Tensor) -> Margin:
    """Return the mean of the difference of two costs over the same tokens, and its standard error over blocks."""
    difference = (dearer - cheaper).double()
    blocks = [float(block.mean()) for block in difference.split(BLOCK_TOKENS) if len(block) == BLOCK_TOKENS]
    if len(blocks) < _FEWEST_BLOCKS:
        return Margin(float(difference.mean()), math.inf)
    error = float(torch.tensor(blocks, dtype=torch.float64).std()) / math.sqrt(len(blocks))
    return Margin(float(difference.mean()), error)


def _last(nats: torch.Tensor, count: int) -> torch.Tensor:
    """Return the last ``count`` numbers; zeros in front where there are fewer."""
    return functional.pad(nats[-count:], (max(0, count - len(nats)), 0))
