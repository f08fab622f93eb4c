"""What the token tests share: tiny tokenizers with control tokens, and conversations written shortly."""

import copy

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from genesis_sft.conversations.conversation import Conversation, Message

CONTROL = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")


def with_control_tokens(tokenizer):
    """A copy that knows the four control tokens."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROL], special_tokens=True)
    return tokenizer


def talk(*texts, system=None, **where):
    """A conversation: user, assistant, user ...; an assistant's (reasoning, content) may be a pair."""
    messages = [Message("system", system)] if system else []
    for turn, text in enumerate(texts):
        reasoning, content = text if isinstance(text, tuple) else (None, text)
        messages.append(Message("assistant" if turn % 2 else "user", content, reasoning))
    return Conversation(tuple(messages), **where)


def marked(tokenizer, encoded):
    """The tokens of a conversation by name, trained ones with a + before them."""
    trained = {position for start, stop in encoded.trained for position in range(start, stop)}
    names = tokenizer.convert_ids_to_tokens(encoded.input_ids)
    return [f"+{name}" if position in trained else name for position, name in enumerate(names)]


def change(tokenizer, **parts):
    """A copy whose backend has another normalizer, pre_tokenizer, decoder or model."""
    tokenizer = copy.deepcopy(tokenizer)
    for name, part in parts.items():
        setattr(tokenizer.backend_tokenizer, name, part)
    return tokenizer


def prepending(tokenizer):
    """Like Llama's: a space in front of all text, also behind each control token."""
    spaces = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return change(tokenizer, normalizer=spaces)


def metaspace(tokenizer, scheme):
    """Like converted SentencePiece models in newer versions."""
    return change(
        tokenizer, normalizer=normalizers.Sequence([]), pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme=scheme)
    )


def losing_line_breaks(tokenizer):
    """Like SentencePiece's default: white space becomes one ▁ that belongs to the word behind it; none at the end."""
    steps = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(left=False), normalizers.Replace(" ", "▁")]
    words = pre_tokenizers.Split("▁", "merged_with_next")
    return change(tokenizer, normalizer=normalizers.Sequence(steps), pre_tokenizer=words)


def unigram():
    """A Unigram model whose vocabulary holds the control pieces, as SentencePiece writes them."""
    pieces = ["<unk>", "<s>", "</s>", *CONTROL, "▁", "\n", *(chr(code) for code in range(33, 127)), "user", "▁no"]
    backend = Tokenizer(models.Unigram([(piece, 0.0 if i < 7 else -5.0) for i, piece in enumerate(pieces)], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="never")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    return with_control_tokens(tokenizer)
