"""Which items are copies of one story: the same wire text at another publisher, sent again, or lightly edited.

Headlines are compared as sets of four-letter shingles. MinHash signatures in an index of bands (locality-sensitive
hashing; Broder 1997, Leskovec et al., "Mining of Massive Datasets", chapter 3) find those that may be alike among all
that are remembered; these are then compared in full, and told apart by what changes a financial headline's meaning:
another number, another name in the same place, the opposite direction, a negation, more than a word in five replaced.
"""

import hashlib
import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq
from rensa import RMinHash, RMinHashLSH

# Chosen on the pairs "choosing" of pipelines/story_pairs.csv: the most copies found with nine in ten folds right.
_ALIKE: Final = 0.5  # Jaccard similarity of the shingles from which on a headline may be an edit of another ...
_ALIKE_WITHIN: Final = 0.45  # ... and where one says nothing that the other does not say
_CHANGED: Final = 0.4  # share of the words that an edit may change, if only in their forms or places ...
_REPLACED: Final = 0.2  # ... and of those that say something, that it may replace
_SHINGLE: Final = 4  # letters
_BANDS, _ROWS = 32, 4  # of the index: finds 74 % of the pairs at a similarity of 0.45, 87 % at 0.5, 98.8 % at 0.6
_MARGIN: Final = 0.12  # between a similarity and its estimate from two signatures: nearly three standard errors
_COMPARED: Final = 8  # of so many candidates, those whose signatures are nearest are compared in full
_SEED: Final = 1

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TICK: Final = timedelta(microseconds=1)
_FREE: Final = np.iinfo(np.int64).max

# What agencies put before a headline that is otherwise the same, and publishers after it.
_RUBRIC: Final = re.compile(
    r"(?:(?:[\w.&]+\s){0,3}(?:updates?|wrapup|refile|corrected|correction|breaking|exclusive|alert|latest|briefing"
    r"|live(?: news)?|newsletter|daily(?: \w+)?)\s*\d*\s*[-:]\s*)+",
    re.IGNORECASE,
)
_PUBLISHER: Final = re.compile(
    r"((?:\S+\s){3,}\S+)\s[-|\u2013\u2014]\s(?:[A-Z][\w.&']*|of|the|and)(?:\s(?:[A-Z][\w.&']*|of|the|and)){0,3}"
)
_INITIALS: Final = re.compile(r"\b(?:[^\W\d_]\.){2,}")
_LINK: Final = re.compile(r"https?://\S+")
_APOSTROPHE: Final = re.compile(r"['\u2019](?:s\b)?", re.IGNORECASE)
_UNIT: Final = re.compile(
    r"(?<=\d)(?:,(?=\d{3}\b)|\s?(?:(?P<billion>bn|billion|b)|(?P<million>mn|mln|million|m)"
    r"|(?P<percent>percent|per cent|pct)|(?P<bp>basis points|bps|bp))\b)",
    re.IGNORECASE,
)
_UNIT_NAMES: Final = {"billion": " billion", "million": " million", "percent": "%", "bp": " bp", None: ""}
_WORD: Final = re.compile(r"[^\W_]+(?:\.\d+)*%?")


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_EMPTY: Final = _words(
    "a an the of to in on at for by with and or as is are be was were its it his her their from after over s says "
    "say said amid into that this has have will would out"
)
_NUMBERS: Final = {"one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7"} | {
    **{"eight": "8", "nine": "9", "ten": "10", "first": "1", "second": "2", "third": "3", "fourth": "4"},
    **{"fifth": "5", "sixth": "6", "seventh": "7", "eighth": "8", "ninth": "9", "tenth": "10"},
}
_DATES: Final = _words(
    "quarter half monday tuesday wednesday thursday friday saturday sunday january february april june july august "
    "september october november december"
)
_NEGATIONS: Final = _words(
    "no not never cannot cant dont wont isnt doesnt didnt couldnt wouldnt without unable deny denies denied fail "
    "fails failed refuse refuses refused"
)
_UP: Final = _words(
    "up rise rose gain jump surge soar climb rally rebound recover bounce advance firm strengthen edge top beat "
    "exceed raise hike increase grow grew growth expand upgrade higher above more strong stronger profit win won "
    "approve accept agree buy bought open start begin began resume bull bullish best high improve confirm join hire"
)
_DOWN: Final = _words(
    "down fall fell lose lost drop plunge slump sink sank slide slid slip tumble crash crack dip ease soften weaken "
    "shed retreat miss cut trim decrease shrink shrank decline contract downgrade lower below less fewer weak weaker "
    "loss reject refuse sell sold close end halt suspend bear bearish worst low worsen deny leave left fire"
)
_DIRECTION: Final = {
    word + ending: way
    for words, way in ((_UP, 1), (_DOWN, -1))
    for word in words
    for ending in ("", "s", "es", "d", "ed", "ing", word[-1] + "ed", word[-1] + "ing")
}
"""Words that say which way something went, in most of their forms and some that do not exist."""


def _text(title: str) -> str:
    """The words of a headline in their own case, without prefix, publisher, possessives; numbers and units alike."""
    text = " ".join(_LINK.sub("", unicodedata.normalize("NFKC", html.unescape(title))).split())
    if (rubric := _RUBRIC.match(text)) is not None and rubric.end() < len(text):
        text = text[rubric.end() :]
    if (named := _PUBLISHER.fullmatch(text)) is not None:
        text = named[1]
    text = _APOSTROPHE.sub("", text)
    text = _INITIALS.sub(lambda initials: initials[0].replace(".", ""), text)
    text = _UNIT.sub(lambda unit: _UNIT_NAMES[unit.lastgroup], text)
    # A headline of marks alone is compared as it stands.
    return " ".join(_WORD.findall(text)) or text


def story_name(title: str, event_at: datetime) -> str:
    """The name of the story that an item with this title and event time is the first to tell."""
    return f"{_name(_text(title), _ticks(event_at)):016x}"


def _shingles(text: str) -> set[str]:
    padded = f" {text.casefold()} "
    return {padded[start : start + _SHINGLE] for start in range(max(1, len(padded) - _SHINGLE + 1))}


def _similarity(one: set[str], other: set[str]) -> float:
    """Jaccard similarity."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def _needed(one: str, other: str) -> float:
    """The similarity from which on two texts are one story; infinite if they never are.

    An edit is longer or shorter, or says a few words in other words. It changes no number and no date, puts no name
    in the place of another, turns no rise into a fall and nothing into its denial.
    """
    our_words, their_words = set(one.casefold().split()), set(other.casefold().split())
    our_new, their_new = our_words - their_words, their_words - our_words
    if not our_new and not their_new:
        return _ALIKE_WITHIN
    if min(len(our_new), len(their_new)) > _CHANGED * min(len(our_words), len(their_words)):
        return inf
    if _NEGATIONS.isdisjoint(our_words) != _NEGATIONS.isdisjoint(their_words) or _contradict(our_new, their_new):
        return inf
    our_new, their_new = _unlike(our_new, their_words), _unlike(their_new, our_words)
    if not our_new or not their_new:
        return _ALIKE_WITHIN
    # In order, because of several alignments that are as good the first is taken.
    first, second = sorted((one, other))
    ours, theirs = ([word for word in text.split() if word.casefold() not in _EMPTY] for text in (first, second))
    allowed = _REPLACED * min(len(ours), len(theirs))
    return _ALIKE if _replaced(ours, theirs, our_new | their_new) <= allowed else inf


def _contradict(ours: set[str], theirs: set[str]) -> bool:
    """Whether words in lower case give different numbers or dates, or opposite directions."""
    our_ways, their_ways = ({_DIRECTION[word] for word in words & _DIRECTION.keys()} for words in (ours, theirs))
    if any(-way in their_ways for way in our_ways):
        return True
    our_figures, their_figures = _figures(ours), _figures(theirs)
    return bool(our_figures - their_figures and their_figures - our_figures)


def _figures(words: set[str]) -> set[str]:
    """The numbers and dates among words in lower case."""
    return {
        _NUMBERS.get(word, word.rstrip("%"))
        for word in words
        if not word.isalpha() or word in _NUMBERS or word in _DATES
    }


def _unlike(words: set[str], others: set[str]) -> set[str]:
    """Those of the words (all in lower case) of which no other is a form, as their first four letters tell."""
    fours, threes = {other[:4] for other in others}, {other[:3] for other in others}
    return {
        word
        for word in words - _EMPTY
        if word[:4] not in fours and word[:3] not in fours and (len(word) != 3 or word not in threes)
    }


def _replaced(ours: Sequence[str], theirs: Sequence[str], new: set[str]) -> float:
    """How many words stand in the place of others; infinite where a name may stand in the place of another.

    Any word in capitals may be a name, and the first of a headline in any case.

    Args:
        new: words, in lower case, that the other text has in no form.
    """
    count, our_start, their_start = 0, 0, 0
    firsts = {*ours[:1], *theirs[:1]}
    alignment = LCSseq.editops([word.casefold() for word in ours], [word.casefold() for word in theirs])
    for same in alignment.as_matching_blocks():
        here, there = ours[our_start : same.a], theirs[their_start : same.b]
        our_start, their_start = same.a + same.size, same.b + same.size
        if not here or not there or _stand_for(here, there) or _stand_for(there, here):
            continue
        gone, come = ([word for word in words if word.casefold() in new] for words in (here, there))
        if all(any(word[0].isupper() or word in firsts for word in words) for words in (gone, come)):
            return inf
        count += min(len(gone), len(come))
    return count


def _stand_for(initials: Sequence[str], words: Sequence[str]) -> bool:
    """Whether a word is the initials of the others."""
    return len(initials) == 1 and initials[0].casefold() == "".join(word[0] for word in words).casefold()


class Stories:
    """The stories that are remembered. A story is named by a hash of its first headline and its time.

    A copy prolongs nothing: what is remembered is how and when a story was first told, so that a standing headline
    ("Stocks to watch today") is a new story every so often, and edits of edits do not drift away under one name.
    What an item is a copy of depends on which stories are remembered, not on the order in which they came.

    Args:
        remember: how far apart in event time two items of one story may be.
    """

    def __init__(self, remember: timedelta) -> None:
        self._remember = remember // _TICK
        self._forgotten = -(2**62)  # what was told before is forgotten
        self._unsettled: list[tuple[int, int]] = []  # (row, name) of what is new since `settle`
        self._index = RMinHashLSH(_ALIKE_WITHIN, _BANDS * _ROWS, _BANDS)  # of rows of what follows
        self._texts: list[str] = []
        self._free: list[int] = []
        self._told_at = np.empty(0, np.int64)  # (rows,): ticks since 1970; _FREE in a row that holds no story
        self._names = np.empty(0, np.uint64)  # (rows,)
        self._signatures = np.empty((0, _BANDS * _ROWS), np.uint8)  # the lowest byte of each minimum

    def __len__(self) -> int:
        return len(self._texts) - len(self._free)

    def assign(self, title: str, event_at: datetime) -> tuple[str, bool]:
        """The story that an item with this title tells, and whether it is a copy of one told before."""
        text, at = _text(title), _ticks(event_at)
        shingles = _shingles(text)
        minima = _minima(shingles)
        signature = _signature(minima)
        if (row := self._nearest(text, shingles, minima, signature, at)) is not None:
            return f"{self._names[row]:016x}", True
        name = _name(text, at)
        if (row := self._add(name, text, at, minima, signature)) is not None:
            self._unsettled.append((row, name))
        return f"{name:016x}", False

    def settle(self, stored: Iterable[str]) -> None:
        """Keep, of the stories that were new since the last call, only those of which an item was stored.

        An item whose id was stored before is not stored again, and a restart would know nothing of its story.
        """
        if self._unsettled:
            kept = {int(story, 16) for story in stored}
            for row, name in self._unsettled:
                if name not in kept and self._names[row] == name and self._told_at[row] != _FREE:
                    self._remove(row)
            self._unsettled.clear()

    def restore(self, items: Iterable[tuple[str, str, datetime]]) -> None:
        """Remember what was assigned before a restart, so that everything goes on as without one.

        Args:
            items: (title, story, event time) of every item from the time on that `advance` gave, oldest first.
        """
        first_told: set[str] = set()
        others: dict[str, tuple[str, int]] = {}
        for title, story, event_at in items:
            text, at = _text(title), _ticks(event_at)
            name = _name(text, at)
            if story != f"{name:016x}":
                others.setdefault(story, (text, at))
            elif story not in first_told:
                first_told.add(story)
                self._restore(name, text, at)
        for story, (text, at) in others.items():
            # Of a story without its first item there are two kinds: those that were told too long ago, which are
            # forgotten, and those that an earlier version named, which go on from the oldest item there is.
            if story not in first_told and at >= self._forgotten + self._remember:
                self._restore(int(story, 16), text, at)

    def advance(self, watermark: datetime) -> datetime:
        """Forget the stories that no item will be compared with any more, now that event time has come so far.

        Returns:
            The time before which stories are forgotten: twice `remember` ago, so that an item which is late by as
            much as two items of a story may lie apart still finds every story.
        """
        self._forgotten = max(self._forgotten, _ticks(watermark) - 2 * self._remember)
        for row in np.flatnonzero(self._told_at < self._forgotten).tolist():
            self._remove(row)
        return _EPOCH + self._forgotten * _TICK

    def _restore(self, name: int, text: str, at: int) -> None:
        minima = _minima(_shingles(text))
        self._add(name, text, at, minima, _signature(minima))

    def _add(self, name: int, text: str, at: int, minima: RMinHash, signature: NDArray[np.uint8]) -> int | None:
        """The row of a new story; none if it is of a time that is forgotten already."""
        if at < self._forgotten:
            return None
        if not self._free:
            self._grow()
        row = self._free.pop()
        self._texts[row], self._told_at[row], self._names[row] = text, at, name
        self._signatures[row] = signature
        self._index.insert(row, minima)
        return row

    def _grow(self) -> None:
        rows = len(self._texts)
        more = max(1024, rows // 2)
        self._texts += [""] * more
        self._free += range(rows + more - 1, rows - 1, -1)
        self._told_at = np.concatenate([self._told_at, np.full(more, _FREE)])
        self._names = np.concatenate([self._names, np.zeros(more, np.uint64)])
        self._signatures = np.concatenate([self._signatures, np.zeros((more, _BANDS * _ROWS), np.uint8)])

    def _remove(self, row: int) -> None:
        self._index.remove(row)
        self._texts[row], self._told_at[row] = "", _FREE
        self._free.append(row)

    def _nearest(
        self, text: str, shingles: set[str], minima: RMinHash, signature: NDArray[np.uint8], at: int
    ) -> int | None:
        """The row of the story that this text tells again; of several the most alike, then the nearest in time."""
        rows = np.array(self._index.query(minima), np.int64)
        if not len(rows):
            return None
        distances = np.abs(self._told_at[rows] - at)
        shares = np.count_nonzero(self._signatures[rows] == signature, axis=1) / (_BANDS * _ROWS)
        near = np.flatnonzero((distances <= self._remember) & (shares >= _ALIKE_WITHIN - _MARGIN))
        order = np.lexsort((self._names[rows[near]], distances[near], -shares[near]))
        for row in rows[near[order[:_COMPARED]]].tolist():
            known = self._texts[row]
            needed = _needed(text, known)
            if needed < inf and _similarity(shingles, _shingles(known)) >= needed:
                return int(row)
        return None


def _ticks(moment: datetime) -> int:
    return (moment - _EPOCH) // _TICK


def _minima(shingles: Iterable[str]) -> RMinHash:
    minima = RMinHash(_BANDS * _ROWS, _SEED)
    minima.update(list(shingles))
    return minima


def _signature(minima: RMinHash) -> NDArray[np.uint8]:
    return np.array(minima.digest(), np.uint32).astype(np.uint8)


def _name(text: str, at: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{text.casefold()}\x1f{at}".encode(), digest_size=8).digest())
