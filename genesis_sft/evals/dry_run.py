"""What an evaluation would ask of a model, without asking it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.console import format_duration
from genesis_sft.evals.documents import refuse_missing_examples, resolve_data
from genesis_sft.evals.harness import run_task
from genesis_sft.evals.scorer import Scorer, Tokenized
from genesis_sft.evals.settings import Dtype, pick_device
from genesis_sft.evals.shared_prefix.forest import Pass, cut_into_passes
from genesis_sft.evals.shared_prefix.scoring import score_requests
from genesis_sft.evals.task_record import Surface
from genesis_sft.recipe import EvalsSection


@dataclass(frozen=True)
class TaskPlan:
    """What a benchmark would ask.

    Attributes:
        task: Its name in records.
        surface: How it would be put.
        num_fewshot: Answered questions before each.
        num_items: Documents.
        num_requests: Continuations that would be scored.
        num_tokens: Tokens of all forward passes, what requests begin with alike counted once.
        num_unshared_tokens: Tokens of all requests, each by itself.
        documents: Where they come from.
    """

    task: str
    surface: Surface
    num_fewshot: int
    num_items: int
    num_requests: int
    num_tokens: int
    num_unshared_tokens: int
    documents: str


@dataclass(frozen=True)
class EvalPlan:
    """What an evaluation would ask.

    Attributes:
        tasks: One entry a benchmark and surface.
        tokens_per_second: Of one forward pass that was made to see; None without benchmarks.
        chat_prompts: Prompts that would be answered.
        max_new_tokens: Longest answer.
    """

    tasks: tuple[TaskPlan, ...]
    tokens_per_second: float | None
    chat_prompts: int
    max_new_tokens: int

    @property
    def seconds(self) -> float | None:
        """Estimated time of the benchmarks, from that one pass."""
        return sum(task.num_tokens for task in self.tasks) / self.tokens_per_second if self.tokens_per_second else None

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON values."""
        return asdict(self) | {"seconds": self.seconds}

    def table(self) -> str:
        """Return the plan as plain text lines."""
        lines = [
            f"{task.task}{f' {task.num_fewshot}-shot' if task.num_fewshot else ''}, {task.surface}: "
            f"{task.num_items:,} items, {task.num_requests:,} requests, {task.num_tokens:,} tokens "
            f"({task.num_unshared_tokens:,} without sharing), documents: {task.documents}"
            for task in self.tasks
        ]
        if self.seconds is not None:
            lines.append(f"benchmarks: about {format_duration(self.seconds)}, by the speed of one forward pass")
        if self.chat_prompts:
            lines.append(f"chat: {self.chat_prompts} answers of at most {self.max_new_tokens} tokens")
        return "\n".join(lines)


def plan_evals(
    section: EvalsSection, model: ModelDir, *, seed: int = 0, device: str = "auto", dtype: Dtype = "float32"
) -> EvalPlan:
    """Build all requests of an evaluation, and make one forward pass for the estimate of its time.

    Args:
        section: What would be measured.
        model: The model.
        seed: See `run_evals`; so ``device`` and ``dtype``.
        device: Where the forward pass is made.
        dtype: Of the weights.

    Raises:
        InputError: As `run_evals` would.
    """
    data = resolve_data(section)
    for task in section.tasks:
        refuse_missing_examples(task, data)
    counter = _Counter(model.load_model(dtype, pick_device(device)), model.load_tokenizer(), section.pass_tokens)
    plans = []
    for surface in section.surfaces:
        for task in section.tasks:
            found = run_task(task, data, counter, seed, surface)
            first = found.records[0]
            plans.append(
                TaskPlan(first.task, surface, task.num_fewshot, first.n, *counter.counted, documents=first.documents)
            )
    return EvalPlan(
        tuple(plans),
        counter.tokens_per_second,
        section.chat_prompts + section.instructions,
        section.max_new_tokens,
    )


class _Counter(Scorer):
    """Counts what it is asked, and gives every request the same score.

    Attributes:
        counted: Requests, tokens with and without sharing, of what it was asked last.
        tokens_per_second: Of the largest pass among the first it was asked.
    """

    counted: tuple[int, int, int] = (0, 0, 0)
    tokens_per_second: float | None = None

    def _loglikelihood_tokens(self, requests: Sequence[Tokenized], **_: Any) -> list[tuple[float, bool]]:
        self._end_of_tokenizing()
        asked = [self._request(context, answer) for _, context, answer in requests]
        alone = sum(len(one.read) for one in asked)
        passes = cut_into_passes([one.read for one in asked], self.pass_tokens)
        self.counted = (len(asked), sum(map(len, passes)) if self.shares else alone, alone)
        first = next((one for one in passes if not one.header), None)
        if self.shares and self.tokens_per_second is None and first is not None:
            self.tokens_per_second = self._speed(asked, first)
        return [(-1.0, False)] * len(requests)

    def _speed(self, asked: Sequence[Any], one: Pass) -> float:
        score_requests(self.model, asked, [one])  # the first pass of a process takes longer
        started = time.perf_counter()
        score_requests(self.model, asked, [one])
        return len(one) / (time.perf_counter() - started)
