r"""SentencePiece's rules for text before it is cut into pieces, put together from a fast tokenizer's parts.

A text passes through, in this order:

1. characters are replaced by the charsmap (`character_rules`),
2. spaces at the ends and in runs are dropped, if the model does that,
3. spaces become ``▁``,
4. one ``▁`` is put in front of the whole text, if the model does that; never behind a control token,
5. what is always a piece of its own is set apart, and the names of control and byte pieces are cut in two.

Step 4 is the pair of `Metaspace` steps. `Metaspace` puts nothing in front of a text that begins with what it puts
there, but SentencePiece does: so the first one puts a plain space, which no text begins with after step 3, and the
second turns it into ``▁``. Spaces that step 2 would have dropped at the beginning stay one plain space, which then *is*
the one in front.
"""

from __future__ import annotations

from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers.normalizers import Normalizer, Replace
from tokenizers.pre_tokenizers import Metaspace, PreTokenizer, Split

from genesis_sft.checkpoint.sentencepiece.character_rules import DROPPED_FIRST, character_rules
from genesis_sft.checkpoint.sentencepiece.markers import is_marker
from genesis_sft.checkpoint.sentencepiece.model_file import SPACE, ModelFile

_HEX = "0123456789ABCDEF"


def build_normalizer(file: ModelFile) -> Normalizer:
    """Return steps 1 to 3 of a model.

    Raises:
        ModelError: The charsmap replaces characters in a way that no fast tokenizer does.
    """
    steps = character_rules(file)
    drops_first = bool(steps) and file.dummy_prefix
    if file.trims_spaces:
        steps += [Replace(DROPPED_FIRST, " ")] if drops_first else []
        # the look-behind keeps the search for a run's end from starting anew at each of its characters
        steps += [Replace(Regex(r"(?<![ ▁])[ ▁]+\z"), ""), Replace(Regex(" {2,}"), " ")]
        steps.append(Replace(Regex(r"(?<!\A) "), SPACE) if file.dummy_prefix else Replace(Regex(r"\A "), ""))
    if not (file.trims_spaces and file.dummy_prefix):
        steps.append(Replace(" ", SPACE))
        steps += [Replace(DROPPED_FIRST, " ")] if drops_first else []
    return steps[0] if len(steps) == 1 else normalizers.Sequence(steps)


def build_pre_tokenizer(file: ModelFile) -> PreTokenizer | None:
    """Return steps 4 and 5 of a model."""
    steps: list[PreTokenizer] = []
    if file.dummy_prefix:
        steps.append(Metaspace(replacement=" ", prepend_scheme="first", split=False))
        steps.append(Metaspace(replacement=SPACE, prepend_scheme="never", split=False))
    if whole := isolated_symbols(file):
        longest_first = sorted(whole, key=lambda text: (-len(text), text))
        steps.append(Split(Regex("|".join(map(_literal, longest_first))), "isolated"))
    if cuts := _cuts_in_names(file):
        steps.append(Split(Regex("|".join(cuts)), "merged_with_next"))
    return pre_tokenizers.Sequence(steps) if steps else None


def isolated_symbols(file: ModelFile) -> list[str]:
    """Return the user-defined symbols of a BPE model that are plain text of several characters.

    SentencePiece finds them before it merges, also where the space in front is a part of them. Symbols of one character
    need nothing, since no merge has them; markers become added tokens; a unigram model has a score for each.
    """
    if file.algorithm == "unigram":
        return []
    return [text for text in file.of_kind("user_defined") if len(text) > 1 and not is_marker(text) and " " not in text]


def _cuts_in_names(file: ModelFile) -> list[str]:
    """Return patterns of the characters before which the names of control, unknown and byte pieces are cut.

    Without a cut, typed text that spells the name would be the piece. Only a unigram model, and a BPE model that takes
    whole pieces, look names up in text.
    """
    if file.algorithm == "bpe" and not isolated_symbols(file):
        return []
    pairs = {text[at : at + 2] for text in file.of_kind("normal", "user_defined") for at in range(len(text) - 1)}
    names = [list(name) for name in file.of_kind("control", "unknown") if len(name) > 1]
    if file.of_kind("byte"):
        names.append([*"<0x", _HEX, _HEX, ">"])
    return [_cut(name, pairs) for name in names]


def _cut(name: list[str], pairs: set[str]) -> str:
    """Return a pattern of the one character to cut a name before.

    Where no piece reaches across a cut, the pieces on both sides are the same with it and without; such a place is
    taken if there is one.

    Args:
        name: The name; each entry is the characters that can stand at one place.
        pairs: Pairs of characters that stand together in some piece.
    """
    places = [at for at in range(len(name) - 1, 0, -1) if len(name[at]) == 1]
    place = next((at for at in places if not _any_pair(name[at - 1], name[at], pairs)), places[0])
    before, behind = (
        "".join(_literal(one) if len(one) == 1 else f"[{one}]" for one in part)
        for part in (name[:place], name[place + 1 :])
    )
    return f"(?<={before}){_literal(name[place])}(?={behind})"


def _any_pair(left: str, right: str, pairs: set[str]) -> bool:
    return any(first + second in pairs for first in left for second in right)


def _literal(text: str) -> str:
    r"""Return a pattern for exactly this text, in Oniguruma's syntax: ``\x{3C}`` for ``<``."""
    return "".join(f"\\x{{{ord(character):X}}}" for character in text)
