"""Benchmark documents in a folder of JSON lines, with the fields of the Hub's rows.

::

    piqa.validation.jsonl.gz        {"goal", "sol1", "sol2", "label"}
    hellaswag.validation.jsonl      {"activity_label", "ctx_a", "ctx_b", "endings", "label"}
    winogrande.validation.jsonl     {"sentence", "option1", "option2", "answer"}
    arc_easy.test.jsonl             {"question", "choices": {"text", "label"}, "answerKey"}; so arc_challenge
    lambada_openai.test.jsonl       {"text"}
    mmlu/anatomy.test.jsonl         {"question", "choices", "answer"}; and mmlu/anatomy.dev.jsonl for answered questions

Each plain or gzipped. Further fields are kept. A task's answered questions stand in ``TASK.train.jsonl``.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from genesis_sft.errors import AssetError
from genesis_sft.run_dir import hash_file


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("expected words, found nothing but white space")
    return text


Words = Annotated[str, AfterValidator(_said)]

# what the harness removes from an ending: its tasks/hellaswag/utils.py
_BRACKETS = re.compile(r"\[.*?\]")


def _said_without_brackets(text: str) -> str:
    if not _BRACKETS.sub("", text.strip().replace(" [title]", ". ")).strip():
        raise ValueError("expected words outside square brackets, which the harness removes; found none")
    return text


_ENDINGS = (".jsonl", ".jsonl.gz")


class _Row(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Piqa(_Row):
    goal: str
    sol1: Words
    sol2: Words
    label: Literal[0, 1]


class _Hellaswag(_Row):
    activity_label: str
    ctx_a: str
    ctx_b: str
    endings: Annotated[list[Annotated[Words, AfterValidator(_said_without_brackets)]], Field(min_length=2)]
    label: str | int

    @model_validator(mode="after")
    def _names_an_ending(self) -> Self:
        if str(self.label) not in map(str, range(len(self.endings))):
            raise ValueError(f"expected label to be the number of an ending, found {self.label!r}")
        return self


def _goes_on_after_the_gap(sentence: str) -> str:
    _, gap, rest = sentence.partition("_")
    if not gap or not rest.strip():
        raise ValueError("expected a sentence with a gap (_), and words after it, which are scored")
    return sentence


class _Winogrande(_Row):
    sentence: Annotated[str, AfterValidator(_goes_on_after_the_gap)]
    option1: Words
    option2: Words
    answer: Literal["1", "2"]


class _Choices(_Row):
    text: Annotated[list[Words], Field(min_length=2)]
    label: list[str]


class _Arc(_Row):
    question: str
    choices: _Choices
    answerKey: str  # noqa: N815 - the Hub's name

    @model_validator(mode="after")
    def _names_a_choice(self) -> Self:
        if len(self.choices.label) != len(self.choices.text) or self.answerKey not in self.choices.label:
            raise ValueError(f"expected answerKey to be one of as many labels as choices, found {self.answerKey!r}")
        return self


def _two_words(text: str) -> str:
    if " " not in text.strip():
        raise ValueError("expected two words or more")
    if text != text.rstrip():
        raise ValueError("expected the last word at the very end, as it is scored; found white space after it")
    return text


class _Lambada(_Row):
    text: Annotated[str, AfterValidator(_two_words)]


class _Mmlu(_Row):
    question: str
    choices: Annotated[list[str], Field(min_length=4, max_length=4)]
    answer: Annotated[int, Field(ge=0, le=3)]


_ROWS: Mapping[str, type[_Row]] = {
    "arc_challenge": _Arc,
    "arc_easy": _Arc,
    "hellaswag": _Hellaswag,
    "lambada_openai": _Lambada,
    "mmlu": _Mmlu,
    "piqa": _Piqa,
    "winogrande": _Winogrande,
}


def read_folder(folder: str, task: str, name: str, split: str) -> list[dict[str, Any]]:
    """Return the rows of a split.

    Args:
        folder: Where the files lie.
        task: Name of the benchmark.
        name: Of the file: the task's name, or ``"mmlu/anatomy"``.
        split: E.g. ``"validation"``.

    Raises:
        AssetError: There is no such file, or a line of it is no row of the benchmark; says which.
    """
    file = find_file(folder, name, split)
    if file is None:
        raise AssetError(
            f"expected {name}.{split}.jsonl or {name}.{split}.jsonl.gz in {folder}, found neither",
            hint="Set evals.data (--data) to package or hub, or leave the task out.",
        )
    rows = [_parse(line, number, file, task) for number, line in enumerate(_lines(file), 1) if line.strip()]
    if not rows:
        raise AssetError(f"expected rows of {task} in {file}, found none")
    return rows


def find_file(folder: str, name: str, split: str) -> Path | None:
    """Return the file of a split, if there is one."""
    candidates = (Path(folder) / f"{name}.{split}.jsonl{ending}" for ending in ("", ".gz"))
    return next((file for file in candidates if file.is_file()), None)


def find_subjects(folder: str) -> list[str]:
    """Return the subjects of MMLU of which there are test questions, sorted."""
    files = (Path(folder) / "mmlu").glob("*.test.jsonl*")
    return sorted({file.name.partition(".")[0] for file in files if _can_be_read(file)})


def folder_identity(folder: str, tasks: Sequence[str]) -> dict[str, str]:
    """Return a hash of the documents of each task, which changes with what is in its files.

    Args:
        folder: Where the files lie.
        tasks: Names of benchmarks.
    """
    found = {}
    for task in tasks:
        pattern = "mmlu/*.jsonl*" if task == "mmlu" else f"{task}.*.jsonl*"
        total = hashlib.sha256()
        for file in filter(_can_be_read, sorted(Path(folder).glob(pattern))):
            total.update(f"{file.name}\n{hash_file(file)}\n".encode())
        found[f"documents of {task}"] = total.hexdigest()
    return found


def _can_be_read(file: Path) -> bool:
    """Whether rows can come from it: no folder, pipe or link to nothing, and no copy that an editor kept."""
    return file.name.endswith(_ENDINGS) and file.is_file()


def _lines(file: Path) -> Iterator[str]:
    try:
        # only \n ends a line: documents may hold other line ends
        with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8", newline="\n") as lines:
            yield from lines
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise AssetError(f"expected JSON lines in UTF-8 in {file}, found a file that cannot be read: {error}") from None


def _parse(line: str, number: int, file: Path, task: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        _ROWS[task].model_validate(row)
        json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise AssetError(f"{file}, line {number}: no row of {task}: {where}{first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise AssetError(f"{file}, line {number}: expected a JSON object, found {line[:60]!r} ({error})") from None
    assert isinstance(row, dict)
    return row
