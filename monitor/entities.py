"""The watched entities as they are configured."""

import difflib
from collections.abc import Iterable

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class EntitySettings:
    """One `[[watchlist]]` entry: an entity whose news is followed as a series of its own."""

    name: str = Field(min_length=1, max_length=100, description="name of the series")
    aliases: tuple[str, ...] = Field(default=(), description="other names that mean it, matched as whole words")
    tickers: tuple[str, ...] = Field(default=(), description="ticker symbols, matched in capitals only")


def first_repeated(names: Iterable[str]) -> tuple[int, int] | None:
    """Where the first name that was given before stands, after where it was given before; capitals do not count."""
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        if (earlier := places.setdefault(name.casefold(), place)) != place:
            return earlier, place
    return None


def closest(word: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown word: which known one may be meant, if one is near."""
    match = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {match[0]!r}?" if match else ""
