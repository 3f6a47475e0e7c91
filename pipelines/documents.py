"""Reports on disk: figures that are the same from run to run, and files that appear whole."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_DIGITS: Final = 6


def rounded(value: Any) -> Any:
    """Every float in nested dictionaries and lists cut to digits that are the same from run to run."""
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, Mapping):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(entry) for entry in value]
    return value


def replace(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into `folder` by their names, each replaced whole, once all are written."""
    parts = {folder / name: folder / f".{name}.{os.getpid()}.part" for name in files}
    try:
        for content, part in zip(files.values(), parts.values(), strict=True):
            part.write_bytes(content)
        for path, part in parts.items():
            part.replace(path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
