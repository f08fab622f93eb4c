"""Loss on plain text: paragraph by paragraph what a plain forward pass gives, over all tokens and all bytes."""

import math

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from genesis_sft.errors import ModelError
from genesis_sft.evals import plain_text
from genesis_sft.evals.plain_text import measure_plain_text, read_passages

TEXT = "The ferry leaves at seven. Überfahrt 4 €.\n\n漢字 and a 🎉 party.\n\n\nThe end, she said."


@pytest.fixture
def tokenizer(tiny_base):
    return tiny_base.load_tokenizer()


@pytest.fixture
def model(tiny_base):
    return tiny_base.load_model()


def with_bos(tokenizer):
    from tokenizers.processors import TemplateProcessing

    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<|im_start|>")
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>",
        special_tokens=[(name, made.convert_tokens_to_ids(name)) for name in ("<|im_start|>", "<|im_end|>")],
    )
    return made


def token_losses(model, ids):
    with torch.no_grad():
        log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return [-float(log_probs[place - 1, ids[place]]) for place in range(1, len(ids))]


def test_the_shipped_text_is_long_enough_for_a_standard_error():
    passages = read_passages()
    paragraphs = [paragraph for text in passages.values() for paragraph in text.split("\n\n")]
    assert (len(passages), len(paragraphs)) == (18, 75)  # as the docstring says
    assert len(set(paragraphs)) == len(paragraphs)
    assert sum(len(paragraph.split()) for paragraph in paragraphs) > 5000
    assert all(text == text.strip() for text in passages.values())


def test_every_token_but_the_first_is_predicted_and_every_byte_of_them_counted(model, tokenizer):
    (record,) = measure_plain_text(model, tokenizer, {"mixed": TEXT})
    ids = tokenizer(TEXT)["input_ids"]
    losses = token_losses(model, ids)
    assert (record.source, record.rows, record.n_conversations) == ("mixed", (0, 1, 2), 3)
    assert record.n_tokens == sum(record.tokens) == len(ids) - 1
    assert math.fsum(record.losses) == pytest.approx(math.fsum(losses), abs=1e-3)
    assert record.nats_per_token == pytest.approx(math.fsum(losses) / len(losses), abs=1e-5)
    first_token = len(tokenizer.decode(ids[:1]).encode())
    assert sum(record.num_bytes) == len(TEXT.encode()) - first_token
    assert record.standard_error > 0


def test_a_paragraphs_loss_is_that_of_its_tokens_in_the_whole_passage(model, tokenizer):
    """With this tokenizer a byte is a token or a few are: the tokens of a beginning are those of the whole."""
    (record,) = measure_plain_text(model, tokenizer, {"mixed": TEXT})
    ids = tokenizer(TEXT)["input_ids"]
    losses = token_losses(model, ids)
    ends = []
    for end in (TEXT.index("漢"), TEXT.index("The end"), len(TEXT)):
        count = next(
            n
            for n in range(len(ids) + 1)
            if len(tokenizer.decode(ids[:n])) >= end and "�" not in tokenizer.decode(ids[:n])
        )
        ends.append(count)
    expected = [math.fsum(losses[max(start - 1, 0) : stop - 1]) for start, stop in zip([0, *ends], ends, strict=False)]
    assert record.losses == pytest.approx(expected, abs=1e-3)
    assert record.num_bytes[1:] == (len("漢字 and a 🎉 party.\n\n\n".encode()), len("The end, she said."))


def test_a_bos_is_read_and_lets_the_first_token_be_predicted(model, tokenizer):
    own = with_bos(tokenizer)
    ids = own(TEXT)["input_ids"]
    (record,) = measure_plain_text(model, own, {"mixed": TEXT})
    assert record.n_tokens == len(ids) - 2  # neither BOS nor the end that this tokenizer adds
    assert sum(record.num_bytes) == len(TEXT.encode())
    assert math.fsum(record.losses) == pytest.approx(math.fsum(token_losses(model, ids)[:-1]), abs=1e-3)


@pytest.mark.parametrize("bos", [False, True])
def test_a_passage_longer_than_a_window_is_read_in_pieces_and_no_token_is_lost_or_doubled(
    model, tokenizer, monkeypatch, bos
):
    own = with_bos(tokenizer) if bos else tokenizer
    (whole,) = measure_plain_text(model, own, {"mixed": TEXT})
    monkeypatch.setattr(plain_text, "_LONGEST_WINDOW", 9)
    (pieces,) = measure_plain_text(model, own, {"mixed": TEXT})
    assert (pieces.tokens, pieces.num_bytes, pieces.rows) == (whole.tokens, whole.num_bytes, whole.rows)
    ids = own(TEXT)["input_ids"]
    begin = ids[:1] if bos else []
    step = 8 - len(begin)
    losses = token_losses(model, ids[: 1 + step])
    start = 1 + step
    while start < len(ids):
        window = begin + ids[start - 1 : start + step]
        losses += token_losses(model, window)[len(begin) :]
        start += step
    if bos:
        losses = losses[: len(ids) - 2]
    assert math.fsum(pieces.losses) == pytest.approx(math.fsum(losses), rel=1e-4)


def test_a_loss_that_is_no_number_and_a_tokenizer_without_tokens_are_refused(model, tokenizer):
    with pytest.raises(ModelError, match="turns plain text into tokens"):
        measure_plain_text(model, tokenizer, {"empty": ""})
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="infinities or NaN"):
        measure_plain_text(model, tokenizer, {"mixed": TEXT})
