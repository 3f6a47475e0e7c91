"""The one transaction that stores a batch: its items, what they add to buckets, and the positions that stand then."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from monitor.database import Database
from monitor.positions import Positions
from monitor.records import Counts, Entry, PositionUpdate, Series, bucket_start
from monitor.rows import entity_rows, item_row
from monitor.schema import BUCKETS, ITEM_ENTITIES, ITEMS

_COUNTS: Final = tuple(field.name for field in fields(Counts))


class Batches:
    """Stores batches in `database`; see `Store.commit`. Its statements are made once, as that takes longer than
    running them."""

    def __init__(self, database: Database, positions: Positions) -> None:
        self._database = database
        self._insert_items = database.insert(ITEMS).on_conflict_do_nothing().returning(ITEMS.c.id)
        self._insert_mentions = sa.insert(ITEM_ENTITIES)
        insert = database.insert(BUCKETS)
        self._increment = insert.on_conflict_do_update(
            index_elements=list(BUCKETS.primary_key),
            set_={name: BUCKETS.c[name] + insert.excluded[name] for name in _COUNTS},
        )
        self._positions = positions

    def store(
        self,
        source: str,
        entries: Sequence[Entry],
        positions: Sequence[PositionUpdate],
        now: datetime,
        promotion: int,
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
                self._positions.advance(connection, source, update, newest.get(update.partition), now)
            inserted = set(connection.scalars(self._insert_items, rows)) if rows else set()
            new = [entry for item_id, entry in distinct.items() if item_id in inserted]
            if mentions := entity_rows(new):
                connection.execute(self._insert_mentions, mentions)
            if increments := _increments(source, new, promotion):
                connection.execute(self._increment, increments)
        return new


def _increments(source: str, entries: Sequence[Entry], promotion: int) -> list[dict[str, Any]]:
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
            "promotion": promotion,
            **dict(zip(_COUNTS, total, strict=True)),
        }
        for (start, series, partition), total in sums.items()
    ]
