"""The whole monitor without its I/O loop: `process` a batch of records, `tick` to close windows and raise alerts.

Time comes in with every call, so the same engine runs live, in a replay at any speed and in a backtest, and gives
the same alerts. The store is the only state: an engine opened on it goes on where the last one stopped.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol, get_args

from monitor.config import Settings
from monitor.evaluation import Evaluation
from monitor.following import Followed, follow
from monitor.metrics import Metrics
from monitor.records import (
    BUCKET,
    EVERYTHING,
    Alert,
    Batch,
    Entry,
    NewsItem,
    PositionUpdate,
    RawRecord,
    Reason,
    RecordError,
    Scored,
    bucket_start,
)
from monitor.spikes import Detector
from monitor.store import PositionConflict, Store
from monitor.stories import Stories
from monitor.trends import Trends, Watermark
from monitor.wire import parse

FUTURE: Final = timedelta(minutes=5)

Place = tuple[int, int]
"""Partition and offset."""
Reject = Callable[[RawRecord, RecordError], None]


class ItemScorer(Protocol):
    """What the engine needs of a model."""

    version: str
    topics: tuple[str, ...]
    sentiments: tuple[str, ...]
    at_once: int
    cache_hits: int
    cut_items: int

    def score(self, items: Sequence[NewsItem]) -> list[Scored]: ...


@dataclass(frozen=True, slots=True)
class ParsedBatch:
    """What the records of a batch say, and what is wrong with the others."""

    items: tuple[tuple[RawRecord, NewsItem], ...]
    wrong: tuple[tuple[RawRecord, RecordError], ...]
    positions: tuple[PositionUpdate, ...]


@dataclass(frozen=True, slots=True)
class ScoredBatch:
    """A batch, and what the model says of each of its items."""

    parsed: ParsedBatch
    scored: Sequence[Scored]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch that was scored and placed in event time, and waits to be stored."""

    entries: tuple[Entry, ...]
    futures: frozenset[Place]
    rejected: tuple[Reason, ...]
    positions: tuple[PositionUpdate, ...]


class Engine:
    """One stream's monitor.

    Between batches its model may be changed for another, see `adopt`.

    Args:
        source: name under which the store keeps this stream's positions.
        reject: takes each record that breaks the contract, before its batch is stored.
        promotion: number of the one that made the model champion; 0: none did.

    Raises:
        ConfigError: the settings name a topic, entity or exchange that there is not.

    Attributes:
        series: every series that it follows.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        scorer: ItemScorer,
        metrics: Metrics,
        *,
        source: str,
        reject: Reject,
        promotion: int = 0,
    ) -> None:
        self.store = store
        self.metrics = metrics
        self.source = source
        self._settings = settings
        self._reject = reject
        followed = follow(settings, scorer.topics)
        self._watermark = Watermark(settings.trends)
        self._forget_stories()
        self._touched: dict[int, datetime] = {}
        self._evaluation = Evaluation(
            settings,
            store,
            metrics,
            source=source,
            shown=followed.series,
            calendar=followed.calendar,
            promotion=promotion,
        )
        self._promotion = promotion
        if (mark := store.evaluated_through(source)) is not None:
            # What lies before it was evaluated, so an item that comes for it now is late, as it was before a restart.
            self._watermark.reach(mark)
        self._score_with(scorer, followed)

    def adopt(self, scorer: ItemScorer, followed: Followed, promotion: int = 0) -> None:
        """Score with another model from the next batch on. To be called while none is scored or waits to be stored.

        Items and windows stay as they are. Baselines are rebuilt at the next tick, from what counts would have been
        under this promotion, as far as that is known; without rebases, what is usual changes only as items come in.

        Args:
            followed: what the settings follow with this model's topics.
            promotion: number of the one that made it champion; 0: none did.
        """
        self._count_scored()
        self._promotion = promotion
        self._evaluation.follow(followed.series, followed.calendar, promotion)
        self._score_with(scorer, followed)

    def _score_with(self, scorer: ItemScorer, followed: Followed) -> None:
        self.scorer = scorer
        self._scored = (scorer.cache_hits, scorer.cut_items)  # as the metrics have them
        self._watchlist = followed.watchlist
        self.series = (EVERYTHING, *followed.series)
        self.metrics.prepare(scorer.topics, scorer.sentiments, get_args(Reason), followed.watchlist.names)

    def process(self, batch: Batch, now: datetime) -> list[Entry]:
        """Score and store a batch; gives the items that were new. See `prepare` and `commit` for what is raised."""
        return self.commit(self.prepare(self.score(self.parse(batch)), now), now)

    def parse(self, batch: Batch) -> ParsedBatch:
        """What the records of a batch say. Touches nothing, like `score`."""
        items: list[tuple[RawRecord, NewsItem]] = []
        wrong: list[tuple[RawRecord, RecordError]] = []
        for record in batch.records:
            try:
                items.append((record, parse(record.value)))
            except RecordError as error:
                wrong.append((record, error))
        self.metrics.batch_items.observe(len(batch.records))
        return ParsedBatch(tuple(items), tuple(wrong), batch.positions)

    def score(self, batch: ParsedBatch) -> ScoredBatch:
        """Score a batch. Touches nothing else: as many as the scorer takes `at_once` may be scored while one is
        stored."""
        started = time.perf_counter()
        scored = self.scorer.score([item for _, item in batch.items])
        self.metrics.score_seconds.observe(time.perf_counter() - started)
        return ScoredBatch(batch, scored)

    def prepare(self, batch: ScoredBatch, now: datetime) -> Prepared:
        """Reject the records of a batch that break the contract, and place its items in event time at `now`.

        To be called with the batches in their order, each followed by its `commit` before the next `tick`.
        """
        self._count_scored()
        self._restore_stories()
        for record, error in batch.parsed.wrong:
            self._reject(record, error)
        entries: list[Entry] = []
        futures: set[Place] = set()
        for (record, item), scored in zip(batch.parsed.items, batch.scored, strict=True):
            in_future = item.published_at > now + FUTURE
            event_at = now if in_future else item.published_at
            story, is_copy = self._stories.assign(item.title, event_at)
            entry = Entry(
                scored=scored,
                partition=record.partition,
                offset=record.offset,
                event_at=event_at,
                story=story,
                entities=self._watchlist.find(item.text, scored.topic),
                late=self._watermark.is_late(event_at),
                copy=is_copy,
                negative_from=self._settings.spikes.negative_from,
            )
            entries.append(entry)
            if in_future:
                futures.add((record.partition, record.offset))
        rejected = tuple(error.reason for _, error in batch.parsed.wrong)
        return Prepared(tuple(entries), frozenset(futures), rejected, batch.parsed.positions)

    def commit(self, prepared: Prepared, now: datetime) -> list[Entry]:
        """Store items, bucket increments and positions in one transaction; gives the items that were new.

        Raises:
            PositionConflict: another worker has stored these positions; the batch is its own.
            StoreUnavailable: nothing was stored; the same batch can be committed again.
        """
        started = time.perf_counter()
        try:
            entries = self.store.commit(
                self.source, prepared.entries, prepared.positions, now, promotion=self._promotion
            )
        except PositionConflict:
            # Its records may be read again, or may be stored already: only the store knows which stories it holds.
            self._forget_stories()
            raise
        self.metrics.commit_seconds.observe(time.perf_counter() - started)
        self._stories.settle(entry.story for entry in entries)
        for entry in entries:
            if entry.late:
                self.trends.amend(entry)
        new = {(entry.partition, entry.offset) for entry in entries}
        for reason in prepared.rejected:
            self.metrics.rejected.labels(reason).inc()
        self.metrics.repeats.inc(len(prepared.entries) - len(entries))
        self.metrics.copies.inc(sum(entry.copy for entry in entries))
        self.metrics.future.inc(len(prepared.futures & new))
        self.metrics.stored(entries, now)
        return entries

    def tick(self, now: datetime, behind: Collection[int] = ()) -> list[Alert]:
        """Advance event time, close the buckets that it has passed, and bring the alerts in line.

        Args:
            now: wall-clock time.
            behind: partitions that are known to hold unread records, so that they are waited for.

        Returns:
            The alerts that opened, worsened or resolved; they are stored already.

        Raises:
            StoreUnavailable: call again later; nothing is lost.
        """
        self._touch(behind, now)
        clocks = self.store.clocks(self.source)
        watermark = self._watermark.advance(clocks, now, run_on=bool(self.open_alerts))
        if watermark is None:
            return []
        self.metrics.watermark.set(watermark.timestamp())
        self._stories.advance(bucket_start(watermark))
        if self.store.evaluator_lock():
            return self._evaluation.advance(bucket_start(watermark))
        self._evaluation.stand_by()
        return []

    def finish(self) -> list[Alert]:
        """Close every bucket that holds an item: the stream has ended."""
        newest = [clock.newest_event_at for clock in self.store.clocks(self.source).values() if clock.newest_event_at]
        if not newest:
            return []
        end = bucket_start(max(newest)) + BUCKET
        self._watermark.reach(end)
        return self._evaluation.advance(end)

    @property
    def open_alerts(self) -> tuple[Alert, ...]:
        """The alerts that are open now."""
        return self._evaluation.open_alerts

    @property
    def trends(self) -> Trends:
        """The closed buckets."""
        return self._evaluation.trends

    @property
    def detector(self) -> Detector:
        """The baselines."""
        return self._evaluation.detector

    @property
    def watermark(self) -> datetime | None:
        """Event time that has passed for sure."""
        return self._watermark.at

    def _forget_stories(self) -> None:
        self._stories = Stories(timedelta(hours=self._settings.trends.story_hours))
        self._stories_restored = False

    def _restore_stories(self) -> None:
        if self._stories_restored:
            return
        newest = [clock.newest_event_at for clock in self.store.clocks(self.source).values() if clock.newest_event_at]
        if newest:
            since = self._stories.advance(self._watermark.at or max(newest))
            self._stories.restore(self.store.recent_stories(since))
        self._stories_restored = True

    def _count_scored(self) -> None:
        before, self._scored = self._scored, (self.scorer.cache_hits, self.scorer.cut_items)
        self.metrics.cache_hits.inc(self._scored[0] - before[0])
        self.metrics.cut_items.inc(self._scored[1] - before[1])

    def _touch(self, behind: Collection[int], now: datetime) -> None:
        every = timedelta(seconds=self._settings.trends.idle_after_s / 3)
        if due := [partition for partition in behind if now - self._touched.get(partition, now - every) >= every]:
            self.store.touch(self.source, sorted(due), now)
            self._touched |= dict.fromkeys(due, now)
