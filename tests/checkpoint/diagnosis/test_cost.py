"""Promises on costs: the same tokens for every convention, blocks for the error, and clear rules for what counts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from genesis_sft.checkpoint.diagnosis.cost import Margin, ProbeText, margin, probe_text, token_costs
from genesis_sft.checkpoint.llama.forward import logits
from genesis_sft.checkpoint.tokenizer_files import has_dummy_prefix, with_dummy_prefix
from tests.checkpoint.llama.random_llamas import Shape, as_stored, random_state, usual


def test_a_margin_is_a_mean_with_its_error_over_blocks_of_32() -> None:
    # eight blocks: four of +1, four of 0. Mean 1/2; deviation sqrt(8 x 1/4 / 7) = 0.5345; error / sqrt(8) = 0.18898
    dearer = torch.cat([torch.ones(32), torch.zeros(32)] * 4)
    found = margin(dearer, torch.zeros(256))
    assert found.nats == 0.5
    assert found.standard_error == pytest.approx(math.sqrt(2 / 7) / math.sqrt(8))
    assert str(found) == "+0.500 ± 0.189"


def test_a_rest_of_less_than_a_block_counts_for_the_mean_alone() -> None:
    found = margin(torch.cat([torch.zeros(256), torch.full((16,), 17.0)]), torch.zeros(272))
    assert found == Margin(1.0, 0.0)


def test_fewer_than_eight_blocks_have_no_error_and_are_never_clear() -> None:
    found = margin(torch.ones(255), torch.zeros(255))
    assert found == Margin(1.0, math.inf)
    assert not found.is_clear
    assert not found.is_nothing
    assert str(found) == "+1.000"


@pytest.mark.parametrize(
    ("nats", "error", "is_clear", "is_nothing"),
    [
        (0.41, 0.1, True, False),  # beyond four errors
        (0.39, 0.1, False, False),
        (0.0051, 0.001, True, False),
        (0.0049, 0.001, False, False),  # below what matters, but two errors reach beyond it
        (0.0049, 0.0, False, True),
        (-0.002, 0.001, False, True),
        (-1.0, 0.01, False, False),  # cheaper is not dearer
    ],
)
def test_what_is_clear_and_what_is_nothing(nats: float, error: float, is_clear: bool, is_nothing: bool) -> None:
    found = Margin(nats, error)
    assert (found.is_clear, found.is_nothing) == (is_clear, is_nothing)


texts = st.dictionaries(
    st.text("abc", min_size=1), st.text("The ferry leaves at 7, Köln 😀\n", max_size=120), max_size=4
)


@settings(deadline=None, max_examples=80)
@given(texts=texts, window=st.integers(2, 12), num_tokens=st.integers(1, 200))
def test_windows_of_a_text_joined_are_its_beginning(
    tiny_sentencepiece_tokenizer: PreTrainedTokenizerFast, texts: dict[str, str], window: int, num_tokens: int
) -> None:
    engine = tiny_sentencepiece_tokenizer.backend_tokenizer
    found = probe_text(texts, engine, bos_id=1, window=window, num_tokens=num_tokens)
    all_ids = [engine.encode(text, add_special_tokens=False).ids for text in texts.values()]
    assert all(2 <= len(piece) <= window for piece in found.windows)
    assert sum(map(len, found.windows[:-1])) < num_tokens
    assert found.num_tokens == sum(len(piece) - 1 for piece in found.windows)
    left = list(found.windows)
    for turn in range(len(left)):  # each window is the next piece of its text, texts in turn
        for ids in all_ids:
            piece = tuple(ids[turn * window : (turn + 1) * window])
            if len(piece) > 1 and left:
                assert left.pop(0) == piece
    assert left == []


@settings(deadline=None, max_examples=80)
@given(text=st.text("The ferry leaves at 7 Köln 😀\n", min_size=4, max_size=120), window=st.integers(4, 12))
def test_the_other_start_ends_where_the_window_ends(
    tiny_sentencepiece_tokenizer: PreTrainedTokenizerFast, text: str, window: int
) -> None:
    plain = with_dummy_prefix(tiny_sentencepiece_tokenizer.backend_tokenizer, False)
    with_space = with_dummy_prefix(tiny_sentencepiece_tokenizer.backend_tokenizer, True)
    found = probe_text({"a": text}, plain, bos_id=1, window=window, num_tokens=1000)
    if not found.windows:
        return
    assert found.dummy_prefix is False
    other = with_space.encode(text, add_special_tokens=False).ids
    if 0 not in found.other_starts:
        return
    start = list(found.other_starts[0])
    ids = plain.encode(text, add_special_tokens=False).ids
    assert start == other[: len(start)]
    assert other[len(start) :][-len(ids[len(found.windows[0]) :]) :] == ids[len(found.windows[0]) :]
    conventions = usual(Shape(), dummy_prefix=True, bos=True)
    assert found.ids(conventions)[0] == [1, *start]
    assert found.ids(usual(Shape(), dummy_prefix=False))[0] == list(found.windows[0])


def test_a_tokenizer_without_word_boundaries_has_no_other_start(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    engine = tiny_tokenizer.backend_tokenizer
    assert has_dummy_prefix(engine) is None
    found = probe_text({"a": "The ferry leaves at seven."}, engine, bos_id=None, window=8, num_tokens=100)
    assert found.other_starts == {}
    assert found.dummy_prefix is None


def test_costs_are_those_of_the_texts_tokens_with_or_without_bos() -> None:
    shape = Shape()
    stored = as_stored(random_state(shape))
    text = ProbeText(((3, 1, 4, 1, 5), (9, 2, 6), (2, 7, 1, 8, 2)), {}, bos_id=0, dummy_prefix=None)
    for bos in (False, True):
        conventions = usual(shape, bos=bos)
        expected = []
        for window in text.windows:
            ids = torch.tensor([[0, *window] if bos else window])
            nats = -logits(stored, conventions, ids)[0].log_softmax(-1)[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
            expected.append(nats[1:] if bos else nats)
        found = token_costs(stored, conventions, text)
        assert len(found) == text.num_tokens == 10
        torch.testing.assert_close(found, torch.cat(expected), atol=1e-5, rtol=1e-5)


def test_what_is_no_number_is_dear() -> None:
    shape = Shape()
    state = random_state(shape)
    state["norm.weight"][0] = float("nan")
    text = ProbeText(((3, 1, 4, 1, 5),), {}, bos_id=None, dummy_prefix=None)
    assert token_costs(as_stored(state), usual(shape), text).tolist() == [100.0] * 4
