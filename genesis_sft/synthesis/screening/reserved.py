"""What looks like personal data and is nobody's: set aside for examples and films, published, or plainly made up.

Sources: RFC 2606 and 6761 (domains), the Social Security Administration (numbers never issued), card schemes' and
payment services' test numbers, the examples of the IBAN registry (ISO 13616), and for telephone numbers in films:
NANPA, Ofcom, ARCEP, Bundesnetzagentur, ACMA.
"""

from __future__ import annotations

import re

NO_PERSON = re.compile(
    r"(?:git|noreply|no-reply|donotreply|info|contact|support|help|hello|press|sales|office|admin|webmaster|postmaster"
    r"|abuse|security|privacy|jobs|careers|team|mail|email|name|user|username|you|your[._-]?\w*|first[._-]?last"
    r"|firstname[._-]?lastname|someone|somebody|me|x+)$",
    re.IGNORECASE,
)
RESERVED_DOMAIN = re.compile(
    r"(?:.*\.)?(?:example\.(?:com|org|net|edu)|example|test|invalid|localhost|local"
    r"|(?:your|my|the)?[-_]?(?:domain|company|email|mail|website|site|business|organi[sz]ation)\.\w+)$",
    re.IGNORECASE,
)

# after everything but digits is gone; a leading + shows a country
NO_REAL_NUMBER = re.compile(
    r"\+?1?(?:\d{3}55501\d\d|[89](?:00|88|77|66|55|44|33)\d{7}|(\d)\1{9})$"  # 555-01xx, toll-free and premium
    r"|(?:\+44|0)0?(?:2079460\d{3}|1(?:13|14|15|16|17|18|21|31|41|51|61)4960\d{3}|1914980\d{3}|1632960\d{3}"
    r"|2896496\d{3}|2920180\d{3}|7700900\d{3}|8081570\d{3}|9098790\d{3}|3069990\d{3})$"
    r"|(?:\+33|0)0?(?:19900|26191|35301|46571|53649|63998)\d{4}$"
    r"|(?:\+49|0)0?(?:3023125|6990009|4066969|2214710|8999998)\d{3}$"
    r"|(?:\+61|0)0?(?:[2378](?:5550|7010)\d{4}|491570\d{3})$"
    r"|(?:\+\d{1,3})?0?80[08]?0?\d*$|(?:\+\d{1,3})?0?900\d*$"
    r"|\+?\d{0,3}0?1?(?:234567\d*|2?3456789\d*|(\d)\2{6,})$"
)

_CARDS = (
    "4242424242424242 4111111111111111 4012888888881881 4000056655665556 5555555555554444 5105105105105100 "
    "2223003122003222 378282246310005 371449635398431 6011111111111117 6011000990139424"
)
_IBANS = (
    "GB82WEST12345698765432 GB29NWBK60161331926819 GB33BUKB20201555555555 DE89370400440532013000 "
    "FR1420041010050500013M02606 ES9121000418450200051332 IT60X0542811101000000123456 NL91ABNA0417164300 "
    "PT50000201231234567890154 AT611904300234573201 BE68539007547034 CH9300762011623852957"
)
TEST_CARDS, EXAMPLE_IBANS = frozenset(_CARDS.split()), frozenset(_IBANS.split())
NEVER_ISSUED = frozenset(("123-45-6789", "078-05-1120", "219-09-9999", "111-11-1111"))
MADE_UP = re.compile(r"x{4}|example|your|abcdef|123456|dummy|fake|placeholder|redacted|0{6}|test", re.IGNORECASE)
