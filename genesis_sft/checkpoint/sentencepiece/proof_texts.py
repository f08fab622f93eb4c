"""Texts that tokenizers are known to stumble over: prose in many scripts, code, white space, and odd Unicode.

`proof_texts` gives each of them, then thousands of seeded mixtures of them and of the model's own pieces.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

_NUM_MIXTURES = 4000
_SEED = 20

PROSE = (
    "The lighthouse keeper wrote, “Nobody's boat came in today”; it rained - again! - until half past nine.",
    "Übermorgen fährt Jürgen mit der Straßenbahn nach Gießen und kauft süße Äpfel für 3,50 €.",
    "Où est passé l'élève ? Il a mangé des œufs à Noël, paraît-il, et bu un café « noisette ».",
    "¿Cuántos años tiene el niño? ¡Mañana cumplirá diez! Vive en Logroño, cerca del río.",
    "A avó não põe açúcar no pão; às vezes, porém, acrescenta mel e três maçãs.",
    "Zażółć gęślą jaźń. Příliš žluťoučký kůň úpěl. Țara și oamenii ei. Őrült írók űzik.",
    "Thuyền trưởng nói rằng biển đêm nay rất lặng, nhưng gió sẽ đổi chiều trước bình minh.",
    "Bugün İstanbul'da ılık bir rüzgâr esiyor; öğleden sonra yağmur bekleniyor.",
    "Сегодня утром на рынке продавали свежий хлеб, мёд и яблоки. Її син їде до Києва.",
    "Το καΐκι φεύγει στις οκτώ. Πού είναι ο γιατρός; ἐν ἀρχῇ ἦν ὁ λόγος, ᾧ καὶ ᾄδω.",
    "השוק נפתח בשעה שבע בבוקר. שָׁלוֹם לְכֻלָּם, אמר הזקן ושתה תה.",
    "يفتح السوق أبوابه في الساعة السابعة صباحًا، ثم يأتي الناس. كِتَابٌ جَدِيدٌ ۱۲۳ ٤٥٦",
    "آیا فردا باران می‌بارد؟ نمی‌دانم، ولی چتر برمی‌دارم.",
    "बाज़ार सुबह सात बजे खुलता है। क्या आप मेरे साथ चलेंगे? श्री कृष्ण, क्षेत्र, ज्ञान १२३",
    "বাজার সকাল সাতটায় খোলে। আমি কাল যাব, তুমি কি আসবে?",
    "சந்தை காலை ஏழு மணிக்கு திறக்கும். நீங்கள் வருவீர்களா?",
    "మార్కెట్ ఉదయం ఏడు గంటలకు తెరుచుకుంటుంది. ಮಾರುಕಟ್ಟೆ ತೆರೆಯುತ್ತದೆ. വിപണി തുറക്കും.",
    "ตลาดเปิดเจ็ดโมงเช้า พรุ่งนี้ฝนจะตกไหม น้ำแข็งใส",
    "ဈေးက မနက်ခုနစ်နာရီမှာ ဖွင့်တယ်။ ផ្សារបើកនៅម៉ោងប្រាំពីរ។ ຕະຫຼາດເປີດແລ້ວ.",
    "市场早上七点开门，卖鱼的老人说：“今天没有船。”價格是一百二十三元。",
    "市場は朝七時に開きます。「きょうは船が来ない」と、おじいさんが言った。ﾊﾝｶｸｶﾀｶﾅとパーティー",
    "시장은 아침 일곱 시에 문을 엽니다. 내일 비가 올까요? 값을 묻지 않았다.",
    "ბაზარი დილის შვიდ საათზე იხსნება. Շուկան բացվում է ժամը յոթին։ ገበያው በሰባት ሰዓት ይከፈታል።",
    "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ. ᠮᠣᠩᠭᠣᠯ. བཀྲ་ཤིས་བདེ་ལེགས། 𐌰𐌱𐌲 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐐷 𠮷野家",
)
CODE = (
    'def area(radius: float) -> float:\n    """Its area."""\n    return 3.14159 * radius ** 2\n\n\nprint(area(2))\n',
    "for (int i = 0; i < n; ++i) {\n\tif (a[i] != b[i]) { return -1; }\t// differs\n}\n",
    'fn main() -> Result<(), Box<dyn Error>> {\r\n    let x = 1u8;\r\n    println!("{:?}", x);\r\n    Ok(())\r\n}\r\n',
    "SELECT name, COUNT(*) FROM boats WHERE year >= 1999 GROUP BY name HAVING COUNT(*) > 2;\n",
    'const f = async (x) => `${x ?? "none"}`;\n\n\n\nexport default f; // © 2024\n',
    "<html lang=\"en\">\n  <body class='a b'>&nbsp;&amp;<br/></body>\n</html>\n<!-- end -->",
    '{"a": [1, 2.5e-10, null, true], "b\\u00e9": {"c": "\\n"}}',
    "$ ls -la | grep '^d' && echo \"$HOME\" > /dev/null 2>&1\n#!/bin/sh\n",
    "\\begin{align} \\sum_{i=1}^{n} x_i^2 &\\le \\left( \\frac{a}{b} \\right) \\\\ \\end{align}",
    "| a | b |\n|---|:-:|\n| 1 | 2 |\n\n- [x] done\n- [ ] open\n\n```python\nx = 1\n```\n",
)
# fmt: off
SHORT = (
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", " \n ", "\n ", " a", "  a", "a ", "a  ",
    "  a  b   c    ", "\ta\t\tb", "a\n\n\nb", "a \n b", "\u000b\u000c", "▁", "▁▁", "▁a", " ▁a▁ ", "a▁b",
    "a\u00a0b", "\u3000a\u3000", "a\u2003b\u2009c", "\u2028\u2029", "\u0000", "a\u0000b",
    "\u0001\u001b[31mred\u001b[0m\u007f", "\u0080\u009f", "\ufeffa", "a\ufeff", "\u200b", "a\u200bb", "\u200d",
    "\u200e\u202eabc\u202c", "\u00ad", "\u2060", "￼�", "\ue000\uf8ff", "\U000f0000\U0010fffd", "\u0301",
    "\u0301a", " \u0301", "e\u0301", "é", "A\u030a", "Å", "q\u0307\u0323", "a\u0315\u0300", "ê\u0301",
    "²\u0301", "ﬁ\u0301", "ﬁ", "①", "½", "™", "㎏", "ｱｲｳ", "ｶﾞ", "か\u3099", "ＡＢＣ", "～", "…", "ẞ", "ß", "İ",
    "ı", "ǅ", "ſ", "한", "한", "ﷺ", "Ω", "\u0344", "क\u093c", "\u093e", "ำ", "\u0f73", "😀", "😀😀😀", "👍🏽",
    "👩\u200d👩\u200d👧\u200d👦", "🏳\ufe0f\u200d🌈", "🇩🇪🇫🇷🇯", "❤\ufe0f", "☎\ufe0e", "1\ufe0f\u20e3",
    "🧑🏿\u200d🚀 ok", "©\ufe0f", "🇦", "🏴\U000e0067\U000e0062\U000e007f", "0", "7", "42", "007",
    "1,234,567.89", "3.14159265358979", "-1e-10", "0x1F", "١٢٣", "१२३", "２０２４", "1st 2nd", "12:34:56",
    "2024-02-30", "https://example.org/a/b?c=d&e=%20f#g", "mailto:someone@example.com", "C:\\temp\\new",
    "/usr/lib", "192.168.0.1", "#tag @name", "∀x∈ℝ: x²≥0 ∧ ∑ᵢ aᵢ ≠ ∞", "a→b ⇒ ¬c", "√2 ≈ 1.41421", "½ + ¼",
    "x₁ⁿ", "±5 °C", "$5 £4 ¥3 ₿", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "aaaa aaa aa a", "abababababab", "banana",
    "........", "-----", "!!!???", "====>", "__init__", "camelCaseWord", "don't", "‘quoted’", "“x”", "«y»", "—",
    "a-b–c—d", "<0x0A>", "a<0x41>b", "\n<0xFF>\n", "<0x>", "<0x0a>", "<0xE2><0x96><0x81>", "<unk", "s>", "<",
    "</", "<|", "[INST", "Ꭿ\u0301", "ㄱㅡ", "각", "\u0345\u0313α", "ẛ\u0323", "o\u0302\u0323",
    "α\u0313\u0300\u0345",
)
# fmt: on
LONG = (
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 5,
    "x" * 1500,
    " " * 700,
    "\n" * 300,
    "▁" * 301,
    "ab" * 700,
    "0123456789" * 60,
    "\U0001f600" * 200,
    "Z\u0300\u0301\u0302a\u0303\u0304l\u0305\u0306g\u0307o\u0308",
    "word " * 400,
)


def proof_texts(own_pieces: Sequence[str]) -> Iterator[str]:
    """Yield every text, and mixtures of pieces of them: always the same ones.

    Args:
        own_pieces: Pieces of the model, with plain spaces; put together at random they try out its merges.
    """
    yield from (*PROSE, *CODE, *SHORT, *LONG)
    for text in (*PROSE, *CODE):
        yield from (f" {text}", f"{text}  ", f"\n{text}", text.lower(), text.upper())
        yield from text.split()
    chance = random.Random(_SEED)
    words = [word for text in (*PROSE, *CODE) for word in text.split(" ")]
    characters = sorted({character for text in (*PROSE, *CODE, *SHORT) for character in text})
    for number in range(_NUM_MIXTURES):
        sources: tuple[Sequence[str], ...] = (words, SHORT, characters, own_pieces or words)
        if number % 2:
            sources = (sources[number // 2 % 4],)  # every other one of a single kind
        parts = (chance.choice(chance.choice(sources)) for _ in range(chance.randint(1, 40)))
        yield chance.choice(("", "", " ", "\n")).join(parts)
