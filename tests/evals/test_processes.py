"""Several processes measure what one measures: same prompts, same scores, one record."""

import functools
import json
import os

import pytest

from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.errors import CheckFailed
from genesis_sft.evals.processes import join_team
from genesis_sft.evals.record import EvalRecord
from genesis_sft.evals.run import run_evals
from genesis_sft.evals.scorer import Scorer
from genesis_sft.recipe import EvalsSection, TaskSection
from tests.evals.conftest import MMLU, PIQA
from tests.evals.test_documents import write_rows
from tests.training.processes.processes import run_ranks


@pytest.fixture
def folder(tmp_path):
    write_rows(
        tmp_path / "docs" / "piqa.validation.jsonl",
        [row | {"goal": f"{row['goal']} {n}"} for n in range(5) for row in PIQA],
    )
    write_rows(tmp_path / "docs" / "piqa.train.jsonl", PIQA)
    write_rows(tmp_path / "docs" / "mmlu" / "anatomy.test.jsonl", MMLU * 4)
    return tmp_path / "docs"


def section(folder):
    return EvalsSection(
        data=str(folder),
        tasks=(TaskSection(task="piqa", num_fewshot=2), TaskSection(task="mmlu")),
        surfaces=("raw", "chat"),
        pass_tokens=100,
        plain_text=False,
        chat_prompts=1,
        max_new_tokens=3,
    )


def measure(model, folder, out):
    with join_team("cpu") as team:
        record = run_evals(section(folder), ModelDir.open(model), out, team=team)
        return record.to_json(), team.is_first


@pytest.mark.slow
def test_two_processes_give_the_record_of_one(tiny_base, folder, tmp_path):
    alone = run_evals(section(folder), tiny_base, tmp_path / "alone", device="cpu")
    found = run_ranks(functools.partial(measure, tiny_base.path, folder, tmp_path / "together"), 2)
    assert [is_first for _, is_first in found] == [True, False]
    together = EvalRecord.open(tmp_path / "together")
    assert found[0][0] == together.to_json()
    assert found[1][0] | {"times": {}} == found[0][0] | {"times": {}}  # each took its own
    assert together.tasks == alone.tasks  # outcomes, hashes of prompts, all of it
    assert together.chat == alone.chat
    ours, theirs = (read_samples(tmp_path / name) for name in ("together", "alone"))
    for one, other in zip(ours, theirs, strict=True):
        assert one.pop("log_likelihoods") == pytest.approx(other.pop("log_likelihoods"), abs=1e-6)
        assert one == other


def read_samples(folder):
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def score_alike(model, requests, shares):
    with join_team("cpu") as team:
        opened = ModelDir.open(model)
        scorer = Scorer(opened.load_model(), opened.load_tokenizer(), 64, team)
        scorer.shares = shares
        scores = scorer._loglikelihood_tokens(requests)
        return scores, scorer.num_tokens


@pytest.mark.slow
@pytest.mark.parametrize("shares", [True, False], ids=["shared-prefixes", "another-family"])
def test_the_work_is_dealt_out(tiny_base, shares):
    requests = [(("", ""), list(range(5 + number % 3, 30 + number)), [7, 8, number]) for number in range(20)]
    scorer = Scorer(tiny_base.load_model(), tiny_base.load_tokenizer(), 64)
    scorer.shares = shares
    expected = scorer._loglikelihood_tokens(requests)
    (first, mine), (second, theirs) = run_ranks(functools.partial(score_alike, tiny_base.path, requests, shares), 2)
    assert first == second
    assert [greedy for _, greedy in first] == [greedy for _, greedy in expected]
    assert [value for value, _ in first] == pytest.approx([value for value, _ in expected], abs=1e-6)
    assert 0.3 < mine / (mine + theirs) < 0.7


@pytest.mark.slow
def test_that_another_process_has_ended_is_said():
    run_ranks(ends_without_a_word, 2, unheard=(1,))


def ends_without_a_word():
    with join_team("cpu") as team:
        if not team.is_first:
            os._exit(3)
        with pytest.raises(CheckFailed, match="another one has ended"):
            team.sum([1.0])  # the other never comes
    return True
