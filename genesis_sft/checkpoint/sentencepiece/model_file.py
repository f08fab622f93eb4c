"""What a SentencePiece ``.model`` file says: its pieces, and its rules for white space and characters.

The file is a protobuf message; its fields are those of ``sentencepiece_model.proto``. One of its pieces::

    Piece(text="▁the", score=-41.0, kind="normal")
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genesis_sft.errors import ModelError

PieceKind = Literal["normal", "unknown", "control", "user_defined", "unused", "byte"]
SPACE = "▁"  # what SentencePiece writes for U+0020
_KINDS: dict[int, PieceKind] = {
    1: "normal",
    2: "unknown",
    3: "control",
    4: "user_defined",
    5: "unused",
    6: "byte",
}
_ALGORITHMS: dict[int, str] = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_LARGEST_BYTES = 1 << 28  # a million long pieces have 50 MB; more is another kind of file
_HINT = "Name the tokenizer.model that SentencePiece wrote when the tokenizer was trained."


@dataclass(frozen=True, slots=True)
class Piece:
    """An entry of the vocabulary; its place is its id."""

    text: str
    score: float
    kind: PieceKind


@dataclass(frozen=True)
class ModelFile:
    """A SentencePiece model as it lies on disk.

    Attributes:
        path: Where it was read from.
        content: The bytes of the file.
        algorithm: How text is cut into pieces.
        pieces: The vocabulary, by id.
        byte_fallback: Whether unknown characters become the byte pieces ``<0x00>`` to ``<0xFF>``.
        dummy_prefix: Whether a space is put in front of every text.
        trims_spaces: Whether spaces at both ends are dropped and runs of them become one.
        charsmap: The compiled rules that characters are replaced by; empty if there are none.
        unk_id: Id of the unknown token.
        bos_id, eos_id, pad_id: Ids of control pieces; None where the file has none.
    """

    path: Path
    content: bytes
    algorithm: Literal["bpe", "unigram"]
    pieces: tuple[Piece, ...]
    byte_fallback: bool
    dummy_prefix: bool
    trims_spaces: bool
    charsmap: bytes
    unk_id: int
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None

    def of_kind(self, *kinds: PieceKind) -> list[str]:
        """Return the texts of all pieces of these kinds, in the order of their ids."""
        return [piece.text for piece in self.pieces if piece.kind in kinds]


def read_model_file(path: Path) -> ModelFile:
    """Read a SentencePiece model.

    Raises:
        ModelError: No SentencePiece model lies there, it is damaged, or it has a property that a fast tokenizer cannot
            have.
    """
    content = _read_bytes(path)
    fields = _parse(path, content)
    processor = load_processor(content, path)
    _refuse_unsupported(path, fields)
    ids = {name: getattr(processor, f"{name}_id")() for name in ("bos", "eos", "pad")}
    return ModelFile(
        path=path,
        content=content,
        algorithm="bpe" if fields.trainer_spec.model_type == 2 else "unigram",
        pieces=tuple(Piece(piece.piece, piece.score, _KINDS[piece.type]) for piece in fields.pieces),
        byte_fallback=fields.trainer_spec.byte_fallback,
        dummy_prefix=fields.normalizer_spec.add_dummy_prefix,
        trims_spaces=fields.normalizer_spec.remove_extra_whitespaces,
        charsmap=fields.normalizer_spec.precompiled_charsmap,
        unk_id=processor.unk_id(),
        **{f"{name}_id": None if id < 0 else id for name, id in ids.items()},
    )


def load_processor(content: bytes, path: Path) -> Any:
    """Return sentencepiece's own processor of a model.

    Raises:
        ModelError: sentencepiece refuses the model.
    """
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_proto=content)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1:] or ["it gives no reason"]
        raise ModelError(f"{path}: sentencepiece refuses this model: {reason[0]}", hint=_HINT) from None


def without_space_rules(file: ModelFile) -> Any:
    """Return a processor whose ``normalize`` replaces characters and leaves white space as the charsmap has it."""
    fields = _parse(file.path, file.content)
    fields.normalizer_spec.add_dummy_prefix = False
    fields.normalizer_spec.remove_extra_whitespaces = False
    fields.normalizer_spec.escape_whitespaces = False
    return load_processor(fields.SerializeToString(), file.path)


def _read_bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ModelError(f"expected a SentencePiece model at {path}; the file is far too large for one", hint=_HINT)
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", hint=_HINT) from None


def _parse(path: Path, content: bytes) -> Any:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from sentencepiece import sentencepiece_model_pb2

    fields = sentencepiece_model_pb2.ModelProto()
    try:
        fields.ParseFromString(content)
    except DecodeError:
        raise ModelError(f"{path} is no SentencePiece model, or it is damaged", hint=_HINT) from None
    if not fields.pieces:
        raise ModelError(f"{path} is no SentencePiece model: it has no pieces", hint=_HINT)
    return fields


def _refuse_unsupported(path: Path, fields: Any) -> None:
    algorithm = _ALGORITHMS.get(fields.trainer_spec.model_type, "unknown")
    faults = {
        f"is of type {algorithm}; only BPE and unigram models can be carried over": algorithm not in ("bpe", "unigram"),
        "puts the space behind a word (treat_whitespace_as_suffix)": fields.trainer_spec.treat_whitespace_as_suffix,
        "keeps spaces as they are (escape_whitespaces is off)": not fields.normalizer_spec.escape_whitespaces,
        "rewrites text when it decodes (denormalizer_spec)": bool(fields.denormalizer_spec.precompiled_charsmap),
    }
    if found := [fault for fault, is_so in faults.items() if is_so]:
        raise ModelError(
            f"{path}: expected a SentencePiece model that a fast tokenizer can stand in for; this one {found[0]}"
        )
