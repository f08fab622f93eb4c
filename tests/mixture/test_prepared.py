"""The mixture over real stores: its examples are what encoding the same messages gives."""

from __future__ import annotations

import json
from itertools import chain

import numpy as np
import pytest

from genesis_sft.conversations.clean import read_conversations
from genesis_sft.conversations.conversation import Conversation
from genesis_sft.errors import DataError
from genesis_sft.mixture.shown import examples
from genesis_sft.mixture.store import TokenStore
from genesis_sft.mixture.verify import verify
from genesis_sft.recipe import SourceSection
from genesis_sft.tokens.chatml import ChatMLEncoder
from tests.mixture.conftest import MAX_LENGTH, rows


def conversations(name):
    """The conversations of a source by row; the rows that are none have no number of their own here."""
    made = {}
    for row, fields in enumerate(rows({"talks": 40, "more": 9}[name])):
        if fields["messages"][-1]["role"] == "assistant":
            line = json.dumps({"source": name, "row": row, **fields})
            made[row] = Conversation.from_json(line)
    return made


def pieces(conversation, encoder):
    """What a conversation becomes: whole exchanges as long as they fit, encoded anew as conversations of their own."""
    messages = conversation.messages
    system = messages[: len(messages) % 2]
    exchanges = [messages[at : at + 2] for at in range(len(system), len(messages), 2)]
    made, current = [], []
    for exchange in exchanges:
        longer = Conversation((*system, *chain(*current), *exchange))
        if len(encoder.encode(longer).input_ids) > MAX_LENGTH and current:
            made.append(current)
            current = []
        current.append(exchange)
        if len(encoder.encode(Conversation((*system, *exchange))).input_ids) > MAX_LENGTH:
            current = []
    made += [current] if current else []
    return [encoder.encode(Conversation((*system, *chain(*part)))) for part in made]


def test_every_example_is_what_its_messages_encode_to(prepared, tokenizer):
    encoder = ChatMLEncoder(tokenizer)
    expected = [
        (row, encoded.input_ids, encoded.trained)
        for row, conversation in conversations("talks").items()
        for encoded in pieces(conversation, encoder)
    ]
    found = {"train": [], "held_out": []}
    for side, of_side in found.items():
        table = getattr(prepared, side)
        for index in range(len(table)):
            if table.source(index) == "talks" and table.row(index) < 40:
                of_side.append((table.row(index), table.input_ids(index).tolist(), table.trained(index)))
    assert sorted(found["train"] + found["held_out"]) == sorted(expected)
    assert {row for row, *_ in found["train"]}.isdisjoint({row for row, *_ in found["held_out"]})
    assert found["held_out"]
    assert prepared.ledger["talks"].split > 3


def test_a_finished_folder_is_opened_and_verified(prepared):
    verify(prepared)
    talks, more = prepared.ledger["talks"], prepared.ledger["more"]
    assert (talks.rows_read, talks.rejected) == (41, {"ends with user": 6})
    assert (more.rows_read, more.rejected, more.duplicates) == (10, {"ends with user": 1}, 8)
    assert len(talks.sha256) == 64
    assert {sample.source for sample in prepared.samples()} == {"talks", "more"}


def test_a_store_that_was_exchanged_is_noticed(prepared, tmp_path):
    for name in ("train.arrow", "held_out.arrow", "ledger.json", "dropped.jsonl"):
        (tmp_path / name).write_bytes((prepared.path / name).read_bytes())
    (tmp_path / "sources").mkdir()
    for name, other in (("talks", "more"), ("more", "talks")):
        (tmp_path / "sources" / name).symlink_to(prepared.path / "sources" / other)
    with pytest.raises(DataError, match="found others for talks, more"):
        TokenStore.open(tmp_path)


def test_examples_of_a_source_or_row(prepared):
    some = list(examples(prepared, source="talks", row=5))
    assert [one.title.split(":")[0] for one in some] == ["talks, row 5"] * len(some)
    assert np.concatenate([one.encoded.input_ids for one in some]).size > 0
    with pytest.raises(DataError, match="one of the sources talks, more; found 'none'"):
        list(examples(prepared, source="none"))
    with pytest.raises(DataError, match="row 3 of talks"):
        list(examples(prepared, source="talks", row=3))


def test_the_rows_of_the_world_are_what_the_program_reads(files):
    with pytest.raises(DataError, match="row 3"):
        list(read_conversations(SourceSection(name="talks", path=str(files["talks"]))))
