"""Which watched entities a text names."""

from collections.abc import Iterable, Sequence

import ahocorasick

from monitor.entities import EntitySettings


class Watchlist:
    """The watched entities, found by all their names in one pass over a text (Aho-Corasick).

    Names and aliases match whole words in any case; tickers match in capitals only, with or without a `$`, so that
    the ticker ALL is not found in "all".
    """

    def __init__(self, entities: Sequence[EntitySettings]) -> None:
        self.names = tuple(entity.name for entity in entities)
        self._words = _automaton(
            (alias.casefold(), entity.name) for entity in entities for alias in (entity.name, *entity.aliases)
        )
        self._tickers = _automaton((ticker, entity.name) for entity in entities for ticker in entity.tickers)

    def find(self, text: str) -> tuple[str, ...]:
        """The names of the watched entities in `text`, each once, in the order of the watchlist."""
        if not self.names:
            return ()
        found = set(_matches(self._words, text.casefold())) | set(_matches(self._tickers, text))
        return tuple(name for name in self.names if name in found)


def _automaton(patterns: Iterable[tuple[str, str]]) -> ahocorasick.Automaton | None:
    meanings: dict[str, list[str]] = {}
    for pattern, name in patterns:
        meanings.setdefault(pattern, []).append(name)
    if not meanings:
        return None
    automaton = ahocorasick.Automaton()
    for pattern, names in meanings.items():
        automaton.add_word(pattern, (len(pattern), names))
    automaton.make_automaton()
    return automaton


def _matches(automaton: ahocorasick.Automaton | None, text: str) -> Iterable[str]:
    if automaton is None:
        return
    for last, (length, names) in automaton.iter(text):
        start = last - length + 1
        before = text[start - 1] if start else " "
        after = text[last + 1] if last + 1 < len(text) else " "
        if not (_in_word(before) or _in_word(after)):
            yield from names


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"
