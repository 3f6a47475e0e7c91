"""What commands read: the settings, and files of records that are named on the command line."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from monitor.output import Misuse, named
from monitor.records import RawRecord
from monitor.sources import NEWS, Form

ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings (TOML); see deploy/monitor.toml.")]


def records_of(file: str, columns: Mapping[str, str], form: Form = NEWS) -> Iterator[RawRecord]:
    """Every record of a JSON Lines or CSV file; of standard input, which is JSON Lines, for -."""
    from monitor.sources.files import read_records

    if file != "-":
        return named(lambda: read_records(Path(file), columns, form))
    if columns:
        raise Misuse("--columns: standard input is read as JSON Lines, which have no columns; give a .csv file")
    return read_records(sys.stdin.buffer)


def count_lines(file: str) -> int | None:
    """The lines of a file, for a progress bar; None where that cannot be known."""
    if file == "-":
        return None
    try:
        with Path(file).open("rb") as opened:
            return sum(block.count(b"\n") for block in iter(lambda: opened.read(1 << 20), b""))
    except OSError:
        return None  # reading it will say what is wrong with it
