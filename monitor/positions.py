"""Where the partitions of streams stand: moved only from where a worker left them, so that no two move one."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from monitor.database import Database, StoreError
from monitor.records import PartitionClock, PositionUpdate
from monitor.schema import POSITIONS, Moment


class PositionConflict(StoreError):
    """A partition or an evaluation does not stand where this worker left it: another worker has taken over."""


class Positions:
    """The table of positions. Statements that move them are made once, as that takes longer than running them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._move_first, self._move = _moves(database)

    def read(self, source: str, partitions: Sequence[int]) -> dict[int, int]:
        """The next offset to read of each of these partitions, for those that anything was stored of."""
        stored = POSITIONS.c
        query = sa.select(stored.partition, stored.next_offset).where(
            stored.stream == source, stored.partition.in_(partitions), stored.next_offset.is_not(None)
        )
        with self._database.read("read positions") as connection:
            return {row.partition: row.next_offset for row in connection.execute(query)}

    def touch(self, source: str, partitions: Sequence[int], now: datetime) -> None:
        """Note that these partitions have records waiting, so that their clocks count as active at `now`."""
        rows = [{"stream": source, "partition": number, "active_at": now} for number in sorted(set(partitions))]
        if rows:
            with self._database.write("touch partitions") as connection:
                connection.execute(self._database.upsert(POSITIONS, ["active_at"]), rows)

    def clocks(self, source: str) -> dict[int, PartitionClock]:
        """Where every partition of the source stands, whichever worker reads it."""
        query = sa.select(POSITIONS).where(POSITIONS.c.stream == source)
        with self._database.read("read the partitions' clocks") as connection:
            return {
                row.partition: PartitionClock(row.next_offset, row.newest_event_at, row.active_at)
                for row in connection.execute(query)
            }

    def advance(
        self,
        connection: sa.Connection,
        source: str,
        update: PositionUpdate,
        newest_event_at: datetime | None,
        now: datetime,
    ) -> None:
        """Move a partition's position and clock, in the transaction that stores what was read up to there, provided
        that it stands where the update expects it.

        Raises:
            PositionConflict: it stands elsewhere.
        """
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
