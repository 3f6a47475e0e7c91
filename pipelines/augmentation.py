"""Other dresses of a labelled text, so that a model learns what does not matter to its label.

Training sets are mostly tweets and bare headlines. News comes without ticker symbols, in capitals, behind an agency's
name, and with a body of which the first sentences say little that the title does not.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_TICKERS = re.compile(r"^(?:\$[A-Za-z.]{1,6}\b[\s,]*)+(?:[-:\u2013\u2014]\s*)?")
_SYMBOL = re.compile(r"\$[A-Z]{1,5}\b")

# Not among them: the agencies and sites that `perturbations` puts on validation texts.
_AGENCIES: Final = (
    "AP", "AFP", "Dow Jones", "Dow Jones Newswires", "PTI", "IANS", "Xinhua", "Kyodo", "dpa", "ANSA", "EFE", "TASS",
    "PR Newswire", "Business Wire", "GlobeNewswire", "Accesswire", "RTTNews", "MT Newswires", "Nikkei",
)  # fmt: skip
_SITES: Final = (
    "MarketWatch", "Yahoo Finance", "Financial Times", "WSJ", "The Economic Times", "Barron's", "Investing.com",
    "Seeking Alpha", "Business Insider", "The Guardian", "Forbes", "Fortune", "BBC News", "Mint", "Nasdaq.com",
)  # fmt: skip
_PLACES: Final = ("NEW YORK", "LONDON", "WASHINGTON", "TOKYO", "MUMBAI", "FRANKFURT", "HONG KONG", "SYDNEY", "Paris")
_LABELS: Final = (
    "JUST IN", "EXCLUSIVE", "ALERT", "News flash", "FLASH", "DEVELOPING", "WRAPUP 2", "CORRECTED", "FACTBOX",
    "RPT", "Press release", "News brief", "FOCUS", "Live", "UPDATE",
)  # fmt: skip

_FILLERS: Final = (
    "The report was first published on the company's website.",
    "The shares are listed in New York and in London.",
    "A representative did not immediately reply to a request for comment.",
    "The figures have not been audited.",
    "More details will be given at a conference call later in the day.",
    "Our newsletter brings you the day's most read stories every evening.",
    "The group employs people in more than twenty countries.",
    "It was established in 1974 and has its head office in the capital.",
    "The statement was filed with the regulator before trading began.",
    "All amounts are in US dollars unless stated otherwise.",
    "Sign up to read the full article.",
    "Additional reporting by our staff; editing by the news desk.",
    "The views given here are those of the author.",
    "Photographs and charts that go with this story can be found online.",
    "It sells its products through its own shops and through partners.",
    "The comments were made in an interview on Tuesday.",
    "Analysts follow the company from several banks.",
    "This story was produced with the help of automated tools and was reviewed by an editor.",
    "The next report is due in three months.",
    "Trading volume was in line with the average of the last thirty days.",
    "The chief executive is to speak at an industry event next month.",
    "About half of its customers are in Europe and the rest in Asia and America.",
    "The company makes parts for machines that are used in farming and building.",
    "Quotes are delayed by at least fifteen minutes.",
    "Past performance is no guide to future results.",
    "The announcement was made after the close of the market.",
    "Its main rivals are other firms of about the same size.",
    "The document runs to forty pages and is open to the public.",
    "Please see the notes at the end for definitions of terms.",
    "Copyright of this text belongs to its publisher, and it may not be sold on.",
)  # fmt: skip


@dataclass(frozen=True)
class Dress:
    """How often texts are shown in this way, and each of them so dressed."""

    share: float
    texts: list[str]


def dresses(
    texts: Sequence[str], *, plain_share: float, varied_share: float, wired_share: float, body_share: float, seed: int
) -> Iterator[Dress]:
    """The ways in which `texts` are shown in training; how they are shown else is as the last of them, their own.

    Some texts get a body, and have it in every dress, so that a batch of texts of one length stays one.

    Args:
        body_share: how many of the texts get a body.
    """
    rng = random.Random(seed)
    symbols = sorted({symbol for text in texts for symbol in _SYMBOL.findall(text)}) or ["$ABC"]
    bodies = [f" {body(texts, rng)}" if rng.random() < body_share else "" for _ in texts]

    def dressed(share: float, titles: Iterator[str]) -> Dress:
        return Dress(share, [title + rest for title, rest in zip(titles, bodies, strict=True)])

    yield dressed(plain_share, (plain(text) for text in texts))
    yield dressed(varied_share, (varied(text, symbols, rng) for text in texts))
    yield dressed(wired_share, (wired(plain(text), rng) for text in texts))
    yield dressed(1.0, iter(texts))


def plain(text: str) -> str:
    """`text` without ticker symbols in front, unless nothing would be left."""
    return _TICKERS.sub("", text) or text


def varied(text: str, symbols: Sequence[str], rng: random.Random) -> str:
    """`text` with other ticker symbols, without hash signs, and in capitals, small letters or as it was."""
    changed = _SYMBOL.sub(lambda _: rng.choice(symbols), text).replace("#", "")
    return rng.choice((str.upper, str.lower, str))(changed) or text


def wired(text: str, rng: random.Random) -> str:
    """`text` as agencies and sites mark it, before or behind."""
    agency, site, place, label = (rng.choice(names) for names in (_AGENCIES, _SITES, _PLACES, _LABELS))
    return rng.choice(
        (
            f"{agency} - {text}",
            f"{agency}: {text}",
            f"({agency}) -- {text}",
            f"({agency}) - {text}",
            f"{place} ({agency}) - {text}",
            f"{place}, {agency} - {text}",
            f"{label}: {text}",
            f"{label} - {text}",
            f"{label.upper()}-{text}",
            f"UPDATE {rng.randint(2, 5)}-{text}",
            f"{text} - {site}",
            f"{text} | {site}",
            f"{text} ({agency})",
        )
    )


def body(texts: Sequence[str], rng: random.Random) -> str:
    """A text's body that says nothing of its label: one to six sentences of boilerplate, or of other news."""
    sentences = _FILLERS if rng.random() < 0.5 else texts
    return " ".join(rng.choices(sentences, k=rng.randint(1, 6)))
