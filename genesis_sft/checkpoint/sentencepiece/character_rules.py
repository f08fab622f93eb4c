r"""SentencePiece's replacement of characters (its charsmap: nfkc, nmt_nfkc and their like) as a normalizer.

A charsmap is a list of rules "this sequence becomes that one", of which the longest that fits is applied, from left to
right. tokenizers can read one (`Precompiled`), but applies it to all that looks like one character on screen, and then
drops what follows the shortest rule: ``\r\n`` loses its ``\n``, ``²`` with an accent loses the accent. So the rules for
sequences are left to Unicode's own NFKC, held back where it would do more (`composition`), and `Precompiled` is given
characters one by one. What each character should become is found out by asking sentencepiece, and what the steps make
of it is compared with that.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, normalizers
from tokenizers.normalizers import NFKC, Normalizer, Precompiled, Replace

from genesis_sft.checkpoint.sentencepiece.composition import break_pattern, class_of
from genesis_sft.checkpoint.sentencepiece.model_file import ModelFile, without_space_rules
from genesis_sft.errors import ModelError

_PLANES = (0, 1, 2, 3, 14)  # the others have no characters, or private ones
_BESIDE = "_"  # composes with nothing: what stands behind it is not at the beginning of a text
# Unicode's "noncharacters" are never used in text, and all normal forms leave them alone.
DROPPED_FIRST = "\ufdef"  # stands for dropped characters at the beginning of a text
_BREAK = "\ufdee"
_STAND_INS = [chr(code) for code in range(0xFDE0, 0xFDEE)]
# what belongs to the character before it on screen; the last are half-width voice marks and skin tones
_EXTENDING = r"[\p{M}\p{Cf}\x{FF9E}\x{FF9F}\x{1F3FB}-\x{1F3FF}]"
_CHUNK = 512  # characters that are compared in one go


def character_rules(file: ModelFile) -> list[Normalizer]:
    """Return the steps that replace characters as the model's charsmap does; none if it has none.

    With a space in front to come, a text whose first characters were dropped begins with `DROPPED_FIRST`: tokenizers
    would no longer know it as the beginning.

    Raises:
        ModelError: A character cannot be replaced as the charsmap has it.
    """
    if not file.charsmap:
        return []
    characters = [
        chr(code)
        for plane in _PLANES
        for code in range(plane << 16, (plane + 1) << 16)
        if not (0xD800 <= code < 0xE000 or 0xFDE0 <= code < 0xFDF0)
    ]
    processor = without_space_rules(file)
    wanted = dict(zip(characters, processor.normalize(characters), strict=True))
    steps = [
        Replace(break_pattern(processor, wanted), _BREAK),
        NFKC(),
        *_drop([character for character, text in wanted.items() if not text], at_start=file.dummy_prefix),
        *_make_space([character for character, text in wanted.items() if text == " " != character]),
        Replace(Regex(rf"(?!\A)(?={_EXTENDING})"), _BREAK),
        Precompiled(file.charsmap),
        Replace(_BREAK, ""),
    ]
    kept = [character for character in _find_wrong(steps, wanted) if wanted[character] == character]
    pairs = list(zip(kept, _STAND_INS, strict=False))
    there, back = [Replace(*pair) for pair in pairs], [Replace(stand_in, kept) for kept, stand_in in pairs]
    steps = [*there, *steps, *back]
    if wrong := _find_wrong(steps, wanted):
        raise ModelError(
            f"{file.path}: its charsmap turns U+{ord(wrong[0]):04X} into {wanted[wrong[0]]!r}, which a fast "
            f"tokenizer's normalizers do not ({len(wrong)} characters differ)"
        )
    return steps


def _drop(characters: list[str], *, at_start: bool) -> list[Normalizer]:
    if not characters:
        return []
    first = [Replace(Regex(rf"\A{class_of(characters)}+"), DROPPED_FIRST)] if at_start else []
    return [*first, Replace(Regex(class_of(characters)), "")]


def _make_space(characters: list[str]) -> list[Normalizer]:
    return [Replace(Regex(class_of(characters)), " ")] if characters else []


def _find_wrong(steps: Iterable[Normalizer], wanted: dict[str, str]) -> list[str]:
    normalizer = normalizers.Sequence(list(steps))
    characters = list(wanted)
    wrong = []
    for start in range(0, len(characters), _CHUNK):
        chunk = characters[start : start + _CHUNK]
        if not _is_right(normalizer, chunk, wanted):
            wrong += [character for character in chunk if not _is_right(normalizer, [character], wanted)]
    return wrong


def _is_right(normalizer: Normalizer, characters: list[str], wanted: dict[str, str]) -> bool:
    found = normalizer.normalize_str("".join(_BESIDE + character for character in characters))
    return bool(found == "".join(_BESIDE + wanted[character] for character in characters))
