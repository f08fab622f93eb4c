"""Promises on tokenizer files: the right one is found or asked for, and BOS and space survive saving."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from genesis_sft.checkpoint.tokenizer_files import (
    find_tokenizer,
    has_dummy_prefix,
    puts_bos,
    read_tokenizer,
    rebuilt,
    with_bos,
    with_dummy_prefix,
)
from genesis_sft.errors import ModelError
from tests.checkpoint.genesis.train import train_tokenizer
from tests.conftest import TRAINING_TEXT


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("tokenizer.json",), "tokenizer.json"),
        (("tokenizer.json", "tokenizer.model"), "tokenizer.json"),
        (("tokenizer.model", "other.model"), "tokenizer.model"),
        (("genesis.model",), "genesis.model"),
        (("spiece.model", "weights.pt"), "spiece.model"),
    ],
)
def test_a_tokenizer_beside_the_weights_is_found(tmp_path: Path, names: tuple[str, ...], expected: str) -> None:
    folder = touch(tmp_path / "checkpoint", "weights.pt", *names)
    assert find_tokenizer(None, folder / "weights.pt") == folder / expected
    assert find_tokenizer(None, folder) == folder / expected
    assert find_tokenizer(str(folder), tmp_path / "elsewhere") == folder / expected


def test_a_file_that_is_named_is_taken(tmp_path: Path) -> None:
    folder = touch(tmp_path / "checkpoint", "tokenizer.json", "mine.model")
    assert find_tokenizer(str(folder / "mine.model"), folder) == folder / "mine.model"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "found none"),
        (("a.model", "b.model"), "found several: a.model, b.model"),
        (("tokenizer.model", "spm.model"), "found several: tokenizer.model, spm.model"),
    ],
)
def test_no_tokenizer_or_too_many_are_asked_about(tmp_path: Path, names: tuple[str, ...], words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        find_tokenizer(None, touch(tmp_path / "checkpoint", *names))
    assert "--tokenizer FILE" in str(caught.value.hint)


def test_a_named_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.model; found none"):
        find_tokenizer(str(tmp_path / "gone.model"), touch(tmp_path / "checkpoint", "tokenizer.json"))


@pytest.fixture(scope="module")
def from_sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    """Made of a SentencePiece model that puts a space in front. Shared: do not change it."""
    file = tmp_path_factory.mktemp("spm") / "tokenizer.model"
    return read_tokenizer(train_tokenizer(file, 400, [line for text in TRAINING_TEXT for line in [text] * 20]))


def saved(tokenizer: PreTrainedTokenizerFast, folder: Path) -> PreTrainedTokenizerFast:
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_bos_is_put_in_front_or_not_and_stays_so_in_others_hands(
    from_sentencepiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    text = "The ferry leaves at seven"
    plain = from_sentencepiece(text)["input_ids"]
    assert not puts_bos(from_sentencepiece)
    assert with_bos(from_sentencepiece, False) is from_sentencepiece
    with_one = saved(with_bos(from_sentencepiece, True), tmp_path / "with")
    assert puts_bos(with_one)
    assert with_one(text)["input_ids"] == [1, *plain]
    assert with_one(text, add_special_tokens=False)["input_ids"] == plain
    assert with_one(text, text)["input_ids"] == [1, *plain, 1, *plain]
    assert with_one.decode([1, *plain], skip_special_tokens=True) == text
    without = saved(with_bos(with_one, False), tmp_path / "without")
    assert without(text)["input_ids"] == plain
    assert (without.bos_token, without.eos_token, without.unk_token) == ("<s>", "</s>", "<unk>")


def test_a_tokenizer_without_bos_cannot_put_it_in_front(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    import json

    tokenizer = rebuilt(tiny_tokenizer, json.loads(tiny_tokenizer.backend_tokenizer.to_str()), add_bos_token=False)
    tokenizer.bos_token = None
    with pytest.raises(ModelError, match="expected a tokenizer with a BOS token"):
        with_bos(tokenizer, True)


def test_the_space_in_front_is_told(
    from_sentencepiece: PreTrainedTokenizerFast,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tiny_sentencepiece_tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert has_dummy_prefix(from_sentencepiece.backend_tokenizer) is True
    assert has_dummy_prefix(tiny_sentencepiece_tokenizer.backend_tokenizer) is False
    assert has_dummy_prefix(tiny_tokenizer.backend_tokenizer) is None  # byte-level


@settings(max_examples=60, deadline=None)
@given(text=st.text("The ferry, Köln 7 😀\n", min_size=1, max_size=60))
def test_without_the_space_a_text_encodes_as_if_it_had_none(
    from_sentencepiece: PreTrainedTokenizerFast, text: str
) -> None:
    engine = from_sentencepiece.backend_tokenizer
    without = with_dummy_prefix(engine, False)
    assert has_dummy_prefix(without) is False
    # a space of one's own makes it what it was
    assert without.encode(" " + text, add_special_tokens=False).ids == engine.encode(text, add_special_tokens=False).ids


@settings(max_examples=60, deadline=None)
@given(text=st.text("The ferry, Köln 7 😀\n", min_size=1, max_size=60))
def test_the_space_taken_away_and_given_back_is_the_same_tokenizer(
    from_sentencepiece: PreTrainedTokenizerFast, text: str
) -> None:
    engine = from_sentencepiece.backend_tokenizer
    again = with_dummy_prefix(with_dummy_prefix(engine, False), True)
    assert has_dummy_prefix(again) is True
    if not text.startswith(" "):
        assert again.encode(text, add_special_tokens=False).ids == engine.encode(text, add_special_tokens=False).ids


def test_the_space_given_survives_saving(tiny_sentencepiece_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    import json

    plain = tiny_sentencepiece_tokenizer
    engine = with_dummy_prefix(plain.backend_tokenizer, True)
    kept = saved(rebuilt(plain, json.loads(engine.to_str()), add_bos_token=False), tmp_path)
    ids = kept("ferry", add_special_tokens=False)["input_ids"]
    assert ids == engine.encode("ferry", add_special_tokens=False).ids
    assert ids == plain(" ferry", add_special_tokens=False)["input_ids"]
