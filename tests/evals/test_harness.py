"""The harness's scores on made-up documents against the same numbers worked out without the harness."""

import math

import pytest
import torch

from genesis_sft import console
from genesis_sft.errors import AssetError, ModelError
from genesis_sft.evals import documents, harness
from genesis_sft.evals.harness import load_task, run_task
from genesis_sft.evals.scorer import Scorer
from genesis_sft.evals.task_record import PartScore
from genesis_sft.recipe import TaskSection
from tests.evals.conftest import LAMBADA, PIQA


@pytest.fixture
def scorer(tiny_base):
    return Scorer(tiny_base.load_model(), tiny_base.load_tokenizer(), pass_tokens=100)


def log_likelihood(tiny_base, context, answer):
    """Nats of the answer's tokens, one forward pass, no padding, no harness."""
    tokenizer, model = tiny_base.load_tokenizer(), tiny_base.load_model()
    ids, start = tokenizer.encode(context + answer), len(tokenizer.encode(context))
    with torch.no_grad():
        log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(log_probs[at - 1, ids[at]]) for at in range(start, len(ids)))


def test_piqa_is_scored_as_defined(made_up_tasks, tiny_base, scorer):
    result = run_task(TaskSection(task="piqa"), "package", scorer)
    record = result.records[0]
    expected = [
        [log_likelihood(tiny_base, f"Question: {row['goal']}\nAnswer:", f" {row[side]}") for side in ("sol1", "sol2")]
        for row in PIQA
    ]
    for sample, scores in zip(result.samples, expected, strict=True):
        assert sample["log_likelihoods"] == pytest.approx(scores, abs=1e-4)
    outcomes = [float((scores[1] > scores[0]) == row["label"]) for scores, row in zip(expected, PIQA, strict=True)]
    assert list(record.items) == outcomes
    assert record.value == sum(outcomes) / 3
    assert (record.task, record.metric, record.n, record.chance) == ("piqa", "acc", 3, 0.5)
    assert record.num_choices == (2, 2, 2)
    assert [sample["doc_hash"] for sample in result.samples] == list(record.doc_hashes)
    assert len(set(record.doc_hashes)) == 3


def test_perplexity_is_that_of_the_last_word_and_its_error_follows_by_the_delta_method(
    made_up_tasks, tiny_base, scorer
):
    acc, perplexity = run_task(TaskSection(task="lambada_openai"), "package", scorer).records
    assert [(one.task, one.metric, one.chance) for one in (acc, perplexity)] == [
        ("lambada_oneline", "acc", None),
        ("lambada_oneline", "perplexity", None),
    ]
    first, second = (log_likelihood(tiny_base, *split_last_word(row["text"])) for row in LAMBADA)
    assert perplexity.items == pytest.approx((first, second), abs=1e-4)
    assert perplexity.value == pytest.approx(math.exp(-(first + second) / 2), rel=1e-4)
    # the standard error of the mean of two values is half of their distance
    assert perplexity.standard_error == pytest.approx(perplexity.value * abs(first - second) / 2, rel=1e-3)


def test_rows_say_whether_each_answer_is_the_likeliest_text(made_up_tasks, tiny_base, scorer):
    tokenizer, model = tiny_base.load_tokenizer(), tiny_base.load_model()

    def is_likeliest(context, answer):
        ids, start = tokenizer.encode(context + answer), len(tokenizer.encode(context))
        with torch.no_grad():
            likeliest = model(torch.tensor([ids])).logits[0].argmax(-1).tolist()
        return likeliest[start - 1 : -1] == ids[start:]

    rows = run_task(TaskSection(task="lambada_openai"), "package", scorer).samples
    assert [row["is_greedy"] for row in rows] == [[is_likeliest(*split_last_word(row["text"]))] for row in LAMBADA]
    assert [row["outcomes"]["acc"] for row in rows] == [float(row["is_greedy"][0]) for row in rows]
    pairs = run_task(TaskSection(task="piqa"), "package", scorer).samples
    assert [len(row["is_greedy"]) for row in pairs] == [2] * len(PIQA)


def split_last_word(text):
    context, _, word = text.rpartition(" ")
    return context, f" {word}"


def test_mmlu_is_the_mean_over_all_questions_with_subjects_and_groups(made_up_tasks, scorer):
    record = run_task(TaskSection(task="mmlu"), "package", scorer).records[0]
    assert (record.n, record.chance, len(record.subjects)) == (58, 0.25, 57)
    assert record.value == sum(record.items) / 58
    assert {group.name: group.n for group in record.groups} == {
        "stem": 20,  # 19 subjects, anatomy twice
        "humanities": 13,
        "social_sciences": 12,
        "other": 13,
    }
    assert 0 < record.value < 1, "the test needs outcomes that differ"
    for group in record.groups:
        of_group = [one for one in record.subjects if one.group == group.name]
        assert group.value == pytest.approx(sum(one.value * one.n for one in of_group) / group.n)
    anatomy = next(place for place, one in enumerate(record.subjects) if one.name == "anatomy")
    start = sum(one.n for one in record.subjects[:anatomy])
    assert record.subjects[anatomy].value == sum(record.items[start : start + 2]) / 2


@pytest.mark.parametrize("cut_early", [True, False], ids=["package", "as-from-the-hub"])
def test_limit_takes_the_first_documents(made_up_tasks, scorer, monkeypatch, cut_early):
    if not cut_early:
        real = documents.load_tasks
        monkeypatch.setattr(harness, "load_tasks", lambda name, data, shots, limit: real(name, data, shots))
    whole = run_task(TaskSection(task="piqa"), "package", scorer).records[0]
    first_two = run_task(TaskSection(task="piqa", limit=2), "package", scorer).records[0]
    assert first_two.doc_hashes == whole.doc_hashes[:2]
    assert first_two.items == whole.items[:2]


def test_the_size_of_passes_does_not_change_a_score(made_up_tasks, tiny_base, scorer):
    alone = Scorer(tiny_base.load_model(), tiny_base.load_tokenizer(), pass_tokens=1)
    for one, other in zip(
        run_task(TaskSection(task="piqa"), "package", scorer).samples,
        run_task(TaskSection(task="piqa"), "package", alone).samples,
        strict=True,
    ):
        assert one["log_likelihoods"] == pytest.approx(other["log_likelihoods"], abs=1e-4)


def test_the_first_request_shows_how_it_begins(made_up_tasks, tiny_base, scorer):
    first = run_task(TaskSection(task="piqa"), "package", scorer).records[0].first_request
    ids = tiny_base.load_tokenizer().encode("Question: open a jar\nAnswer: Turn the lid.")
    assert (list(first.ids), first.num_tokens) == (ids[:12], len(ids))
    assert first.pieces[0] == "Q"  # no BOS token


def test_requests_longer_than_the_context_are_counted(made_up_tasks, tiny_base, scorer):
    scorer._max_length = 20
    assert run_task(TaskSection(task="piqa", limit=1), "package", scorer).records[0].num_truncated == 2


def test_nothing_is_printed_and_every_forward_token_is_counted(made_up_tasks, scorer, capfd, caplog, monkeypatch):
    totals = []

    def note(label, total, unit):
        totals.append((label, total, unit))
        return console.progress(label, total, unit)

    monkeypatch.setattr("genesis_sft.evals.processes.progress", note)
    piqa = run_task(TaskSection(task="piqa"), "package", scorer).time.num_tokens
    hellaswag = run_task(TaskSection(task="hellaswag"), "package", scorer).time.num_tokens
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.name.startswith("lm_eval")] == []
    assert totals == [
        ("piqa, building requests", 3, "items"),
        ("piqa, tokenizing", 6, "requests"),
        ("piqa", piqa, "tokens"),
        ("hellaswag, building requests", 1, "items"),
        ("hellaswag, tokenizing", 4, "requests"),
        ("hellaswag", hellaswag, "tokens"),
    ]
    assert piqa + hellaswag == scorer.num_tokens > hellaswag > 0


def test_nothing_is_written_to_the_cache_of_datasets(made_up_tasks, scorer, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    run_task(TaskSection(task="piqa"), "package", scorer)
    assert not (tmp_path / "cache").exists()


def test_outputs_that_are_not_numbers_are_refused(made_up_tasks, scorer):
    with torch.no_grad():
        scorer.model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="log-likelihoods on piqa, found values that are not numbers"):
        run_task(TaskSection(task="piqa"), "package", scorer)


def test_without_the_hub_the_way_out_is_named():
    with pytest.raises(AssetError, match="expected the documents of piqa on the Hugging Face Hub") as caught:
        load_task("piqa", "hub")
    assert "evals.data to package" in caught.value.hint


def test_groups_take_the_items_of_their_own_subjects():
    subjects = (
        PartScore("anatomy", "stem", 0.0, 0.0, 2),
        PartScore("law", "humanities", 1.0, 0.0, 1),
        PartScore("physics", "stem", 1.0, 0.0, 1),
    )
    stem, humanities = harness._group_scores(subjects, (0.0, 0.0, 1.0, 1.0))
    assert (stem.name, stem.value, stem.n) == ("stem", pytest.approx(1 / 3), 3)
    assert (humanities.name, humanities.value, humanities.n) == ("humanities", 1.0, 1)
