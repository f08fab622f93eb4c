"""Does a base model predict plain text? Measured on a short sample and put into words.

Two yardsticks need no other model:

- *uniform*: ln(V), the cost in nats of guessing every token with equal probability among V rows.
- *unigram*: the entropy of the sample's own token frequencies. Nothing that ignores context can cost less on this
  sample, even if it had seen the frequencies beforehand; so a model below it does use context.

The verdict on a model that costs x nats a token:

===================================  =============================  ========
x < 0.8 unigram                      predicts text                  accepted
0.8 unigram <= x < unigram           weak                           accepted
unigram <= x < uniform               no better than word            refused
                                     frequencies
uniform <= x, or x is not a number   worse than guessing: the       refused
                                     export is broken
===================================  =============================  ========

A trained model is far below the first line (SmolLM2-135M: 0.56 unigram). Faults of an export that show here: a random
output head, another model's tokenizer, swapped or misnamed weights, query and key rows in another RoPE layout. Faults
that hardly show on passages this short: a wrong RoPE theta or norm epsilon; for those only parity with the training
code's own forward pass helps.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Literal

import torch

from genesis_sft.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Verdict = Literal[
    "predicts text", "weak", "no better than word frequencies", "worse than guessing: the export is broken"
]
REFUSED: frozenset[Verdict] = frozenset(
    ("no better than word frequencies", "worse than guessing: the export is broken")
)
_CLEARLY_BELOW = 0.8
MOST_TOKENS, FEWEST_TOKENS = 8192, 256
"""Of a user's text. The entropy of the few token frequencies of a shorter one is far too low a yardstick."""
_LONGEST_WINDOW = 1024  # tokens in one forward pass; bounds memory, the passages are shorter with usual tokenizers


@dataclass(frozen=True, slots=True)
class PassageLoss:
    """The cost of one passage of the sample."""

    name: str
    num_tokens: int
    nats_per_token: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """The cost of the whole sample, in nats per predicted token, beside the two yardsticks."""

    passages: tuple[PassageLoss, ...]
    nats_per_token: float
    uniform: float
    unigram: float

    @property
    def verdict(self) -> Verdict:
        """What the numbers say, by the table on top of this module."""
        return judge(self.nats_per_token, uniform=self.uniform, unigram=self.unigram)


def judge(nats_per_token: float, *, uniform: float, unigram: float) -> Verdict:
    """Put a cost per token into words, by the table on top of this module."""
    if not nats_per_token < uniform:
        return "worse than guessing: the export is broken"
    if nats_per_token >= unigram:
        return "no better than word frequencies"
    return "predicts text" if nats_per_token < _CLEARLY_BELOW * unigram else "weak"


def sample_passages() -> dict[str, str]:
    """Return the sample that ships with this package: name to text."""
    text = resources.files("genesis_sft.checkpoint").joinpath("sample_text.txt").read_text(encoding="utf-8")
    parts = [part.partition("\n") for part in text.split("=== ") if part]
    return {name: body.strip() for name, _, body in parts}


def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Mapping[str, str] | None = None
) -> Measurement:
    """Return what plain text costs the model; one forward pass for each passage, or each window of a long one.

    A token counts as predicted when another stands before it in its passage: the first one does not, unless the
    tokenizer puts a BOS before it.

    Args:
        model: In eval mode.
        tokenizer: Its tokenizer.
        texts: Name to text, of which the first ``MOST_TOKENS`` tokens in all are measured, in equal parts; the sample
            that ships with this package when absent.

    Raises:
        ModelError: The tokenizer makes no tokens of plain text.
    """
    texts = texts or sample_passages()
    positions = getattr(model.config, "max_position_embeddings", None) or _LONGEST_WINDOW
    window = min(int(positions), _LONGEST_WINDOW)
    counts: Counter[int] = Counter()
    sums: dict[str, tuple[float, int]] = {}
    for name, text in texts.items():
        nats, predicted = 0.0, 0
        all_ids = tokenizer(text, verbose=False)["input_ids"][: max(2, MOST_TOKENS // len(texts))]
        if len(all_ids) < 2:
            raise ModelError(f"expected a tokenizer that turns plain text into tokens; this one gives {len(all_ids)}")
        for ids in _windows(all_ids, window, begins_with_bos=all_ids[0] == tokenizer.bos_token_id):
            nats += _sum_of_losses(model, ids)
            predicted += len(ids) - 1
            counts.update(ids[1:])
        sums[name] = (nats, predicted)
    total = sum(predicted for _, predicted in sums.values())
    if total < FEWEST_TOKENS:
        raise ModelError(
            f"expected text of at least {FEWEST_TOKENS} tokens to measure on; found {total}",
            hint="Give more text (--text FILE, or base.text): a page or two of the pretraining's own kind.",
        )
    return Measurement(
        passages=tuple(PassageLoss(name, count, nats / count) for name, (nats, count) in sums.items()),
        nats_per_token=sum(nats for nats, _ in sums.values()) / total,
        uniform=math.log(model.config.vocab_size),
        unigram=entropy(counts.values()),
    )


def entropy(counts: Iterable[int]) -> float:
    """Return the entropy of frequencies in nats: ``entropy([2, 1, 1])`` is 1.5 ln 2."""
    counts = list(counts)
    total = sum(counts)
    return -sum(count / total * math.log(count / total) for count in counts)


def _windows(ids: list[int], size: int, *, begins_with_bos: bool) -> Iterator[list[int]]:
    """Cut ids into pieces of at most ``size``; each begins with BOS, or else with the last id of the one before."""
    begin = ids[:1]
    for start in range(1, max(len(ids), 2), size - 1):
        piece = ids[start : start + size - 1]
        yield begin + piece
        begin = begin if begins_with_bos else piece[-1:]


@torch.inference_mode()
def _sum_of_losses(model: PreTrainedModel, ids: list[int]) -> float:
    inputs = torch.tensor([ids], device=model.device)  # (1, T)
    logits = model(input_ids=inputs, use_cache=False).logits[0, :-1].float()  # (T - 1, vocab_size)
    return float(torch.nn.functional.cross_entropy(logits, inputs[0, 1:], reduction="sum"))
