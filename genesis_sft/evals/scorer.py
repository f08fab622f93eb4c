"""A backend of lm-evaluation-harness that computes a beginning that requests share once, and is silent.

Of several processes each gives the harness all requests and is told all scores; what is computed is dealt out here.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import datasets
import lm_eval.api.task
import torch
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genesis_sft.console import Progress
from genesis_sft.errors import InputError, ModelError
from genesis_sft.evals.chat_surface import ChatContext, ChatSurface, render_chat
from genesis_sft.evals.processes import Team, alone
from genesis_sft.evals.shared_prefix.dealing import deal_out
from genesis_sft.evals.shared_prefix.forest import cut_into_passes
from genesis_sft.evals.shared_prefix.scoring import Request, score_requests
from genesis_sft.evals.task_record import FirstRequest
from genesis_sft.tokens.chatml import CHAT_TEMPLATE, ChatMLEncoder
from genesis_sft.training.forward.family import require_llama_family

_FIRST_TOKENS = 12
_OTHERS_BATCH_SIZE = 8

Tokenized = tuple[tuple[str, str], list[int], list[int]]
"""Context and continuation as text, and the ids of each."""


class Scorer(HFLM):  # type: ignore[misc]  # the harness has no types
    """Scores continuations as the harness's own class does, with what requests begin with alike computed once.

    Tokenisation, truncation and the split into context and continuation are the harness's, but for requests with a
    chat template: see `chat_surface`. A model of another family than Llama's is scored by the harness's code.

    Args:
        model: A loaded model, in eval mode.
        tokenizer: Its tokenizer; the harness gives it a pad token, so that it should not be shared.
        pass_tokens: Tokens in one forward pass.
        team: The processes that score together; each of them has to be asked the same.

    Attributes:
        label: Shown beside the progress bar.
        num_tokens: Tokens in all forward passes of this process so far, padding included where there is any.
        num_truncated: Requests so far that were longer than the context and lost their beginning.
        shares: Whether common beginnings are shared.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        pass_tokens: int = 2048,
        team: Team | None = None,
    ) -> None:
        with quiet_harness():
            super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=_OTHERS_BATCH_SIZE)
        self.label, self.pass_tokens, self.team = "", pass_tokens, team or alone()
        self.num_tokens = 0
        self.num_truncated = 0
        self._bar: Progress | None = None
        self._tokenizing: Progress | None = None
        self._shown = ExitStack()
        try:
            require_llama_family(model)
            self.shares = True
        except ModelError as error:
            self.shares = False
            self.team.say(f"  {error}: scored by the harness's own code, which takes longer")

    @contextmanager
    def showing_progress(self, num_items: int) -> Iterator[None]:
        """Show how far the harness is with building and tokenising requests, which of MMLU with examples takes minutes.

        Args:
            num_items: Documents of all tasks that the block evaluates.
        """
        bar = self._show("building requests", num_items, "items")

        def counted(rows: Iterable[Any], **_: Any) -> Iterator[Any]:
            for row in rows:
                yield row
                bar.advance()

        had = _harness_bar()
        if had is not None:
            lm_eval.api.task.tqdm = counted
        try:
            with self._shown:
                yield
        finally:
            if had is not None:
                lm_eval.api.task.tqdm = had

    def _show(self, what: str, total: int, unit: str) -> Progress:
        """Return a bar in place of the one that is shown."""
        self._shown.close()
        label = f"{self.label}, {what}" if self.label else what
        bar: Progress = self._shown.enter_context(self.team.progress(label, total, unit))
        return bar

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score requests, with our own bars in place of the harness's."""
        self._tokenizing = self._show("tokenizing", len(requests), "requests")
        try:
            scores: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        finally:
            self._end_of_tokenizing()
        return scores

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Let the harness's own code go on with texts; each process does its share."""
        mine: list[str] = super().generate_until(requests[self.team.rank :: self.team.size], disable_tqdm)
        return self.team.gather(mine)

    @functools.cached_property
    def chat(self) -> ChatSurface:
        """What turns requests with a chat template into ids.

        Raises:
            ModelError: The tokenizer lacks a control token.
        """
        return ChatSurface(ChatMLEncoder(self.tokenizer))

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Return the template that `apply_chat_template` follows; the harness keeps it with its results."""
        return CHAT_TEMPLATE if chat_template else ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> ChatContext:
        """Render messages as ChatML, whatever the tokenizer's own template is."""
        return render_chat(chat_history, ends_with_answer=not add_generation_prompt)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if self._tokenizing is not None:
            self._tokenizing.advance()
        if isinstance(context, ChatContext):
            return self.chat.encode_pair(context, continuation)
        pair: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
        return pair

    def first_request(self, context: str, continuation: str) -> FirstRequest:
        """Return how a request begins once it is tokenised."""
        ids = [id for part in self._encode_pair(context, continuation) for id in part]
        first = ids[:_FIRST_TOKENS]
        return FirstRequest(tuple(first), tuple(self.tokenizer.convert_ids_to_tokens(first)), len(ids))

    def num_scored(self, context: str, continuation: str) -> int:
        """Return how many tokens of a request are scored."""
        return len(self._encode_pair(context, continuation)[1])

    def _loglikelihood_tokens(self, requests: Sequence[Tokenized], **options: Any) -> list[tuple[float, bool]]:
        self._end_of_tokenizing()
        longest = self.max_length + 1
        self.num_truncated += sum(len(context) + len(answer) > longest for _, context, answer in requests)
        if not self.shares:
            return self._score_by_the_harness(requests, **options)
        asked = [self._request(context, answer) for _, context, answer in requests]
        passes = deal_out(cut_into_passes([one.read for one in asked], self.pass_tokens), self.team.size)
        mine = passes[self.team.rank]
        total = sum(map(len, mine))
        with self.team.progress(self.label, total, "tokens") as bar:
            found = score_requests(self.model, asked, mine, advance=bar.advance)
        self.num_tokens += total
        scores = self._added_up([(one.log_likelihood, one.is_greedy) for one in found])
        for (text, _, _), score in zip(requests, scores, strict=True):
            if text is not None:  # a window of a rolling log-likelihood has none
                self.cache_hook.add_partial("loglikelihood", text, score)
        return scores

    def _end_of_tokenizing(self) -> None:
        self._tokenizing = None
        self._shown.close()

    def _added_up(self, scores: Sequence[tuple[float, bool]]) -> list[tuple[float, bool]]:
        """Return the scores of whole requests: each process has those of its tokens, nothing for the others'."""
        if self.team.size == 1:
            return list(scores)
        parts = [*(value for value, _ in scores), *(float(not greedy) for _, greedy in scores)]
        sums = self.team.sum(parts)
        return [(value, missed == 0) for value, missed in zip(sums[: len(scores)], sums[len(scores) :], strict=True)]

    def _score_by_the_harness(self, requests: Sequence[Tokenized], **options: Any) -> list[tuple[float, bool]]:
        """Score a model of another family; requests that differ in their last token (MMLU's letters) share a row."""
        longest = self.max_length + 1
        rows: dict[tuple[int, ...], list[int]] = {}
        for place, (_, context, answer) in enumerate(requests):
            rows.setdefault(tuple([*context, *answer][-longest:][:-1]), []).append(place)
        # long and short ones for every process
        own = sorted(rows, key=len)[self.team.rank :: self.team.size]
        places = sorted(place for row in own for place in rows[row])
        scores = [(0.0, True)] * len(requests)
        with self.team.progress(self.label, len(own), "requests") as self._bar:
            mine = [requests[place] for place in places]
            found = super()._loglikelihood_tokens(mine, **options) if mine else []
        self._bar = None
        for place, score in zip(places, found, strict=True):
            scores[place] = score
        return self._added_up(scores)

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
