"""Screen: what looks like a real person's data, or like a real key.

Numbers that are set aside for examples and films pass, as do service numbers that anybody may call. IP addresses are
not looked for: a public one names a server, not a person, and version numbers look the same.

Shapes and check digits: ISO 7812-1 (cards), ISO 13616 (IBAN). What is nobody's: `reserved`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from genesis_sft.conversations.conversation import Message
from genesis_sft.synthesis.screening.candidate import Verdict
from genesis_sft.synthesis.screening.form import all_texts
from genesis_sft.synthesis.screening.reserved import (
    EXAMPLE_IBANS,
    MADE_UP,
    NEVER_ISSUED,
    NO_PERSON,
    NO_REAL_NUMBER,
    RESERVED_DOMAIN,
    TEST_CARDS,
)

PERSONAL = "personal data"

_EMAIL = re.compile(
    r"(?<![\w.%+/@-])([A-Za-z0-9][\w.%+-]{0,63})@((?:[A-Za-z0-9-]{1,63}\.){1,6}"
    r"(?:com|org|net|edu|gov|info|biz|io|dev|app|name|email|[A-Za-z]{2}))(?![\w(-]|\.\w)",
    re.ASCII,
)
_INTERNATIONAL = re.compile(r"(?<![\w+.,-])\+[1-9](?:[ .()/-]{0,2}\d){7,14}(?!\w|[.,]\d)")
_NORTH_AMERICAN = re.compile(
    r"(?<![\w+.,/-])(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[-.])[2-9]\d\d[-.]\d{4}(?!\w|[-.,]\d)", re.ASCII
)
_NATIONAL = re.compile(
    r"\b(?:tel|tél|phone|telephone|mobile|cell|telefon\w{0,6}|handy\w{0,8}|mobil\w{0,8}|rufnummer|téléphone|portable|teléfono"
    r"|móvil|telefono|cellulare|telefone|telemóvel|celular|telefoon\w{0,6}|mobiel|call me (?:on|at))\b"
    r"[^\d\n+]{0,20}(0[1-9](?:[ .()/-]{0,2}\d){7,10})(?!\w|[.,-]\d)",
    re.IGNORECASE,
)
_CARD = re.compile(
    r"(?<![\w.,+/-])(?:3[47]|4|5[1-5]|2[2-7]|6[05])\d{0,3}(?:[ -]?\d{3,6}){2,4}(?![\w/]|[-.,]\d)", re.ASCII
)
_IBAN_COUNTRIES = (
    "AE23 AT20 BE16 BG22 BR29 CH21 CY28 CZ24 DE22 DK18 EE20 ES24 FI18 FR27 GB22 GR27 HR21 HU28 IE22 IL23 IS26 "
    "IT27 LI21 LT20 LU20 LV21 MC27 MT31 NL18 NO15 PL28 PT25 RO24 RS22 SA24 SE24 SI19 SK24 SM27 TR26 UA29"
)
_IBAN_LENGTHS = {country[:2]: int(country[2:]) for country in _IBAN_COUNTRIES.split()}
_IBAN = re.compile(r"(?<![A-Za-z0-9])([A-Z]{2})\d\d(?: ?[A-Z0-9]){11,30}")
_SOCIAL_SECURITY = re.compile(r"(?<![\w.-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w-]|\.\d)", re.ASCII)
_KEY = re.compile(
    r"(?<![\w-])(?:sk-(?:ant-|proj-)?[\w-]{20,200}|(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}"
    r"|github_pat_\w{30,100}|glpat-[\w-]{20}|xox[abprs]-[\w-]{15,100}|AIza[\w-]{35}|hf_[A-Za-z0-9]{30,40}"
    r"|npm_[A-Za-z0-9]{36})(?![\w-])",
    re.ASCII,
)
_KEY_BLOCK = re.compile(r"-----BEGIN (?:[A-Z]{2,10} )?PRIVATE KEY-----\s{1,4}[A-Za-z0-9+/]{40}")


def check_personal_data(messages: tuple[Message, ...]) -> Verdict | None:
    """Reject a conversation that has any; the detail names the kind and the place, not the data."""
    for where, text in all_texts(messages):
        for kind, finds in _KINDS:
            if finds(text):
                return Verdict(PERSONAL, f"{where} has {kind}")
    return None


def _has_email(text: str) -> bool:
    return "@" in text and any(
        not NO_PERSON.match(found[1]) and not RESERVED_DOMAIN.match(found[2]) for found in _EMAIL.finditer(text)
    )


def _has_telephone(text: str) -> bool:
    numbers = [found[0] for pattern in (_INTERNATIONAL, _NORTH_AMERICAN) for found in pattern.finditer(text)]
    numbers += [found[1] for found in _NATIONAL.finditer(text)]
    digits = (re.sub(r"[^\d+]", "", number.replace("(0)", "")) for number in numbers)
    return any(not NO_REAL_NUMBER.match(number) for number in digits)


def _has_card(text: str) -> bool:
    numbers = (re.sub(r"\D", "", found[0]) for found in _CARD.finditer(text))
    return any(len(number) in (15, 16) and number not in TEST_CARDS and _passes_luhn(number) for number in numbers)


def _passes_luhn(number: str) -> bool:
    """Return whether the last digit is the check digit of the others (ISO 7812-1, annex B)."""
    doubled = (int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(number)))
    return len(set(number)) > 1 and sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def _has_account(text: str) -> bool:
    for found in _IBAN.finditer(text):
        number = found[0].replace(" ", "")[: _IBAN_LENGTHS.get(found[1], 0)]
        if len(number) == _IBAN_LENGTHS.get(found[1]) and number not in EXAMPLE_IBANS:
            moved = number[4:] + number[:4]
            if int("".join(str(int(character, 36)) for character in moved)) % 97 == 1:
                return True
    return False


def _has_social_security_number(text: str) -> bool:
    return any(found[0] not in NEVER_ISSUED for found in _SOCIAL_SECURITY.finditer(text))


def _has_key(text: str) -> bool:
    return _KEY_BLOCK.search(text) is not None or any(not MADE_UP.search(found[0]) for found in _KEY.finditer(text))


_KINDS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("an e-mail address", _has_email),
    ("a telephone number", _has_telephone),
    ("the number of a payment card", _has_card),
    ("the number of a bank account", _has_account),
    ("a US social security number", _has_social_security_number),
    ("a secret key", _has_key),
)
