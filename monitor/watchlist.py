"""Which watched entities a text names."""

import html
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import ahocorasick

from monitor.config import ConfigError
from monitor.entities import EntitySettings, closest

_URL: Final = re.compile(r"(?:https?://|\bwww\.)\S+", re.IGNORECASE)
_SPELLINGS: Final = {
    "'": "\u2018\u2019\u201b\u02bc\u2032\u00b4",
    "-": "\u2010-\u2015\u2212",
    # Marks of trade, superscripts and the like, whose usual form would become part of the word before them.
    " ": "\u00a8-\u00aa\u00ae\u00af\u00b2\u00b3\u00b8-\u00ba\u00bc-\u00be\u02d8-\u02dd"
    "\u2070-\u209f\u2117\u2120\u2122",
    # What is not seen: soft hyphens, zero width, directions.
    "": "\u00ad\u200b-\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff",
}
_SPELLED: Final = [(re.compile(f"[{characters}]"), usual) for usual, characters in _SPELLINGS.items()]
_UNSPACED_SCRIPTS: Final = "\u2e80"
"""From here on: Chinese, Japanese and Korean, which put no space between a name and the next word."""

_EXCHANGES: Final = (
    "AMEX|ASX|BME|BSE|CBOE|ETR|Euronext|EURONEXT|FRA|HKEX|HKG|JSE|KRX|LON|LSE|NSE|NYSE|OTC|OTCMKTS|OTCQB|"
    "OTCQX|Nasdaq|NASDAQ|SEHK|SGX|STO|SWX|SZSE|SSE|TSE|TSX|TSXV|TYO|WSE|XETRA"
)
_BEFORE_MARKED: Final = re.compile(rf"(?:\$|\b(?:{_EXCHANGES})(?: [A-Z][A-Za-z]+)?(?: ?: ?))$")
_AFTER_MARKED: Final = re.compile(r"(?:\.[A-Z]{1,2}|:[A-Z]{2})(?![\w.])")
_BEFORE_BRACKETED: Final = re.compile(r"(?<!\w)\($")
_ABBREVIATIONS: Final = ("U.S", "U.K", "E.U")
"""Which look like a ticker with its exchange, and are not."""
_BEFORE_PART: Final = re.compile(r"\w[.&]$")
_AFTER_PART: Final = re.compile(r"&\w")
_LOOK_BACK: Final = 32
_LINE: Final = 200
"""Of a line, so much before and after a ticker says whether it is all in capitals."""


class Watchlist:
    """The watched entities, found by all their names in one pass over a text (Aho-Corasick).

    Names and text are compared in their usual Unicode form, HTML entities unescaped, hyphens and line breaks as
    spaces, links left out. What counts as a name:

    - `name`, `aliases` and `ambiguous` match whole words in any case. With `match_case`, what is a capital in the
      name must be one in the text, so that Apple is found in "Apple" and "APPLE", not in "apple"; a name in small
      letters still matches in any case.
    - `tickers` match in capitals only. One of a single letter, or of digits alone, must be marked as a ticker: `$F`,
      `F.N`, `F:US`, `(F)`, `NYSE: F`. So must every ticker in a line all in capitals, where ALL may be a word.
    - No name counts inside one of its entity's `exclusions`, and `ambiguous` ones count only in a text that also has
      a word of `requires`.
    - Where names overlap, the one that begins first counts, and of those the longest: "Bank of America" does not name
      America. A `nested` entity's names stand outside of this.

    Args:
        entities: in the order in which `find` gives them.
        topics: every topic that the model can name.

    Raises:
        ConfigError: an entity's topic is not one of the model's, or a phrase of it can never match.
    """

    def __init__(self, entities: Sequence[EntitySettings], topics: Sequence[str]) -> None:
        self.names = tuple(entity.name for entity in entities)
        self._entities = [_checked(entity, topics) for entity in entities]
        phrases: dict[str, list[_Use]] = {}
        tickers: dict[str, list[_Use]] = {}
        self._contexts: set[str] = set()
        for place, (settings, entity) in enumerate(zip(entities, self._entities, strict=True)):
            for use, names in (
                (_Use(place), (settings.name, *settings.aliases)),
                (_Use(place, ambiguous=True), settings.ambiguous),
            ):
                for name in names:
                    if use.ambiguous or name not in settings.ambiguous:
                        cased = _name(name)
                        capitals = tuple(i for i, c in enumerate(cased) if c.isupper()) if settings.match_case else ()
                        phrases.setdefault(_folded(cased), []).append(use._replace(capitals=capitals))
            for symbol in settings.tickers:
                tickers.setdefault(symbol, []).append(_Use(place))
            self._contexts |= entity.requires | set(entity.exclusions)
        for phrase in self._contexts:
            phrases.setdefault(phrase, [])
        self._phrases = _automaton(phrases)
        self._tickers = _automaton(tickers)

    def find(self, text: str, topic: str) -> tuple[str, ...]:
        """The names of the watched entities that take a `text` on `topic`, each once, in the watchlist's order."""
        if not self.names:
            return ()
        cased = _usual(text)
        folded = _folded(cased)
        contexts: dict[str, list[int]] = {}
        matches: list[_Match] = []
        for start, end, phrase, uses in _whole_words(self._phrases, folded):
            if phrase in self._contexts:
                contexts.setdefault(phrase, []).append(start)
            matches += [
                _Match(start, end, use)
                for use in uses
                if all(cased[start + capital].isupper() for capital in use.capitals)
            ]
        for start, end, symbol, uses in _whole_words(self._tickers, cased):
            if _is_ticker(symbol, cased, start, end):
                matches += [_Match(start, end, use) for use in uses]
        valid = [match for match in matches if self._counts(match, contexts)]
        found = {match.use.entity for match in self._unshadowed(valid)}
        return tuple(
            self.names[place]
            for place in sorted(found)
            if not (wanted := self._entities[place].topics) or topic in wanted
        )

    def _counts(self, match: "_Match", contexts: Mapping[str, Sequence[int]]) -> bool:
        """Whether what else stands in the text lets a match count; `contexts` says where each phrase begins."""
        entity = self._entities[match.use.entity]
        if match.use.ambiguous and entity.requires.isdisjoint(contexts):
            return False
        for phrase in entity.exclusions:
            starts = contexts.get(phrase, ())
            first = bisect_left(starts, match.end - len(phrase))
            if first < len(starts) and starts[first] <= match.start:
                return False
        return True

    def _unshadowed(self, matches: Iterable["_Match"]) -> Iterator["_Match"]:
        """Left-most longest: every match but those that begin inside another one."""
        taken = (0, 0)
        for match in sorted(matches, key=lambda match: (match.start, -match.end)):
            if self._entities[match.use.entity].nested:
                yield match
            elif match.start >= taken[1] or (match.start, match.end) == taken:
                taken = (match.start, match.end)
                yield match


class _Entity(NamedTuple):
    """What decides whether a match counts, the phrases folded."""

    exclusions: tuple[str, ...]
    requires: frozenset[str]
    topics: frozenset[str]
    nested: bool


class _Use(NamedTuple):
    """What a phrase means: an entity, and where in the phrase the text must have capitals."""

    entity: int
    capitals: tuple[int, ...] = ()
    ambiguous: bool = False


class _Match(NamedTuple):
    """A name from `start` up to `end` in a text."""

    start: int
    end: int
    use: _Use


def _checked(entity: EntitySettings, topics: Sequence[str]) -> _Entity:
    for topic in entity.topics:
        if topic not in topics:
            raise ConfigError(
                f"watchlist, {entity.name!r}: topics: {topic!r} is not a topic of the model, expected one of "
                f"{', '.join(topics)}{closest(topic, topics)}"
            )
    names = [entity.name, *entity.aliases, *entity.ambiguous, *entity.tickers]
    for phrase in (*names, *entity.exclusions, *entity.requires):
        if not _name(phrase):
            raise ConfigError(
                f"watchlist, {entity.name!r}: {phrase!r} cannot be found, as links and marks of trade are not read; "
                f"give it as news would write it"
            )
    exclusions = tuple(_folded(_name(phrase)) for phrase in entity.exclusions)
    any_name = _automaton({_folded(_name(name)): [] for name in names}) if exclusions else None
    for phrase, written in zip(exclusions, entity.exclusions, strict=True):
        if next(_whole_words(any_name, phrase), None) is None:
            raise ConfigError(
                f"watchlist, {entity.name!r}: exclusions: {written!r} holds none of its names, so it would exclude "
                f"nothing; give the whole phrase, such as {f'{entity.name} {written}'!r}"
            )
    requires = frozenset(_folded(_name(phrase)) for phrase in entity.requires)
    return _Entity(exclusions, requires, frozenset(entity.topics), entity.nested)


def _usual(text: str) -> str:
    """`text` without links, each character in its usual form, runs of white space as one line break or space."""
    text = html.unescape(text)
    if not text.isascii():
        for characters, usual in _SPELLED:
            text = characters.sub(usual, text)
        text = unicodedata.normalize("NFKC", text)
    if "://" in text or "www." in text:
        text = _URL.sub(" ", text)
    text = "\n".join(" ".join(line.split()) for line in text.splitlines())
    if len(text.casefold()) != len(text):
        # So that places in the text are the same after casefolding.
        text = "".join(folded if len(folded := c.casefold()) > 1 else c for c in text)
    return text


def _name(phrase: str) -> str:
    """A configured phrase as it would stand in a text, without the full stop of an abbreviation at its end."""
    return _usual(phrase).rstrip(". ")


def _folded(usual: str) -> str:
    """A text of the same length for comparing words in any case, with hyphens and line breaks as spaces."""
    return usual.casefold().replace("-", " ").replace("\n", " ")


def _automaton(phrases: Mapping[str, list[_Use]]) -> ahocorasick.Automaton | None:
    if not phrases:
        return None
    automaton = ahocorasick.Automaton()
    for phrase, uses in phrases.items():
        automaton.add_word(phrase, (phrase, tuple(uses)))
    automaton.make_automaton()
    return automaton


def _whole_words(
    automaton: ahocorasick.Automaton | None, text: str
) -> Iterator[tuple[int, int, str, tuple[_Use, ...]]]:
    """Where each phrase stands by itself in a text: start, end, phrase, uses."""
    if automaton is None:
        return
    for last, (phrase, uses) in automaton.iter(text):
        start, end = last + 1 - len(phrase), last + 1
        if start and _joined(text[start - 1], text[start]):
            continue
        if end < len(text) and _joined(text[last], text[end]):
            continue
        yield start, end, phrase, uses


def _joined(left: str, right: str) -> bool:
    """Whether two neighbours are of one word."""
    return _in_word(left) and _in_word(right) and max(left, right) < _UNSPACED_SCRIPTS


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_" or unicodedata.category(character).startswith("M")


def _is_ticker(symbol: str, text: str, start: int, end: int) -> bool:
    """Whether what reads like a ticker is one, by what stands around it."""
    before, after = text[max(0, start - _LOOK_BACK) : start], text[end : end + 4]
    suffixed = _AFTER_MARKED.match(after) and text[start : end + 2] not in _ABBREVIATIONS
    if suffixed or _BEFORE_MARKED.search(before) or (after[:1] == ")" and _BEFORE_BRACKETED.search(before)):
        return True
    if sum(map(str.isalpha, symbol)) < 2 or _BEFORE_PART.search(before) or _AFTER_PART.match(after):
        return False
    line_start = max(text.rfind("\n", max(0, start - _LINE), start) + 1, start - _LINE)
    line_end = text.find("\n", end, end + _LINE)
    rest = text[line_start:start] + text[end : line_end if line_end >= 0 else end + _LINE]
    return not rest.isupper()
