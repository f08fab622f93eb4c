"""The harness's Hugging Face model, with this program's progress, and silent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import datasets
import lm_eval.api.task
import torch
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genesis_sft.console import Progress, progress
from genesis_sft.evals.record import FirstRequest

_FIRST_TOKENS = 12

Request = tuple[tuple[str, str], list[int], list[int]]
"""Context and continuation as text, and the ids of each."""


class Scorer(HFLM):  # type: ignore[misc]  # the harness has no types
    """Scores continuations as the harness's own class does; what it computes is not touched.

    Args:
        model: A loaded model, in eval mode.
        tokenizer: Its tokenizer; the harness gives it a pad token, so that it should not be shared.
        batch_size: Requests in one forward pass.

    Attributes:
        label: Shown beside the progress bar.
        num_tokens: Tokens in all forward passes so far, padding included.
        num_truncated: Requests so far that were longer than the context and lost their beginning.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> None:
        with quiet_harness():
            super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        self.label = ""
        self.num_tokens = 0
        self.num_truncated = 0
        self._bar: Progress | None = None

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score requests, without the harness's own bars."""
        scores: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return scores

    def first_request(self, context: str, continuation: str) -> FirstRequest:
        """Return how a request begins once it is tokenised."""
        ids = [id for part in self._encode_pair(context, continuation) for id in part]
        first = ids[:_FIRST_TOKENS]
        return FirstRequest(tuple(first), tuple(self.tokenizer.convert_ids_to_tokens(first)), len(ids))

    def _loglikelihood_tokens(self, requests: Sequence[Request], **options: Any) -> list[tuple[float, bool]]:
        longest = self.max_length + 1
        self.num_truncated += sum(len(context) + len(answer) > longest for _, context, answer in requests)
        # requests that differ in their last token only (the letters of MMLU) share a row
        rows = {tuple([*context, *answer][-longest:][:-1]) for _, context, answer in requests}
        with progress(self.label, self._padded_tokens([len(row) for row in rows]), "tokens") as self._bar:
            scores: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, **options)
        self._bar = None
        return scores

    def _padded_tokens(self, lengths: Sequence[int]) -> int:
        """Tokens in the forward passes: the harness takes the longest rows first and pads each batch to its longest."""
        longest_first = sorted(lengths, reverse=True)
        batches = (longest_first[at : at + self.batch_size] for at in range(0, len(lengths), self.batch_size))
        return sum(batch[0] * len(batch) for batch in batches)

    def _model_call(self, inps: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        logits: torch.Tensor = super()._model_call(inps, *args, **kwargs)
        self.num_tokens += inps.numel()
        if self._bar is not None:
            self._bar.advance(inps.numel())
        return logits


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Keep log lines and bars of the harness and of ``datasets`` from the user's terminal while the block runs."""
    logger = logging.getLogger("lm_eval")
    level, had_bars, bar = logger.level, datasets.are_progress_bars_disabled(), _harness_bar()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    if bar is not None:  # it has no switch
        lm_eval.api.task.tqdm = lambda rows, **_: rows
    try:
        yield
    finally:
        logger.setLevel(level)
        if not had_bars:
            datasets.enable_progress_bars()
        if bar is not None:
            lm_eval.api.task.tqdm = bar


def _harness_bar() -> Callable[..., Any] | None:
    return getattr(lm_eval.api.task, "tqdm", None)
