"""What LAMBADA's perplexity says of a model: how far its last words are from guessing, and from the training loss.

The perplexity is per *word*: its logarithm are nats a word. A tokenizer cuts a word into pieces, and guessing among
all pieces costs ln(vocabulary) nats each; so nats a word over pieces a word, the nats a piece, are what compares with
guessing and with a training loss. 3,360,048 is 15.0 nats a word, at 1.37 pieces a word 11.0 nats a piece; guessing
among 49,152 pieces costs 10.8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from genesis_sft.errors import InputError

BROKEN_NATS_PER_WORD = 9.0
"""A working model of 135M parameters needs about 4 nats for LAMBADA's last word; guessing uniformly among 49,152 pieces
costs 10.8 nats a piece; exports with a wrong RoPE layout, shifted ids or a lost head measured 9.8 to 28."""

VOCAB_SIZE = 49_152
PIECES_PER_WORD = 1.37
"""Mean over the last words of all 5,153 items with SmolLM2's tokenizer, whose 49,152 pieces are made for English."""

MOST_NATS = 700.0
"""Beyond, a perplexity is no number that a computer holds."""

LEAST_GAP = 2.0
"""Nats a piece above the training loss that say nothing: last words of stories are other text than the training's."""

TOO_ACCURATE = 0.05
"""Share of right last words that no broken export reaches: all that were measured had none right."""

Kind = Literal["broken", "doubtful", "weak", "plausible"]


@dataclass(frozen=True)
class Yardstick:
    """What the nats are held against.

    Attributes:
        training_loss: Nats a token at the end of pretraining, where it is known.
        vocab_size: Pieces of the model's tokenizer; 49,152 where it is not known.
        pieces_per_word: Pieces of LAMBADA's last words; 1.37 where it is not known.
    """

    training_loss: float | None = None
    vocab_size: int | None = None
    pieces_per_word: float | None = None

    def __post_init__(self) -> None:
        _expect(self.vocab_size is None or self.vocab_size >= 2, "a vocabulary of 2 pieces or more", self.vocab_size)
        pieces = self.pieces_per_word
        _expect(pieces is None or 1 <= pieces <= 100, "1 to 100 pieces a word", pieces)
        loss, guessing = self.training_loss, self.guessing
        _expect(
            loss is None or 0 < loss < guessing, f"a training loss between 0 and guessing ({guessing:.1f} nats)", loss
        )

    @property
    def guessing(self) -> float:
        """Nats a piece of a uniform guess among all pieces."""
        return math.log(self.vocab_size or VOCAB_SIZE)

    def per_piece(self, nats_per_word: float) -> float:
        """Return nats a piece for nats a word."""
        return nats_per_word / (self.pieces_per_word or PIECES_PER_WORD)

    def contradicts(self, nats_per_word: float) -> bool:
        """Whether the nats a piece are nearer to guessing than to the training loss, by ``LEAST_GAP`` at least."""
        if self.training_loss is None:
            return False
        gap = self.per_piece(nats_per_word) - self.training_loss
        return gap > max(LEAST_GAP, (self.guessing - self.training_loss) / 2)

    def assumed(self) -> str:
        """Return one sentence on what was taken for granted; ``""`` where nothing was."""
        parts = [] if self.vocab_size else [f"a vocabulary of {VOCAB_SIZE:,} pieces (--vocab-size)"]
        if not self.pieces_per_word:
            parts.append(
                f"{PIECES_PER_WORD} pieces a word (--pieces-per-word), as SmolLM2's English tokenizer cuts LAMBADA's "
                "last words; a multilingual one cuts them into more, which makes fewer nats a piece"
            )
        return f"Assumed: {', and '.join(parts)}." if parts else ""


def judge_perplexity(perplexity: float, accuracy: float | None, yardstick: Yardstick) -> tuple[Kind, str]:
    """Return what a perplexity per word says, in one word and in a sentence.

    ``broken``: it contradicts the training loss, or a word costs ``BROKEN_NATS_PER_WORD`` or more and no loss is known.
    ``doubtful``: the same, but with more last words right than any broken export has. ``weak``: a word costs as much,
    and the training loss says so too. Else ``plausible``.

    Args:
        perplexity: Per word, 1 or more.
        accuracy: Share of last words that were right, where it is known.
        yardstick: What to hold it against.
    """
    nats = math.log(perplexity)
    guesses, contradicts = nats >= BROKEN_NATS_PER_WORD, yardstick.contradicts(nats)
    text = _in_nats(nats, yardstick)
    if guesses:
        better = "no" if yardstick.per_piece(nats) >= yardstick.guessing else "hardly"
        text = f"{better} better than guessing pieces: {text}"
    if contradicts:
        text += (
            f"; in contradiction to the training loss of {yardstick.training_loss:g} nats a token: "
            "the two can hardly both be right"
        )
    elif guesses and yardstick.training_loss is not None:
        return "weak", f"{text}; the training loss of {yardstick.training_loss:g} nats a token says the same"
    if not (guesses or contradicts):
        return "plausible", text
    if accuracy is not None and accuracy >= TOO_ACCURATE:
        right = f"{accuracy * 100:.1f} %"
        return "doubtful", f"{text}; but that does not go together with {right} of the words right: is it copied right?"
    return "broken", text


def _in_nats(nats: float, yardstick: Yardstick) -> str:
    pieces, size = yardstick.pieces_per_word or PIECES_PER_WORD, yardstick.vocab_size or VOCAB_SIZE
    return (
        f"{nats:.1f} nats a word, at {pieces:g} pieces a word {yardstick.per_piece(nats):.1f} nats a piece; "
        f"guessing among {size:,} costs {yardstick.guessing:.1f}"
    )


def _expect(holds: bool, expected: str, found: object) -> None:
    if not holds:
        raise InputError(f"expected {expected}, found {found}")
