"""How well copies of one story are folded, and what that costs: `python -m pipelines.story_quality`.

The pairs of `story_pairs.csv` were read and labelled by hand before anything was tuned on them. They name rows of the
public sets and hold no text: file, number of the record, and the start of the SHA-256 of its title, for both; whether
they tell the same story; and the half that they belong to. `choosing` served for the rules and thresholds of
`monitor/stories.py`; `reporting` is for the figures here. They were looked at after each of four designs; its pairs
were not looked at again.

Two items are the same story if one is the other again: the same article under a new headline or updated with its text
kept, its headline shortened, lengthened or in a few other words, whoever published it. They are not if the second
reports the event in its own words, a later development or another number, comments on it, or is the next issue of a
standing column.

308 pairs are of svb-2023, at most 48 hours apart: all 180 whose titles are most alike, and others chosen for similar
descriptions, shared words, different feeds, or at random. Pairs that share an item are in the same half. 114 more,
of SEntFiN and Twitter Financial News, are among those that an earlier version folded, and all in `choosing`; their
times are not known.
"""

import csv
import gc
import hashlib
import html
import os
import random
import re
import statistics
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from monitor.estimates import Estimate, share
from monitor.stories import Stories, story_name
from pipelines.dataset import default_folder
from pipelines.headlines import headlines
from pipelines.stream import resident_bytes

PAIRS: Final = Path(__file__).with_name("story_pairs.csv")
SPAN: Final = timedelta(hours=48)
"""How far apart in event time items of one story may be, by default."""

_TITLES: Final = {"svb-2023/headlines.csv": "title", "sentfin/SEntFiN.csv": "Title"}
_START: Final = datetime(2026, 1, 1, tzinfo=UTC)
_SEEDS: Final = 10_000  # headlines that the measured ones are made of
_ROUNDS: Final = 10

_PREFIX: Final = re.compile(r"^(?:(?:update|wrapup|refile|corrected|breaking|exclusive|alert)\s*(?:\d+)?\s*[-:]\s*)+")
_SUFFIX: Final = re.compile(r"\s[-|]\s[^-|]{2,40}$")
_NOT_WORD: Final = re.compile(r"[^\w%$.]+")

Half = Literal["choosing", "reporting"]


class PairsError(ValueError):
    """The labelled rows are not to be had, or are not those that were labelled."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two titles with their event times, and whether they tell the same story."""

    one: tuple[str, datetime]
    other: tuple[str, datetime]
    same: bool
    half: Half


@dataclass(frozen=True, slots=True)
class Quality:
    """How well a method folds: of the pairs that it folds, which share is right (None: it folds none), and of those
    that are the same, which share it folds. The intervals are Wilson's; pairs that share an item are taken for
    independent, which makes them a little narrow."""

    folded: int
    same: int
    right: int

    @property
    def precision(self) -> Estimate | None:
        return share(self.right, self.folded) if self.folded else None

    @property
    def recall(self) -> Estimate:
        return share(self.right, self.same)


@dataclass(frozen=True, slots=True)
class Cost:
    """What it costs to place an item, in seconds (medians over rounds of means over items).

    Attributes:
        new: an item that tells a new story.
        copy: one that repeats a story as an update.
        exact: either, by a dictionary of exact keys, measured in turns with them.
        story_bytes: resident memory a story.
        restore: seconds to restore all that is remembered.
    """

    origin: str
    remembered: int
    new: float
    copy: float
    exact: float
    story_bytes: float
    restore: float


def labelled_pairs(data: Path) -> list[Pair]:
    """The pairs of `story_pairs.csv` with their titles from the sets in a folder.

    Raises:
        PairsError: a file cannot be read, or a row of it is not the one that was labelled.
    """
    with PAIRS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = {row[key] for row in rows for key in ("file_a", "file_b")}
    sets = {name: _titles(data / name, _TITLES.get(name, "text")) for name in names}
    return [
        Pair(
            _labelled(sets, data, row["file_a"], int(row["row_a"]), row["title_a"]),
            _labelled(sets, data, row["file_b"], int(row["row_b"]), row["title_b"]),
            row["same"] == "1",
            "choosing" if row["half"] == "choosing" else "reporting",
        )
        for row in rows
    ]


def quality(pairs: Sequence[Pair], folds: Callable[[Pair], bool]) -> Quality:
    """How well a method folds these pairs."""
    counts = Counter((folds(pair), pair.same) for pair in pairs)
    right = counts[True, True]
    return Quality(folded=right + counts[True, False], same=right + counts[False, True], right=right)


def folds(pair: Pair) -> bool:
    """Whether the monitor takes the later of a pair for a copy of the other."""
    stories = Stories(SPAN)
    earlier, later = sorted((pair.one, pair.other), key=lambda item: item[1])
    stories.assign(*earlier)
    return stories.assign(*later)[1]


def folds_exact(pair: Pair) -> bool:
    """Whether what is left of two titles is the same."""
    return exact_key(pair.one[0]) == exact_key(pair.other[0])


def exact_key(title: str) -> str:
    """What is left of a title without case, punctuation, an agency's prefix and a publisher's suffix: how copies were
    recognised before edits were."""
    text = unicodedata.normalize("NFKC", html.unescape(title)).casefold().strip()
    words = _NOT_WORD.sub(" ", _SUFFIX.sub("", _PREFIX.sub("", text))).strip()
    return words or text


def different_headlines(count: int, seed: int = 0) -> tuple[str, list[str]]:
    """So many different headlines, each half of one and half of another, and where these are from.

    Each half stands in many headlines, so that as many have to be compared as in news on few subjects.
    """
    origin, whole = headlines(_SEEDS, seed)
    words = [title.split() for title in whole if len(title.split()) >= 6]
    choice = random.Random(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        start, end = choice.choice(words), choice.choice(words)
        made[" ".join(start[: len(start) // 2] + end[len(end) // 2 :])] = None
    return origin, list(made)


def cost(remembered: int, measured: int, seed: int = 0) -> Cost:
    """What an item costs with so many stories remembered, measured on so many new ones and as many copies."""
    origin, titles = different_headlines(remembered + measured, seed)
    known = [(title, _START + SPAN * (number / remembered)) for number, title in enumerate(titles[:remembered])]
    stored = [(title, story_name(title, at), at) for title, at in known]
    gc.collect()
    before = resident_bytes(os.getpid())
    stories = Stories(SPAN)
    started = time.perf_counter()
    stories.restore(stored)
    restore = time.perf_counter() - started
    gc.collect()
    story_bytes = (resident_bytes(os.getpid()) - before) / len(stories)
    exact = {exact_key(title): story for title, story, _ in stored}
    now = _START + SPAN
    per_round = measured // _ROUNDS
    seconds: dict[str, list[float]] = {"new": [], "copy": [], "exact": []}
    for number in range(_ROUNDS):
        new = titles[remembered + number * per_round :][:per_round]
        copies = [f"UPDATE 1-{title}" for title in titles[number * per_round :][:per_round]]
        seconds["new"].append(_mean_seconds(lambda title: stories.assign(title, now), new))
        seconds["exact"].append(_mean_seconds(lambda title: exact.get(exact_key(title)), new + copies))
        seconds["copy"].append(_mean_seconds(lambda title: stories.assign(title, now), copies))
    medians = {name: statistics.median(means) for name, means in seconds.items()}
    return Cost(origin, remembered, **medians, story_bytes=story_bytes, restore=restore)


def _mean_seconds(place: Callable[[str], object], titles: Sequence[str]) -> float:
    started = time.perf_counter()
    for title in titles:
        place(title)
    return (time.perf_counter() - started) / len(titles)


def _titles(path: Path, column: str) -> list[tuple[str, datetime]]:
    """Every record's title and event time; a time in the past where the file has none."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                (row[column], datetime.fromisoformat(row["published_utc"]) if "published_utc" in row else _START)
                for row in csv.DictReader(file)
            ]
    except OSError as error:
        raise PairsError(
            f"{path}: cannot be read ({error.strerror}); name the folder of the sets with --data or MONITOR_DATA"
        ) from error


def _labelled(
    sets: dict[str, list[tuple[str, datetime]]], data: Path, name: str, number: int, digest: str
) -> tuple[str, datetime]:
    title, at = sets[name][number - 1] if number <= len(sets[name]) else ("", _START)
    if not hashlib.sha256(title.encode()).hexdigest().startswith(digest):
        raise PairsError(
            f"{data / name}: record {number} is {title!r}, expected the one whose title has a SHA-256 that starts "
            f"with {digest}; this is another edition of the set"
        )
    return title, at


def _shown(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def main(
    data: Annotated[Path | None, typer.Option(help="folder of the public sets; unset: MONITOR_DATA")] = None,
    remembered: Annotated[
        int, typer.Option(min=1000, help="stories to remember when the cost is measured")
    ] = 500_000,
    measured: Annotated[int, typer.Option(min=100, help="new items, and copies, to measure it with")] = 2_000,
) -> None:
    """Print precision and recall on the labelled pairs, and the cost of an item in time and memory."""
    try:
        pairs = labelled_pairs(data or default_folder())
    except PairsError as error:
        typer.echo(f"story_quality: pairs left out: {error}", err=True)
        pairs = []
    methods: dict[str, Callable[[Pair], bool]] = {"edits folded": folds, "exact keys": folds_exact}
    for half in ("reporting", "choosing"):
        of_half = [pair for pair in pairs if pair.half == half]
        for name, method in methods.items() if of_half else ():
            found = quality(of_half, method)
            typer.echo(
                f"{half:9s}  {name:12s}  precision {_shown(found.precision)}  recall {_shown(found.recall)}"
                f"  ({found.right} right of {found.folded} folded, {found.same} of {len(of_half)} pairs are the same)"
            )
    spent = cost(remembered, measured)
    typer.echo(
        f"with {spent.remembered:,} stories remembered, headlines of {spent.origin} halved: "
        f"{spent.new * 1e3:.3f} ms a new story, {spent.copy * 1e3:.3f} ms a copy; a dictionary of exact keys takes "
        f"{spent.exact * 1e3:.3f} ms: ratios {spent.new / spent.exact:.1f} and {spent.copy / spent.exact:.1f}"
    )
    typer.echo(
        f"{spent.story_bytes:,.0f} bytes a story, {spent.story_bytes * spent.remembered / 1e9:.2f} GB in all; "
        f"restored in {spent.restore:.1f} s, {spent.restore / spent.remembered * 1e6:.0f} microseconds a story"
    )


if __name__ == "__main__":
    typer.run(main)
