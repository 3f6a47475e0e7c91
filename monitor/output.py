"""What commands tell people: files that appear whole, progress on a terminal, what is wrong with a file."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from monitor.records import MonitorError, RawRecord, RecordError
from monitor.sources import SourceError

T = TypeVar("T")

errors: Final = Console(stderr=True)
"""Standard error, for people."""


class Misuse(MonitorError):
    """The command line itself is wrong."""


@contextmanager
def written(path: Path | None, source: str, option: str = "--output") -> Iterator[TextIO]:
    """Standard output, or a file that appears whole when all went well and not at all when not.

    Args:
        source: the file that is read, which must not be written over; - is standard input.
        option: that named the file.
    """
    if path is None:
        yield sys.stdout
        return
    if path.is_dir():
        raise Misuse(f"{option}: {path} is a folder; give the name of a file in it")
    if path.exists() and Path(source).exists() and path.samefile(source):
        raise Misuse(f"{option}: {path} is what is read; give another name, or it would be lost")
    path = path.resolve()
    if path.exists() and not path.is_file():  # a device or a pipe: written to, never replaced
        with path.open("w", encoding="utf-8") as device:
            yield device
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        file = part.open("w", encoding="utf-8")
    except OSError as error:
        raise Misuse(f"{option}: {path} cannot be written ({error.strerror}); give another path") from error
    try:
        with file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def written_bytes(path: Path, content: bytes) -> None:
    """A file that appears whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def progress_bar(unit: str) -> Progress:
    """A bar on a terminal; nothing in a pipe or a log."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        console=errors,
        disable=not errors.is_terminal,
        redirect_stdout=False,
        transient=True,
    )


def note(text: str) -> None:
    """Tell people something."""
    errors.print(text, highlight=False, markup=False, soft_wrap=True)


def named(do: Callable[[], T]) -> T:
    """What is read of a file that was named on the command line; one that cannot be is a misuse."""
    try:
        return do()
    except SourceError as error:
        raise Misuse(str(error)) from error


def rejections(file: str, console: Console) -> Callable[[RawRecord, RecordError], None]:
    """Tells of each rejected record with its line."""

    def tell(record: RawRecord, error: RecordError) -> None:
        name = "standard input" if file == "-" else file
        console.print(f"{name}, line {record.offset + 1}: {error}", highlight=False, markup=False, soft_wrap=True)

    return tell


def parsed_columns(text: str | None) -> dict[str, str]:
    """`title=headline,url=link` as {"title": "headline", "url": "link"}."""
    pairs = [pair.partition("=") for pair in text.split(",")] if text else []
    for key, sign, column in pairs:
        if not (key.strip() and sign and column.strip()):
            raise Misuse(f"--columns: {key + sign + column!r} is not KEY=COLUMN; give for example title=headline")
    return {key.strip(): column.strip() for key, _, column in pairs}


def print_table(to: TextIO, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with lines on a terminal that is wide enough; elsewhere its columns in line, and no cell is cut."""
    console = Console(file=to)
    table = Table(*(Column(Text(name)) for name in head))
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    needed = console.measure(table, options=console.options.update(width=1_000)).maximum
    if console.is_terminal and needed <= console.width:
        console.print(table)
        return
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        to.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")
