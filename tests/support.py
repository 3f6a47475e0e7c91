"""What several test files use."""

import io
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from monitor.config import Settings
from monitor.daemon import Daemon
from monitor.metrics import Metrics
from monitor.records import NewsItem, Scored

T = TypeVar("T")


class WordScorer:
    """A model whose answers a test can read off its titles: `topic: text`, negative where the text says "bad".

    It takes the model's place in tests that are about counting and time, where a network's doubts would hide what
    is tested.
    """

    version = "words-1"
    topics = ("Financials", "Macro")
    sentiments = ("negative", "neutral", "positive")
    at_once = 1
    cache_hits = 0
    cut_items = 0

    def score(self, items: Sequence[NewsItem]) -> list[Scored]:
        return [self._scored(item) for item in items]

    def _scored(self, item: NewsItem) -> Scored:
        topic, _, text = item.title.partition(": ")
        negative = 0.75 if "bad" in text else 0.25
        probs = {"negative": negative, "neutral": 0.0, "positive": 1 - negative}
        sentiment = "negative" if negative > 0.5 else "positive"
        return Scored(
            item, topic, sentiment, {name: float(name == topic) for name in self.topics}, probs, self.version
        )


def until(reached: Callable[[], T], within_s: float = 60) -> T:
    """What `reached` gives once that is true; fails where it is not in time."""
    deadline = time.monotonic() + within_s
    while not (result := reached()):
        assert time.monotonic() < deadline, f"not reached within {within_s} s"
        time.sleep(0.05)
    return result


def forget_promotions(old: sqlite3.Connection) -> None:
    """Make a database one of a release before buckets named a promotion, as far as tables go.

    That is in the key, which SQLite cannot change: the table is made anew.
    """
    for later in ("schedule", "drift", "drift_days"):
        old.execute(f"DROP TABLE {later}")
    [made] = old.execute("SELECT sql FROM sqlite_master WHERE name = 'buckets'").fetchone()
    old.execute("ALTER TABLE buckets RENAME TO kept")
    old.execute(made.replace("promotion INTEGER NOT NULL,", "").replace(", promotion)", ")"))
    old.execute(
        "INSERT INTO buckets SELECT start, dimension, name, stream, partition, items, negatives, score, late, "
        "late_negatives, stories, negative_stories FROM kept"
    )
    old.execute("DROP TABLE kept")
    old.execute("DROP TABLE rebases")


@contextmanager
def running(settings: Settings, metrics: Metrics) -> Iterator[Daemon]:
    """A daemon in a thread of its own, stopped at the end of the block; it must end, and without an error."""
    daemon = Daemon(settings, metrics, io.StringIO())
    failed: list[BaseException] = []

    def run() -> None:
        try:
            daemon.run()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield daemon
    finally:
        daemon.stop()
        thread.join(timeout=30)
    assert not thread.is_alive()
    assert failed == []
