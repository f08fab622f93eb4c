"""A backend of lm-evaluation-harness that computes a beginning that requests share once, and is silent."""

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

from genesis_sft.console import Progress, progress, say
from genesis_sft.errors import InputError, ModelError
from genesis_sft.evals.record import FirstRequest
from genesis_sft.evals.shared_prefix.forest import cut_into_passes
from genesis_sft.evals.shared_prefix.scoring import Request, score_requests
from genesis_sft.training.forward.family import require_llama_family

_FIRST_TOKENS = 12
_OTHERS_BATCH_SIZE = 8

Tokenized = tuple[tuple[str, str], list[int], list[int]]
"""Context and continuation as text, and the ids of each."""


class Scorer(HFLM):  # type: ignore[misc]  # the harness has no types
    """Scores continuations as the harness's own class does, with what requests begin with alike computed once.

    Tokenisation, truncation and the split into context and continuation are the harness's. A model of another family
    than Llama's is scored by the harness's code altogether.

    Args:
        model: A loaded model, in eval mode.
        tokenizer: Its tokenizer; the harness gives it a pad token, so that it should not be shared.
        pass_tokens: Tokens in one forward pass.

    Attributes:
        label: Shown beside the progress bar.
        num_tokens: Tokens in all forward passes so far, padding included where there is any.
        num_truncated: Requests so far that were longer than the context and lost their beginning.
        shares: Whether common beginnings are shared.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pass_tokens: int = 2048) -> None:
        with quiet_harness():
            super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=_OTHERS_BATCH_SIZE)
        self.label, self.pass_tokens = "", pass_tokens
        self.num_tokens = 0
        self.num_truncated = 0
        self._bar: Progress | None = None
        try:
            require_llama_family(model)
            self.shares = True
        except ModelError as error:
            self.shares = False
            say(f"  {error}: scored by the harness's own code, which takes longer")

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score requests, without the harness's own bars."""
        scores: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return scores

    def first_request(self, context: str, continuation: str) -> FirstRequest:
        """Return how a request begins once it is tokenised."""
        ids = [id for part in self._encode_pair(context, continuation) for id in part]
        first = ids[:_FIRST_TOKENS]
        return FirstRequest(tuple(first), tuple(self.tokenizer.convert_ids_to_tokens(first)), len(ids))

    def _loglikelihood_tokens(self, requests: Sequence[Tokenized], **options: Any) -> list[tuple[float, bool]]:
        longest = self.max_length + 1
        self.num_truncated += sum(len(context) + len(answer) > longest for _, context, answer in requests)
        if not self.shares:
            # requests that differ in their last token only (the letters of MMLU) share a row
            rows = {tuple([*context, *answer][-longest:][:-1]) for _, context, answer in requests}
            with progress(self.label, len(rows), "requests") as self._bar:
                scores: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, **options)
            self._bar = None
            return scores
        asked = [self._request(context, answer) for _, context, answer in requests]
        passes = cut_into_passes([one.read for one in asked], self.pass_tokens)
        total = sum(map(len, passes))
        with progress(self.label, total, "tokens") as bar:
            found = score_requests(self.model, asked, passes, advance=bar.advance)
        self.num_tokens += total
        for (text, _, _), one in zip(requests, found, strict=True):
            if text is not None:  # a window of a rolling log-likelihood has none
                self.cache_hook.add_partial("loglikelihood", text, (one.log_likelihood, one.is_greedy))
        return [(one.log_likelihood, one.is_greedy) for one in found]

    def _request(self, context: Sequence[int], answer: Sequence[int]) -> Request:
        """Cut what is too long on the left, as the harness does; the last token is only predicted."""
        if not context:
            raise InputError("expected a context of at least one token, found one that is nothing but white space")
        if not 0 < len(answer) <= self.max_length:
            raise InputError(
                f"expected continuations of 1 to {self.max_length} tokens, the model's context; found {len(answer)}"
            )
        whole = (*context, *answer)[-(self.max_length + 1) :]
        return Request(whole[:-1], tuple(answer))

    def _model_call(self, inps: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        logits: torch.Tensor = super()._model_call(inps, *args, **kwargs)
        self.num_tokens += inps.numel()
        if self._bar is not None:
            self._bar.advance(len(inps))
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
