import numpy as np
import pytest
import torch

from genesis_sft.errors import ModelError
from genesis_sft.evals import held_out
from genesis_sft.evals.held_out import choose_evenly, measure_held_out
from genesis_sft.tokens.chatml import ChatMLEncoder
from genesis_sft.training.forward.attention import SEGMENT_ATTENTION


class Table:
    """Held-out conversations: (source, ids, trained spans) each."""

    def __init__(self, *conversations):
        self._rows = conversations

    def __len__(self):
        return len(self._rows)

    def source(self, index):
        return self._rows[index][0]

    def row(self, index):
        return 100 + index

    def input_ids(self, index):
        return np.array(self._rows[index][1], dtype=np.int64)

    def trained(self, index):
        return self._rows[index][2]

    def num_tokens(self, index):
        return len(self._rows[index][1])

    def num_trained(self, index):
        return sum(stop - start for start, stop in self.trained(index))


def of_length(source, length):
    return (source, [7] * length, [(1, length)])


def test_tokens_are_taken_evenly_from_the_sources():
    table = Table(*[of_length("a", 5)] * 3, *[of_length("b", 9)] * 2)
    assert choose_evenly(table, 18) == [0, 3, 1]


def test_when_a_source_has_no_more_the_others_go_on():
    table = Table(of_length("a", 2), *[of_length("b", 9)] * 3)
    assert choose_evenly(table, 1000) == [0, 1, 2, 3]


def test_a_conversation_without_a_trained_token_is_left_out():
    assert choose_evenly(Table(("a", [7, 7], []), of_length("a", 2)), 1000) == [1]


CONVERSATIONS = Table(
    ("sums", [5, 9, 30, 31, 32, 33], [(2, 4), (5, 6)]),
    ("birds", [8, 40, 41], [(1, 3)]),
    ("sums", [60, 61, 62, 63], [(3, 4)]),
)


def nats(model, index):
    """Loss of a conversation by itself, without batches and without this project's loss."""
    ids = CONVERSATIONS.input_ids(index)
    with torch.no_grad():
        log_probs = model(torch.from_numpy(ids)[None]).logits[0].log_softmax(-1)
    positions = [at for start, stop in CONVERSATIONS.trained(index) for at in range(start, stop)]
    return -sum(float(log_probs[at - 1, ids[at]]) for at in positions)


@pytest.mark.parametrize("batch_tokens", [1, 7, 4096])
def test_losses_are_those_of_each_conversation_alone(tiny_base, monkeypatch, batch_tokens):
    monkeypatch.setattr(held_out, "BATCH_TOKENS", batch_tokens)
    model = tiny_base.load_model(attention=SEGMENT_ATTENTION)
    sums, birds = measure_held_out(model, CONVERSATIONS, 1000, ChatMLEncoder(tiny_base.load_tokenizer()))
    plain = tiny_base.load_model()
    first, second, third = (nats(plain, index) for index in range(3))
    assert (sums.source, sums.rows, sums.tokens, sums.n_tokens, sums.n_conversations) == (
        "sums",
        (100, 102),
        (3, 1),
        4,
        2,
    )
    assert sums.losses == pytest.approx((first, third), abs=1e-4)
    assert sums.nats_per_token == pytest.approx((first + third) / 4, abs=1e-4)
    assert (birds.source, birds.tokens, birds.standard_error) == ("birds", (2,), 0.0)
    assert birds.nats_per_token == pytest.approx(second / 2, abs=1e-4)


def test_bytes_are_those_of_the_trained_text_without_control_tokens(tiny_base):
    """Pieces of a character, and control tokens between them, are decoded with the whole span."""
    encoder = ChatMLEncoder(tiny_base.load_tokenizer())
    party, thought = encoder.text.encode(["die 🎉 Überfahrt", "hm 漢字"])
    ids = [7, *party, encoder.im_end_id, encoder.think_id, *thought, encoder.think_end_id, encoder.im_end_id, 7]
    behind = len(party) + 2
    conversation = ("a", ids, [(1, behind), (behind, len(ids) - 1)])
    model = tiny_base.load_model(attention=SEGMENT_ATTENTION)
    (record,) = measure_held_out(model, Table(conversation, of_length("a", 3)), 1000, encoder)
    seven = len(encoder.decode([7]).encode())
    assert record.num_bytes == (len("die 🎉 Überfahrt".encode()) + len("hm 漢字".encode()), 2 * seven)


def test_a_loss_that_is_no_number_is_refused(tiny_base):
    model = tiny_base.load_model(attention=SEGMENT_ATTENTION)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="infinities or NaN"):
        measure_held_out(model, CONVERSATIONS, 1000, ChatMLEncoder(tiny_base.load_tokenizer()))
