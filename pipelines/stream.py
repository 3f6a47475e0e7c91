"""The whole way of an item, measured: a real broker, the daemon as its own process, and its committed database."""

import json
import os
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

import numpy as np

from monitor.config import KafkaSettings
from monitor.sources.publisher import Publisher
from pipelines.services import Kafka, Process, free_port

PARTITIONS: Final = 4
WARM_UP: Final = 0.2
"""Share of a backlog that is stored before its rate is measured."""

TAIL: Final = 0.05
"""Share of it that is left when the measurement ends."""

_BACKLOG: Final = timedelta(hours=12)
DEADLINE_S: Final = 900.0
_LOOK_EVERY_S: Final = 0.01
_WATCH_EVERY_S: Final = 0.002
_MEMORY_EVERY_S: Final = 0.25
_WATCHED: Final = ("Sensex", "Nifty", "Tesla", "Apple", "Harrowgate Trust Bank")


@dataclass(frozen=True, slots=True)
class Latency:
    """Of single items, from just before they were handed to Kafka until another process could read them in the
    database; seconds."""

    items: int
    p50_s: float
    p99_s: float
    max_s: float


class Stream:
    """A broker in a folder of its own, and daemons that read its topics into SQLite beside it.

    Attributes:
        peak_bytes: the most memory that a daemon and its children held so far (resident, from /proc).

    Args:
        settings: TOML of sections that the daemons shall have besides `kafka`, `store`, `http` and `watchlist`.

    Raises:
        UnavailableError: no broker can be had here; the text says what is missing.
    """

    def __init__(self, settings: str = "") -> None:
        self.peak_bytes = 0
        self._settings = settings
        self._folder = Path(tempfile.mkdtemp(prefix="sentiment-bench-"))
        try:
            (self._folder / "broker").mkdir()
            self._kafka = Kafka(self._folder / "broker", partitions=PARTITIONS)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._kafka.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def fill(self, titles: Sequence[str]) -> str:
        """A new topic that holds an item for each title, published over the last half day; its name."""
        topic = f"news-{uuid.uuid4().hex[:12]}"
        newest = datetime.now(UTC)
        with Publisher(self._news(topic), topic) as publisher:
            for row, title in enumerate(titles):
                published_at = newest - _BACKLOG * (1 - (row + 1) / len(titles))
                publisher.send(_record(str(row), title, published_at), str(row).encode())
        return topic

    def drain(self, topic: str, items: int) -> float:
        """Items a second, from the topic to the committed database, once the daemon is under way.

        Raises:
            RuntimeError: the daemon ended, or did not store each of the topic's `items` exactly once.
        """
        with self._daemon(topic) as (daemon, database):
            daemon.wait_until(lambda: _stored(database) > 0, "the daemon's first commit", DEADLINE_S)
            with closing(_opened(database)) as reader:
                first, started_s = _commit(daemon, reader, round(WARM_UP * items))
                # Short of the end, where the batches are not full any more.
                last, ended_s = _commit(daemon, reader, round((1 - TAIL) * items))
                daemon.wait_until(lambda: _next_offsets(reader) >= items, "the daemon's last commit", DEADLINE_S)
                [(count,)] = reader.execute("SELECT count(*) FROM items")
        if count != items:
            raise RuntimeError(f"the daemon stored {count} items of {items} different ones: it counts wrongly")
        return (last - first) / (ended_s - started_s)

    def trickle(self, titles: Sequence[str], items_a_second: float, seed: int = 0) -> Latency:
        """How long single items take that come at random moments (a Poisson process) to an idle daemon.

        Raises:
            RuntimeError: the daemon ended, or an item was not stored.
        """
        first, *rest = titles
        topic = self.fill([first])
        pauses = np.random.default_rng(seed).exponential(1 / items_a_second, len(rest))
        sent: dict[str, float] = {}
        with self._daemon(topic) as (daemon, database), Publisher(self._news(topic), topic) as publisher:
            daemon.wait_until(lambda: _stored(database) == 1, "the first item", DEADLINE_S)
            with closing(_Watcher(database)) as watcher:
                for number, (title, pause_s) in enumerate(zip(rest, pauses, strict=True), start=1):
                    time.sleep(pause_s)
                    sent[f"t{number}"] = time.perf_counter()
                    publisher.send(_record(f"t{number}", title, datetime.now(UTC)), str(number).encode())
                daemon.wait_until(lambda: watcher.seen.keys() >= sent.keys(), "the last item", DEADLINE_S)
                delays = sorted(watcher.seen[name] - sent[name] for name in sent)
        p50, p99 = np.percentile(delays, (50, 99), method="higher")
        return Latency(len(delays), float(p50), float(p99), delays[-1])

    @contextmanager
    def _daemon(self, topic: str) -> Iterator[tuple[Process, Path]]:
        """A daemon that reads the topic, and the file of its database; stopped at the end of the block."""
        database, config = self._folder / f"{topic}.db", self._folder / f"{topic}.toml"
        watchlist = "".join(f"[[watchlist]]\nname = {json.dumps(name)}\n" for name in _WATCHED)
        config.write_text(
            f'[kafka]\nbootstrap_servers = "{self._kafka.bootstrap}"\ntopic = "{topic}"\ngroup = "{topic}"\n'
            f'[store]\nurl = "sqlite:///{database}"\n[http]\nport = {free_port()}\n{watchlist}{self._settings}'
        )
        command = [sys.executable, "-m", "monitor", "run", "--config", str(config)]
        daemon = Process(command, self._folder / f"{topic}.log")
        done = threading.Event()
        weighing = threading.Thread(target=self._weigh, args=(daemon.pid, done), daemon=True)
        weighing.start()
        try:
            yield daemon, database
        finally:
            done.set()
            weighing.join()
            daemon.stop()

    def _weigh(self, pid: int, done: threading.Event) -> None:
        while not done.wait(_MEMORY_EVERY_S):
            self.peak_bytes = max(self.peak_bytes, resident_bytes(pid))

    def _news(self, topic: str) -> KafkaSettings:
        return KafkaSettings(bootstrap_servers=self._kafka.bootstrap, topic=topic)


class _Watcher:
    """Notes when each item can first be read in a database.

    Attributes:
        seen: the moment for each id, on the clock of `time.perf_counter`, late by some 2 ms at most.
    """

    def __init__(self, database: Path) -> None:
        self.seen: dict[str, float] = {}
        self._database = database
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        newest = 0
        with closing(_opened(self._database)) as reader:
            while not self._done.wait(_WATCH_EVERY_S):
                rows = reader.execute("SELECT rowid, id FROM items WHERE rowid > ?", (newest,)).fetchall()
                now_s = time.perf_counter()
                for row, item_id in rows:
                    self.seen[item_id] = now_s
                    newest = max(newest, row)


def resident_bytes(pid: int) -> int:
    """Memory that a process and its descendants hold just now; what they share counts in each. 0: it has ended."""
    parents: dict[int, list[int]] = {}
    pages: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        number = int(status.parent.name)
        parents.setdefault(int(fields[1]), []).append(number)
        pages[number] = int(fields[21])
    family = [pid]
    for member in family:
        family += parents.get(member, [])
    return sum(pages.get(member, 0) for member in family) * os.sysconf("SC_PAGE_SIZE")


def _record(item_id: str, title: str, published_at: datetime) -> bytes:
    record = {
        "id": item_id,
        "title": title,
        "published_at": published_at.isoformat(),
        "source": "Northgate Wire",
        "url": f"https://example.com/{item_id}",
    }
    return json.dumps(record).encode()


def _commit(daemon: Process, reader: sqlite3.Connection, items: int) -> tuple[int, float]:
    """Waits for a commit that brings the items stored to so many: how many they are then, and when it was seen."""
    # From the edge of one commit to the edge of another, a rate does not depend on the size of the batches.
    before = _next_offsets(reader)
    daemon.wait_until(
        lambda: _next_offsets(reader) >= max(items, before + 1),
        f"the daemon at item {items}",
        DEADLINE_S,
        _LOOK_EVERY_S,
    )
    return _next_offsets(reader), time.perf_counter()


def _stored(database: Path) -> int:
    """How many items the positions say are stored; 0 before the daemon has made the database."""
    try:
        with closing(_opened(database)) as reader:
            return _next_offsets(reader)
    except sqlite3.OperationalError:
        return 0


def _opened(database: Path) -> sqlite3.Connection:
    # Not to write: a reader of this kind never makes the daemon wait.
    return sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)


def _next_offsets(reader: sqlite3.Connection) -> int:
    [(offsets,)] = reader.execute("SELECT coalesce(sum(next_offset), 0) FROM positions")
    return int(offsets)
