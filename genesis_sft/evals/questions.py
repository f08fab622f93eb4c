r"""What the benchmarks of a recipe ask, item by item: conversations that hold it can be left out of training.

``questions.jsonl``, one line an item::

    {"task": "piqa", "doc_id": 0, "text": "How do I ready a guinea pig cage for it's new occupants?\nProvide the ..."}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from genesis_sft.console import say
from genesis_sft.conversations.contamination import Question
from genesis_sft.errors import InputError
from genesis_sft.evals.documents import load_tasks, resolve_data
from genesis_sft.evals.record_files import write_lines
from genesis_sft.evals.scorer import quiet_harness
from genesis_sft.recipe import EvalsSection

QUESTIONS = "questions.jsonl"

_FRAME_BEFORE, _FRAME_AFTER = "Question: ", "\nAnswer:"
_LETTERS = ["A", "B", "C", "D"]


def read_questions(section: EvalsSection) -> tuple[Question, ...]:
    """Return what every item of the recipe's benchmarks asks, with its right answer, in the order of the recipe.

    All evaluation documents of a task count, whatever its ``limit``: a later evaluation may ask them. The text is what
    the harness renders, less its frame ("Question: ", "Answer:") and wrong options. ``task`` and ``doc_id`` are
    ``part`` and ``doc_id`` of the samples of an evaluation: for MMLU the subject, ``"mmlu_anatomy"``.

    Raises:
        AssetError: The documents are out of reach.
    """
    questions: list[Question] = []
    data, tasks = resolve_data(section), tuple(dict.fromkeys(task.task for task in section.tasks))
    for number, one in enumerate(tasks, 1):
        say(f"  reading what {one} asks ({number} of {len(tasks)})")
        with quiet_harness():
            for name, task in load_tasks(one, data).items():
                questions += [Question(name, doc_id, _asked(task, doc)) for doc_id, doc in enumerate(task.eval_docs)]
    return tuple(questions)


def write_questions(path: Path, questions: Sequence[Question]) -> None:
    """Write the questions as JSON lines, atomically; `load_questions` gives them back."""
    write_lines(path, [{"task": one.task, "doc_id": one.doc_id, "text": one.text} for one in questions])


def load_questions(path: str | Path) -> tuple[Question, ...]:
    """Read the questions that `write_questions` wrote.

    Raises:
        InputError: There is no such file, or it holds something else; says in which line.
    """
    try:
        with open(path, encoding="utf-8", newline="\n") as lines:
            return tuple(_parse(lines, Path(path)))
    except OSError as error:
        raise InputError(
            f"expected questions of benchmarks at {path}: {error.strerror}",
            hint="The stage questions of `genesis-sft train RECIPE` writes them, into the run folder.",
        ) from None


def _parse(lines: Iterable[str], path: Path) -> Iterator[Question]:
    kind = TypeAdapter(Question)
    for number, line in enumerate(lines, start=1):
        try:
            yield kind.validate_python(json.loads(line))
        except (ValidationError, ValueError, RecursionError):
            raise InputError(
                f'expected {{"task", "doc_id", "text"}} in line {number} of {path}, found {line.strip()[:80]!r}',
                hint="The file is damaged: delete its folder, and the next run writes it again.",
            ) from None


def _asked(task: Any, document: Mapping[str, Any]) -> str:
    """Return question and right answer of an item of one of the harness's tasks."""
    text, target = task.doc_to_text(document), task.doc_to_target(document)
    if task.config.doc_to_choice is None:  # LAMBADA: the rest of the text
        return f"{text}{target}"
    choices = task.doc_to_choice(document)
    if isinstance(text, int):  # WinoGrande: beginnings to choose from, and one end
        return f"{choices[text]} {target}"
    if choices == _LETTERS:  # MMLU: the options stand in the text, their letters are the choices
        return f"{document['question'].strip()}\n{document['choices'][target]}"
    question = text.removeprefix(_FRAME_BEFORE).removesuffix(_FRAME_AFTER)
    return f"{question}\n{choices[target].strip()}"
