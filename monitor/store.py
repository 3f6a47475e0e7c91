"""What the monitor remembers: items, buckets, positions and alerts; what else there is hangs on it by name."""

from collections.abc import Collection, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, Final, Self

import sqlalchemy as sa

from monitor.batches import Batches
from monitor.database import Database, StoreError, StoreUnavailable
from monitor.models import Models
from monitor.positions import PositionConflict, Positions
from monitor.rebase import Row
from monitor.records import (
    EVERYTHING,
    Alert,
    Counts,
    Entry,
    PartitionClock,
    PositionUpdate,
    Scored,
    Series,
    StoredItem,
    bucket_start,
)
from monitor.rows import alert_row, scored_of
from monitor.schema import ALERTS, BUCKETS, EVALUATIONS, ITEM_ENTITIES, ITEMS
from monitor.stored_deliveries import StoredDeliveries, read_alerts
from monitor.stored_drift import StoredDrift
from monitor.stored_labels import StoredLabels
from monitor.stored_retrainings import StoredRetrainings

__all__ = ["PositionConflict", "Store", "StoreError", "StoreUnavailable", "StoredItem"]

_COUNTS: Final = tuple(field.name for field in fields(Counts))
_EVALUATING: Final = int.from_bytes(b"sm-evalu")  # a lock's name
_PRUNE_ROWS: Final = 1_000
_IDS: Final = 500  # in one statement, well below every database's limit of parameters


class Store:
    """The database behind `url`, created and migrated as needed; safe to share among threads.

    A batch's items, their bucket increments and its positions are one transaction, so that after any crash a source
    that reads on from `positions` counts each item exactly once. On SQLite a power cut may lose the newest
    transactions, each as a whole (`synchronous=NORMAL`): their items are read again, and alerts may be told again.

    Attributes:
        labels: what people say of items.
        models: the registry of models.
        retrainings: what was trained to be champion.
        deliveries: what each channel has been told of each alert.
        drift: how the news of days differs from that of the days before.

    Args:
        url: `sqlite:///FILE`, `sqlite://` (in memory, gone when closed), or for several workers
            `postgresql+psycopg://USER:PASSWORD@HOST/NAME`.

    Raises:
        StoreUnavailable: from every method, where trying again may help.
        StoreError: from every method, where it will not.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._positions = Positions(self._database)
        self._batches = Batches(self._database, self._positions)
        self.labels = StoredLabels(self._database, self._positions)
        self.models = Models(self._database)
        self.retrainings = StoredRetrainings(self._database)
        self.deliveries = StoredDeliveries(self._database)
        self.drift = StoredDrift(self._database)

    def close(self) -> None:
        """Disconnect, and let another worker evaluate."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ping(self) -> None:
        """Reach the database; raises StoreUnavailable where it cannot be reached."""
        with self._database.read("reach it") as connection:
            connection.execute(sa.select(1))

    # The stream: items, buckets, positions

    def positions(self, source: str, partitions: Sequence[int]) -> dict[int, int]:
        """The next offset to read of each of these partitions, for those that anything was stored of."""
        return self._positions.read(source, partitions)

    def commit(
        self,
        source: str,
        entries: Sequence[Entry],
        positions: Sequence[PositionUpdate],
        now: datetime,
        *,
        promotion: int = 0,
    ) -> list[Entry]:
        """Store a batch, all of it or nothing, and give those of its entries that were new, in their order.

        An entry whose item id is stored already, or stands earlier in the batch, is a repeat: it is not counted
        again, though its event time still moves its partition's clock.

        Args:
            promotion: number of the one that made the model that scored them champion; 0: none is known.

        Raises:
            PositionConflict: a partition is not at the offset that its update expects; nothing was written. This
                also answers a second try after the database had stored the first but could not say so any more: in
                both cases go on from `positions`.
            ValueError: an entry's partition has no update in `positions`.
        """
        return self._batches.store(source, entries, positions, now, promotion)

    def touch(self, source: str, partitions: Sequence[int], now: datetime) -> None:
        """Note that these partitions have records waiting, so that their clocks count as active at `now`."""
        self._positions.touch(source, partitions, now)

    def clocks(self, source: str) -> dict[int, PartitionClock]:
        """Where every partition of the source stands, whichever worker reads it."""
        return self._positions.clocks(source)

    def buckets(
        self, start: datetime, end: datetime, series: Series | None = None
    ) -> list[tuple[Series, datetime, Counts]]:
        """The counts of a series (None: of every one) in each bucket that starts in [start, end), oldest first."""
        sums: dict[tuple[Series, datetime], Counts] = {}
        for row in self.bucket_rows(start, end, series):
            known = sums.get((row.series, row.start))
            sums[row.series, row.start] = row.counts if known is None else known + row.counts
        return [(name, at, counts) for (name, at), counts in sums.items()]

    def bucket_rows(self, start: datetime, end: datetime, series: Series | None = None) -> list[Row]:
        """As `buckets`, apart by the promotion that items were scored under."""
        key = (BUCKETS.c.start, BUCKETS.c.dimension, BUCKETS.c.name, BUCKETS.c.promotion)
        sums = (sa.func.sum(BUCKETS.c[name]) for name in _COUNTS)
        within = [BUCKETS.c.start >= start, BUCKETS.c.start < end]
        if series is not None:
            within += [BUCKETS.c.dimension == series.dimension, BUCKETS.c.name == series.name]
        query = sa.select(*key, *sums).where(*within).group_by(*key).order_by(*key)
        with self._database.read("read buckets") as connection:
            return [
                Row(
                    Series(dimension, name),
                    moment,
                    promotion,
                    Counts(int(items), int(negatives), float(score), *map(int, others)),
                )
                for moment, dimension, name, promotion, items, negatives, score, *others in connection.execute(query)
            ]

    def window_items(
        self, series: Series, start: datetime, end: datetime, limit: int, *, negative: bool = True
    ) -> list[StoredItem]:
        """The items of a series with an event time in [start, end), the most negative first.

        Args:
            negative: leave out what does not count as negative.
        """
        order = (ITEMS.c.sentiment_score, ITEMS.c.event_at, ITEMS.c.id)
        wanted = [_within(series, start, end), *([ITEMS.c.negative] if negative else [])]
        query = sa.select(*_STORED_ITEM).where(*wanted).order_by(*order).limit(limit)
        with self._database.read("read the items of a window") as connection:
            return [StoredItem(**row) for row in connection.execute(query).mappings()]

    def shared_items(
        self, series: Series, others: Collection[Series], starts: Sequence[datetime], end: datetime, *, stories: bool
    ) -> dict[Series, list[tuple[int, int]]]:
        """How many items on time, and negative ones of them, a series shares with each of other topics and entities.

        Args:
            starts: of windows that end before `end`; the answer has a pair for each, in their order.
            stories: count only the items that were the first to tell their story.
        """
        sums = [
            sa.func.sum(sa.case((sa.and_(ITEMS.c.event_at >= start, *which), 1), else_=0))
            for start in starts
            for which in ((), (ITEMS.c.negative,))
        ]
        counted = sa.and_(_within(series, min(starts), end), ~ITEMS.c.late, *([~ITEMS.c.copy] if stories else []))
        found = {other: [(0, 0)] * len(starts) for other in others}
        with self._database.read("count the items that series share") as connection:
            for name, source in ((ITEM_ENTITIES.c.name, ITEMS.join(ITEM_ENTITIES)), (ITEMS.c.topic, ITEMS)):
                named = {one.name: one for one in others if (one.dimension == "topic") == (source is ITEMS)}
                for part in (sorted(named)[first : first + _IDS] for first in range(0, len(named), _IDS)):
                    query = sa.select(name, *sums).select_from(source).where(counted, name.in_(part)).group_by(name)
                    for one, *row in connection.execute(query):
                        found[named[one]] = list(zip(map(int, row[::2]), map(int, row[1::2]), strict=True))
        return found

    def titles(self, series: Series, start: datetime, end: datetime, limit: int) -> dict[str, str]:
        """By item id, the titles of a series' stories first told in [start, end): the newest `limit` of them."""
        query = sa.select(ITEMS.c.id, ITEMS.c.title).where(_within(series, start, end), ~ITEMS.c.copy, ~ITEMS.c.late)
        with self._database.read("read titles") as connection:
            rows = connection.execute(query.order_by(ITEMS.c.event_at.desc(), ITEMS.c.id).limit(limit))
            return {row.id: row.title for row in rows}

    def entities_of(self, item_ids: Collection[str]) -> list[tuple[str, str]]:
        """(item id, watched entity) for each entity that one of these items names."""
        ids = sorted(item_ids)
        found: list[tuple[str, str]] = []
        with self._database.read("read the entities of items") as connection:
            for start in range(0, len(ids), _IDS):
                named = ITEM_ENTITIES.c
                query = sa.select(named.item_id, named.name).where(named.item_id.in_(ids[start : start + _IDS]))
                found += [(row.item_id, row.name) for row in connection.execute(query)]
        return found

    def models_seen(self, series: Series, start: datetime, end: datetime) -> tuple[str, ...]:
        """The models that scored a series' items with an event time in [start, end), in order of their names."""
        query = sa.select(ITEMS.c.model).where(_within(series, start, end)).distinct().order_by(ITEMS.c.model)
        with self._database.read("read the models of a window") as connection:
            return tuple(connection.scalars(query))

    def newest_scored(self, model: str, limit: int) -> list[tuple[Scored, datetime, bool]]:
        """What a model said of the newest items that it scored: with their event time, and whether negative."""
        query = sa.select(ITEMS).where(ITEMS.c.model == model).order_by(ITEMS.c.event_at.desc(), ITEMS.c.id)
        with self._database.read("read what a model said") as connection:
            rows = connection.execute(query.limit(limit)).mappings()
            return [(scored_of(row), row["event_at"], row["negative"]) for row in rows]

    def recent_stories(self, since: datetime) -> list[tuple[str, str, datetime]]:
        """(title, story, event time) of every item since, oldest first: what an index of stories is rebuilt from."""
        stored = ITEMS.c
        query = sa.select(stored.title, stored.story, stored.event_at).where(stored.event_at >= since)
        with self._database.read("read recent stories") as connection:
            rows = connection.execute(query.order_by(stored.event_at, stored.id))
            return [(title, story, event_at) for title, story, event_at in rows]

    def counts(self) -> dict[str, int]:
        """How many `items`, distinct `stories` and `alerts` are stored."""
        counted = {"items": ITEMS.c.id, "stories": ITEMS.c.story.distinct(), "alerts": ALERTS.c.id}
        parts = (sa.select(sa.func.count(of)).scalar_subquery().label(name) for name, of in counted.items())
        with self._database.read("count what it holds") as connection:
            return dict(connection.execute(sa.select(*parts)).mappings().one())

    # Evaluations and alerts

    def evaluator_lock(self) -> bool:
        """Become, or make sure of still being, the one worker that evaluates; to be asked before every evaluation.

        On PostgreSQL the lock lives as long as its connection. The call that finds it lost returns False, even if
        the next would have it again, so that the caller starts over from what is stored. SQLite serves one worker,
        which always has it.
        """
        return self._database.hold(_EVALUATING)

    def evaluated_through(self, source: str) -> datetime | None:
        """The event time up to which the source was evaluated; None: never."""
        query = sa.select(EVALUATIONS.c.through).where(EVALUATIONS.c.stream == source)
        with self._database.read("read how far it was evaluated") as connection:
            return connection.scalar(query)

    def save_evaluation(self, source: str, through: datetime, alerts: Sequence[Alert]) -> None:
        """Store what an evaluation found and how far it went, in one transaction.

        Raises:
            PositionConflict: the source is evaluated further than `through`; nothing was written.
        """
        upsert = self._database.upsert(EVALUATIONS, ["through"], where=EVALUATIONS.c.through <= through)
        mark: Any = upsert.values(stream=source, through=through).returning(EVALUATIONS.c.stream)
        rows = [alert_row(alert) for alert in alerts]
        with self._database.write("save an evaluation") as connection:
            if connection.scalar(mark) is None:
                raise PositionConflict(
                    f"database {self._database.shown_url}: {source} is evaluated further than {through.isoformat()}: "
                    f"another worker has taken over; nothing was written, go on from the stored mark"
                )
            if rows:
                connection.execute(self._database.upsert(ALERTS, rows[0].keys() - {"id"}), rows)

    def open_alerts(self) -> list[Alert]:
        """The alerts that are not resolved, the oldest first."""
        return self.deliveries.open_alerts()

    def alerts(self, since: datetime | None = None, limit: int = 1000) -> list[Alert]:
        """Alerts, open or resolved, that opened at or after `since` (None: ever), the newest first."""
        query = sa.select(ALERTS).order_by(ALERTS.c.opened_at.desc(), ALERTS.c.id).limit(limit)
        return read_alerts(self._database, query if since is None else query.where(ALERTS.c.opened_at >= since))

    # Upkeep

    def prune(self, before: datetime) -> int:
        """Delete buckets that start before the one of `before`, the items in them, and alerts resolved by then.

        Returns how many rows of these went. They go a thousand at a time, so that no other writer waits for long.
        """
        oldest_kept = bucket_start(before)
        stale = (
            (ITEMS, ITEMS.c.event_at < oldest_kept),
            (BUCKETS, BUCKETS.c.start < oldest_kept),
            (ALERTS, ALERTS.c.resolved_at < oldest_kept),
        )
        return sum(self._delete(table, condition) for table, condition in stale)

    def _delete(self, table: sa.Table, condition: sa.ColumnElement[bool]) -> int:
        key = sa.tuple_(*table.primary_key)
        chunk = sa.select(*table.primary_key).where(condition).limit(_PRUNE_ROWS)
        deleted = 0
        while True:
            with self._database.write(f"delete old {table.name}") as connection:
                gone = connection.execute(sa.delete(table).where(key.in_(chunk))).rowcount
            deleted += gone
            if gone < _PRUNE_ROWS:
                return deleted


_STORED_ITEM: Final = tuple(
    (ITEMS.c.publisher if field.name == "source" else ITEMS.c[field.name]).label(field.name)
    for field in fields(StoredItem)
)


def _within(series: Series, start: datetime, end: datetime) -> sa.ColumnElement[bool]:
    """The items of a series with an event time in [start, end)."""
    if series.dimension == "entity":
        named = ITEM_ENTITIES.c
        return ITEMS.c.id.in_(
            sa.select(named.item_id).where(named.name == series.name, named.event_at >= start, named.event_at < end)
        )
    within = sa.and_(ITEMS.c.event_at >= start, ITEMS.c.event_at < end)
    return within if series == EVERYTHING else sa.and_(ITEMS.c.topic == series.name, within)
