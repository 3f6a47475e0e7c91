"""A history of news in event time: through the engine in one go, or onto Kafka at any speed."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from pathlib import Path

from monitor.engine import Engine, Reject
from monitor.records import (
    Alert,
    Batch,
    Entry,
    NewsItem,
    PositionUpdate,
    RawRecord,
    RecordError,
    bucket_start,
)
from monitor.sources.files import read_records
from monitor.wire import parse


@dataclass(frozen=True, slots=True)
class Dated:
    """A record of a history, and the item that it holds."""

    record: RawRecord
    item: NewsItem


def read_history(path: Path, columns: Mapping[str, str], reject: Reject) -> list[Dated]:
    """The records of a JSON Lines or CSV file by time of publication, whatever their order in the file.

    Records that break the contract go to `reject`.

    Raises:
        SourceError: the file cannot be read.
    """
    return sorted(_dated(read_records(path, columns), reject), key=lambda dated: dated.item.published_at)


def by_count(history: Sequence[Dated], items: int) -> Iterator[Sequence[Dated]]:
    """The history in parts of so many items, each within one day, so that sparse news is evaluated day by day too."""
    for _, day in groupby(history, key=lambda dated: dated.item.published_at.date()):
        part = tuple(day)
        for start in range(0, len(part), items):
            yield part[start : start + items]


def by_bucket(history: Sequence[Dated]) -> Iterator[Sequence[Dated]]:
    """The history bucket by bucket of event time; buckets without items are left out."""
    for _, part in groupby(history, key=lambda dated: bucket_start(dated.item.published_at)):
        yield tuple(part)


@dataclass(frozen=True, slots=True)
class Step:
    """What one part of a history did: the items that were stored, and the alerts that changed."""

    entries: Sequence[Entry]
    alerts: Sequence[Alert]


def run(engine: Engine, parts: Iterable[Sequence[Dated]]) -> Iterator[Step]:
    """Feed a history to an engine on an empty store, part by part, as if each item arrived when it was published.

    The last step has no items: it closes what was still open when the history ended.
    """
    done: int | None = None
    for part in parts:
        now = part[-1].item.published_at
        position = PositionUpdate(partition=0, expected=done, next=(done or 0) + len(part))
        entries = engine.process(Batch(tuple(dated.record for dated in part), (position,)), now)
        done = position.next
        yield Step(entries, engine.tick(now))
    yield Step((), engine.finish())


def replay(
    history: Sequence[Dated],
    speed: float,
    send: Callable[[bytes, bytes], None],
    wait: Callable[[float], object],
    clock_s: Callable[[], float],
) -> Iterator[int]:
    """Send a history's records at `speed` times the pace they were published at; yields after each one.

    Args:
        speed: event seconds a second; infinite sends without waiting.
        send: takes a record's value and key. The key is the item's id, so that copies of an item share a partition.
        wait: waits for so many seconds.
        clock_s: a clock that never goes back, in seconds.
    """
    if not history:
        return
    began_s, first = clock_s(), history[0].item.published_at
    for sent, dated in enumerate(history, start=1):
        due_s = began_s + (dated.item.published_at - first) / timedelta(seconds=1) / speed
        if (ahead_s := due_s - clock_s()) > 0:
            wait(ahead_s)
        send(dated.record.value, dated.item.id.encode())
        yield sent


def _dated(records: Iterable[RawRecord], reject: Reject) -> Iterator[Dated]:
    for record in records:
        try:
            yield Dated(record, parse(record.value))
        except RecordError as error:
            reject(record, error)
