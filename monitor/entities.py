"""The watched entities as they are configured: their settings, and the CSV file that may list them."""

import csv
import difflib
import html
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

SEPARATOR: Final = ";"
"""Between the entries of one cell. Not `|`, which stands in names of topics."""

_STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True, str_strip_whitespace=True)
_BOM: Final = b"\xef\xbb\xbf"
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
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


_COLUMNS: Final = tuple(field.name for field in fields(EntitySettings))
_PLAIN_COLUMNS: Final = ("name", "match_case", "nested")
_ROWS: Final = TypeAdapter(list[EntitySettings])


def read_entities(path: Path) -> tuple[EntitySettings, ...]:
    """The watched entities of a CSV file: UTF-8, commas, a first row that names the columns, in any order.

    The entries of one cell are separated by semicolons; an empty cell leaves a setting at its default.

    Raises:
        ValueError: the file cannot be read, or something in it is wrong; the message names the file and, where there
            is one, the row (as a spreadsheet counts them: the column names are row 1), the column and the value.
    """
    rows: list[tuple[int, dict[str, object]]] = []
    columns: list[str] = []
    number = 0
    try:
        for number, cells in enumerate(csv.reader(io.StringIO(_text(path), newline=""), strict=True), 1):
            if not any(map(str.strip, cells)):
                continue
            if not columns:
                columns = _checked_columns(f"{path}, row {number}", cells)
            elif len(cells) > len(columns):
                raise ValueError(
                    f"{path}, row {number}: has {len(cells)} cells, but there are {len(columns)} columns; "
                    f"put a cell that holds a comma in double quotes"
                )
            else:
                rows.append((number, _values(columns, cells)))
    except csv.Error as error:
        raise ValueError(f"{path}, row {number + 1}: not CSV: {error}") from error
    if not columns:
        raise ValueError(f"{path}: is empty; its first row names the columns: {', '.join(_COLUMNS)}")
    try:
        entities = _ROWS.validate_python([row for _, row in rows])
    except ValidationError as error:
        raise ValueError(_explained(error, path, [number for number, _ in rows])) from error
    if pair := first_repeated(entity.name for entity in entities):
        (earlier, _), (later, row) = rows[pair[0]], rows[pair[1]]
        raise ValueError(
            f"{path}, row {later}, column name: {row['name']!r}: is the name in row {earlier} too; merge the two rows"
        )
    return tuple(entities)


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


def _text(path: Path) -> str:
    try:
        content = path.read_bytes().removeprefix(_BOM)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); entities.file names a CSV file") from error
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        advice = "save the file as UTF-8 (in a spreadsheet: CSV UTF-8)"
        if content.startswith(_UTF_16):
            raise ValueError(f"{path}: is UTF-16; {advice}") from error
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; {advice}") from error


def _checked_columns(where: str, cells: list[str]) -> list[str]:
    columns = [cell.strip() for cell in cells]
    if len(columns) == 1 and (mark := next((mark for mark in (";", "\t") if mark in columns[0]), None)):
        raise ValueError(f"{where}: its columns are separated by {mark!r}; separate them by commas")
    for place, column in enumerate(columns):
        if column not in _COLUMNS:
            near = closest(column, _COLUMNS)
            raise ValueError(f"{where}: unknown column {column!r}, expected one of {', '.join(_COLUMNS)}{near}")
        if column in columns[:place]:
            raise ValueError(f"{where}: column {column!r} is there twice; keep one")
    if "name" not in columns:
        raise ValueError(f"{where}: there is no column 'name'; the first row names the columns")
    return columns


def _values(columns: list[str], cells: list[str]) -> dict[str, object]:
    """A row as settings. A column that is empty is left out, save the name, whose absence is to be told."""
    values: dict[str, object] = {}
    for column, cell in zip(columns, cells, strict=False):
        text = html.unescape(cell).strip()
        if column == "name":
            values[column] = text
        elif text:
            values[column] = text if column in _PLAIN_COLUMNS else text.split(SEPARATOR)
    return values


def _explained(error: ValidationError, path: Path, numbers: list[int]) -> str:
    """The first thing wrong in the rows, in one line."""
    first, *others = error.errors(include_url=False)
    row, *inside = first["loc"]
    where = f"{path}, row {numbers[int(row)]}"
    message = first["msg"].removeprefix("Value error, ")
    what = message[0].lower() + message[1:]
    if inside:
        value = first["input"]
        what = f"{value!r}: {what}" if not isinstance(value, Mapping) else what
        where += f", column {inside[0]}"
    more = f" (and {len(others)} more)" if others else ""
    return f"{where}: {what}{more}"
