"""What the daemon does by the clock, beside its loop."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from apscheduler.schedulers.background import BackgroundScheduler

from monitor.config import Settings
from monitor.delivery import Delivery
from monitor.engine import Engine
from monitor.metrics import Metrics
from monitor.retraining_figures import retraining_figures
from monitor.retraining_schedule import RetrainingSchedule, pipeline_commands
from monitor.store import Store, StoreError, StoreUnavailable

log = logging.getLogger(__name__)


class Jobs:
    """The jobs of one daemon, each in a thread of the scheduler.

    Args:
        config_path: of the settings, for the processes that it starts.
        now: the wall clock.
        leaving: whether the daemon was told to stop, so that no job needs to go on.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        engine: Engine,
        delivery: Delivery,
        metrics: Metrics,
        *,
        config_path: Path | None,
        now: Callable[[], datetime],
        leaving: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._store = store
        self._engine = engine
        self._delivery = delivery
        self._metrics = metrics
        self._now = now
        self._leaving = leaving
        commands = pipeline_commands(config_path)
        self._retraining = RetrainingSchedule(settings, store, metrics, commands, now)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run them until the end of the block, which waits for those that are at work."""
        scheduler = BackgroundScheduler(timezone=UTC, job_defaults={"max_instances": 1, "coalesce": True})
        scheduler.add_job(self._deliver, "interval", seconds=1, misfire_grace_time=None)
        scheduler.add_job(self._prune, "interval", hours=1, misfire_grace_time=None)
        scheduler.add_job(
            self._show_labels, "interval", minutes=1, misfire_grace_time=None, next_run_time=datetime.now(UTC)
        )
        scheduler.add_job(
            self._show_drift, "interval", minutes=1, misfire_grace_time=None, next_run_time=datetime.now(UTC)
        )
        scheduler.add_job(
            self._show_retraining, "interval", minutes=1, misfire_grace_time=None, next_run_time=datetime.now(UTC)
        )
        scheduler.add_job(self._retraining.look, "interval", seconds=5, misfire_grace_time=None)
        scheduler.start()
        try:
            with self._retraining.running():
                yield
        finally:
            scheduler.shutdown(wait=True)

    def _deliver(self) -> None:
        """Tell the receivers what waits for them, as it may take long, or wait for others."""
        try:
            self._delivery.run(self._now(), self._leaving)
            self._metrics.show_pending(self._delivery.pending())
        except StoreUnavailable as error:
            log.debug("delivery waits for the database: %s", error)

    def _prune(self) -> None:
        if self._engine.watermark is None:
            return
        try:
            gone = self._store.prune(self._engine.watermark - timedelta(days=self._settings.store.keep_days))
        except StoreUnavailable as error:
            log.warning("old rows stay until the next attempt: %s", error)
        else:
            if gone:
                log.info("pruned %d rows older than store.keep_days", gone)

    def _show_labels(self) -> None:
        try:
            self._metrics.show_labels(self._store.labels.amounts())
        except StoreUnavailable as error:
            log.debug("figures on labels wait for the database: %s", error)

    def _show_drift(self) -> None:
        try:
            self._metrics.show_drift(self._store.drift.of_day(self._engine.scorer.version))
        except StoreUnavailable as error:
            log.debug("figures on drift wait for the database: %s", error)

    def _show_retraining(self) -> None:
        try:
            self._metrics.retraining.show(retraining_figures(self._settings, self._store))
        except StoreError as error:
            log.debug("figures on retraining wait for the database: %s", error)
