"""The one transaction that stores a batch: its items, what they add to buckets, and the positions that stand then."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from monitor.database import Database, StoreError
from monitor.records import Counts, Entry, PositionUpdate, Series, bucket_start
from monitor.schema import BUCKETS, ITEM_ENTITIES, ITEMS, POSITIONS, Moment, entity_rows, item_row

_COUNTS: Final = tuple(field.name for field in fields(Counts))


class PositionConflict(StoreError):
    """A partition or an evaluation does not stand where this worker left it: another worker has taken over."""


class Batches:
    """Stores batches in `database`; see `Store.commit`. Its statements are made once, as that takes longer than
    running them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert_items = database.insert(ITEMS).on_conflict_do_nothing().returning(ITEMS.c.id)
        self._insert_mentions = sa.insert(ITEM_ENTITIES)
        insert = database.insert(BUCKETS)
        self._increment = insert.on_conflict_do_update(
            index_elements=list(BUCKETS.primary_key),
            set_={name: BUCKETS.c[name] + insert.excluded[name] for name in _COUNTS},
        )
        self._move_first, self._move = _moves(database)

    def store(
        self, source: str, entries: Sequence[Entry], positions: Sequence[PositionUpdate], now: datetime
    ) -> list[Entry]:
        """Store a batch whole or not at all; gives the entries that were new, in their order."""
        if stray := {entry.partition for entry in entries} - {update.partition for update in positions}:
            raise ValueError(f"entries of the partitions {sorted(stray)} came without updates of their positions")
        distinct: dict[str, Entry] = {}
        newest: dict[int, datetime] = {}
        for entry in entries:
            distinct.setdefault(entry.scored.item.id, entry)
            # A publisher whose clock is fast must not make everyone else's items late.
            event_at = min(entry.event_at, now)
            newest[entry.partition] = max(event_at, newest.get(entry.partition, event_at))
        # Workers may store copies of the same items at once, or disagree on who has a partition: that all write in
        # one order keeps them from a deadlock.
        rows = [item_row(source, distinct[item_id], now) for item_id in sorted(distinct)]
        with self._database.write("store a batch") as connection:
            for update in sorted(positions, key=lambda update: update.partition):
                self._advance(connection, source, update, newest.get(update.partition), now)
            inserted = set(connection.scalars(self._insert_items, rows)) if rows else set()
            new = [entry for item_id, entry in distinct.items() if item_id in inserted]
            if mentions := entity_rows(new):
                connection.execute(self._insert_mentions, mentions)
            if increments := _increments(source, new):
                connection.execute(self._increment, increments)
        return new

    def _advance(
        self,
        connection: sa.Connection,
        source: str,
        update: PositionUpdate,
        newest_event_at: datetime | None,
        now: datetime,
    ) -> None:
        """Move a partition's position and clock, provided that it stands where the update expects it."""
        values = {
            "its_stream": source,
            "its_partition": update.partition,
            "to": update.next,
            "seen": newest_event_at,
            # Records that hold no item say nothing of event time, so they must not make others wait for this clock.
            "active": None if newest_event_at is None else now,
        }
        if update.expected is None:
            moved = connection.scalar(self._move_first, values | {"now": now})
        else:
            moved = connection.scalar(self._move, values | {"expected": update.expected})
        if moved is None:
            here = {"stream": source, "partition": update.partition}
            found = connection.scalar(sa.select(POSITIONS.c.next_offset).filter_by(**here))
            raise PositionConflict(
                f"database {self._database.shown_url}: partition {update.partition} of {source} stands at offset "
                f"{found}, this batch expected {update.expected}: another worker has taken the partition over, or "
                f"the batch was stored already; nothing was written, go on from the stored position"
            )


def _moves(database: Database) -> tuple[Any, Any]:
    """Statements that move a partition for the first time, and from then on; they give nothing where it is elsewhere.

    Their parameters are `its_stream`, `its_partition`, `to`, `seen` (newest event time, or null), `active` (null: as
    it was), and for the first `now`, for the second `expected`.
    """
    stored = POSITIONS.c
    stream, partition = sa.bindparam("its_stream", type_=sa.Text), sa.bindparam("its_partition", type_=sa.Integer)
    to, expected = (sa.bindparam(name, type_=sa.BigInteger) for name in ("to", "expected"))
    seen, active, now = (sa.bindparam(name, type_=Moment) for name in ("seen", "active", "now"))
    forward = sa.or_(stored.newest_event_at.is_(None), stored.newest_event_at < seen)
    moved: dict[str, Any] = {
        "next_offset": to,
        "newest_event_at": sa.case((forward, seen), else_=stored.newest_event_at),
        "active_at": sa.func.coalesce(active, stored.active_at),
    }
    begun = {"stream": stream, "partition": partition, "next_offset": to, "newest_event_at": seen, "active_at": now}
    first: Any = database.insert(POSITIONS).values(begun)
    first = first.on_conflict_do_update(
        index_elements=list(POSITIONS.primary_key), set_=moved, where=stored.next_offset.is_(None)
    )
    here = (stored.stream == stream, stored.partition == partition, stored.next_offset == expected)
    later = sa.update(POSITIONS).where(*here).values(moved)
    return first.returning(stored.partition), later.returning(stored.partition)


def _increments(source: str, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """What the entries add to each bucket, as rows."""
    sums: defaultdict[tuple[datetime, Series, int], list[float]] = defaultdict(lambda: [0] * len(_COUNTS))
    for entry in entries:
        start, counts = bucket_start(entry.event_at), entry.counts
        added = [getattr(counts, name) for name in _COUNTS]
        for series in dict.fromkeys(entry.series):
            total = sums[start, series, entry.partition]
            for column, value in enumerate(added):
                total[column] += value
    return [
        {
            "start": start,
            **series._asdict(),
            "stream": source,
            "partition": partition,
            **dict(zip(_COUNTS, total, strict=True)),
        }
        for (start, series, partition), total in sums.items()
    ]
