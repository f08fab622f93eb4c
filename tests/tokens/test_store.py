"""The token store: what goes in comes out, long conversations are dropped or cut between exchanges, all is counted."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis_sft.conversations.mixture import build_mixture
from genesis_sft.errors import DataError
from genesis_sft.recipe import DataSection, SourceSection, TokensSection
from genesis_sft.tokens.chatml import CHAT_TEMPLATE, ChatMLEncoder, Encoded
from genesis_sft.tokens.store import TokenStore, tokenize_mixture
from genesis_sft.tokens.writer import check_encoded
from tests.conftest import train_byte_level
from tests.tokens.helpers import talk, with_control_tokens

TOKENIZER = with_control_tokens(train_byte_level())
ENCODER = ChatMLEncoder(TOKENIZER)

# in tokens: header of user 4, of assistant 6, "no" 1, "yes" 1, end and line break 2
ONE_EXCHANGE = 4 + 1 + 2 + 6 + 1 + 2  # user "no", assistant "yes"


def mixture(folder, sources, held_out=0.0):
    """A mixture of conversations given as messages."""
    sections = []
    for name, conversations in sources.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(conversation.to_json() + "\n" for conversation in conversations))
        sections.append(SourceSection(name=name, path=str(path)))
    return build_mixture(DataSection(sources=tuple(sections), held_out=held_out), 0, folder / "data")


def test_what_goes_in_comes_out(tmp_path):
    sources = {"b": [talk("7", "no"), talk("why", ("be", "yes"))], "a": [talk("Grüße", "no", "7", "yes", system="no")]}
    made = mixture(tmp_path, sources)
    store = tokenize_mixture(TokensSection(), made, TOKENIZER, tmp_path / "tokens")
    assert len(store.train) == 3
    assert len(store.held_out) == 0
    for index, conversation in enumerate(made.train()):
        expected = ENCODER.encode(conversation)
        ids = store.train.input_ids(index)
        assert ids.dtype == np.int64
        assert ids.tolist() == expected.input_ids
        assert store.train.trained(index) == expected.trained
        assert store.train.num_tokens(index) == len(expected.input_ids)
        assert store.train.num_trained(index) == expected.num_trained
    assert [(store.train.source(i), store.train.row(i)) for i in range(3)] == [("b", 0), ("b", 1), ("a", 0)]
    with pytest.raises(IndexError):
        store.train.input_ids(3)


def test_tables_of_many_batches_are_read_by_index(tmp_path, monkeypatch):
    monkeypatch.setattr("genesis_sft.tokens.writer._ROWS_PER_BATCH", 2)
    made = mixture(tmp_path, {"a": [talk(str(n), "no " * n + "no") for n in range(7)]})
    store = tokenize_mixture(TokensSection(), made, TOKENIZER, tmp_path / "tokens")
    assert [store.train.row(i) for i in range(7)] == list(range(7))
    assert [store.train.trained(i) for i in range(7)] == [[(13, 13 + n + 2)] for n in range(7)]
    assert [store.train.input_ids(i).tolist() for i in (6, 0)] == [
        ENCODER.encode(talk("6", "no " * 6 + "no")).input_ids,
        ENCODER.encode(talk("0", "no")).input_ids,
    ]


def test_pyarrow_alone_can_read_a_store_and_it_says_how_it_was_made(tmp_path):
    section = TokensSection(train_on=("assistant",))
    tokenize_mixture(section, mixture(tmp_path, {"a": [talk("no", "yes")]}), TOKENIZER, tmp_path / "tokens")
    with pa.memory_map(str(tmp_path / "tokens" / "train.arrow")) as file:
        table = pa.ipc.open_file(file).read_all()
        assert table.schema.field("input_ids").type == pa.list_(pa.uint16())
        (row,) = table.to_pylist()
        metadata = table.schema.metadata
    assert row["input_ids"] == ENCODER.encode(talk("no", "yes")).input_ids
    assert row["trained"] == [{"start": 13, "stop": 14}]
    assert (row["source"], row["row"], row["num_tokens"], row["num_trained"]) == ("a", 0, ONE_EXCHANGE, 1)
    assert metadata[b"genesis_sft.train_on"] == b'["assistant"]'
    assert {b"genesis_sft.template_sha256", b"genesis_sft.tokenizer_sha256", b"genesis_sft.version"} <= metadata.keys()


@pytest.mark.parametrize(
    ("policy", "max_length", "lengths", "dropped", "cut"),
    [
        ("drop", 2 * ONE_EXCHANGE, [16, 32], 1, 0),
        ("drop", 2 * ONE_EXCHANGE - 1, [16], 2, 0),
        ("cut", 2 * ONE_EXCHANGE, [16, 32, 32], 0, 1),
        ("cut", 2 * ONE_EXCHANGE - 1, [16, 16, 16], 0, 2),
    ],
)
def test_long_conversations_are_dropped_or_cut_between_exchanges(tmp_path, policy, max_length, lengths, dropped, cut):
    exchange = ("no", "yes")
    made = mixture(tmp_path, {"a": [talk(*exchange), talk(*exchange * 2), talk(*exchange * 3)]})
    section = TokensSection(max_length=max_length, over_length=policy)
    store = tokenize_mixture(section, made, TOKENIZER, tmp_path / "tokens")
    assert [store.train.num_tokens(i) for i in range(len(store.train))] == lengths
    counts = store.counts["train"]["a"]
    assert (counts["dropped_over_length"], counts["cut"]) == (dropped, cut)
    assert counts["examples"] == len(lengths)
    assert counts["tokens"] == sum(lengths)
    assert counts["trained_tokens"] == 2 * sum(lengths) // ONE_EXCHANGE
    assert json.loads((tmp_path / "tokens" / "counts.json").read_text()) == store.counts


def test_a_first_exchange_that_does_not_fit_is_dropped_also_when_long_ones_are_cut(tmp_path):
    made = mixture(tmp_path, {"a": [talk("no " * 50, "yes", "no", "yes"), talk("no", "yes")]})
    store = tokenize_mixture(TokensSection(max_length=40, over_length="cut"), made, TOKENIZER, tmp_path / "tokens")
    assert [store.train.row(i) for i in range(len(store.train))] == [1]
    assert store.counts["train"]["a"]["dropped_over_length"] == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.booleans(), st.integers(10, 120))
def test_a_cut_conversation_is_the_encoding_of_a_shorter_one(tmp_path_factory, num_exchanges, has_system, max_length):
    folder = tmp_path_factory.mktemp("cut")
    exchanges = [("why\n", ("be", "no hat")), ("7", "yes"), ("no", " grüße"), ("x", ("y", "z"))][:num_exchanges]
    turns = [turn for exchange in exchanges for turn in exchange]
    system = "no" if has_system else None
    made = mixture(folder, {"a": [talk(*turns, system=system), talk("a", "b")]})
    section = TokensSection(max_length=max_length, over_length="cut")
    prefixes = [ENCODER.encode(talk(*turns[: 2 * n], system=system)) for n in range(1, num_exchanges + 1)]
    fitting = [prefix for prefix in prefixes if len(prefix.input_ids) <= max_length]
    try:
        store = tokenize_mixture(section, made, TOKENIZER, folder / "tokens")
    except DataError:
        assert not fitting
        return
    if fitting:
        assert store.train.input_ids(0).tolist() == fitting[-1].input_ids
        assert store.train.trained(0) == fitting[-1].trained
    else:
        assert store.train.row(0) == 1


def test_nothing_to_train_on_is_an_error_and_leaves_nothing_behind(tmp_path):
    made = mixture(tmp_path, {"a": [talk("no", "yes")]})
    with pytest.raises(DataError, match="at most 10 tokens to train on, found none: 1 are longer"):
        tokenize_mixture(TokensSection(max_length=10), made, TOKENIZER, tmp_path / "tokens")
    assert list((tmp_path / "tokens").iterdir()) == []


def test_an_answer_that_normalises_to_nothing_is_left_out_and_counted(tmp_path):
    from tokenizers import normalizers

    tokenizer = with_control_tokens(train_byte_level())
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    made = mixture(tmp_path, {"a": [talk("no", "\u200b"), talk("no", "yes")]})
    store = tokenize_mixture(TokensSection(train_on=("assistant",)), made, tokenizer, tmp_path / "tokens")
    assert [store.train.row(i) for i in range(len(store.train))] == [1]
    assert store.counts["train"]["a"]["untrained"] == 1


def test_a_summary_and_the_held_out_side(tmp_path):
    made = mixture(tmp_path, {"a": [talk(f"no {n}", "yes") for n in range(100)]}, held_out=0.5)
    store = tokenize_mixture(TokensSection(), made, TOKENIZER, tmp_path / "tokens")
    assert len(store.held_out) == made.ledger.held_out > 20
    assert store.counts["held_out"]["a"]["examples"] == len(store.held_out)
    assert store.summary().startswith(f"{len(store.train)} conversations, ")
    assert store.summary().endswith(f"{len(store.held_out)} held out")


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (lambda e: Encoded([*e.input_ids, ENCODER.im_end_id], e.trained), "control token 401 for 2 in the template"),
        (lambda e: Encoded([*e.input_ids, ENCODER.think_id], e.trained), "control token 402 for 0 in the template"),
        (lambda e: Encoded(e.input_ids, [(13, 14)]), "a trained turn does not end on a trained end of turn"),
        (lambda e: Encoded(e.input_ids, []), "a trained turn does not end on a trained end of turn"),
    ],
)
def test_a_faulty_encoding_never_enters_a_store(fault, problem):
    conversation = talk("no", "yes")
    encoded = ENCODER.encode(conversation)
    check_encoded(conversation, encoded, ENCODER)
    with pytest.raises(AssertionError, match=problem):
        check_encoded(conversation, fault(encoded), ENCODER)


def test_a_folder_that_is_no_store_says_so(tmp_path):
    with pytest.raises(DataError, match=r"expected a token store in .*, found no train.arrow"):
        TokenStore.open(tmp_path)
    for name in ("train.arrow", "held_out.arrow", "counts.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match="found a damaged one"):
        TokenStore.open(tmp_path)


def test_real_rows_with_the_template_beside_them(shared_data, tmp_path):
    names = ("gpteacher-roleplay", "hh-harmless")
    sources = tuple(SourceSection(name=n, path=str(shared_data / "sft" / f"{n}.jsonl.gz"), take=100) for n in names)
    made = build_mixture(DataSection(sources=sources, held_out=0.02), 0, tmp_path / "data")
    tokenizer = with_control_tokens(train_byte_level())
    tokenizer.chat_template = CHAT_TEMPLATE
    store = tokenize_mixture(TokensSection(max_length=4096), made, tokenizer, tmp_path / "tokens")
    for split in ("train", "held_out"):
        table, counts = getattr(store, split), store.counts[split]
        assert sum(of["examples"] for of in counts.values()) == len(table)
        assert sum(of["tokens"] for of in counts.values()) == sum(table.num_tokens(i) for i in range(len(table)))
        for index in range(len(table)):
            ids = table.input_ids(index)
            assert all(ids[stop - 1] == ENCODER.im_end_id for _, stop in table.trained(index))
