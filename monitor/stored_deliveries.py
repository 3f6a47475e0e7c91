"""What each channel has been told of each alert, in the database."""

from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from monitor.database import Database
from monitor.records import Alert
from monitor.rows import alert_of, relabelled
from monitor.schema import ALERTS, DELIVERIES, Moment

# Nothing holds it, or it is the end of what the channel heard of.
_NOT_HELD: Final = sa.or_(
    DELIVERIES.c.held_until.is_(None), sa.and_(DELIVERIES.c.revision > 0, ALERTS.c.resolved_at.is_not(None))
)


class StoredDeliveries:
    """The deliveries in `database`; see `Store` for what is raised."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open_alerts(self) -> list[Alert]:
        """The alerts that are not resolved, the oldest first."""
        unresolved = sa.select(ALERTS).where(ALERTS.c.resolved_at.is_(None))
        return read_alerts(self._database, unresolved.order_by(ALERTS.c.opened_at, ALERTS.c.id))

    def undelivered(self, channel: str, now: datetime, limit: int = 100) -> list[Alert]:
        """Alerts that the channel did not acknowledge as they are now and whose next attempt is due, oldest first."""
        due = sa.or_(DELIVERIES.c.next_attempt_at.is_(None), DELIVERIES.c.next_attempt_at <= now)
        query = _waiting(channel, *ALERTS.c).where(due, sa.or_(_NOT_HELD, DELIVERIES.c.held_until <= now))
        return read_alerts(self._database, query.order_by(ALERTS.c.opened_at, ALERTS.c.id).limit(limit))

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


def read_alerts(database: Database, query: sa.Select[Any]) -> list[Alert]:
    """The alerts that a query finds, in its order."""
    with database.read("read alerts") as connection:
        return [alert_of(row) for row in connection.execute(query).mappings()]


def _waiting(channel: str, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """The alerts whose revision the channel did not acknowledge yet."""
    told = (DELIVERIES.c.alert_id == ALERTS.c.id) & (DELIVERIES.c.channel == channel)
    query = sa.select(*columns).select_from(ALERTS.outerjoin(DELIVERIES, told))
    return query.where(ALERTS.c.revision > sa.func.coalesce(DELIVERIES.c.revision, 0))
