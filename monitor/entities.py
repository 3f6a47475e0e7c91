"""The watched entities as they are configured: their settings, and the CSV file that may list them."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from monitor.tables import closest, read_table

__all__ = ["EntitiesSettings", "EntitySettings", "closest", "first_repeated", "read_entities"]

_STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True, str_strip_whitespace=True)
_TICKER: Final = re.compile(r"[A-Z0-9]+(?:[.&/-][A-Z0-9]+)*")


def _readable(phrase: str) -> str:
    if not phrase:
        raise ValueError("empty; give a text, or take the entry out")
    if not any(map(str.isalnum, phrase)):
        raise ValueError("has no letter or digit, so that no text could name it")
    if any(unicodedata.category(character) == "Cc" for character in phrase):
        raise ValueError("holds a line break or another control character; give one line of text")
    return phrase


def _ticker(symbol: str) -> str:
    if symbol != symbol.upper():
        raise ValueError("a ticker is given in capitals; what may match in any case is an alias")
    if not _TICKER.fullmatch(symbol):
        raise ValueError("a ticker is capitals and digits, joined by . & / or -, without $ and exchange: AAPL, BRK.B")
    return symbol


Phrase = Annotated[str, Field(max_length=100), AfterValidator(_readable)]
Ticker = Annotated[str, Field(max_length=20), AfterValidator(_ticker)]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class EntitySettings:
    """One `[[watchlist]]` entry, or a row of the file: an entity whose news is followed as a series of its own."""

    name: Phrase = Field(description="name of the series, and the first name that means it")
    aliases: tuple[Phrase, ...] = Field(
        default=(), description="other names that mean it, matched as whole words in any case"
    )
    tickers: tuple[Ticker, ...] = Field(default=(), description="ticker symbols, matched in capitals only")
    exclusions: tuple[Phrase, ...] = Field(
        default=(), description="phrases in which a name does not mean it: `apple pie`"
    )
    ambiguous: tuple[Phrase, ...] = Field(
        default=(), description="names, `name` itself or others, that mean it only in a text with one of `requires`"
    )
    requires: tuple[Phrase, ...] = Field(
        default=(), description="words or phrases of which one must be in the text for `ambiguous` to count"
    )
    match_case: bool = Field(
        default=False, description="whether what is a capital in a name must be one in the text: `Apple`, `APPLE`"
    )
    nested: bool = Field(
        default=False,
        description="whether its names count inside a longer name of another entity, as `bank` in `Bank of America`",
    )
    topics: tuple[Phrase, ...] = Field(
        default=(), description="topics of the model whose items it takes; none: every item that names it"
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.ambiguous and not self.requires:
            raise ValueError("ambiguous is given without requires; list the words that make these names certain")
        if self.requires and not self.ambiguous:
            raise ValueError("requires is given without ambiguous; list there the names that need these words")
        return self


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class EntitiesSettings:
    """Watched entities beside those of `[[watchlist]]`."""

    file: Path | None = Field(
        default=None, description="CSV file of more watched entities, with the keys of `[[watchlist]]` as columns"
    )


_PLAIN_COLUMNS: Final = ("name", "match_case", "nested")
_LISTS: Final = tuple(field.name for field in fields(EntitySettings) if field.name not in _PLAIN_COLUMNS)


def read_entities(path: Path) -> tuple[EntitySettings, ...]:
    """The watched entities of a CSV file; see `read_table`.

    Raises:
        ValueError: the file cannot be read, or something in it is wrong.
    """
    rows = read_table(path, EntitySettings, setting="entities.file", lists=_LISTS)
    if pair := first_repeated(entity.name for _, entity in rows):
        (earlier, _), (later, entity) = rows[pair[0]], rows[pair[1]]
        raise ValueError(
            f"{path}, row {later}, column name: {entity.name!r}: is the name in row {earlier} too; merge the two rows"
        )
    return tuple(entity for _, entity in rows)


def first_repeated(names: Iterable[str]) -> tuple[int, int] | None:
    """Where the first name that was given before stands, after where it was given before; capitals do not count."""
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        if (earlier := places.setdefault(name.casefold(), place)) != place:
            return earlier, place
    return None
