"""Screen: the language of a conversation, by py3langid.

That is a naive Bayes model of byte n-grams (after Lui and Baldwin 2012, *langid.py*, ACL system demonstrations). Looked
at are the user's turns together and the answers together, each without code, quotations, addresses and numbers, the
first ``_MOST_CHARACTERS`` of them. A side is rejected when it has at least ``FEWEST_LETTERS`` letters and another
language is at least ``SURE`` likely among the taxonomy's languages and ``COMMON_LANGUAGES``. Answers may be in another
language where somebody speaks of languages or of translation. Reasoning may be in any language.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from genesis_sft.conversations.conversation import Message
from genesis_sft.synthesis.screening.candidate import Verdict
from genesis_sft.synthesis.screening.prose import own_words

FEWEST_LETTERS = 60
"""A side with fewer letters is not looked at: names and loan words decide what language it seems to be."""

SURE = 0.95
"""How likely another language has to be."""

COMMON_LANGUAGES = (
    *("ar", "cs", "da", "de", "el", "en", "es", "fi", "fr", "he", "hi", "hu", "id", "it", "ja", "ko", "nl", "pl", "pt"),
    *("ro", "ru", "sv", "th", "tr", "uk", "vi", "zh"),
)
"""What a model slips into; close relatives of the taxonomy's languages (Catalan, Galician, Afrikaans) are left out."""

_MOST_CHARACTERS = 600
_NO_WORDS = re.compile(r"https?://\S+|\S+@\S+|[\d_|#*=<>/\\{}\[\]]+")
_LETTER = re.compile(r"[^\W\d_]")
# names of languages in those of the shipped taxonomy, beginnings of words, and words for translating
_ABOUT_LANGUAGES = re.compile(
    r"\b(?:english|german\b|french|spanish|italian|portuguese|dutch|latin\b|russian|chinese|mandarin|japanese|korean"
    r"|arabic|turkish|polish|swedish|greek|hindi|language|translat|bilingual|pronounc"
    r"|deutsch|englisch|französisch|spanisch|italienisch|portugiesisch|niederländisch|sprach|übersetz"
    r"|anglais|allemand|français|espagnol|italien|portugais|néerlandais|langue|tradui|traduc"
    r"|inglés|alemán|francés|español|italiano|portugués|holandés|idioma|lengua"
    r"|inglese|tedesco|francese|spagnolo|portoghese|olandese|lingua|tradurr"
    r"|inglês|alemão|espanhol|holandês|língua|tradu[zç]"
    r"|engels|duits|frans\b|spaans|italiaans|portugees|nederlands|taal|vertaal|vertal)",
    re.IGNORECASE,
)


@functools.cache
def _load(languages: frozenset[str]) -> LanguageIdentifier:
    """Return a model that chooses among those of the languages that it knows; half a second of unpacking."""
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(sorted(languages & set(identifier.labels)))
    return identifier


class LanguageScreen:
    """Tells whether a conversation is in the language of its scenario.

    Args:
        languages: Those of the taxonomy, ISO 639-1; one that py3langid does not know is not checked.
    """

    def __init__(self, languages: Iterable[str]) -> None:
        self._identifier = _load(frozenset((*languages, *COMMON_LANGUAGES)))
        self._languages = frozenset(self._identifier.labels)

    def check(self, messages: tuple[Message, ...], language: str) -> Verdict | None:
        """Reject a conversation with a side that is in another language."""
        if language not in self._languages:
            return None
        if (found := self._other_language(messages, "user", language)) is not None:
            return Verdict("language", f"the user's turns: expected {language}, found {found}")
        if (found := self._other_language(messages, "assistant", language)) is not None:
            said = " ".join(message.content for message in messages if message.role != "assistant")
            if not _ABOUT_LANGUAGES.search(said):
                return Verdict("language", f"the answers: expected {language}, found {found}")
        return None

    def _other_language(self, messages: tuple[Message, ...], role: str, expected: str) -> str | None:
        """Return the language of a side where it is surely another one."""
        contents = [message.content for message in messages if message.role == role]
        prose = " ".join(" ".join(own_words(content) for content in contents)[: 4 * _MOST_CHARACTERS].split())
        prose = _NO_WORDS.sub(" ", prose)[:_MOST_CHARACTERS]
        if len(prose) < FEWEST_LETTERS or len(_LETTER.findall(prose)) < FEWEST_LETTERS:
            return None
        found, likelihood = self._identifier.classify(prose)
        return found if found != expected and likelihood >= SURE else None
