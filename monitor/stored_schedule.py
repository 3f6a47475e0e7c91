"""What is due by the clock, kept in the database: through restarts, and for one worker of several."""

import logging
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from apscheduler.events import EVENT_JOB_EXECUTED, EVENT_JOB_MISSED, JobExecutionEvent
from apscheduler.job import Job
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.util import datetime_to_utc_timestamp

from monitor.cron import CronClock
from monitor.database import Database, StoreUnavailable
from monitor.schema import SCHEDULE

log = logging.getLogger(__name__)

_LOOK_AGAIN: Final = timedelta(seconds=30)
_MOMENT: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurring:
    """When something is due.

    Attributes:
        cron: five fields, see `monitor.cron`.
        zone: its time zone.
        grace: how late it may still be done.
    """

    cron: str
    zone: str = "UTC"
    grace: timedelta


def due() -> None:
    """What a stored job calls. It holds no more than its name and times: who runs the schedule knows what to do."""


class StoredSchedule:
    """Calls `on_due` with the name of what is due, in a thread, in one of the processes that run this schedule.

    Each due time is taken by who moves it on in the database first, before anything is done: a process that is killed
    right then has taken it. What was due while no process ran is done once, if it is not later than its grace.

    Args:
        on_due: gets the name.
        on_missed: gets the name of what was due longer ago than its grace, and when it was.

    Raises:
        StoreError: from `keep`.
    """

    def __init__(
        self, database: Database, on_due: Callable[[str], None], on_missed: Callable[[str, datetime], None]
    ) -> None:
        self._jobs = _Jobs(database)
        self._scheduler = BackgroundScheduler(timezone=UTC, jobstores={"default": self._jobs})

        def on_event(event: JobExecutionEvent) -> None:
            if event.code == EVENT_JOB_MISSED:
                on_missed(event.job_id, event.scheduled_run_time)
            else:
                on_due(event.job_id)

        self._scheduler.add_listener(on_event, EVENT_JOB_EXECUTED | EVENT_JOB_MISSED)

    @contextmanager
    def kept(self, wanted: Mapping[str, Recurring]) -> Iterator[None]:
        """Have the database hold exactly this, by name, and run it until the end of the block.

        What stands there already keeps its next time, which may have passed; what changed starts anew.
        """
        with self._jobs.database.explained("read the schedule"):
            self._scheduler.start(paused=True)
        try:
            stored = self._jobs.stored()
            for name in stored.keys() - wanted.keys():
                self._jobs.forget(name)
            for name, recurring in wanted.items():
                if stored.get(name) != recurring:
                    self._scheduler.add_job(
                        due,
                        CronClock.of(recurring.cron, recurring.zone),
                        id=name,
                        name=_described(recurring),
                        misfire_grace_time=int(recurring.grace.total_seconds()),
                        coalesce=True,
                        max_instances=1,
                    )
            self._scheduler.resume()
            yield
        finally:
            self._scheduler.shutdown(wait=True)

    def look(self) -> None:
        """Look now whether something is due: another process, or a clock that was set, may have changed when."""
        self._scheduler.wakeup()


class _Jobs(SQLAlchemyJobStore):  # type: ignore[misc]
    """APScheduler's store of jobs in a database that several schedulers use, and that may be away for a while."""

    def __init__(self, database: Database) -> None:
        super().__init__(engine=database.engine, tablename=SCHEDULE.name)
        self.database = database

    def stored(self) -> dict[str, Recurring | None]:
        """What stands in the database, by name; None where this release cannot read it."""
        with self.database.read("read the schedule") as connection:
            rows = connection.execute(sa.select(SCHEDULE.c.id, SCHEDULE.c.job_state)).all()
        return {name: _recurring(state) for name, state in rows}

    def forget(self, name: str) -> None:
        with self.database.write("change the schedule") as connection:
            connection.execute(sa.delete(SCHEDULE).where(SCHEDULE.c.id == name))

    def add_job(self, job: Job) -> None:
        """Add it, in place of one of its name."""
        with self.database.write("change the schedule") as connection:
            insert: Any = self.database.upsert(SCHEDULE, ("next_run_time", "job_state"))
            connection.execute(insert.values(id=job.id, **self._row(job)))

    def update_job(self, job: Job) -> None:
        """Nothing: a job that is due was moved on before it is handed out."""

    def get_due_jobs(self, now: datetime) -> list[Job]:
        """Those that are due and that no other process has taken."""
        try:
            taken = [job for job in super().get_due_jobs(now) if self._take(job, now)]
        except (sa.exc.SQLAlchemyError, StoreUnavailable) as error:
            log.debug("the schedule waits for the database: %s", error)
            return []
        for job in taken:
            # The scheduler looks at every time since the last one: of a long absence, leave out what came too early.
            recent = job.trigger.get_next_fire_time(None, now - timedelta(seconds=job.misfire_grace_time))
            if recent <= now:
                job.next_run_time = recent
        return taken

    def get_next_run_time(self) -> datetime | None:
        """When to look next; an error here would end the scheduler's thread."""
        try:
            moment: datetime | None = super().get_next_run_time()
        except sa.exc.SQLAlchemyError:
            moment = datetime.now(UTC) + _LOOK_AGAIN
        return moment

    def shutdown(self) -> None:
        """Nothing: the database is closed by who opened it."""

    def _take(self, job: Job, now: datetime) -> bool:
        following = job.trigger.get_next_fire_time(None, now + _MOMENT)
        moved = Job.__new__(Job)
        moved.__setstate__(job.__getstate__() | {"next_run_time": following})
        taken = [SCHEDULE.c.id == job.id, SCHEDULE.c.next_run_time == datetime_to_utc_timestamp(job.next_run_time)]
        with self.database.write("take what is due") as connection:
            return bool(connection.execute(sa.update(SCHEDULE).where(*taken).values(self._row(moved))).rowcount)

    def _row(self, job: Job) -> dict[str, Any]:
        return {
            "next_run_time": datetime_to_utc_timestamp(job.next_run_time),
            "job_state": pickle.dumps(job.__getstate__(), self.pickle_protocol),
        }


def _described(recurring: Recurring) -> str:
    return f"{recurring.cron} {recurring.zone}"


def _recurring(state: bytes) -> Recurring | None:
    """What a stored job's settings were; None: another release's."""
    try:
        stored = pickle.loads(state)  # noqa: S301 - as APScheduler does
        cron, _, zone = stored["name"].rpartition(" ")
        recurring = Recurring(cron=cron, zone=zone, grace=timedelta(seconds=stored["misfire_grace_time"]))
    except Exception:  # whatever it was, it is replaced
        return None
    return recurring if stored["func"] == f"{__name__}:{due.__name__}" else None
