"""What looks like somebody's data is rejected; what is set aside for examples, and mere numbers, are not."""

from __future__ import annotations

import pytest

from genesis_sft.conversations.conversation import Message
from genesis_sft.synthesis.screening.personal_data import check_personal_data


def kind_in(text: str) -> str | None:
    verdict = check_personal_data((Message("user", "Who is it?"), Message("assistant", text)))
    if verdict is None:
        return None
    assert verdict.reason == "personal data"
    where, _, kind = str(verdict.detail).partition(" has ")
    assert where == "message 1 (assistant)"
    assert text not in str(verdict.detail)  # the data itself is not spread further
    return kind


def with_luhn_digit(digits: str) -> str:
    """Return the digits with the last one that makes them a card's number, by trying all ten."""

    def total(number: str) -> int:  # the formula as ISO 7812-1 words it: every second digit from the right, doubled
        return sum(sum(divmod(int(d) * 2, 10)) if place % 2 else int(d) for place, d in enumerate(reversed(number)))

    return next(digits + last for last in "0123456789" if total(digits + last) % 10 == 0)


EMAIL, PHONE, CARD = "an e-mail address", "a telephone number", "the number of a payment card"
IBAN, SSN, KEY = "the number of a bank account", "a US social security number", "a secret key"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Write to mara.lindqvist@gmail.com today.", EMAIL),
        ("(mara_lindqvist+x@mail.uni-koeln.de)", EMAIL),
        ("mailto:mara.lindqvist@proton.me?subject=hi", EMAIL),
        ("Write to mara@example.com or mara@shop.example.", None),
        ("git clone git@github.com:owner/name.git", None),
        ("support@ourshop.com answers within a day", None),
        ("@app.route('/home') and a @ b.T", None),
        ("user@yourcompany.com", None),
        ("pip install name@1.2.3", None),
        ("https://user.name@host.internal/path", None),
    ],
)
def test_email(text: str, kind: str | None) -> None:
    assert kind_in(text) == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Call (415) 867-5309.", PHONE),
        ("415-867-5309", PHONE),
        ("+1 415 867 5309", PHONE),
        ("+49 30 901820 55", PHONE),
        ("+44 20 7123 4567", PHONE),
        ("Telefon: 030 90182055", PHONE),
        ("Tél : 01 42 68 53 00", PHONE),
        ("(415) 555-0123 and 212-555-0199", None),
        ("+1 415 555 0142", None),
        ("020 7946 0123 or +44 7700 900123 or 01632 960555", None),
        ("tel 020 7946 0123, mobile 07700 900123", None),
        ("Tél : 01 99 00 12 34", None),
        ("Telefon: 030 23125 123", None),
        ("1-800-273-8255 at any hour", None),
        ("0800 111 0 111", None),
        ("+44 800 1111", None),
        ("123-456-7890", None),
        ("call 988 or 116 123", None),
        ("from 2019-2020 to 2024-11-23, 10:45", None),
        ("3.14159265358979 and 1,234,567,890 and 192.168.100.200", None),
        ("ISBN 978-3-16-148410-0", None),
        ("+15 to +20 degrees; 415-867-5309-22", None),
        ("x = +12345678", None),
    ],
)
def test_telephone(text: str, kind: str | None) -> None:
    assert kind_in(text) == kind


def test_payment_cards_need_their_check_digit() -> None:
    number = with_luhn_digit("453911728401365")
    spaced = " ".join(number[place : place + 4] for place in range(0, 16, 4))
    assert kind_in(f"My card is {spaced}, thanks.") == CARD
    assert kind_in(number) == CARD
    assert kind_in("3714 496353 98431") is None  # American Express's own test number
    wrong = number[:-1] + str((int(number[-1]) + 1) % 10)
    assert kind_in(f"My card is {wrong}.") is None
    assert kind_in("4242 4242 4242 4242") is None
    assert kind_in(f"id-{number}") is None
    assert kind_in("4000 1500 2000 3000 4000") is None


def test_bank_accounts_need_their_check_digits() -> None:
    def iban(country: str, account: str) -> str:
        digits = "".join(str(int(character, 36)) for character in f"{account}{country}00")
        return f"{country}{98 - int(digits) % 97:02d}{account}"

    number = iban("DE", "500105175407324931")
    spaced = " ".join(number[place : place + 4] for place in range(0, len(number), 4))
    assert kind_in(f"IBAN {number}") == IBAN
    assert kind_in(f"Bitte auf {spaced} BIS MORGEN") == IBAN
    assert kind_in(f"IBAN {number[:-1]}{(int(number[-1]) + 1) % 10}") is None
    assert kind_in("GB82 WEST 1234 5698 7654 32") is None
    assert kind_in("DE89 3704 0044 0532 0130 00") is None
    assert kind_in("AB12 CDEF GHIJ KLMN OPQR") is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("SSN 523-41-7788", SSN),
        ("123-45-6789", None),
        ("078-05-1120", None),
        ("000-12-3456 and 666-12-3456 and 912-12-3456", None),
        ("523-00-7788 and 523-41-0000", None),
        ("2023-41-7788", None),
    ],
)
def test_social_security(text: str, kind: str | None) -> None:
    assert kind_in(text) == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("sk-" + "q7Rk2mVt9LpZ4wXs8NbY3cHd", KEY),
        ("AKIA" + "Q7RK2MVT9LPZ4WXS", KEY),
        ("ghp_" + "q7Rk2mVt9LpZ4wXs8NbY3cHdq7Rk2mVt9LpZ", KEY),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7bq3Kx9vT2mWc8LpZ4wXs8NbY3cHd\n", KEY),
        ("AKIAIOSFODNN7EXAMPLE", None),
        ("sk-your-key-goes-right-here-please", None),
        ("sk-xxxxxxxxxxxxxxxxxxxxxxxx", None),
        ("Keys begin with sk- or ghp_.", None),
        ("-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----", None),
        ("task-management-with-many-words-in-it", None),
    ],
)
def test_keys(text: str, kind: str | None) -> None:
    assert kind_in(text) == kind


def test_all_texts_are_looked_at() -> None:
    mail = "mara.lindqvist@gmail.com"
    reasoned = (Message("user", "Who?"), Message("assistant", "She.", reasoning=mail))
    verdict = check_personal_data(reasoned)
    assert verdict is not None
    assert str(verdict.detail).startswith("the reasoning of message 1")
    assert (
        check_personal_data((Message("system", mail), Message("user", "Who?"), Message("assistant", "She.")))
        is not None
    )
