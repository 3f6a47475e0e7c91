"""From records to stored labels, whatever way they come, and from the store to the items that are worth labelling."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from monitor.config import Settings
from monitor.label_queue import least_sure, spread, uncertainty
from monitor.labels import Label, parse
from monitor.metrics import Metrics
from monitor.records import Batch, RecordError, Scored
from monitor.sources import Source, SourceError
from monitor.sources.kafka import KafkaSource
from monitor.store import PositionConflict, Store, StoreUnavailable

log = logging.getLogger(__name__)

Parsed = tuple[Label, ...] | RecordError
"""What a record says, or what is wrong with it."""

GROUP_SUFFIX: Final = "-labels"
_BATCH_RECORDS, _LINGER_S, _WAIT_S, _RETRY_S = 512, 0.05, 0.25, 1.0
_TELL_EVERY = 1_000


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of records of labels: the labels that are new and those that were stored before, and by its place
    among them (from 0) what is wrong with each record that was rejected. `blank` records held no label."""

    stored: tuple[Label, ...]
    repeated: tuple[Label, ...]
    rejected: Mapping[int, RecordError]
    blank: int


def parsed(raw: bytes, arrived_at: datetime) -> Parsed:
    """What a record says, or what is wrong with it."""
    try:
        return parse(raw, arrived_at)
    except RecordError as error:
        return error


def take(store: Store, records: Sequence[Parsed], now: datetime) -> Receipt:
    """Store what records say in one transaction, all but those that are wrong.

    A record of which one label is wrong is rejected as a whole.

    Raises:
        StoreUnavailable: nothing was stored; the same records can be taken again.
        RecordError: an item was pruned in this very moment; nothing was stored.
    """
    labels, rejected = _sorted_out(store, records)
    stored, repeated = store.labels.add(labels, now) if labels else ([], [])
    return Receipt(tuple(stored), tuple(repeated), rejected, sum(record == () for record in records))


def _sorted_out(store: Store, records: Sequence[Parsed]) -> tuple[list[Label], dict[int, RecordError]]:
    """The labels of the records that are right, and what is wrong with the others."""
    rejected = {place: record for place, record in enumerate(records) if isinstance(record, RecordError)}
    labels = [
        (place, label)
        for place, record in enumerate(records)
        if not isinstance(record, RecordError)
        for label in record
    ]
    problems = store.labels.problems([label for _, label in labels])
    for (place, _), problem in zip(labels, problems, strict=True):
        if problem is not None:
            rejected.setdefault(place, problem)
    return [label for place, label in labels if place not in rejected], dict(sorted(rejected.items()))


class LabelReader:
    """Reads labels from a source, by the guarantees that news has: where it stands is stored with the labels, in one
    transaction that is fenced, and what cannot be stored becomes a dead letter first.

    Args:
        now: the wall clock.
    """

    def __init__(self, source: Source, store: Store, metrics: Metrics, now: Callable[[], datetime]) -> None:
        self._source = source
        self._store = store
        self._metrics = metrics
        self._now = now
        self._trouble = ""
        self._expired = 0

    def run(self, stopping: threading.Event) -> None:
        """Read until `stopping` is set; where the source or the store is away, try again until it is back."""
        while not stopping.is_set():
            try:
                batch = self._source.poll(_BATCH_RECORDS, _LINGER_S, _WAIT_S)
                self._metrics.expired.inc(self._source.expired - self._expired)
                self._expired = self._source.expired
                if batch.positions:
                    self._process(batch)
            except PositionConflict as error:
                # As for news: the database is right, and the next poll reads on from there.
                log.warning("labels given up: %s", error)
                self._metrics.batches_given_up.inc()
            except (SourceError, StoreUnavailable, RecordError) as error:
                # The batch is not noted as stored, so the next poll reads it again.
                self._metrics.failures.labels("labels").inc()
                if self._trouble != str(error):
                    log.error("labels: %s; trying again until it works", error)
                self._trouble = str(error)
                stopping.wait(_RETRY_S)
            else:
                if self._trouble:
                    log.info("labels are read again")
                self._trouble = ""

    def _process(self, batch: Batch) -> None:
        now = self._now()
        labels, rejected = _sorted_out(self._store, [parsed(record.value, now) for record in batch.records])
        for place, error in rejected.items():
            self._source.reject(batch.records[place], error)
        stored, repeated = self._store.labels.add(labels, now, self._source.name, batch.positions)
        self._source.committed(batch)
        self._metrics.labelled(stored, repeated, [error.reason for error in rejected.values()])


def open_label_source(settings: Settings, topic: str, store: Store) -> KafkaSource:
    """The topic of labels, read on from the positions in the store, as one worker of a group of its own: in the group
    that reads the news, each worker that comes or goes on one topic would interrupt the other.

    Raises:
        SourceError: it cannot be read.
    """

    def positions(partitions: Sequence[int]) -> Mapping[int, int]:
        return store.positions(source.name, partitions)

    kafka = replace(settings.kafka, topic=topic, group=settings.kafka.group + GROUP_SUFFIX)
    source = KafkaSource(kafka, positions)
    return source


@dataclass(frozen=True, slots=True)
class Wanted:
    """An item worth labelling, and how unsure the model is of it, from 0 to 1."""

    scored: Scored
    uncertainty: float


def queue(
    store: Store, items: int, days: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Wanted]:
    """The up to `items` items most worth labelling of the newest `days` days of event time, the best first.

    Of each story there is one, none of stories of which anybody labelled an item. See `monitor.label_queue` for how
    they are chosen. `progress` is told how many of how many candidates were looked at.
    """
    newest = store.labels.newest_item_at()
    if newest is None or items < 1:
        return []
    since = newest - timedelta(days=days)
    total = store.labels.count_open(since)

    def doubts() -> Iterator[tuple[str, float]]:
        for done, item in enumerate(store.labels.open_items(since), 1):
            yield item.id, uncertainty(item.topic_probs, item.sentiment_probs)
            if done % _TELL_EVERY == 0:
                progress(done, total)

    pool = least_sure(doubts(), items)
    found = {scored.item.id: (story, scored) for story, scored in store.labels.scored(pool)}
    # Workers that read at one time may each have taken an item for the first of one story.
    by_story: dict[str, Scored] = {}
    for item_id in pool:
        if item_id in found:
            by_story.setdefault(*found[item_id])
    candidates = [
        Wanted(scored, uncertainty(scored.topic_probs, scored.sentiment_probs)) for scored in by_story.values()
    ]
    chosen = spread([one.scored.item.title for one in candidates], [one.uncertainty for one in candidates], items)
    return [candidates[index] for index in chosen]
