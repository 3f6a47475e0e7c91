"""What watching thousands of entities costs an item, beside looking for each of their names in turn."""

import csv
import gc
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from monitor.entities import EntitySettings, read_entities
from monitor.watchlist import Watchlist
from pipelines.headlines import headlines
from pipelines.stream import resident_bytes

TOPIC: Final = "Financials"
BODY_WORDS: Final = 3_000
_SYLLABLES: Final = ("bar", "cor", "den", "fal", "gan", "hel", "kor", "lan", "mer", "nor", "pal", "ris", "tan", "vel")
_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_KINDS: Final = ("Bank", "Energy", "Foods", "Group", "Holdings", "Motors", "Systems", "Trust")
_ROUNDS: Final = 5


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds and bytes, each time the median of the rounds.

    Attributes:
        names: names, aliases and tickers of all entities.
        origin: where the headlines are from; a quarter of them also name an entity.
        read_s: to read and validate the CSV file.
        build_s: to make the watchlist ready.
        bytes: resident memory that the watchlist added.
        headline_s, body_s: to find the entities in one text. `in_turn`: by looking for one name after the other.
        named_in_body: entities found in the body.
    """

    entities: int
    names: int
    origin: str
    read_s: float
    build_s: float
    bytes: int
    headline_s: float
    headline_in_turn_s: float
    body_s: float
    body_in_turn_s: float
    named_in_body: int


def invented(count: int, seed: int = 0) -> list[EntitySettings]:
    """So many different companies, each with three aliases and a ticker."""
    choice = random.Random(seed)
    companies: dict[str, EntitySettings] = {}
    while len(companies) < count:
        stem = "".join(choice.choice(_SYLLABLES) for _ in range(4)).capitalize()
        kind = choice.choice(_KINDS)
        companies[stem] = EntitySettings(
            name=f"{stem} {kind}",
            aliases=(stem, f"{stem} {kind} Inc", f"{stem} & Sons"),
            tickers=("".join(choice.choices(_LETTERS, k=4)),),
        )
    return list(companies.values())


class InTurn:
    """The plain way: look for one name after the other, in any case, and for tickers, anywhere in the text."""

    def __init__(self, entities: Sequence[EntitySettings]) -> None:
        self._names = [
            (name.casefold(), entity.name) for entity in entities for name in (entity.name, *entity.aliases)
        ]
        self._tickers = [(ticker, entity.name) for entity in entities for ticker in entity.tickers]

    def find(self, text: str) -> set[str]:
        """The entities that `text` names."""
        folded = text.casefold()
        return {name for written, name in self._names if written in folded} | {
            name for ticker, name in self._tickers if ticker in text
        }


def measure(count: int, texts: int) -> Cost:
    """Find `count` invented entities in so many headlines, and in a body made of headlines."""
    companies = invented(count)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "entities.csv"
        _write(companies, file)
        started = time.perf_counter()
        entities = read_entities(file)
        read_s = time.perf_counter() - started
    gc.collect()
    resident = resident_bytes(os.getpid())
    started = time.perf_counter()
    watchlist = Watchlist(entities, (TOPIC,))
    build_s = time.perf_counter() - started
    gc.collect()
    added = resident_bytes(os.getpid()) - resident

    choice = random.Random(1)
    origin, plain = headlines(texts)
    named = [f"{choice.choice(entities).name}: {title}" if i % 4 == 0 else title for i, title in enumerate(plain)]
    # A body tells of some companies, not of one in each of its sentences.
    words = " ".join(named[:4] + plain * (1 + BODY_WORDS // len(plain))).split()
    body = " ".join(words[:BODY_WORDS])
    plainly = InTurn(entities)
    few = named[:: max(1, len(named) // 50)]
    seconds: list[tuple[float, float, float, float]] = [
        (
            _seconds(lambda text: watchlist.find(text, TOPIC), named),
            _seconds(plainly.find, few),
            _seconds(lambda text: watchlist.find(text, TOPIC), [body] * 5),
            _seconds(plainly.find, [body]),
        )
        for _ in range(_ROUNDS)
    ]
    headline_s, headline_in_turn_s, body_s, body_in_turn_s = map(statistics.median, zip(*seconds, strict=True))
    return Cost(
        entities=len(entities),
        names=sum(1 + len(entity.aliases) + len(entity.tickers) for entity in entities),
        origin=origin,
        read_s=read_s,
        build_s=build_s,
        bytes=added,
        headline_s=headline_s,
        headline_in_turn_s=headline_in_turn_s,
        body_s=body_s,
        body_in_turn_s=body_in_turn_s,
        named_in_body=len(watchlist.find(body, TOPIC)),
    )


def _write(entities: Sequence[EntitySettings], file: Path) -> None:
    with file.open("w", newline="", encoding="utf-8") as rows:
        writer = csv.writer(rows)
        writer.writerow(["name", "aliases", "tickers"])
        writer.writerows([entity.name, ";".join(entity.aliases), ";".join(entity.tickers)] for entity in entities)


def _seconds(find: Callable[[str], object], texts: Sequence[str]) -> float:
    """A text, on average."""
    started = time.perf_counter()
    for text in texts:
        find(text)
    return (time.perf_counter() - started) / len(texts)


def main(
    entities: Annotated[int, typer.Option(min=1, help="How many entities to watch.")] = 10_000,
    texts: Annotated[int, typer.Option(min=50, help="How many headlines to read.")] = 4_000,
) -> None:
    """Measure and print what a watchlist costs."""
    cost = measure(entities, texts)
    console = Console()
    console.print(f"{cost.entities:,} entities with {cost.names:,} names and tickers; headlines: {cost.origin}")
    console.print(
        f"read from CSV in {cost.read_s:.2f} s, made ready in {cost.build_s:.2f} s, {cost.bytes / 1e6:.0f} MB"
    )
    table = Table("", "watchlist", "each name in turn", "ratio")
    for text, mine, plain in (
        ("a headline", cost.headline_s, cost.headline_in_turn_s),
        (f"a body of {BODY_WORDS:,} words, {cost.named_in_body} named", cost.body_s, cost.body_in_turn_s),
    ):
        table.add_row(text, f"{mine * 1e3:.3f} ms", f"{plain * 1e3:.1f} ms", f"{plain / mine:,.0f}")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
