"""Forgetting: what plain text costs a model in nats, before training and after it.

Only the *change* between two models means something. The level depends on the tokenizer and on the passages, of which
nobody says that they are like a model's pretraining. They are those of the base check (``plausibility.py``) and those
of ``plain_text.yaml``: stories, expository prose, news, instructions, letters, dialogue, a piece of code, and a little
German, French and Spanish. All were written for this project and are under its licence, so no model has seen them in
pretraining; that is as it should be, as text known by heart would show what was memorised.

A passage is read as a whole, and whole passages are the units of what is said of all of them: the paragraphs of one
have its subject and style in common and move together, so 75 paragraphs in 18 passages are 18 independent observations.
A record keeps the loss of every paragraph, which is the same text for every tokenizer, with what stands between two of
them; its own standard error is over these, and holds for this one passage. Tokens are those that the tokenizer makes of
the text, with a BOS where it puts one, as in the base check; a token is predicted when another stands before it in its
passage, and special tokens are only read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from itertools import pairwise
from typing import NamedTuple

import torch
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from genesis_sft.checkpoint.plausibility import sample_passages
from genesis_sft.console import progress
from genesis_sft.errors import ModelError
from genesis_sft.evals.record import HeldOutRecord

PASSAGES_FILE = "plain_text.yaml"
_LONGEST_WINDOW = 1024  # tokens in one forward pass; bounds memory, the passages are shorter with usual tokenizers
_BETWEEN_PARAGRAPHS = re.compile(r"\n\n+")


def read_passages() -> dict[str, str]:
    """Return all passages: name to text."""
    text = resources.files(__package__).joinpath(PASSAGES_FILE).read_text(encoding="utf-8")
    own: dict[str, str] = yaml.safe_load(text)
    return {**sample_passages(), **{name: body.strip() for name, body in own.items()}}


def measure_plain_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, passages: Mapping[str, str] | None = None
) -> tuple[HeldOutRecord, ...]:
    """Return the loss on plain text, one record a passage; its rows are the paragraphs, from 0.

    Args:
        model: In eval mode.
        tokenizer: Its tokenizer.
        passages: Name to text; the shipped ones when absent.

    Raises:
        ModelError: The tokenizer makes no tokens of plain text, or a loss is not a number.
    """
    passages = read_passages() if passages is None else passages
    tokenized = {name: _tokenize(tokenizer, text) for name, text in passages.items()}
    records = []
    with progress("plain text", sum(len(tokens.ids) for tokens in tokenized.values()), "tokens") as bar:
        for name, tokens in tokenized.items():
            records.append(_as_record(name, passages[name], tokens, _losses(model, tokens)))
            bar.advance(len(tokens.ids))
    return tuple(records)


class _Tokens(NamedTuple):
    """Tokens of a passage.

    Attributes:
        ids: Token ids, a BOS included.
        starts: Place in the text where each begins; never falls.
        is_text: Whether each stands for text.
        bos: How many of them stand before the text.
    """

    ids: list[int]
    starts: list[int]
    is_text: list[bool]
    bos: int


def _tokenize(tokenizer: PreTrainedTokenizerFast, text: str) -> _Tokens:
    encoded = tokenizer(text, verbose=False, return_offsets_mapping=True, return_special_tokens_mask=True)
    ids, is_text = list(encoded["input_ids"]), [mask == 0 for mask in encoded["special_tokens_mask"]]
    starts: list[int] = []
    for (start, _), stands_for_text in zip(encoded["offset_mapping"], is_text, strict=True):
        last = starts[-1] if starts else 0
        starts.append(max(last, start) if stands_for_text else last)
    if sum(is_text) < 2:
        raise ModelError(f"expected a tokenizer that turns plain text into tokens; this one gives {len(ids)}")
    return _Tokens(ids, starts, is_text, is_text.index(True))


@torch.inference_mode()
def _losses(model: PreTrainedModel, tokens: _Tokens) -> list[float]:
    """Return the loss of each token but the first, in nats: (T - 1,)."""
    context = int(getattr(model.config, "max_position_embeddings", None) or _LONGEST_WINDOW)
    losses: list[float] = []
    for window, known in _windows(tokens, min(context, _LONGEST_WINDOW)):
        inputs = torch.tensor([window], device=model.device)  # (1, W)
        logits = model(input_ids=inputs, use_cache=False).logits[0, known - 1 : -1].float()  # (W - known, vocab_size)
        losses += torch.nn.functional.cross_entropy(logits, inputs[0, known:], reduction="none").tolist()
    if not all(map(math.isfinite, losses)):
        raise ModelError("expected a loss on every passage of plain text, found infinities or NaN")
    return losses


def _windows(tokens: _Tokens, size: int) -> Iterator[tuple[list[int], int]]:
    """Yield pieces of at most ``size`` ids, and how many ids of each are only read: BOS, and the last id before it."""
    begin = tokens.ids[: tokens.bos]
    step = size - len(begin) - 1
    for start in range(1, len(tokens.ids), step):
        read = begin + tokens.ids[start - 1 : start] if start > len(begin) else tokens.ids[:start]
        yield read + tokens.ids[start : start + step], len(read)


def _as_record(name: str, text: str, tokens: _Tokens, losses: list[float]) -> HeldOutRecord:
    ends = [found.end() for found in _BETWEEN_PARAGRAPHS.finditer(text)]
    predicted = [place for place in range(1, len(tokens.ids)) if tokens.is_text[place]]
    rows: list[int] = []
    units: list[list[int]] = []
    for row, (start, stop) in enumerate(pairwise([0, *ends, len(text)])):
        if places := [place for place in predicted if start <= tokens.starts[place] < stop]:
            rows.append(row)
            units.append(places)
    borders = [*(tokens.starts[places[0]] for places in units), len(text)]  # what is predicted is what is counted
    return HeldOutRecord.of(
        name,
        rows=rows,
        losses=[math.fsum(losses[place - 1] for place in places) for places in units],
        tokens=[len(places) for places in units],
        num_bytes=[len(text[start:stop].encode()) for start, stop in pairwise(borders)],
    )
