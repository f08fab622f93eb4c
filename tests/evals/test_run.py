import fcntl
import json
import shutil

import pytest

from genesis_sft.errors import AssetError, InputError, RecipeError, RunDirError
from genesis_sft.evals import harness
from genesis_sft.evals.parts import LOCK, PARTS, held
from genesis_sft.evals.processes import alone
from genesis_sft.evals.record import EvalRecord
from genesis_sft.evals.run import run_evals
from genesis_sft.recipe import EvalsSection, TaskSection

SECTION = EvalsSection(
    data="package",
    tasks=(TaskSection(task="piqa", limit=2), TaskSection(task="lambada_openai")),
    pass_tokens=100,
    plain_text=False,
    chat_prompts=2,
    max_new_tokens=4,
)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_record_folder_holds_every_outcome(made_up_tasks, tiny_base, tmp_path):
    record = run_evals(SECTION, tiny_base, tmp_path, device="cpu")
    assert EvalRecord.open(tmp_path) == record
    assert [(one.task, one.metric) for one in record.tasks] == [
        ("piqa", "acc"),
        ("lambada_oneline", "acc"),
        ("lambada_oneline", "perplexity"),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.jsonl", "record.json", "samples.jsonl"]
    samples = lines(tmp_path / "samples.jsonl")
    assert [(one["task"], one["doc_id"]) for one in samples] == [
        ("piqa", 0),
        ("piqa", 1),
        ("lambada_oneline", 0),
        ("lambada_oneline", 1),
    ]
    assert {"doc_hash", "prompt_hash", "target_hash", "log_likelihoods", "outcomes"} <= samples[0].keys()
    assert [one["id"] for one in lines(tmp_path / "answers.jsonl")] == [answer.id for answer in record.chat]
    assert record.model == tiny_base.content_hash()
    assert (record.settings["data"], record.settings["device"], record.settings["seed"]) == ("package", "cpu", 0)
    assert set(record.times) == {"piqa", "lambada_oneline", "chat"}


def test_after_a_kill_only_the_part_at_work_is_done_again(made_up_tasks, tiny_base, tmp_path, monkeypatch):
    whole = run_evals(SECTION, tiny_base, tmp_path / "whole", device="cpu")
    asked, real = [], harness.run_task

    def stops_at_lambada(task, *rest):
        asked.append(task.task)
        if task.task == "lambada_openai" and len(asked) == 2:
            raise KeyboardInterrupt
        return real(task, *rest)

    monkeypatch.setattr(harness, "run_task", stops_at_lambada)
    with pytest.raises(KeyboardInterrupt):
        run_evals(SECTION, tiny_base, tmp_path / "cut", device="cpu")
    resumed = run_evals(SECTION, tiny_base, tmp_path / "cut", device="cpu")
    assert asked == ["piqa", "lambada_openai", "lambada_openai"]
    assert (resumed.tasks, resumed.chat) == (whole.tasks, whole.chat)


def test_parts_of_another_evaluation_are_not_used(made_up_tasks, tiny_base, tmp_path, monkeypatch):
    only_piqa = SECTION.model_copy(update={"tasks": SECTION.tasks[:1], "chat_prompts": 0})
    asked, real = [], harness.run_task

    def note(task, *rest):
        asked.append(task.limit)
        return real(task, *rest)

    monkeypatch.setattr(harness, "run_task", note)
    monkeypatch.setattr(EvalRecord, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    for limit in (2, 2, 1):
        section = only_piqa.model_copy(update={"tasks": (TaskSection(task="piqa", limit=limit),)})
        with pytest.raises(KeyboardInterrupt):
            run_evals(section, tiny_base, tmp_path, device="cpu")
    assert asked == [2, 1]


def test_an_error_leaves_no_record(made_up_tasks, tiny_base, tmp_path):
    with pytest.raises(AssetError):
        run_evals(SECTION.model_copy(update={"data": "hub"}), tiny_base, tmp_path, device="cpu")
    assert not (tmp_path / "record.json").exists()


def test_too_many_chat_prompts_are_refused_before_anything_is_measured(tiny_base, tmp_path):
    with pytest.raises(RecipeError, match="at most 40, found 41"):
        run_evals(SECTION.model_copy(update={"chat_prompts": 41}), tiny_base, tmp_path, device="cpu")
    assert not any(tmp_path.iterdir())


def test_nothing_asked_gives_an_empty_record(tiny_base, tmp_path):
    record = run_evals(EvalsSection(chat_prompts=0, plain_text=False), tiny_base, tmp_path / "new", device="cpu")
    assert (record.tasks, record.held_out, record.chat) == ((), (), ())
    assert EvalRecord.open(tmp_path / "new") == record


ONLY_PIQA = SECTION.model_copy(update={"tasks": SECTION.tasks[:1], "chat_prompts": 0})


def test_a_folder_with_other_things_is_refused_and_left_alone(tiny_base, tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="other files"):
        run_evals(ONLY_PIQA, tiny_base, tmp_path, device="cpu")
    assert (tmp_path / "parts" / "mine.txt").read_text() == "mine"


def test_what_is_measured_already_is_not_measured_again(made_up_tasks, tiny_base, tmp_path, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):  # when the record is whole and the parts are not gone yet
            run_evals(ONLY_PIQA, tiny_base, tmp_path, device="cpu")
    monkeypatch.setattr(harness, "run_task", lambda *_: pytest.fail("measured again"))
    for _ in range(2):  # the second time without parts
        assert run_evals(ONLY_PIQA, tiny_base, tmp_path, device="cpu") == EvalRecord.open(tmp_path)
        assert not (tmp_path / PARTS).exists()


@pytest.fixture
def cut(made_up_tasks, tiny_base, tmp_path, monkeypatch):
    """The folder of an evaluation that was killed before its record was written."""
    with monkeypatch.context() as killed:
        killed.setattr(EvalRecord, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_evals(TWO_PARTS, tiny_base, tmp_path, device="cpu")
    return tmp_path


@pytest.fixture
def measured(made_up_tasks, tiny_base, tmp_path):
    """The folder of a finished evaluation, and what lies in it."""
    run_evals(ONLY_PIQA, tiny_base, tmp_path, device="cpu")
    return tmp_path, (tmp_path / "record.json").read_bytes()


ONE_ITEM = ONLY_PIQA.model_copy(update={"tasks": (TaskSection(task="piqa", limit=1),)})


@pytest.mark.parametrize(
    ("section", "seed", "words"),
    [
        (ONE_ITEM, 0, r"tasks piqa \(2 items\), this one has piqa \(1 items\)"),
        (ONLY_PIQA.model_copy(update={"pass_tokens": 64}), 0, "pass_tokens 100, this one has 64"),
        (ONLY_PIQA, 1, "seed 0, this one has 1"),
    ],
)
def test_another_evaluation_is_not_replaced_unasked(measured, tiny_base, section, seed, words):
    folder, record = measured
    with pytest.raises(InputError, match=words) as refused:
        run_evals(section, tiny_base, folder, device="cpu", seed=seed, replace=False)
    assert "--replace" in refused.value.hint
    assert sorted(path.name for path in folder.iterdir()) == ["answers.jsonl", "record.json", "samples.jsonl"]
    assert (folder / "record.json").read_bytes() == record
    assert run_evals(section, tiny_base, folder, device="cpu", seed=seed, replace=True).settings["seed"] == seed
    assert (folder / "record.json").read_bytes() != record


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1}', '{"model": "m", "settings": {"tasks": [1]}}'])
def test_a_record_that_cannot_be_read_is_not_replaced_unasked(measured, tiny_base, text):
    folder, _ = measured
    (folder / "record.json").write_text(text)
    with pytest.raises(InputError, match="found one that cannot be read"):
        run_evals(ONLY_PIQA, tiny_base, folder, device="cpu", replace=False)
    assert (folder / "record.json").read_text() == text


def test_that_of_another_model_is_not_replaced_unasked(measured, tiny_base, monkeypatch):
    monkeypatch.setattr(type(tiny_base), "content_hash", lambda _: "f" * 64)
    with pytest.raises(InputError, match=r"found one of another model \(hash [0-9a-f]{12}, this one ffffffffffff\)"):
        run_evals(ONLY_PIQA, tiny_base, measured[0], device="cpu", replace=False)


def test_an_interrupted_one_goes_on_and_is_not_thrown_away_for_another(cut, tiny_base, monkeypatch):
    kept = {file.name: file.read_bytes() for file in (cut / PARTS).iterdir()}
    with pytest.raises(InputError, match="chat_prompts 1, this one has 0"):
        run_evals(ONLY_PIQA, tiny_base, cut, device="cpu", replace=False)
    assert {file.name: file.read_bytes() for file in (cut / PARTS).iterdir()} == kept
    monkeypatch.setattr(harness, "run_task", lambda *_: pytest.fail("measured again"))
    assert len(run_evals(TWO_PARTS, tiny_base, cut, device="cpu", replace=False).chat) == 1


def test_the_same_by_other_versions_is_replaced(measured, tiny_base):
    folder, _ = measured
    values = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(values | {"versions": {"torch": "1.0"}}))
    assert "torch" in run_evals(ONLY_PIQA, tiny_base, folder, device="cpu", replace=False).versions
    assert json.loads((folder / "record.json").read_text())["versions"] == values["versions"]


TWO_PARTS = ONLY_PIQA.model_copy(update={"chat_prompts": 1})


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        ("task-piqa", lambda _: "{"),
        ("task-piqa", lambda part: part | {"records": []}),
        ("task-piqa", lambda part: part | {"samples": part["samples"][:1]}),
        ("task-piqa", lambda part: part | {"records": [part["records"][0] | {"items": [1.0, 7.0]}]}),
        ("task-piqa", lambda part: part | {"records": [part["records"][0] | {"items": [1.0, 10**400]}]}),
        ("task-piqa", lambda part: part | {"records": part["records"] * 2}),
        ("task-piqa", lambda part: part | {"time": part["time"] | {"num_tokens": 10**400}}),
        ("chat", lambda part: part | {"answers": []}),
        ("chat", lambda part: part | {"answers": [part["answers"][0] | {"num_tokens": -1}]}),
    ],
)
def test_a_damaged_part_is_done_again(cut, tiny_base, capsys, part, damage):
    file = cut / PARTS / f"{part}.json"
    kept = json.loads(file.read_text())
    file.write_text(json.dumps(damage(kept)))
    record = run_evals(TWO_PARTS, tiny_base, cut, device="cpu")
    assert f"{part}: its file is damaged" in capsys.readouterr().err
    assert json.loads(json.dumps(record.to_json()))["tasks" if part != "chat" else "chat"] == (
        kept["records"] if part != "chat" else kept["answers"]
    )


def test_bytes_that_are_no_text_are_a_damaged_part(cut, tiny_base):
    (cut / PARTS / "task-piqa.json").write_bytes(b"\xff{")
    assert [one.task for one in run_evals(TWO_PARTS, tiny_base, cut, device="cpu").tasks] == ["piqa"]


def test_two_evaluations_into_one_folder_do_not_meet(cut, tiny_base, monkeypatch):
    before = sorted(path.name for path in (cut / PARTS).iterdir())
    with held(cut, alone()):
        assert (cut / LOCK).exists()
        with pytest.raises(RunDirError, match="another genesis-sft works in"):
            run_evals(ONLY_PIQA, tiny_base, cut, device="cpu")
        assert sorted(path.name for path in (cut / PARTS).iterdir()) == before
    assert not (cut / LOCK).exists()
    assert run_evals(TWO_PARTS, tiny_base, cut, device="cpu").tasks


def test_an_evaluation_holds_its_folder_while_it_measures(made_up_tasks, tiny_base, tmp_path, monkeypatch):
    real = harness.run_task

    def meets_another(*how):
        with pytest.raises(RunDirError, match="works in"), held(tmp_path, alone()):
            pytest.fail("held twice")
        return real(*how)

    monkeypatch.setattr(harness, "run_task", meets_another)
    assert run_evals(ONLY_PIQA, tiny_base, tmp_path, device="cpu").tasks
    assert not (tmp_path / LOCK).exists()


def test_a_lock_that_a_kill_left_is_no_other_file_and_holds_nothing(made_up_tasks, tiny_base, tmp_path):
    (tmp_path / LOCK).touch()
    assert run_evals(ONLY_PIQA, tiny_base, tmp_path, device="cpu").tasks
    assert not (tmp_path / LOCK).exists()


def test_a_lock_that_was_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    real, taken = fcntl.flock, []

    def removed_before_it_is_locked(handle, how):
        if not taken:  # its holder ends between open and lock
            (tmp_path / LOCK).unlink()
        taken.append(handle)
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", removed_before_it_is_locked)
    with held(tmp_path, alone()):
        monkeypatch.undo()
        assert len(taken) == 2
        with pytest.raises(RunDirError, match="works in"), held(tmp_path, alone()):
            pytest.fail("held twice")


def test_a_folder_that_cannot_be_made_is_refused(tiny_base, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunDirError, match="folder to write to"):
        run_evals(EvalsSection(chat_prompts=0, plain_text=False), tiny_base, tmp_path / "file" / "out", device="cpu")
