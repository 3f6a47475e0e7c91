"""Thousands of different headlines to measure with: real ones where they are at hand, else varied invented ones."""

import csv
import os
import random
import re
from pathlib import Path
from typing import Final

from monitor.demo import SCENARIO
from monitor.history import read_history
from monitor.model.text import clean
from monitor.records import RawRecord, RecordError

DATA: Final = Path(__file__).parents[2] / "shared" / "data"
"""Where data sets are, unless MONITOR_DATA names another folder."""

_SYLLABLES: Final = ("bar", "cor", "den", "fal", "gan", "hel", "kor", "lan", "mer", "nor", "pal", "ris", "tan", "vel")
_NAME: Final = re.compile(r"(?<=\s)[A-Z][a-z]+\b")


def headlines(count: int, seed: int = 0) -> tuple[str, list[str]]:
    """So many different headlines in random order, cleaned as the model reads them, and where they are from."""
    file = Path(os.environ.get("MONITOR_DATA") or DATA) / "sentfin" / "SEntFiN.csv"
    if file.exists():
        with file.open(newline="", encoding="utf-8") as rows:
            titles, origin = [row["Title"] for row in csv.DictReader(rows)], "SEntFiN"
    else:
        titles, origin = [dated.item.title for dated in read_history(SCENARIO, {}, _refuse)], "the bundled news day"
    found = list(dict.fromkeys(filter(None, map(clean, titles))))
    shuffled = random.Random(seed)
    shuffled.shuffle(found)
    if len(found) < count:
        origin += ", varied"
    different = dict.fromkeys(found)
    while len(different) < count:
        different[vary(shuffled.choice(found), shuffled)] = None
    return origin, list(different)[:count]


def vary(title: str, choice: random.Random) -> str:
    """A headline of much the same length: other digits, and an invented name for a name in it."""
    varied = re.sub(r"\d", lambda _: choice.choice("123456789"), title)
    invented = "".join(choice.sample(_SYLLABLES, 2)).capitalize()
    names = list(_NAME.finditer(varied))
    if not names:
        return f"{invented}: {varied}"
    name = choice.choice(names)
    return f"{varied[: name.start()]}{invented}{varied[name.end() :]}"


def _refuse(record: RawRecord, error: RecordError) -> None:
    raise error
