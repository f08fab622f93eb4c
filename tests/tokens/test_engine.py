"""A fast engine is used only where it gives the reference's ids; a wrong one is found out, before and during a run."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from genesis_sft.tokens import engine as engines
from genesis_sft.tokens.chatml import ChatMLEncoder
from genesis_sft.tokens.engine import ReferenceEngine, TokieEngine, find_awkward, find_engine, first_difference
from genesis_sft.tokens.hard_texts import hard_texts
from tests.conftest import train_byte_level, train_sentencepiece_like
from tests.tokens.helpers import losing_line_breaks, talk, unigram, with_control_tokens


class OneWrongId(TokieEngine):
    """Gives one other id for each text with a 7 in it that no other text is in."""

    def encode(self, texts):
        ids, lengths = super().encode(texts)
        starts = lengths.cumsum() - lengths
        for start, length, text in zip(starts, lengths, texts, strict=True):
            if "7" in text and length:
                ids[start + length - 1] += 1
        return ids, lengths


@pytest.fixture
def _nothing_proven(monkeypatch, tmp_path):
    """Engines and tokenizers of other tests are forgotten, and those of this one afterwards."""
    monkeypatch.setattr("genesis_sft.tokens.engine_proofs.cache_dir", lambda: tmp_path)
    monkeypatch.setattr("genesis_sft.tokens.engine._kept", {})
    monkeypatch.setattr("genesis_sft.tokens.text._kept", {})


def backend(tokenizer):
    return Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())


def as_lists(flat):
    ids, lengths = flat
    return [part.tolist() for part in np.split(ids, lengths.cumsum()[:-1])]


def test_the_reference_gives_all_ids_end_to_end():
    tokenizer = backend(train_byte_level())
    ids, lengths = ReferenceEngine(tokenizer).encode(["no", "", "yes no"])
    assert (ids.dtype, lengths.dtype) == (np.uint32, np.int64)
    assert lengths.tolist() == [1, 0, 2]
    expected = tokenizer.encode("no").ids + tokenizer.encode("yes no").ids
    assert ids.tolist() == expected


def test_the_fast_engine_is_used_where_it_is_proven_and_gives_the_same_ids():
    engine = find_engine(backend(train_byte_level()))
    assert (engine.name, engine.note) == ("tokie", "tokie gives the same ids as tokenizers on all hard texts")
    reference = ReferenceEngine(backend(train_byte_level()))
    texts = ["Why?\n\n  Nobody knows", "", "a\fb", "\t's", "Ⅷ Ⓐ's", "grüße 你好 😀", "x" * 5000, "\U0010fffd"]
    assert as_lists(engine.encode(texts)) == as_lists(reference.encode(texts))
    assert [len(part) for part in engine.encode([])] == [0, 0]


@pytest.mark.parametrize(
    "make",
    [train_sentencepiece_like, lambda: losing_line_breaks(train_sentencepiece_like())],
    ids=["byte fallback", "no line breaks"],
)
def test_where_the_fast_engine_differs_the_reference_is_used_and_the_note_names_the_text(make):
    engine = find_engine(backend(make()))
    assert engine.name == "tokenizers"
    assert engine.note == "tokie gives other ids for '<|im_start|>'"


@pytest.mark.usefixtures("_nothing_proven")
def test_one_wrong_id_is_found_by_the_proof(monkeypatch):
    monkeypatch.setattr(engines, "TokieEngine", OneWrongId)
    engine = find_engine(backend(train_byte_level()))
    assert engine.name == "tokenizers"
    text = engine.note.removeprefix("tokie gives other ids for ")
    assert text != engine.note
    assert "7" in text


@pytest.mark.usefixtures("_nothing_proven")
def test_one_wrong_id_in_the_run_is_found_by_the_sample_which_names_the_text(monkeypatch):
    encoder = ChatMLEncoder(with_control_tokens(train_byte_level()))
    sample = [talk("why", "no hat"), talk("3", "it is 7", "why", "yes")]
    assert encoder.engine == "tokie"
    assert encoder.check_sample(sample) is None
    right = encoder.text.engines[0]
    wrong = OneWrongId(*right.__reduce__()[1])
    monkeypatch.setattr(encoder.text, "_engines", (wrong, wrong))
    assert encoder.check_sample(sample) == "'it is 7'"
    careful = encoder.with_reference("differed in the run")
    assert (careful.engine, careful.engine_note) == ("tokenizers", "differed in the run")
    assert careful.check_sample(sample) is None
    assert careful.encode_block(sample).split() == encoder.encode_many(sample)
    assert encoder.encode_block(sample).split() != encoder.encode_many(sample)


@pytest.mark.usefixtures("_nothing_proven")
@pytest.mark.parametrize("error", [ImportError("no tokie"), type("PanicException", (BaseException,), {})("overflow")])
def test_a_failure_of_the_fast_engine_leaves_the_reference_and_says_so(monkeypatch, error):
    def fail(serialised):
        raise error

    monkeypatch.setattr(engines, "_compile", fail)
    engine = find_engine(backend(train_byte_level()))
    assert engine.name == "tokenizers"
    assert engine.note == f"tokie cannot be used: {type(error).__name__}: {error}"


@pytest.mark.usefixtures("_nothing_proven")
def test_a_keystroke_to_stop_stops(monkeypatch):
    def stop(serialised):
        raise KeyboardInterrupt

    monkeypatch.setattr(engines, "_compile", stop)
    with pytest.raises(KeyboardInterrupt):
        find_engine(backend(train_byte_level()))


def test_a_failure_in_the_run_gives_the_ids_of_the_reference():
    class Failing:
        def encode_batch_flat(self, texts, add_special_tokens):
            raise type("PanicException", (BaseException,), {})("overflow")

    engine = pickle.loads(pickle.dumps(find_engine(backend(train_byte_level()))))  # noqa: S301 - made here
    expected = as_lists(engine.encode(["why", "no hat"]))
    engine._tokie = Failing()
    assert as_lists(engine.encode(["why", "no hat"])) == expected


def test_ids_with_gaps_are_for_the_reference():
    engine = find_engine(Tokenizer(models.BPE({"a": 0, "b": 7}, [])))
    assert (engine.name, engine.note) == ("tokenizers", "tokie takes no tokenizer whose ids have gaps")


def test_awkward_texts_are_found_by_their_place():
    texts = [
        "plain\n\ttext\r\n",
        "a\x0cb",
        "grüße 你好 😀",
        "x\t",
        "'s",
        "Ⅷ",
        "\t'x",
        "",
        "Ⓐ",
        "\ue000",
        "\U0005ffff",
        "é",
    ]
    assert find_awkward(texts) == [1, 5, 6, 8, 9, 10]
    assert find_awkward(["a\tb", "'s é\t", "'"]) == []
    assert find_awkward([]) == []


def test_a_difference_is_found_wherever_it_is():
    tokenizer = backend(unigram())
    engine, reference = find_engine(tokenizer), ReferenceEngine(tokenizer)
    texts = ["no"] * 5000
    assert first_difference(engine, reference, texts) is None
    wrong = OneWrongId(*engine.__reduce__()[1])
    for place in (0, 199, 200, 4999):
        assert first_difference(wrong, reference, [*texts[:place], "the 7th", *texts[place + 1 :]]) == "the 7th"


def test_hard_texts_are_always_the_same_and_hold_the_pieces_and_every_kind_of_character():
    texts = list(hard_texts(["Zqx", " wvu"]))
    assert texts == list(hard_texts(["Zqx", " wvu"]))
    assert len(texts) > 10_000
    whole = "".join(texts)
    assert "Zqx  wvu" in whole
    assert set("aé你अ한😀\u0301\u200d\0\x0c\u2028▁ĠⅧⒶ\ue000𠮷") <= set(whole)


def test_encoders_of_equal_tokenizers_share_what_was_found_out():
    one = ChatMLEncoder(with_control_tokens(train_byte_level()))
    other = ChatMLEncoder(with_control_tokens(train_byte_level()), ("assistant",), reasoning="strip")
    assert one.text is other.text
    assert ChatMLEncoder(with_control_tokens(train_sentencepiece_like())).text is not one.text


@pytest.mark.usefixtures("_nothing_proven")
def test_an_encoder_loads_in_another_process_without_torch_and_transformers_and_gives_the_same(tmp_path):
    for number, make in enumerate((train_byte_level, lambda: losing_line_breaks(train_sentencepiece_like()))):
        encoder = ChatMLEncoder(with_control_tokens(make()), reasoning="empty")
        conversations = [talk("why", "no hat\f7", "7", "yes", system="no"), talk("7", ("be", "no"))]
        path = tmp_path / f"{number}.pickle"
        path.write_bytes(pickle.dumps((encoder, conversations)))
        block = encoder.encode_block(conversations)
        code = (
            "import pickle, sys, genesis_sft.tokens.engine as engine\n"
            "engine._find_engine = None  # nothing is proven again\n"
            f"encoder, conversations = pickle.load(open({str(path)!r}, 'rb'))\n"
            "block = encoder.encode_block(conversations)\n"
            "assert not {'torch', 'transformers'} & set(sys.modules), 'imported'\n"
            "print(encoder.engine, block.ids.tolist(), block.spans.tolist(), encoder.check_sample(conversations))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.stderr == ""
        assert done.stdout.strip() == f"{encoder.engine} {block.ids.tolist()} {block.spans.tolist()} None"
