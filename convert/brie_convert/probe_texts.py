"""Texts on which two tokenizers that differ at all are likely to differ. It knows characters, not tokens.

The same texts every time: a verification that changes with the weather proves nothing.
"""

import random
import unicodedata
from collections.abc import Callable, Sequence

_WORDS_TEXT = """
the of and Socrates virtue knowledge isn't can't I'll WE'RE they've he'd y'all naïve café Straße résumé über Größe été
garçon œuvre señor mañana ação coração łódź žluťoučký kůň győr árvíztűrő İstanbul \u0131ğd\u0131r Привет мир философия
Ελλάδα φιλοσοφία שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดี 你好 世界 哲学 こんにちは カタカナ 안녕하세요 ქართული Հայերեն
አማርኛ e\u0301le\u0301ve A\u0308 ﬁne Ⅷ x² H₂O 10½ ①②③ ٣٤٥ १२३ \U0001d7d8\U0001d7d9 🙂 👍🏽
👩\u200d👩\u200d👧 🇩🇪 ✨ → ≠ ∑ € £ ©
"""
_NUMBERS_TEXT = """
0 7 42 007 1.5 3,141.59 1e-10 0xDEADBEEF 2024-02-29 12:34:56 +49-170 50% $9.99 v1.2.3 1/2 1000000
"""
_WORDS, _NUMBERS = _WORDS_TEXT.split(), _NUMBERS_TEXT.split()
_CODE = (
    "def f(x: int) -> str:\n    return f'{x!r}'\n",
    "for(int i=0;i<n;++i){\ta[i]+=b[i];}\r\n",
    "SELECT * FROM t WHERE a='b' AND c>=3; -- note",
    '{"key": [1, 2.50, null], "t": "\\n\\u00e9"}',
    "<div class='x'>&nbsp;</div><!-- c -->",
    "#include <stdio.h>\n\n\nint main(){return 0;}",
    "x = a[1:-2] ** 3 // 4 @ b if not c else ~d",
    "https://example.org/a_b/c-d?e=f&g=%20#h",
    "$$\\frac{a}{b}^{2} \\neq \\sqrt[3]{x_i}$$",
    "| a | b |\n|---|:-:|\n| 1 | 2 |\n",
)
_SPACES = (
    " ",
    "  ",
    "   ",
    " " * 9,
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    "\t\t ",
    " \n ",
    "\n  \n",
    "\u00a0",
    "\u3000",
    "\u2009",
    "\v\f",
)
_RUNS = "-=_*.#~ \n\ta0é中'"
_BLOCKS = ((0x21, 0x7E), (0xA1, 0x24F), (0x250, 0x52F), (0x5D0, 0x6FF), (0x900, 0xDFF), (0xE00, 0xFFF))
_MORE_BLOCKS = (
    (0x1E00, 0x23FF),
    (0x2500, 0x27BF),
    (0x3041, 0x33FF),
    (0x4E00, 0x9FA5),
    (0xAC00, 0xD7A3),
    (0x1F300, 0x1F64F),
)


def probe_texts(special_tokens: Sequence[str], count: int = 3000) -> list[str]:
    """`count` texts; each special token stands in at least one, in words and beside spaces, as far as `count` goes."""
    dice = random.Random(20_240_229)
    texts = [f"a {token}{token}\n{token} b" for token in special_tokens][: count // 2]
    while len(texts) < count:
        texts.append(_text(dice, special_tokens))
    return texts


def _text(dice: random.Random, special_tokens: Sequence[str]) -> str:
    pieces: list[Callable[[random.Random], str]] = [_word, _word, _word, _number, _code, _space, _run, _characters]
    joint = dice.choice(("", " ", " ", "\n"))
    parts = [dice.choice(pieces)(dice) for _ in range(dice.randint(1, 12))]
    if special_tokens and dice.random() < 0.2:
        parts.insert(dice.randint(0, len(parts)), dice.choice(special_tokens))
    return joint.join(parts)


def _word(dice: random.Random) -> str:
    return dice.choice((str, str, str.upper, str.title))(dice.choice(_WORDS))


def _number(dice: random.Random) -> str:
    return dice.choice((dice.choice(_NUMBERS), str(dice.getrandbits(dice.randint(1, 60)))))


def _code(dice: random.Random) -> str:
    return dice.choice(_CODE)


def _space(dice: random.Random) -> str:
    return dice.choice(_SPACES)


def _run(dice: random.Random) -> str:
    return dice.choice(_RUNS) * dice.choice((2, 3, 8, 17, 70, 300))


def _characters(dice: random.Random) -> str:
    first, last = dice.choice(_BLOCKS + _MORE_BLOCKS)
    drawn = (chr(dice.randint(first, last)) for _ in range(dice.randint(1, 6)))
    return "".join(character for character in drawn if unicodedata.category(character) != "Cn")
