"""Real SentencePiece models, trained on a few lines in a fraction of a second; and models put together by hand."""

from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as fields

from tests.conftest import TRAINING_TEXT

LINES = (
    *(text.replace("\n", " ") for text in TRAINING_TEXT),
    "aaaa aaa aa a aaaaaaa bbbb abab ababa banana bandana .... ... !!! ------ <0x0A> 'a|b'",
    "system user assistant think because and therefore the answer is yes or no or perhaps later",
)
PLAIN = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}
SYMBOLS = ["\n", *"0123456789", "▁▁", "▁▁▁▁", "def▁", "ab", "->", "<|x|>", "[INST]"]
MODELS: dict[str, dict[str, Any]] = {
    "bpe": PLAIN,
    "bpe trimming": {**PLAIN, "remove_extra_whitespaces": True},
    "bpe nmt_nfkc": {"byte_fallback": True},
    "bpe nfkc": {**PLAIN, "normalization_rule_name": "nfkc"},
    "bpe nmt_nfkc_cf": {**PLAIN, "normalization_rule_name": "nmt_nfkc_cf"},
    "bpe nmt_nfkc line break": {"byte_fallback": True, "user_defined_symbols": ["\n"]},
    "bpe no prefix": {**PLAIN, "add_dummy_prefix": False},
    "bpe no prefix trimming": {**PLAIN, "add_dummy_prefix": False, "remove_extra_whitespaces": True},
    "bpe unknown": {**PLAIN, "byte_fallback": False},
    "bpe symbols": {**PLAIN, "user_defined_symbols": SYMBOLS, "control_symbols": ["<ctl>"]},
    "bpe symbols trimming": {**PLAIN, "user_defined_symbols": SYMBOLS, "remove_extra_whitespaces": True},
    "bpe symbols no prefix": {**PLAIN, "user_defined_symbols": SYMBOLS, "add_dummy_prefix": False},
    "bpe spaces": {**PLAIN, "allow_whitespace_only_pieces": True, "split_by_whitespace": False},
    "unigram": {**PLAIN, "model_type": "unigram"},
    "unigram unknown": {"model_type": "unigram"},
    "unigram no prefix": {**PLAIN, "model_type": "unigram", "add_dummy_prefix": False},
    "unigram trimming": {**PLAIN, "model_type": "unigram", "remove_extra_whitespaces": True},
    "unigram symbols": {**PLAIN, "model_type": "unigram", "user_defined_symbols": SYMBOLS},
    "word": {**PLAIN, "model_type": "word", "byte_fallback": False},
    "char": {**PLAIN, "model_type": "char"},
}
CONVERTED = [name for name in MODELS if name not in ("word", "char")]


def train(path: Path, **options: Any) -> Path:
    """Train a model of at most 450 pieces and write it to ``path``."""
    settings = {"model_type": "bpe", "vocab_size": 450, "hard_vocab_limit": False, "character_coverage": 1.0}
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(LINES * 5), model_writer=file, minloglevel=2, **(settings | options)
        )
    return path


def processor(path: Path) -> Any:
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def change(path: Path, target: Path, **changes: Any) -> Path:
    """Write a copy of a model with other fields: ``normalizer_spec__escape_whitespaces=False``."""
    model = fields.ModelProto.FromString(path.read_bytes())
    for place, value in changes.items():
        section, _, name = place.partition("__")
        setattr(getattr(model, section), name, value)
    target.write_bytes(model.SerializeToString())
    return target


def by_hand(target: Path, pieces: list[tuple[str, float, int]], *, model_type: int = 2, prefix: bool = False) -> Path:
    """Write a model of these pieces (text, score, type) behind <unk>, <s> and </s>: type 1 is normal, 5 unused."""
    model = fields.ModelProto()
    model.trainer_spec.model_type = model_type
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = prefix
    model.normalizer_spec.remove_extra_whitespaces = False
    for text, score, kind in [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *pieces]:
        model.pieces.add(piece=text, score=score, type=kind)
    model.trainer_spec.vocab_size = len(model.pieces)
    target.write_bytes(model.SerializeToString())
    return target
