"""A trial of an engine is kept: for the same tokenizer, libraries and trial, and only while its files are whole."""

from importlib import metadata
from pathlib import Path

import pytest

from genesis_sft.tokens import engine, engine_proofs
from genesis_sft.tokens.engine_proofs import Finding, recall, remember
from tests.tokens.helpers import with_control_tokens


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_proofs, "cache_dir", lambda: tmp_path)
    return tmp_path


def test_what_was_kept_is_given_back(cache: Path) -> None:
    assert recall("one") is None
    remember("one", Finding("the same ids", b"\x01\x02"))
    remember("two", Finding("other ids for 'x'", None))
    assert recall("one") == Finding("the same ids", b"\x01\x02")
    assert recall("two") == Finding("other ids for 'x'", None)
    assert recall("three") is None


def test_a_damaged_proof_is_no_proof(cache: Path) -> None:
    remember("one", Finding("the same ids", b"\x01\x02"))
    (compiled,) = (cache / "engines").glob("*.tkz")
    compiled.write_bytes(b"\x01\x03")
    assert recall("one") is None
    remember("one", Finding("the same ids", b"\x01\x02"))
    (facts,) = (cache / "engines").glob("*.json")
    facts.write_text("{")
    assert recall("one") is None


def test_a_proof_is_of_one_version_and_one_trial(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"tokie {metadata.version('tokie')}" in engine_proofs._trial()
    remember("one", Finding("the same ids", b"\x01"))
    monkeypatch.setattr(engine_proofs, "_trial", lambda: "another")
    assert recall("one") is None


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(engine_proofs, "cache_dir", lambda: tmp_path / "file")
    remember("one", Finding("the same ids", b"\x01"))
    assert recall("one") is None


def test_the_second_process_tries_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch, tiny_tokenizer) -> None:
    backend = with_control_tokens(tiny_tokenizer).backend_tokenizer
    monkeypatch.setattr(engine, "_kept", {})
    first = engine.find_engine(backend)
    monkeypatch.setattr(engine, "_kept", {})  # as in a new process
    monkeypatch.setattr(engine, "_find_engine", None)
    second = engine.find_engine(backend)
    assert (second.name, second.note) == (first.name, first.note)
    texts = ["two herons", "Ⅷ owls\f", ""]
    for one, other in zip(first.encode(texts), second.encode(texts), strict=True):
        assert one.tolist() == other.tolist()
