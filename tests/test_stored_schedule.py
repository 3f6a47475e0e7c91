"""What is due by the clock, kept in a real database; each test makes it due there, and nothing waits for a clock."""

import logging
import pickle
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from apscheduler.util import datetime_to_utc_timestamp

from monitor.database import Database
from monitor.schema import SCHEDULE
from monitor.stored_schedule import Recurring, StoredSchedule
from tests.support import until

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
NEW_YEAR = Recurring(cron="0 3 1 jan *", zone="Europe/London", grace=12 * HOUR)


class Worker:
    """A process's schedule on a database, and what it was told."""

    def __init__(self, url: str, wanted: Mapping[str, Recurring], life: ExitStack) -> None:
        self.due: list[str] = []
        self.missed: list[tuple[str, datetime]] = []
        self.life = life.enter_context(ExitStack())
        database = Database(url)
        self.life.callback(database.close)
        self.schedule = StoredSchedule(
            database, self.due.append, lambda name, at: self.missed.append((name, at.astimezone(UTC)))
        )
        self.life.enter_context(self.schedule.kept(wanted))

    def leave(self) -> None:
        """Returns once nothing is at work any more."""
        self.life.close()


def stored(url: str) -> dict[str, float]:
    """The next times in the database, by name."""
    database = Database(url)
    try:
        with database.read("look") as connection:
            return {row.id: row.next_run_time for row in connection.execute(sa.select(SCHEDULE))}
    finally:
        database.close()


def make_due(url: str, name: str, at: datetime) -> None:
    """Have a job's next time be this one."""
    database = Database(url)
    try:
        with database.write("make due") as connection:
            row = connection.execute(sa.select(SCHEDULE).filter_by(id=name)).one()
            state = pickle.loads(row.job_state) | {"next_run_time": at}  # noqa: S301 - we wrote it
            values = {"next_run_time": datetime_to_utc_timestamp(at), "job_state": pickle.dumps(state)}
            connection.execute(sa.update(SCHEDULE).filter_by(id=name).values(**values))
    finally:
        database.close()


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


class ScheduleContract:
    @pytest.fixture
    def life(self) -> Iterator[ExitStack]:
        with ExitStack() as life:
            yield life

    def test_what_was_due_while_nobody_ran_is_done_at_the_next_start_once(self, url: str, life: ExitStack) -> None:
        Worker(url, {"retrain": NEW_YEAR}, life).leave()
        make_due(url, "retrain", now() - HOUR)
        worker = Worker(url, {"retrain": NEW_YEAR}, life)
        until(lambda: worker.due)
        worker.leave()
        again = Worker(url, {"retrain": NEW_YEAR}, life)
        again.leave()
        assert (worker.due, worker.missed, again.due) == (["retrain"], [], [])
        assert stored(url)["retrain"] > now().timestamp()

    def test_what_was_due_longer_ago_than_its_grace_is_missed_and_told(self, url: str, life: ExitStack) -> None:
        Worker(url, {"retrain": NEW_YEAR}, life).leave()
        long_ago = now() - 13 * HOUR
        make_due(url, "retrain", long_ago)
        worker = Worker(url, {"retrain": NEW_YEAR}, life)
        until(lambda: worker.missed)
        worker.leave()
        assert (worker.due, worker.missed) == ([], [("retrain", long_ago)])

    def test_many_times_that_passed_are_one(self, url: str, life: ExitStack) -> None:
        hourly = Recurring(cron="30 * * * *", grace=3 * HOUR)
        Worker(url, {"drift": hourly}, life).leave()
        make_due(url, "drift", (now() - timedelta(days=400)).replace(minute=30, second=0))
        worker = Worker(url, {"drift": hourly}, life)
        until(lambda: worker.due)
        worker.leave()
        assert (worker.due, worker.missed) == (["drift"], [])

    def test_of_several_workers_one_does_what_is_due(self, url: str, life: ExitStack) -> None:
        workers = [Worker(url, {"retrain": NEW_YEAR}, life) for _ in range(3)]
        for turn in (1, 2, 3):
            make_due(url, "retrain", now() - SECOND)
            for worker in workers:
                worker.schedule.look()
            until(lambda turn=turn: sum(len(worker.due) for worker in workers) >= turn)
        for worker in workers:
            worker.leave()
        assert sum(len(worker.due) for worker in workers) == 3

    def test_a_changed_schedule_takes_the_place_of_the_stored_one(self, url: str, life: ExitStack) -> None:
        Worker(url, {"retrain": NEW_YEAR}, life).leave()
        before = stored(url)
        Worker(url, {"retrain": NEW_YEAR}, life).leave()
        assert stored(url) == before
        for changed in (
            Recurring(cron="0 3 2 jan *", zone="Europe/London", grace=12 * HOUR),
            Recurring(cron="0 3 2 jan *", zone="Asia/Tokyo", grace=12 * HOUR),
        ):
            Worker(url, {"retrain": changed}, life).leave()
            assert stored(url) != before
            before = stored(url)

    def test_what_is_no_longer_wanted_is_taken_out(self, url: str, life: ExitStack) -> None:
        Worker(url, {"retrain": NEW_YEAR, "drift": NEW_YEAR}, life).leave()
        make_due(url, "retrain", now() - HOUR)
        worker = Worker(url, {"drift": NEW_YEAR}, life)
        worker.leave()
        assert worker.due == []
        assert set(stored(url)) == {"drift"}

    def test_what_another_release_stored_and_this_one_cannot_read_is_replaced(
        self, url: str, life: ExitStack
    ) -> None:
        Worker(url, {"retrain": NEW_YEAR}, life).leave()
        expected = stored(url)
        database = Database(url)
        life.callback(database.close)
        with database.write("spoil") as connection:
            connection.execute(sa.update(SCHEDULE).values(job_state=b"no pickle", next_run_time=1.0))
        Worker(url, {"retrain": NEW_YEAR}, life).leave()
        assert stored(url) == expected


class TestScheduleOnSqlite(ScheduleContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'news.db'}"

    def test_a_database_that_is_away_for_a_while_stops_nothing_for_good(
        self, tmp_path: Path, url: str, life: ExitStack, caplog: pytest.LogCaptureFixture
    ) -> None:
        worker = Worker(f"{url}?timeout=0.1", {"retrain": NEW_YEAR}, life)
        make_due(url, "retrain", now() - HOUR)
        with sqlite3.connect(tmp_path / "news.db") as other, caplog.at_level(logging.DEBUG):
            other.execute("BEGIN IMMEDIATE")
            worker.schedule.look()
            until(lambda: "the schedule waits for the database" in caplog.text)
        assert worker.due == []
        other.close()
        worker.schedule.look()
        until(lambda: worker.due)
        worker.leave()
        assert worker.due == ["retrain"]
