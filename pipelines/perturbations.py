"""Changes to a text that should not change what is said of it, to see whether they change what the model says.

Each is a pure function of a text and a random generator, and gives None where it does not apply. Typing errors are
made here because no maintained small library makes them: nlpaug's last release is of 2022, and TextAttack brings
67 dependencies.
"""

import re
from collections.abc import Callable, Mapping
from random import Random
from types import MappingProxyType
from typing import Final

from pipelines.augmentation import plain
from pipelines.probes import NEUTRAL_BODY, ONE_SENTENCE_BODY

Perturbation = Callable[[str, Random], str | None]

ONE_WORD_IN: Final = 10
"""A tenth of the words, and at least one, is changed where single words are."""
LONG_BODY_WORDS: Final = 3_000

_TICKER = re.compile(r"\$[A-Za-z]{1,5}(?:\.[A-Za-z])?\b")
_SYMBOLS = ("AAPL", "MSFT", "XOM", "JPM", "PFE", "KO", "CAT", "DIS", "NKE", "T", "GE", "WMT", "UPS", "MMM", "IBM")
_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_CYRILLIC = str.maketrans("aceiopsxyABCEHIKMOPSTX", "асеіорѕхуАВСЕНІКМОРЅТХ")  # noqa: RUF001
_FULL_WIDTH = str.maketrans({chr(code): chr(code + 0xFEE0) for code in range(ord("!"), ord("~") + 1)})
_STRAIGHT = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})
_ZERO_WIDTH_SPACE = "\u200b"


def perturbed(kind: str, text: str, seed: int) -> str | None:
    """`text` changed in a way of `KINDS`, the same for the same seed; None where it does not apply."""
    changed = KINDS[kind](text, Random(f"{seed} {kind} {text}"))
    return None if changed == text else changed


def without_leading_tickers(text: str, _: Random | None = None) -> str | None:
    """Ticker symbols in front removed; None where there are none, or nothing else."""
    bare = plain(text)
    return bare if bare != text else None


def without_hashes(text: str, _: Random | None = None) -> str | None:
    """The signs of hashtags removed, their words kept."""
    bare = re.sub(r"#(?=\w)", "", text)
    return bare if bare != text else None


def _lower(text: str, _: Random) -> str:
    return text.lower()


def _upper(text: str, _: Random) -> str:
    return text.upper()


def _title(text: str, _: Random) -> str:
    return " ".join(word[:1].upper() + word[1:] for word in text.split(" "))


def _typos(text: str, rng: Random) -> str | None:
    return _in_some_words(text, rng, _mistyped)


def _mistyped(word: str, rng: Random) -> str:
    """A key beside the right one, two letters in the wrong order, or one left out; never the first letter."""
    places = range(1, len(word))
    ways = [
        [word[:i] + near + word[i + 1 :] for i in places for near in _near(word[i])],
        [word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in places[:-1] if word[i] != word[i + 1]],
        [word[:i] + word[i + 1 :] for i in places],
    ]
    return rng.choice(rng.choice([way for way in ways if way]))


def _near(letter: str) -> str:
    """The letters on the keys at the left and at the right."""
    for row in _KEYBOARD:
        place = row.find(letter.lower())
        if place >= 0:
            near = row[max(0, place - 1) : place] + row[place + 1 : place + 2]
            return near.upper() if letter.isupper() else near
    return ""


def _tickers_swapped(text: str, rng: Random) -> str | None:
    """Each ticker symbol replaced by another that the text does not name, everywhere alike."""
    found = list(dict.fromkeys(symbol.upper() for symbol in _TICKER.findall(text)))
    free = [symbol for symbol in _SYMBOLS if f"${symbol}" not in found]
    if not found or len(found) > len(free):
        return None
    swap = dict(zip(found, rng.sample(free, len(found)), strict=True))
    return _TICKER.sub(lambda match: f"${swap[match.group().upper()]}", text)


def _around(before: str, after: str = "") -> Perturbation:
    return lambda text, _: f"{before}{text}{after}"


def _cyrillic(text: str, rng: Random) -> str | None:
    return _in_some_words(text, rng, lambda word, _: word.translate(_CYRILLIC))


def _zero_width(text: str, rng: Random) -> str | None:
    def split(word: str, rng: Random) -> str:
        place = rng.randrange(1, len(word))
        return word[:place] + _ZERO_WIDTH_SPACE + word[place:]

    return _in_some_words(text, rng, split)


def _full_width(text: str, _: Random) -> str:
    return text.translate(_FULL_WIDTH)


def _quotes(text: str, _: Random) -> str | None:
    """Typographic quotation marks and apostrophes made straight; where there are none, straight ones typographic."""
    straight = text.translate(_STRAIGHT)
    if straight != text:
        return straight
    opened = re.sub(r"(?<![^\s(\[])'", "\u2018", re.sub(r'(?<![^\s(\[])"', "\u201c", text))
    return opened.replace('"', "\u201d").replace("'", "\u2019")


def _long_body(text: str, _: Random) -> str:
    words = NEUTRAL_BODY.split()
    return f"{text}\n{' '.join((words * (LONG_BODY_WORDS // len(words) + 1))[:LONG_BODY_WORDS])}"


def _in_some_words(text: str, rng: Random, change: Callable[[str, Random], str]) -> str | None:
    """`change` made to a tenth of the words, and at least one, of those with four letters or more."""
    words = text.split(" ")
    long = [place for place, word in enumerate(words) if len(word) >= 4 and word.isalpha() and word.isascii()]
    for place in rng.sample(long, min(len(long), max(1, len(words) // ONE_WORD_IN))):
        words[place] = change(words[place], rng)
    return " ".join(words) if long else None


KINDS: Final[Mapping[str, Perturbation]] = MappingProxyType(
    {
        "lower case": _lower,
        "UPPER CASE": _upper,
        "Title Case": _title,
        "typing errors, 1 word in 10": _typos,
        "tickers swapped for others": _tickers_swapped,
        "tickers in front removed": without_leading_tickers,
        "Reuters - ...": _around("Reuters - "),
        "BREAKING: ...": _around("BREAKING: "),
        "(Bloomberg) -- ...": _around("(Bloomberg) -- "),
        "UPDATE 1-...": _around("UPDATE 1-"),
        "... - CNBC": _around("", " - CNBC"),
        "Cyrillic look-alikes, 1 word in 10": _cyrillic,
        "zero-width spaces, 1 word in 10": _zero_width,
        "full-width letters": _full_width,
        "quotation marks, straight or curly": _quotes,
        "a body of one sentence": _around("", f"\n{ONE_SENTENCE_BODY}"),
        f"a body of {LONG_BODY_WORDS:,} words": _long_body,
    }
)
"""By the name that the report gives it; the text is as the model reads it, cleaned."""
