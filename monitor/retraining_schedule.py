"""What the daemon starts beside itself: retrainings and looks for drift, each in a process of its own."""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from monitor.children import Child
from monitor.config import Settings
from monitor.cron import next_time
from monitor.database import Database
from monitor.metrics import Metrics
from monitor.retraining import LIVE, SILENT_AFTER, Retraining
from monitor.retraining_metrics import Pipeline, Start
from monitor.store import Store, StoreError
from monitor.stored_schedule import Recurring, StoredSchedule

log = logging.getLogger(__name__)

TRIES: Final = 3
"""How often a worker goes on with a retraining that is not heard of then either."""
_RESUME: Final = "resume"
_EACH_MINUTE: Final = Recurring(cron="* * * * *", grace=timedelta(minutes=5))
_DRIFT_GRACE: Final = timedelta(hours=24)


def pipeline_commands(config_path: Path | None) -> dict[Pipeline, list[str]]:
    """How the daemon starts each pipeline."""
    config = [] if config_path is None else ["--config", str(config_path.resolve())]
    return {
        "retrain": [sys.executable, "-m", "pipelines.retrain", *config, "--trigger", "schedule"],
        "drift": [sys.executable, "-m", "pipelines.drift", *config],
    }


def recurring(settings: Settings) -> dict[str, Recurring]:
    """What is due when, by name."""
    wanted: dict[str, Recurring] = {}
    retrain, drift = settings.retrain, settings.drift
    if retrain.schedule is not None:
        grace = timedelta(seconds=max(1, round(retrain.misfire_hours * 3600)))
        wanted["retrain"] = Recurring(cron=retrain.schedule, zone=retrain.timezone, grace=grace)
        wanted[_RESUME] = _EACH_MINUTE
    if drift.enabled:
        wanted["drift"] = Recurring(cron=drift.at, grace=_DRIFT_GRACE)
    return wanted


def told(settings: Settings, now: datetime) -> str:
    """When what is scheduled comes next, for people."""
    return "; ".join(
        f"{name} next at {next_time(one.cron, one.zone, now):%a %Y-%m-%d %H:%M %Z}"
        for name, one in recurring(settings).items()
        if name != _RESUME
    )


class RetrainingSchedule:
    """The pipelines of one daemon.

    What is due is taken by one of several workers that share a database. No retraining is started while another goes
    on. One whose process has been silent for `SILENT_AFTER` is gone on with, by the same command: it finds it there.

    Args:
        commands: how each pipeline is started.
        now: the wall clock.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        metrics: Metrics,
        commands: Mapping[Pipeline, Sequence[str]],
        now: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._store = store
        self._metrics = metrics
        self._now = now
        folder = settings.retrain.folder.absolute()
        self._children = {
            name: Child(
                name,
                command,
                folder / f"{name}.log",
                niceness=settings.retrain.niceness,
                ended=partial(self._ended, name),
            )
            for name, command in commands.items()
        }
        self._tries: tuple[datetime, int] | None = (
            None  # since a retraining was heard of: how often it was gone on with
        )
        self._schedule: StoredSchedule | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start what is due until the end of the block, which stops what is at work.

        Raises:
            StoreError: the schedule cannot be read or written.
        """
        wanted = recurring(self._settings)
        with ExitStack() as life:
            database = life.enter_context(closing(Database(self._settings.store.url)))
            for child in self._children.values():
                life.callback(child.stop)
            self._schedule = StoredSchedule(database, self.due, self.missed)
            life.enter_context(self._schedule.kept(wanted))
            if wanted:
                log.info("scheduled: %s", told(self._settings, self._now()))
            yield

    def look(self) -> None:
        """Look after what was started, and whether something is due; to be called now and then."""
        for child in self._children.values():
            child.look()
        if self._schedule is not None:
            self._schedule.look()

    def due(self, name: str) -> None:
        """Do what is due."""
        try:
            if name == _RESUME:
                self._resume()
            elif name == "retrain":
                self._retrain()
            else:
                self._start("drift", "started")
        except StoreError as error:
            log.error("%s is due and not started: %s", name, error)
            if name == "retrain":
                self._count("retrain", "failed")

    def missed(self, name: str, at: datetime) -> None:
        """Tell of what was due too long ago."""
        if name == _RESUME:
            return
        log.warning("%s was due at %s, which is too long ago: it waits for the next time", name, f"{at:%F %H:%M %Z}")
        self._count("drift" if name == "drift" else "retrain", "missed")

    def _retrain(self) -> None:
        running = self._store.retrainings.running()
        if running is None:
            self._start("retrain", "started")
        elif self._silent(running):
            self._go_on(running)
        else:
            log.warning(
                "a retraining is due and skipped: retraining %d goes on since %s, at step %r by %s",
                running.number,
                f"{running.started_at:%F %H:%M} UTC",
                running.step,
                running.by,
            )
            self._count("retrain", "skipped")

    def _resume(self) -> None:
        running = self._store.retrainings.running()
        if running is not None and self._silent(running) and not self._children["retrain"].look():
            self._go_on(running)

    def _silent(self, running: Retraining) -> bool:
        return running.step not in LIVE and self._now() - running.seen_at >= SILENT_AFTER

    def _go_on(self, running: Retraining) -> None:
        seen_at, tries = self._tries or (running.seen_at, 0)
        tries = tries + 1 if seen_at == running.seen_at else 1
        self._tries = running.seen_at, tries
        if tries > TRIES:
            if tries == TRIES + 1:
                log.error(
                    "retraining %d is left alone, its process was started %d times and not heard of: see why in %s, "
                    "go on with it by python -m pipelines.retrain or end it by sentiment-monitor models abandon",
                    running.number,
                    TRIES,
                    self._settings.retrain.folder.absolute() / "retrain.log",
                )
            return
        log.warning(
            "retraining %d was last heard of at %s, at step %r by %s: going on with it",
            running.number,
            f"{running.seen_at:%F %H:%M:%S} UTC",
            running.step,
            running.by,
        )
        self._start("retrain", "resumed")

    def _start(self, name: Pipeline, outcome: Start) -> None:
        try:
            if not self._children[name].start():
                log.warning("%s is due and skipped: the process started before is at work", name)
                outcome = "skipped"
        except OSError as error:
            log.error("%s is due and cannot be started: %s", name, error)
            outcome = "failed"
        self._count(name, outcome)

    def _ended(self, name: Pipeline, status: int) -> None:
        if status:
            self._count(name, "failed")

    def _count(self, name: Pipeline, outcome: Start) -> None:
        self._metrics.retraining.pipelines.labels(name, outcome).inc()
