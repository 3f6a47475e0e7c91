"""Settings in a CSV file: a row an entry, its keys as columns; what is wrong is named by row, column and value."""

import csv
import difflib
import html
import io
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

SEPARATOR: Final = ";"
"""Between the entries of one cell. Not `|`, which stands in names of topics."""

T = TypeVar("T")
_BOM: Final = b"\xef\xbb\xbf"
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")


def read_table(path: Path, kind: type[T], *, setting: str, lists: Collection[str] = ()) -> list[tuple[int, T]]:
    """The entries of a CSV file, each with its row: UTF-8, commas, a first row that names the columns, in any order.

    An empty cell leaves a setting at its default.

    Args:
        kind: a dataclass of pydantic; its fields are the columns, those without a default must be there.
        setting: the key that names the file.
        lists: the columns that hold several entries, separated by semicolons.

    Raises:
        ValueError: the file cannot be read, or something in it is wrong; the message names the file and, where there
            is one, the row (as a spreadsheet counts them: the column names are row 1), the column and the value.
    """
    known: dict[str, FieldInfo] = kind.__pydantic_fields__  # type: ignore[attr-defined]
    required = [name for name, field in known.items() if field.is_required()]
    rows: list[tuple[int, dict[str, object]]] = []
    columns: list[str] = []
    number = 0
    try:
        for number, cells in enumerate(csv.reader(io.StringIO(_text(path, setting), newline=""), strict=True), 1):
            if not any(map(str.strip, cells)):
                continue
            if not columns:
                columns = _checked_columns(f"{path}, row {number}", cells, known, required)
            elif len(cells) > len(columns):
                raise ValueError(
                    f"{path}, row {number}: has {len(cells)} cells, but there are {len(columns)} columns; "
                    f"put a cell that holds a comma in double quotes"
                )
            else:
                rows.append((number, _values(columns, cells, required, lists)))
    except csv.Error as error:
        raise ValueError(f"{path}, row {number + 1}: not CSV: {error}") from error
    if not columns:
        raise ValueError(f"{path}: is empty; its first row names the columns: {', '.join(known)}")
    try:
        entries = TypeAdapter(list[kind]).validate_python([row for _, row in rows])  # type: ignore[valid-type]
    except ValidationError as error:
        raise ValueError(_explained(error, path, [number for number, _ in rows])) from error
    return [(number, entry) for (number, _), entry in zip(rows, entries, strict=True)]


def closest(word: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown word: which known one may be meant, if one is near."""
    match = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {match[0]!r}?" if match else ""


def _text(path: Path, setting: str) -> str:
    try:
        content = path.read_bytes().removeprefix(_BOM)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); {setting} names a CSV file") from error
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        advice = "save the file as UTF-8 (in a spreadsheet: CSV UTF-8)"
        if content.startswith(_UTF_16):
            raise ValueError(f"{path}: is UTF-16; {advice}") from error
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; {advice}") from error


def _checked_columns(where: str, cells: list[str], known: Collection[str], required: Collection[str]) -> list[str]:
    columns = [cell.strip() for cell in cells]
    if len(columns) == 1 and (mark := next((mark for mark in (";", "\t") if mark in columns[0]), None)):
        raise ValueError(f"{where}: its columns are separated by {mark!r}; separate them by commas")
    for place, column in enumerate(columns):
        if column not in known:
            near = closest(column, known)
            raise ValueError(f"{where}: unknown column {column!r}, expected one of {', '.join(known)}{near}")
        if column in columns[:place]:
            raise ValueError(f"{where}: column {column!r} is there twice; keep one")
    for column in required:
        if column not in columns:
            raise ValueError(f"{where}: there is no column {column!r}; the first row names the columns")
    return columns


def _values(
    columns: list[str], cells: list[str], required: Collection[str], lists: Collection[str]
) -> dict[str, object]:
    """A row as settings. A column that is empty is left out, save one whose absence is to be told."""
    values: dict[str, object] = {}
    for column, cell in zip(columns, cells, strict=False):
        text = html.unescape(cell).strip()
        if text or column in required:
            values[column] = text.split(SEPARATOR) if column in lists else text
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
