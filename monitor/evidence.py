"""What lies behind an alert: the stories that drove it, and the words and entities that stand out in them."""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from monitor.records import Evidence, StoredItem

_WORD: Final = re.compile(r"[^\W\d_](?:[\w'&-]*\w)?")
_SHORT: Final = 2  # letters of words that say nothing of the news ("as", "of"), save where they abbreviate: "US"
_PRIOR_TEXTS: Final = 20.0
"""Texts that the prior is worth."""
_LEAST_TEXTS: Final = 3
_STANDS_OUT: Final = 2.0
_MOST: Final = 6


def stories(items: Iterable[StoredItem], most: int) -> tuple[Evidence, ...]:
    """The stories that items tell, the weightiest first: how negative, how often copied, and how new.

    A story weighs how negative its most negative item is, from 0 to 1, times 1 + the binary logarithm of how many
    items told it, and half of that where it was first told before these items.
    """
    told: dict[str, list[StoredItem]] = {}
    for item in items:
        told.setdefault(item.story, []).append(item)

    def weight(copies: list[StoredItem]) -> float:
        novelty = 0.5 if all(item.copy for item in copies) else 1.0
        negativity = (1 - min(item.sentiment_score for item in copies)) / 2
        return negativity * (1 + math.log2(len(copies))) * novelty

    ranked = sorted(told.values(), key=lambda copies: (-weight(copies), copies[0].id))
    return tuple(_story(copies) for copies in ranked[:most])


def _story(copies: Sequence[StoredItem]) -> Evidence:
    worst = min(copies, key=lambda item: (item.sentiment_score, item.event_at, item.id))
    return Evidence(
        id=worst.id,
        title=worst.title,
        published_at=worst.published_at,
        sentiment_score=worst.sentiment_score,
        source=worst.source,
        url=worst.url or next((item.url for item in copies if item.url), None),
        copies=len(copies),
        publishers=tuple(sorted({item.source for item in copies if item.source})),
    )


def publishers(items: Iterable[StoredItem]) -> int | None:
    """How many publishers told these items; None where none of them names one."""
    return len({item.source for item in items if item.source}) or None


def words(title: str) -> set[str]:
    """The words of a title, each once, in small letters; numbers are none, nor are short words but in capitals."""
    found = _WORD.findall(title)
    return {word.casefold() for word in found if len(word) > _SHORT or (len(word) == _SHORT and word.isupper())}


def standing_out(now: Sequence[Collection[str]], before: Sequence[Collection[str]]) -> tuple[str, ...]:
    """Terms that more of the first texts have than of the second, the clearest first.

    The difference of a term's log-odds, each with the prior of its share among all texts, is at least twice its
    standard deviation (Monroe, Colaresi and Quinn, Fightin' Words, 2008, doi:10.1093/pan/mpn018, 3.5.1, of texts that
    have the term instead of its occurrences). A term that fewer than three texts have is left out.

    Args:
        now, before: a text's terms, each once.
    """
    here, there = (Counter(term for text in texts for term in text) for texts in (now, before))
    scores = {}
    for term, count in here.items():
        if count < _LEAST_TEXTS:
            continue
        prior = _PRIOR_TEXTS * (count + there[term]) / (len(now) + len(before))
        odds = [
            math.log((found + prior + 0.5) / (texts - found + _PRIOR_TEXTS - prior + 0.5))
            for found, texts in ((count, len(now)), (there[term], len(before)))
        ]
        deviation = math.sqrt(1 / (count + prior + 0.5) + 1 / (there[term] + prior + 0.5))
        scores[term] = (odds[0] - odds[1]) / deviation
    clear = [term for term, score in scores.items() if score >= _STANDS_OUT]
    return tuple(sorted(clear, key=lambda term: (-scores[term], term))[:_MOST])
