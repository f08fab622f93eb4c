"""A SentencePiece unigram model as a fast tokenizer's: the same scores, and the same path through them."""

from __future__ import annotations

import numpy as np
from tokenizers.models import Unigram

from genesis_sft.checkpoint.sentencepiece.model_file import ModelFile, Piece


def build_unigram(file: ModelFile, names: list[str]) -> Unigram:
    """Return the unigram model of a file.

    Both programs let an unknown character cost 10 more than the cheapest normal piece, so no other score lies below it.

    Args:
        file: A model of type unigram.
        names: What each piece is called, by id.
    """
    lowest = min((piece.score for piece in file.pieces if piece.kind == "normal"), default=0.0)
    vocab = [
        (name, path_score(piece) if piece.kind in ("normal", "user_defined") else lowest)
        for name, piece in zip(names, file.pieces, strict=True)
    ]
    return Unigram(vocab, unk_id=file.unk_id, byte_fallback=file.byte_fallback)


def path_score(piece: Piece) -> float:
    """Return what a normal or user-defined piece adds to the score of a path.

    A user-defined one wins over all other ways to write it: SentencePiece 0.2 gives it 0.1 (bytes - 1), found by
    trying, where others have logarithms of probabilities. It is rounded to float32, as those are: sums of such numbers
    are exact in float64, so that of two equal paths the first is taken, and not one by rounding.
    """
    if piece.kind == "user_defined":
        return float(np.float32(0.1 * (len(piece.text.encode()) - 1)))
    return piece.score
