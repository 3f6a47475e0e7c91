"""What the commands write: files that appear whole, and progress on a terminal."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from monitor.records import MonitorError

errors: Final = Console(stderr=True)
"""Standard error, for people."""


class Misuse(MonitorError):
    """The command line itself is wrong."""


@contextmanager
def written(path: Path | None, source: str) -> Iterator[TextIO]:
    """Standard output, or a file that appears whole when all went well and not at all when not."""
    if path is None:
        yield sys.stdout
        return
    if path.is_dir():
        raise Misuse(f"--output: {path} is a folder; give the name of a file in it")
    if path.exists() and source != "-" and path.samefile(source):
        raise Misuse(f"--output: {path} is what is read; give another name, or it would be lost")
    path = path.resolve()
    if path.exists() and not path.is_file():  # a device or a pipe: written to, never replaced
        with path.open("w", encoding="utf-8") as device:
            yield device
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        file = part.open("w", encoding="utf-8")
    except OSError as error:
        raise Misuse(f"--output: {path} cannot be written ({error.strerror}); give another path") from error
    try:
        with file:
            yield file
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
