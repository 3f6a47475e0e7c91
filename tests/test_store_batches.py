"""What a store promises of batches, on SQLite here and on PostgreSQL in `integration/test_store_postgres.py`."""

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor.records import (
    EVERYTHING,
    Alert,
    Counts,
    Entry,
    Evidence,
    NewsItem,
    PartitionClock,
    PositionUpdate,
    Scored,
    Series,
    bucket_start,
)
from monitor.store import PositionConflict, Store

NEWS = "kafka:news"
DAY = datetime(2024, 3, 8, tzinfo=UTC)
NOW = DAY + timedelta(hours=12)
BANKS = Series("topic", "Banks")
ACME = Series("entity", "Acme")
_examples = itertools.count()
FIRST_TIME = datetime.min.replace(tzinfo=UTC)
LAST_TIME = datetime.max.replace(tzinfo=UTC)


def entry(
    name: str,
    minute: float = 0,
    *,
    partition: int = 0,
    score: float = -0.5,
    topic: str = "Banks",
    entities: tuple[str, ...] = (),
    late: bool = False,
    event_at: datetime | None = None,
    model: str = "m1",
) -> Entry:
    """An item of the given minute of the day; a score below zero makes it negative."""
    at = event_at or DAY + timedelta(minutes=minute)
    positive, negative = (max(score, 0), max(-score, 0))
    return Entry(
        Scored(
            NewsItem(name, f"Title of {name}", at, f"Body of {name}", "Wire", "https://wire.test/1", "en"),
            topic,
            "negative" if score < 0 else "positive",
            {topic: 1.0},
            {"negative": negative, "neutral": 1 - positive - negative, "positive": positive},
            model,
        ),
        partition,
        offset=0,
        event_at=at,
        story=f"story of {name}",
        entities=entities,
        late=late,
        negative_from=1e-9,
    )


def alert(name: str = "Banks", minute: float = 0, **changes: object) -> Alert:
    at = DAY + timedelta(minutes=minute)
    evidence = (
        Evidence("a", "Run on the bank", at + timedelta(microseconds=1), -0.97, "Wire", "https://wire.test/1", 3),
        Evidence("b", "Depositors queue", FIRST_TIME, -0.9),
    )
    opened = Alert(
        Series("topic", name), "1h", "warning", at, at, 12, 20, 4.25, (1.0, 8.5), 5e-324, 2, evidence, ("m1", "m2")
    )
    return replace(opened, **changes)


def moved(to: int, partition: int = 0, by: int | None = None) -> PositionUpdate:
    """A partition read up to `to`, from `by` records before; `by` None: from its start."""
    return PositionUpdate(partition, None if by is None else to - by, to)


def counted(store: Store) -> dict[tuple[Series, datetime], Counts]:
    return {(series, at): counts for series, at, counts in store.buckets(FIRST_TIME, LAST_TIME)}


def holds(store: Store) -> tuple[object, ...]:
    """All that a batch can change."""
    return store.counts(), counted(store), store.clocks(NEWS), store.recent_stories(FIRST_TIME)


@contextmanager
def failing_at(statement: str) -> Iterator[None]:
    """The database connection breaks before a statement that begins so."""

    def fail(_c: object, _cursor: object, sql: str, *_: object) -> None:
        if sql.startswith(statement):
            raise ConnectionResetError("broken")

    sa.event.listen(sa.Engine, "before_cursor_execute", fail)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", fail)


def commit_and_die(url: str) -> None:
    """Commit a batch, and be killed in another, after its last statement and before its commit."""

    def kill(_c: object, _cursor: object, sql: str, *_: object) -> None:
        if sql.startswith("INSERT INTO buckets"):
            os.kill(os.getpid(), signal.SIGKILL)

    store = Store(url)
    store.commit(NEWS, [entry("a", entities=("Acme",))], [moved(1)], NOW)
    sa.event.listen(sa.Engine, "after_cursor_execute", kill)
    store.commit(NEWS, [entry("b", entities=("Acme",))], [moved(2, by=1)], NOW)


def rename(one: Entry, name: str, **changes: object) -> Entry:
    """The entry under another item id."""
    item = replace(one.scored.item, id=f"{name} {one.scored.item.id}", **changes)
    return replace(one, scored=replace(one.scored, item=item))


class BatchContract:
    """Holds for every database; a subclass says which by a fixture `url`."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        with Store(url) as store:
            yield store

    # Batches and positions

    def test_a_batch_is_counted_in_every_series_it_belongs_to(self, store: Store) -> None:
        first, second = entry("a", 1, score=-0.5, entities=("Acme",)), entry("b", 4, score=0.25, late=True)
        assert store.commit(NEWS, [first, second], [moved(2)], NOW) == [first, second]
        assert counted(store) == {
            (EVERYTHING, DAY): Counts(2, 1, -0.25, 1, stories=1, negative_stories=1),
            (BANKS, DAY): Counts(2, 1, -0.25, 1, stories=1, negative_stories=1),
            (ACME, DAY): Counts(1, 1, -0.5, 0, stories=1, negative_stories=1),
        }
        assert store.positions(NEWS, [0, 1]) == {0: 2}
        assert store.counts() == {"items": 2, "stories": 2, "alerts": 0}

    def test_counts_of_a_bucket_are_summed_over_partitions_and_sources(self, store: Store) -> None:
        for number, (source, partition) in enumerate([(NEWS, 0), (NEWS, 1), ("file:old", 0)]):
            one = entry(f"{number}", partition=partition, score=-0.5)
            store.commit(source, [one], [moved(1, partition)], NOW)
        assert counted(store)[BANKS, DAY] == Counts(3, 3, -1.5, 0, stories=3, negative_stories=3)
        assert store.positions("file:old", [0, 1]) == {0: 1}

    def test_buckets_are_read_from_the_start_up_to_and_without_the_end(self, store: Store) -> None:
        store.commit(NEWS, [entry(f"{minute}", minute) for minute in (10, 0, 5, 4.99)], [moved(4)], NOW)
        read = store.buckets(DAY, DAY + timedelta(minutes=10))
        assert [(at - DAY, counts.items) for series, at, counts in read if series == BANKS] == [
            (timedelta(0), 2),
            (timedelta(minutes=5), 1),
        ]

    def test_an_item_stored_before_or_earlier_in_the_batch_is_not_counted_again(self, store: Store) -> None:
        store.commit(NEWS, [entry("a")], [moved(1)], NOW)
        batch = [entry("c"), entry("a", score=-1), entry("b"), entry("c", score=-1), entry("a", partition=1)]
        assert store.commit(NEWS, batch, [moved(5, by=4), moved(1, 1)], NOW) == [batch[0], batch[2]]
        assert counted(store)[EVERYTHING, DAY] == Counts(3, 3, -1.5, 0, stories=3, negative_stories=3)
        assert store.positions(NEWS, [0, 1]) == {0: 5, 1: 1}

    def test_an_entity_named_twice_counts_once(self, store: Store) -> None:
        store.commit(NEWS, [entry("a", entities=("Acme", "Acme"))], [moved(1)], NOW)
        assert counted(store)[ACME, DAY].items == 1

    @pytest.mark.parametrize("expected", [None, 4, 6])
    def test_a_batch_that_expects_another_position_is_refused_whole(self, store: Store, expected: int | None) -> None:
        store.commit(NEWS, [entry("a", partition=1)], [moved(5, 1)], NOW)
        before = holds(store)
        batch = [entry("b", 7), entry("c", 8, partition=1)]
        with pytest.raises(PositionConflict, match=rf"partition 1 of {NEWS} stands at offset 5.*expected {expected}"):
            store.commit(NEWS, batch, [moved(1), PositionUpdate(1, expected, 9)], NOW + timedelta(hours=1))
        assert holds(store) == before

    def test_a_batch_without_the_position_of_an_entry_is_refused(self, store: Store) -> None:
        with pytest.raises(ValueError, match=r"partitions \[3\] came without"):
            store.commit(NEWS, [entry("a", partition=3)], [moved(1)], NOW)

    def test_a_batch_of_rejected_records_still_moves_its_position(self, store: Store) -> None:
        assert store.commit(NEWS, [], [moved(7)], NOW) == []
        assert store.clocks(NEWS) == {0: PartitionClock(7, None, NOW)}

    def test_a_clock_moves_to_the_newest_event_time_and_never_back(self, store: Store) -> None:
        later = NOW + timedelta(hours=1)
        store.commit(NEWS, [entry("a", 9), entry("b", 30), entry("c", 3)], [moved(3)], NOW)
        store.commit(NEWS, [entry("d", 10), entry("e", 50, partition=2)], [moved(4, by=1), moved(1, 2)], later)
        assert store.clocks(NEWS) == {
            0: PartitionClock(4, DAY + timedelta(minutes=30), later),
            2: PartitionClock(1, DAY + timedelta(minutes=50), later),
        }
        assert store.clocks("file:old") == {}

    def test_a_partition_with_a_backlog_is_active_before_anything_of_it_is_stored(self, store: Store) -> None:
        store.commit(NEWS, [entry("a")], [moved(1)], NOW)
        later = NOW + timedelta(hours=1)
        store.touch(NEWS, [1, 0, 1], later)
        assert store.clocks(NEWS) == {0: PartitionClock(1, DAY, later), 1: PartitionClock(None, None, later)}
        assert store.positions(NEWS, [0, 1]) == {0: 1}
        store.commit(NEWS, [], [moved(4, 1)], later)
        assert store.positions(NEWS, [0, 1]) == {0: 1, 1: 4}

    @pytest.mark.parametrize(
        "at",
        [FIRST_TIME, LAST_TIME, DAY - timedelta(days=40_000, microseconds=1), DAY + timedelta(microseconds=999_999)],
    )
    def test_times_come_back_to_the_microsecond_and_in_utc(self, store: Store, at: datetime) -> None:
        store.commit(NEWS, [entry("a", event_at=at)], [moved(1)], NOW.astimezone(timezone(timedelta(hours=9))))
        [(_, _, event_at)] = store.recent_stories(FIRST_TIME)
        clock = store.clocks(NEWS)[0]
        assert (event_at, event_at.tzinfo) == (at, UTC)
        assert clock == PartitionClock(1, min(at, NOW), NOW)
        assert clock.active_at.tzinfo is UTC
        assert (BANKS, bucket_start(at)) in counted(store) or at == LAST_TIME

    # Examples may share a database, and the databases the examples: each has a source and items of its own.
    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(data=st.data())
    def test_every_bucket_is_the_sum_of_its_items_whatever_the_batches(self, url: str, data: st.DataObject) -> None:
        drawn = st.builds(
            entry,
            st.sampled_from([f"item {number}" for number in range(40)]),
            st.integers(-10, 25),
            partition=st.integers(0, 2),
            score=st.floats(-1, 1),
            topic=st.sampled_from(["Banks", "Energy", "Everything"]),
            entities=st.sampled_from([(), ("Acme",), ("Acme", "Bolt")]),
            late=st.booleans(),
        )
        source = f"example {next(_examples)}"
        stored: dict[str, Entry] = {}
        with Store(url) as store:
            before = counted(store)
            for batch in data.draw(st.lists(st.lists(drawn, max_size=12), max_size=4)):
                named = [rename(one, source) for one in batch]
                at = store.positions(source, [0, 1, 2])
                updates = [PositionUpdate(number, at.get(number), at.get(number, 0) + 1) for number in range(3)]
                new = store.commit(source, named, updates, NOW)
                first: dict[str, Entry] = {}
                for one in named:
                    first.setdefault(one.scored.item.id, one)
                assert new == [one for name, one in first.items() if name not in stored]
                stored |= {one.scored.item.id: one for one in new}
            after = counted(store)
        sums: defaultdict[tuple[Series, datetime], Counts] = defaultdict(Counts, before)
        for one in stored.values():
            negative, story = one.negative, not one.late
            for series in set(one.series):
                others = (one.late, one.late and negative, story, story and negative)
                sums[series, bucket_start(one.event_at)] += Counts(1, negative, one.scored.sentiment_score, *others)
        assert after == {
            key: replace(counts, score=pytest.approx(counts.score, abs=1e-9)) for key, counts in sums.items()
        }

    # Crashes and other workers

    @pytest.mark.parametrize("statement", ["INSERT INTO items", "INSERT INTO item_entities", "INSERT INTO buckets"])
    def test_a_batch_that_fails_on_its_way_leaves_nothing(self, store: Store, statement: str) -> None:
        store.commit(NEWS, [entry("a")], [moved(1)], NOW)
        before = holds(store)
        with pytest.raises(ConnectionResetError), failing_at(statement):
            store.commit(NEWS, [entry("b", entities=("Acme",))], [moved(2, by=1)], NOW)
        assert holds(store) == before
        assert len(store.commit(NEWS, [entry("b", entities=("Acme",))], [moved(2, by=1)], NOW)) == 1

    def test_a_worker_killed_before_its_commit_leaves_nothing_of_the_batch(self, url: str) -> None:
        code = f"from tests.test_store_batches import commit_and_die; commit_and_die({url!r})"
        path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
        killed = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, timeout=60)
        assert killed.returncode == -signal.SIGKILL
        with Store(url) as store:
            assert store.positions(NEWS, [0]) == {0: 1}
            assert counted(store)[ACME, DAY] == Counts(1, 1, -0.5, 0, stories=1, negative_stories=1)
            assert store.commit(NEWS, [entry("a"), entry("b")], [moved(2, by=1)], NOW) == [entry("b")]

    def test_copies_of_items_that_workers_store_at_once_are_counted_once(self, url: str) -> None:
        names = [f"item {number}" for number in range(120)]
        start = threading.Barrier(3)

        def work(partition: int) -> int:
            order = names if partition % 2 else names[::-1]
            new = 0
            with Store(url) as store:
                start.wait(timeout=60)
                for number in range(0, len(order), 10):
                    batch = [entry(name, partition=partition) for name in order[number : number + 10]]
                    update = moved(number + 10, partition, by=10 if number else None)
                    new += len(store.commit(NEWS, batch, [update], NOW))
            return new

        with Store(url) as store, ThreadPoolExecutor(3) as pool:
            assert sum(pool.map(work, range(3))) == len(names)
            assert counted(store)[BANKS, DAY].items == store.counts()["items"] == len(names)
            assert store.positions(NEWS, range(3)) == dict.fromkeys(range(3), len(names))

    def test_of_workers_that_store_from_one_position_one_wins(self, url: str) -> None:
        start = threading.Barrier(4)

        def work(worker: int) -> int:
            won = 0
            with Store(url) as store:
                for number in range(10):
                    start.wait(timeout=60)
                    try:
                        update = moved(number + 1, by=1 if number else None)
                        store.commit(NEWS, [entry(f"{number} of {worker}")], [update], NOW)
                        won += 1
                    except PositionConflict:
                        pass
                    start.wait(timeout=60)
            return won

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(work, range(4))) == 10
        with Store(url) as store:
            assert counted(store)[BANKS, DAY].items == 10
            assert store.positions(NEWS, [0]) == {0: 10}

    def test_threads_share_a_store(self, store: Store) -> None:
        store.save_evaluation(NEWS, NOW, [alert()])

        def deliver() -> int:
            for number in range(30):
                store.deliveries.delivery_failed("log", alert(), NOW, f"{number}", NOW)
                store.deliveries.undelivered("log", NOW)
            return store.deliveries.attempts("log", alert())

        with ThreadPoolExecutor(1) as pool:
            delivering = pool.submit(deliver)
            for number in range(30):
                store.commit(NEWS, [entry(f"{number}")], [moved(number + 1, by=1 if number else None)], NOW)
            assert delivering.result(timeout=60) == 30
        assert counted(store)[BANKS, DAY].items == 30


class TestBatchesOnSqlite(BatchContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'news.db'}"
