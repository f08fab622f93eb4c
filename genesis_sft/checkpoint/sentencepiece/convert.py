r"""A SentencePiece ``.model`` file becomes a fast tokenizer with the file's own ids.

How the kinds of pieces are carried over:

- normal: BPE merges or unigram scores.
- control, unknown: special tokens, found in text by their name.
- user-defined markers such as ``<|user|>`` (`is_marker`): added tokens that are not special, found by their name. A
  text that begins with one gets no ``▁`` in front of it; SentencePiece would put one there.
- other user-defined symbols, such as ``"\n"``: always pieces of their own, found after white space became ``▁``.
- bytes: only for characters that are no piece; their names in text are text.
- unused: in the vocabulary under their name with a space before it, which no text reaches.

A model with a charsmap uses the noncharacters U+FDE0 to U+FDEF inside; a text that holds one of them may get other ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Tokenizer, decoders

from genesis_sft.checkpoint.sentencepiece.bpe import build_bpe, unreachable_pieces
from genesis_sft.checkpoint.sentencepiece.markers import is_marker
from genesis_sft.checkpoint.sentencepiece.model_file import SPACE, ModelFile, read_model_file
from genesis_sft.checkpoint.sentencepiece.text_rules import build_normalizer, build_pre_tokenizer, isolated_symbols
from genesis_sft.checkpoint.sentencepiece.unigram import build_unigram
from genesis_sft.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def read_sentencepiece(path: Path, *, add_bos: bool) -> PreTrainedTokenizerFast:
    """Return the fast tokenizer of a SentencePiece model; `require_same_ids` proves it.

    Args:
        path: A ``.model`` file, BPE or unigram.
        add_bos: Whether the tokenizer puts BOS in front of a text, as pretraining did (unless it is asked not to, by
            ``add_special_tokens=False``).

    Raises:
        ModelError: The file is damaged or no SentencePiece model, has a property that cannot be carried over, or lacks
            the BOS that is asked for.
    """
    from transformers import PreTrainedTokenizerFast

    file = read_model_file(path)
    if add_bos and file.bos_id is None:
        raise ModelError(
            f"expected a beginning-of-text token in {path}, to put in front of texts; the model has none",
            hint="A model that was trained without one has to be used without one.",
        )
    named = {
        f"{name}_token": file.pieces[id].text
        for name, id in (("bos", file.bos_id), ("eos", file.eos_id), ("unk", file.unk_id), ("pad", file.pad_id))
        if id is not None
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=build_backend(file),
        add_bos_token=add_bos,  # transformers makes the post-processor of it, and saves that in tokenizer.json
        add_eos_token=False,
        clean_up_tokenization_spaces=False,
        **named,
    )


def build_backend(file: ModelFile) -> Tokenizer:
    """Return the engine of the fast tokenizer; nothing puts special tokens around texts yet."""
    names = _names(file)
    if file.algorithm == "bpe":
        backend = Tokenizer(build_bpe(file, names, whole_pieces=bool(isolated_symbols(file))))
    else:
        backend = Tokenizer(build_unigram(file, names))
    backend.normalizer = build_normalizer(file)
    pre_tokenizer = build_pre_tokenizer(file)
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    backend.decoder = _build_decoder(file)
    backend.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in file.of_kind("unknown", "control")]
    )
    # normalized: white space beside a marker is treated as in one text, not as at the ends of two
    backend.add_tokens([AddedToken(name, special=False, normalized=True) for name in _markers(file)])
    return backend


def _names(file: ModelFile) -> list[str]:
    """Return what each piece is called in the tokenizer; those that no text may reach have a space in front."""
    hidden = set(file.of_kind("unused"))
    if isolated_symbols(file):  # whole pieces are looked up, so that what merges never give must not be found
        hidden |= unreachable_pieces(file)
    names = [f" {piece.text}" if piece.text in hidden else piece.text for piece in file.pieces]
    if len(set(names)) != len(names):
        raise ModelError(f"{file.path}: expected every piece once; some stand there twice")
    return names


def _markers(file: ModelFile) -> list[str]:
    return [name for name in file.of_kind("user_defined") if is_marker(name) and " " not in name]


def _build_decoder(file: ModelFile) -> decoders.Decoder:
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if file.dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)
