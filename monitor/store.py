"""What the monitor remembers: items, buckets, positions, alerts, what each channel was told of them, and models."""

from collections.abc import Collection, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, Final, Self

import sqlalchemy as sa

from monitor.batches import Batches
from monitor.database import Database, StoreError, StoreUnavailable
from monitor.models import Models
from monitor.positions import PositionConflict, Positions
from monitor.records import (
    EVERYTHING,
    Alert,
    Counts,
    Entry,
    PartitionClock,
    PositionUpdate,
    Series,
    StoredItem,
    bucket_start,
)
from monitor.schema import (
    ALERTS,
    BUCKETS,
    DELIVERIES,
    EVALUATIONS,
    ITEM_ENTITIES,
    ITEMS,
    Moment,
    alert_of,
    alert_row,
    relabelled,
)
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
        self, source: str, entries: Sequence[Entry], positions: Sequence[PositionUpdate], now: datetime
    ) -> list[Entry]:
        """Store a batch, all of it or nothing, and give those of its entries that were new, in their order.

        An entry whose item id is stored already, or stands earlier in the batch, is a repeat: it is not counted
        again, though its event time still moves its partition's clock.

        Raises:
            PositionConflict: a partition is not at the offset that its update expects; nothing was written. This
                also answers a second try after the database had stored the first but could not say so any more: in
                both cases go on from `positions`.
            ValueError: an entry's partition has no update in `positions`.
        """
        return self._batches.store(source, entries, positions, now)

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
        key = (BUCKETS.c.start, BUCKETS.c.dimension, BUCKETS.c.name)
        sums = (sa.func.sum(BUCKETS.c[name]) for name in _COUNTS)
        within = [BUCKETS.c.start >= start, BUCKETS.c.start < end]
        if series is not None:
            within += [BUCKETS.c.dimension == series.dimension, BUCKETS.c.name == series.name]
        query = sa.select(*key, *sums).where(*within).group_by(*key).order_by(*key)
        with self._database.read("read buckets") as connection:
            return [
                (Series(dimension, name), moment, Counts(int(items), int(negatives), float(score), *map(int, others)))
                for moment, dimension, name, items, negatives, score, *others in connection.execute(query)
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

    def recent_stories(self, since: datetime) -> list[tuple[str, str, datetime]]:
        """(title, story, event time) of every item since, oldest first: what an index of stories is rebuilt from."""
        stored = ITEMS.c
        query = sa.select(stored.title, stored.story, stored.event_at).where(stored.event_at >= since)
        with self._database.read("read recent stories") as connection:
            rows = connection.execute(query.order_by(stored.event_at, stored.id))
            return [(title, story, event_at) for title, story, event_at in rows]

    def counts(self) -> dict[str, int]:
        """How many `items`, distinct `stories` and `alerts` are stored."""
        query = sa.select(
            sa.select(sa.func.count()).select_from(ITEMS).scalar_subquery(),
            sa.select(sa.func.count(ITEMS.c.story.distinct())).scalar_subquery(),
            sa.select(sa.func.count()).select_from(ALERTS).scalar_subquery(),
        )
        with self._database.read("count what it holds") as connection:
            items, stories, alerts = connection.execute(query).one()
        return {"items": items, "stories": stories, "alerts": alerts}

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
        unresolved = sa.select(ALERTS).where(ALERTS.c.resolved_at.is_(None))
        return self._alerts(unresolved.order_by(ALERTS.c.opened_at, ALERTS.c.id))

    def alerts(self, since: datetime | None = None, limit: int = 1000) -> list[Alert]:
        """Alerts, open or resolved, that opened at or after `since` (None: ever), the newest first."""
        query = sa.select(ALERTS).order_by(ALERTS.c.opened_at.desc(), ALERTS.c.id).limit(limit)
        return self._alerts(query if since is None else query.where(ALERTS.c.opened_at >= since))

    def _alerts(self, query: sa.Select[Any]) -> list[Alert]:
        with self._database.read("read alerts") as connection:
            return [alert_of(row) for row in connection.execute(query).mappings()]

    # Deliveries: what each channel has been told of each alert

    def undelivered(self, channel: str, now: datetime, limit: int = 100) -> list[Alert]:
        """Alerts that the channel did not acknowledge as they are now and whose next attempt is due, oldest first."""
        due = sa.or_(DELIVERIES.c.next_attempt_at.is_(None), DELIVERIES.c.next_attempt_at <= now)
        query = _waiting(channel, *ALERTS.c).where(due, sa.or_(_NOT_HELD, DELIVERIES.c.held_until <= now))
        return self._alerts(query.order_by(ALERTS.c.opened_at, ALERTS.c.id).limit(limit))

    def pending_deliveries(self, channel: str) -> int:
        """How many alerts wait for this channel, whether their next attempt is due or not; held ones do not wait."""
        with self._database.read("count pending deliveries") as connection:
            return connection.scalar(_waiting(channel, sa.func.count()).where(_NOT_HELD)) or 0

    def attempts(self, channel: str, alert: Alert) -> int:
        """How often telling the channel of this alert has failed since it last succeeded."""
        query = sa.select(DELIVERIES.c.failures).filter_by(channel=channel, alert_id=alert.id)
        with self._database.read("read delivery attempts") as connection:
            return connection.scalar(query) or 0

    def enlist(self, channel: str, now: datetime) -> None:
        """Take up a channel; what had resolved before it was ever heard of is over, and not to be told to it.

        What was held for it is let go, since other silences may be set by now.
        """
        known = sa.exists().where(DELIVERIES.c.channel == channel)
        names = ["channel", "alert_id", "revision", "failures", "attempted_at"]
        over = sa.select(
            sa.literal(channel), ALERTS.c.id, ALERTS.c.revision, sa.literal(0), sa.literal(now, Moment)
        ).where(ALERTS.c.resolved_at.is_not(None), ~known)
        let_go = sa.update(DELIVERIES).where(DELIVERIES.c.channel == channel, DELIVERIES.c.held_until.is_not(None))
        with self._database.write("take up a channel") as connection:
            connection.execute(sa.insert(DELIVERIES).from_select(names, over))
            connection.execute(let_go.values(held_until=None))

    def acknowledged(self, channel: str, alert: Alert) -> int:
        """The newest revision of the alert that the channel acknowledged; 0 for none."""
        query = sa.select(DELIVERIES.c.revision).filter_by(channel=channel, alert_id=alert.id)
        with self._database.read("read deliveries") as connection:
            return connection.scalar(query) or 0

    def as_told(self, channel: str, alert: Alert) -> Alert:
        """The alert under the labels, severity and group, that the channel acknowledged last."""
        query = sa.select(DELIVERIES.c.severity, DELIVERIES.c.follows).filter_by(channel=channel, alert_id=alert.id)
        with self._database.read("read deliveries") as connection:
            told = connection.execute(query).one_or_none()
        return alert if told is None else relabelled(alert, *told)

    def delivered(self, channel: str, alert: Alert, now: datetime, resume_at: datetime | None = None) -> None:
        """Note that the channel acknowledged this revision, and when it may be told a newer one (None: at once)."""
        told = {"revision": alert.revision, "severity": alert.severity, "follows": alert.follows}
        attempt: dict[str, Any] = {"attempted_at": now, "next_attempt_at": resume_at}
        row = told | attempt | {"failures": 0, "error": None, "held_until": None}
        upsert = self._database.upsert(DELIVERIES, row)
        with self._database.write("note a delivery") as connection:
            connection.execute(upsert, {"channel": channel, "alert_id": alert.id} | row)

    def delivery_failed(
        self, channel: str, alert: Alert, now: datetime, error: str, next_attempt_at: datetime
    ) -> None:
        """Note that telling the channel of the alert failed, why, and when to try again."""
        row = {"failures": 1, "attempted_at": now, "next_attempt_at": next_attempt_at, "error": error}
        row |= {"held_until": None}
        first = {"channel": channel, "alert_id": alert.id, "revision": 0} | row
        upsert = self._database.insert(DELIVERIES).on_conflict_do_update(
            index_elements=list(DELIVERIES.primary_key),
            set_=row | {"failures": DELIVERIES.c.failures + 1},
        )
        with self._database.write("note a failed delivery") as connection:
            connection.execute(upsert, first)

    def hold(self, channel: str, alert: Alert, now: datetime, until: datetime) -> None:
        """Note that the channel is not to be told of the alert before `until`, or the end of one that it heard of."""
        first = {"channel": channel, "alert_id": alert.id, "revision": 0, "failures": 0, "attempted_at": now}
        upsert = self._database.upsert(DELIVERIES, ["held_until"])
        with self._database.write("hold a delivery") as connection:
            connection.execute(upsert, first | {"held_until": until})

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


# Nothing holds it, or it is the end of what the channel heard of.
_NOT_HELD: Final = sa.or_(
    DELIVERIES.c.held_until.is_(None), sa.and_(DELIVERIES.c.revision > 0, ALERTS.c.resolved_at.is_not(None))
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


def _waiting(channel: str, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """The alerts whose revision the channel did not acknowledge yet."""
    told = (DELIVERIES.c.alert_id == ALERTS.c.id) & (DELIVERIES.c.channel == channel)
    query = sa.select(*columns).select_from(ALERTS.outerjoin(DELIVERIES, told))
    return query.where(ALERTS.c.revision > sa.func.coalesce(DELIVERIES.c.revision, 0))
