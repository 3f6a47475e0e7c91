"""The monitor as a daemon: read, score, store, evaluate, until told to stop."""

import gc
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final, Literal, TextIO, TypeVar

from monitor import __version__
from monitor.champion import Succession
from monitor.config import ConfigError, Settings
from monitor.delivery import AlertmanagerReceiver, Delivery, LogReceiver, Receiver
from monitor.engine import Engine, Prepared, ScoredBatch
from monitor.labelling import LabelReader, Receipt, open_label_source, parsed, take
from monitor.metrics import Metrics
from monitor.records import Batch
from monitor.schedule import Jobs
from monitor.shadow import Shadow
from monitor.silences import Silences
from monitor.sources import Source, SourceError
from monitor.sources.files import FileSource
from monitor.sources.kafka import KafkaSource
from monitor.store import PositionConflict, Store, StoreUnavailable
from monitor.web.app import WebServer, create_app
from monitor.web.labels import labels_route

log = logging.getLogger(__name__)
T = TypeVar("T")
Part = Literal["source", "store"]
_Work = tuple[Batch, Future[ScoredBatch]]

POLL_WAIT_S: Final = 0.25
TICK_EVERY_S: Final = 0.5
RETRY_S: Final = 1.0
STALLED_AFTER_S: Final = 120.0
LAST_DELIVERIES_S: Final = 2.0


class Stopped(BaseException):
    """A signal asked to stop while the daemon was starting (`at_once` is False), or for the second time."""

    def __init__(self, *, at_once: bool) -> None:
        super().__init__()
        self.at_once = at_once


def open_source(settings: Settings, store: Store) -> Source:
    """The source that the settings name, reading on from the positions in the store.

    Raises:
        SourceError: it cannot be read.
    """

    def positions(partitions: Sequence[int]) -> Mapping[int, int]:
        return store.positions(source.name, partitions)

    source: Source
    if settings.source.kind == "file":
        source = FileSource(settings.file, positions)
    else:
        source = KafkaSource(settings.kafka, positions)
    return source


class Daemon:
    """One worker. `run` returns when a signal or `stop` says so, with nothing half-written.

    Args:
        alert_log: gets every change of an alert as a line of JSON.
        now: the wall clock.
        config_path: the file of the settings, for the processes that it starts.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        alert_log: TextIO,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        config_path: Path | None = None,
    ) -> None:
        self._settings = settings
        self._config_path = config_path
        self._metrics = metrics
        self._alert_log = alert_log
        self._now = now
        self._stopping = threading.Event()
        self._phase: Literal["starting", "running"] = "starting"
        self._beat_at = time.monotonic()
        self._ticked_at = float("-inf")
        self._expired = 0
        self._store: Store | None = None
        self._troubles: dict[Part, str] = {}
        self._label_thread: threading.Thread | None = None
        self._shadow: Shadow | None = None

    def stop(self) -> None:
        """Ask the loop to end after the batch in hand."""
        self._stopping.set()

    def run(self) -> bool:
        """Start everything, and work until stopped or until the source ends.

        Returns whether a model is still being opened, by libraries that abort a process which ends as usual then.

        Raises:
            ConfigError: the address to serve at cannot be listened on.
            SourceError, StoreError, CheckpointError: the source, database or model cannot be opened.
        """
        settings = self._settings
        with ExitStack() as life:
            life.enter_context(_signals(self._on_signal))
            self._metrics.build_info.labels(__version__).set(1)
            token = settings.http.token.get_secret_value() if settings.http.token else None
            labels = labels_route(token, self._take_labels)
            app = create_app(self._metrics.exposition, self._alive, self._ready, labels)
            server = _enter(life, WebServer(app, settings.http.host, settings.http.port))
            log.info("metrics and health at %s", server.url)
            store = self._store = life.enter_context(Store(settings.store.url))
            models = Succession(settings, store.models, self._metrics)
            scorer = models.first()
            source = open_source(settings, store)
            life.callback(source.close)
            engine = Engine(
                settings,
                store,
                scorer,
                self._metrics,
                source=source.name,
                reject=source.reject,
                promotion=models.promotion,
            )
            delivery = life.enter_context(closing(self._delivery(store)))
            del scorer  # the engine's alone, so that its memory is free once another has taken over
            jobs = Jobs(
                self._settings,
                store,
                engine,
                delivery,
                self._metrics,
                config_path=self._config_path,
                now=self._now,
                leaving=self._stopping.is_set,
            )
            shadow = self._shadow = Shadow(settings, store, models, self._metrics, self._now)
            with jobs.running(), self._reading_labels(store), models.watched(), shadow.watched():
                # What the start leaves is here to stay, and need not be looked through for garbage again and again.
                gc.freeze()
                log.info("reading %s", source.name)
                self._phase = "running"
                self._loop(source, engine, models)
            self._tell_the_last(delivery)
        log.info("stopped, with nothing half-written")
        return models.opening or shadow.opening

    def _loop(self, source: Source, engine: Engine, models: Succession) -> None:
        """One model after the other, until stopped or until the source ends."""
        ended = False
        while not ended and not self._stopping.is_set():
            if (successor := models.take()) is not None:
                engine.adopt(successor.scorer, successor.followed, successor.promotion)
                del successor
                gc.unfreeze()  # as at the start, save what the model that was replaced leaves
                gc.collect()
                gc.freeze()
            with ThreadPoolExecutor(engine.scorer.at_once, "scoring") as scoring:
                ended = self._score_on(source, engine, scoring, models)

    def _score_on(self, source: Source, engine: Engine, scoring: ThreadPoolExecutor, models: Succession) -> bool:
        """Batch after batch: some are scored, in threads of their own, while the one before is stored in this one.

        Returns whether the source has ended; until then it goes on until told to stop, or until another model waits
        and what this one has scored is stored.
        """
        limits = self._settings.source.batch_items, self._settings.source.linger_ms / 1000
        at_once = engine.scorer.at_once
        works: deque[_Work] = deque()
        while not self._stopping.is_set() and (works or not models.waits):
            self._beat_at = time.monotonic()
            reads = True
            if not works:
                batch = self._attempt(partial(source.poll, *limits, POLL_WAIT_S))
                reads = batch is not None
                if batch is None:
                    self._stopping.wait(RETRY_S)
                elif batch.positions:
                    works.append((batch, scoring.submit(engine.score, engine.parse(batch))))
                elif source.exhausted() and self._attempt(engine.finish) is not None:
                    return True
            # A file is read on from the position that is stored, so only once that has moved.
            while isinstance(source, KafkaSource) and 0 < len(works) <= at_once and not models.waits:
                batch = self._attempt(partial(source.ahead, limits[0]))
                reads = batch is not None
                if batch is None or not batch.positions:
                    break
                works.append((batch, scoring.submit(engine.score, engine.parse(batch))))
            if works and not self._process(source, engine, *works.popleft()):
                for _, scored in works:
                    scored.cancel()
                works.clear()
            waiting = {position.partition for batch, _ in works for position in batch.positions}
            self._attempt(partial(self._tick, source, engine, waiting, works=reads))
        return False

    def _process(self, source: Source, engine: Engine, batch: Batch, scored: Future[ScoredBatch]) -> bool:
        """Store a batch, however long the database is away; the source stays alive meanwhile. False: given up."""
        prepared: Prepared | None = None
        while True:
            try:
                if prepared is None:
                    prepared = self._attempt(partial(engine.prepare, scored.result(), self._now()))
                if prepared is not None:
                    stored = self._attempt(partial(engine.commit, prepared, self._now()))
                    if stored is not None:
                        source.committed(batch)
                        if self._shadow is not None:
                            self._shadow.offer(stored)
                        return True
            except PositionConflict as error:
                # The position is another worker's, or this worker's own from a commit whose answer was lost. Either
                # way the database is right, and the next poll reads on from there.
                log.warning("batch given up: %s", error)
                self._metrics.batches_given_up.inc()
                return False
            if self._stopping.wait(RETRY_S):
                log.warning(
                    "stopping before the batch in hand could be stored, it will be read again: %s",
                    "; ".join(self._troubles.values()),
                )
                return False
            self._beat_at = time.monotonic()
            source.hold()

    def _tick(self, source: Source, engine: Engine, waiting: Collection[int], *, works: bool) -> None:
        """Evaluate what is stored, now and then; `waiting` are the partitions of what was read and is not stored."""
        now = time.monotonic()
        if now - self._ticked_at < TICK_EVERY_S:
            return
        self._ticked_at = now
        lag = source.lag()
        self._metrics.show_lag(lag)
        self._metrics.expired.inc(source.expired - self._expired)
        self._expired = source.expired
        if works:
            self._works("source")
        # Without partitions there is nothing to know about event time: what other workers hold may be far behind.
        if lag:
            behind = {partition for partition, records in lag.items() if records}
            engine.tick(self._now(), behind.union(waiting))
            self._works("store")

    def _attempt(self, do: Callable[[], T]) -> T | None:
        """What `do` gives, or None if the source or the store cannot be used just now."""
        try:
            return do()
        except (SourceError, StoreUnavailable) as error:
            part: Part = "source" if isinstance(error, SourceError) else "store"
            self._metrics.failures.labels(part).inc()
            if self._troubles.get(part) != str(error):
                log.error("%s; trying again until it works", error)
            self._troubles[part] = str(error)
            return None

    def _works(self, part: Part) -> None:
        if self._troubles.pop(part, None):
            log.info("the %s works again", part)

    def _tell_the_last(self, delivery: Delivery) -> None:
        """What was stored last should be told before leaving, by those receivers that answer at once."""
        deadline_s = time.monotonic() + LAST_DELIVERIES_S
        try:
            delivery.run(self._now(), lambda: time.monotonic() > deadline_s)
        except StoreUnavailable as error:
            log.warning("alerts that were not delivered yet wait for the next start: %s", error)

    def _delivery(self, store: Store) -> Delivery:
        settings = self._settings.alerts
        receivers: list[Receiver] = [LogReceiver(self._alert_log)]
        receivers += [
            AlertmanagerReceiver(url, settings, self._settings.http.external_url)
            for url in settings.alertmanager_urls
        ]
        silences = Silences(self._settings.silences)
        return Delivery(
            store.deliveries, receivers, settings, self._metrics.delivered, self._now(), silences=silences
        )

    @contextmanager
    def _reading_labels(self, store: Store) -> Iterator[None]:
        """Read labels in a thread beside the loop, where a topic is set for them."""
        topic = self._settings.labels.topic
        if topic is None:
            yield
            return
        with closing(open_label_source(self._settings, topic, store)) as source:
            reader, ended = LabelReader(source, store, self._metrics, self._now), threading.Event()
            thread = threading.Thread(target=reader.run, args=(ended,), name="labels")
            log.info("reading labels from %s", source.name)
            thread.start()
            self._label_thread = thread
            try:
                yield
            finally:
                ended.set()
                thread.join()
                self._label_thread = None

    def _take_labels(self, records: Sequence[bytes]) -> Receipt:
        """What became of records of labels from the API."""
        if self._store is None:
            raise StoreUnavailable("the monitor is starting")
        now = self._now()
        receipt = take(self._store, [parsed(raw, now) for raw in records], now)
        self._metrics.labelled(
            receipt.stored, receipt.repeated, [error.reason for error in receipt.rejected.values()]
        )
        return receipt

    def _alive(self) -> Mapping[str, str | None]:
        silent_s = time.monotonic() - self._beat_at
        stalled = self._phase == "running" and silent_s > STALLED_AFTER_S
        parts = {"loop": f"silent for {silent_s:.0f} s" if stalled else None}
        if (thread := self._label_thread) is not None:
            parts["labels"] = None if thread.is_alive() else "no longer read, see the log"
        return parts

    def _ready(self) -> Mapping[str, str | None]:
        starting = None if self._phase == "running" else "starting"
        return {
            "model": starting,
            "source": starting or self._troubles.get("source"),
            "store": self._store_trouble(),
        }

    def _store_trouble(self) -> str | None:
        if self._store is None:
            return "starting"
        try:
            self._store.ping()
        except StoreUnavailable as error:
            return str(error)
        return None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stopping.is_set() or self._phase == "starting":
            raise Stopped(at_once=self._phase == "running")
        log.info("stopping on %s", signal.Signals(number).name)
        self._stopping.set()


def _enter(life: ExitStack, server: WebServer) -> WebServer:
    try:
        return life.enter_context(server)
    except OSError as error:
        raise ConfigError(
            f"http.port: cannot listen on {server.url} ({error.strerror}); "
            "set http.host and http.port to a free address"
        ) from error


@contextmanager
def _signals(act: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Send SIGTERM and SIGINT to `act`; only a process's main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, act) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
