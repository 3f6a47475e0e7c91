"""Drift in the database: what days of news were, and what was found on them."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

import sqlalchemy as sa

from monitor.database import Database
from monitor.drift import MIN_ITEMS, Drift, LookedAt
from monitor.schema import DRIFT, DRIFT_DAYS, ITEMS

_DAY_US: Final = timedelta(days=1) // timedelta(microseconds=1)
_EPOCH: Final = date(1970, 1, 1)
_AT_ONCE: Final = 2_000  # rows that are held in memory


@dataclass(frozen=True, slots=True)
class DriftItem:
    """What drift is measured on of an item."""

    id: str
    title: str
    body: str | None
    topic: str
    negative: bool
    topic_probs: dict[str, float]
    sentiment_probs: dict[str, float]


class StoredDrift:
    """What is known of drift in `database`; see `Store` for what is raised."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def newest_event(self) -> datetime | None:
        """The newest event time of all items."""
        with self._database.read("read the newest event time") as connection:
            return connection.scalar(sa.select(ITEMS.c.event_at).order_by(ITEMS.c.event_at.desc()).limit(1))

    def days(self, since: date, before: date) -> list[tuple[date, str, int]]:
        """(day, model, items) of the days of event time from `since` on that end before the start of `before`; of
        each story only the first item counts."""
        number = sa.type_coerce(ITEMS.c.event_at, sa.BigInteger) // _DAY_US
        counted = [ITEMS.c.event_at >= _midnight(since), ITEMS.c.event_at < _midnight(before), ~ITEMS.c.copy]
        query = sa.select(number, ITEMS.c.model, sa.func.count()).where(*counted).group_by(number, ITEMS.c.model)
        with self._database.read("count the items of days") as connection:
            rows = connection.execute(query).all()
        return sorted((_EPOCH + timedelta(days=int(day)), model, items) for day, model, items in rows)

    def items(self, model: str, day: date) -> Iterator[DriftItem]:
        """The items, each story once, that the model scored of a day."""
        columns = [ITEMS.c[field.name] for field in fields(DriftItem)]
        start = _midnight(day)
        of = [ITEMS.c.event_at >= start, ITEMS.c.event_at < start + timedelta(days=1), ~ITEMS.c.copy]
        query = sa.select(*columns).where(*of, ITEMS.c.model == model).order_by(ITEMS.c.event_at, ITEMS.c.id)
        with self._database.read("read the items of a day") as connection:
            for row in connection.execution_options(yield_per=_AT_ONCE).execute(query):
                yield DriftItem(*row)

    def save(self, day: LookedAt, rows: Sequence[Drift]) -> None:
        """Store what a day was and what was found on it, in place of what was stored of it before."""
        with self._database.write("store what drift there is") as connection:
            for table in (DRIFT, DRIFT_DAYS):
                connection.execute(sa.delete(table).filter_by(model=day.model, day=day.day))
            connection.execute(sa.insert(DRIFT_DAYS), asdict(day))
            if rows:
                connection.execute(sa.insert(DRIFT), [asdict(row) for row in rows])

    def looked_at(self, model: str, *, reference: bool) -> list[LookedAt]:
        """The model's days that were looked at, the oldest first.

        Args:
            reference: only those that later ones are compared with.
        """
        query = sa.select(DRIFT_DAYS).filter_by(model=model).order_by(DRIFT_DAYS.c.day)
        with self._database.read("read what was looked at for drift") as connection:
            rows = connection.execute(query.filter_by(reference=True) if reference else query)
            return [LookedAt(**row) for row in rows.mappings()]

    def last_day(self) -> date | None:
        """The newest day that was looked at."""
        with self._database.read("read how far drift was looked for") as connection:
            return connection.scalar(sa.select(DRIFT_DAYS.c.day).order_by(DRIFT_DAYS.c.day.desc()).limit(1))

    def rows(self, since: date) -> list[Drift]:
        """What was found on days from `since` on, by day, model and measure."""
        return self._rows(sa.select(DRIFT).where(DRIFT.c.day >= since))

    def of_day(self, model: str, day: date | None = None) -> list[Drift]:
        """What was found on a day of the model; on the newest that was looked at, where no day is given."""
        newest = sa.select(sa.func.max(DRIFT.c.day)).where(DRIFT.c.model == model).scalar_subquery()
        return self._rows(sa.select(DRIFT).where(DRIFT.c.model == model, DRIFT.c.day == (day or newest)))

    def last_compared(self, model: str, before: date) -> LookedAt | None:
        """The model's last day before this one that was compared with its reference days."""
        compared = [DRIFT_DAYS.c.model == model, DRIFT_DAYS.c.day < before, ~DRIFT_DAYS.c.reference]
        query = sa.select(DRIFT_DAYS).where(*compared, DRIFT_DAYS.c["items"] >= MIN_ITEMS)
        with self._database.read("read the last day that was compared") as connection:
            row = connection.execute(query.order_by(DRIFT_DAYS.c.day.desc()).limit(1)).mappings().one_or_none()
        return None if row is None else LookedAt(**row)

    def _rows(self, query: sa.Select[Any]) -> list[Drift]:
        ordered = query.order_by(DRIFT.c.day, DRIFT.c.model, DRIFT.c.measure)
        with self._database.read("read what drift was found") as connection:
            return [Drift(**row) for row in connection.execute(ordered).mappings()]


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
