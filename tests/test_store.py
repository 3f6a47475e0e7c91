"""What a store promises of items, alerts and its upkeep, on SQLite here and on PostgreSQL in `integration/`."""

import sqlite3
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from monitor.records import EVERYTHING, Series
from monitor.schema import METADATA
from monitor.store import PositionConflict, Store, StoreError, StoreUnavailable
from tests.support import forget_promotions
from tests.test_store_batches import (
    ACME,
    BANKS,
    DAY,
    FIRST_TIME,
    LAST_TIME,
    NEWS,
    NOW,
    alert,
    counted,
    entry,
    failing_at,
    moved,
    rename,
)


class RecallContract:
    """Holds for every database; a subclass says which by a fixture `url`."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        with Store(url) as store:
            yield store

    # Items

    def test_the_items_of_a_window_are_its_negative_ones_the_worst_first(self, store: Store) -> None:
        batch = [
            entry("bad", 5, score=-0.5, entities=("Acme",)),
            entry("good", 6, score=0.9, entities=("Acme",)),
            entry("worst", 7, score=-0.9, entities=("Bolt", "Acme"), late=True),
            entry("elsewhere", 8, score=-0.7, topic="Energy", model="m2"),
            entry("before", 4.999, entities=("Acme",), model="m0"),
            entry("after", 10, entities=("Acme",), model="m3"),
        ]
        store.commit(NEWS, batch, [moved(6)], NOW)

        def found(series: Series, limit: int = 10) -> list[str]:
            return [item.id for item in store.window_items(series, *window, limit)]

        window = (DAY + timedelta(minutes=5), DAY + timedelta(minutes=10))
        assert found(EVERYTHING) == ["worst", "elsewhere", "bad"]
        assert found(BANKS) == found(ACME) == ["worst", "bad"]
        assert found(EVERYTHING, limit=2) == ["worst", "elsewhere"]
        assert found(Series("entity", "Banks")) == found(Series("topic", "Acme")) == []
        assert store.models_seen(EVERYTHING, *window) == ("m1", "m2")
        assert store.models_seen(ACME, *window) == ("m1",)

    def test_items_that_are_not_negative_come_where_they_are_asked_for(self, store: Store) -> None:
        store.commit(NEWS, [entry("bad", 1), entry("good", 2, score=0.5), entry("late", 99)], [moved(3)], NOW)
        window = (DAY, DAY + timedelta(minutes=5))
        assert [item.id for item in store.window_items(BANKS, *window, 10)] == ["bad"]
        assert [item.id for item in store.window_items(BANKS, *window, 10, negative=False)] == ["bad", "good"]

    def test_what_two_series_share_is_counted_as_alerts_count(self, store: Store) -> None:
        batch = [
            entry("both", 6, entities=("Acme",)),
            entry("good", 7, score=0.5, entities=("Acme", "Bolt")),
            replace(entry("copied", 8, entities=("Acme",)), copy=True),
            entry("late", 9, entities=("Acme",), late=True),
            entry("elsewhere", 9, topic="Oil", entities=("Acme",)),
            entry("unnamed", 9),
            entry("before", 4, entities=("Acme",)),
            entry("after", 10, entities=("Acme",)),
        ]
        store.commit(NEWS, batch, [moved(8)], NOW)
        starts, end = [DAY + timedelta(minutes=5), DAY], DAY + timedelta(minutes=10)
        bolt, cox = Series("entity", "Bolt"), Series("entity", "Cox")
        assert store.shared_items(BANKS, [ACME, bolt, cox], starts, end, stories=True) == {
            ACME: [(2, 1), (3, 2)],
            bolt: [(1, 0), (1, 0)],
            cox: [(0, 0), (0, 0)],
        }
        assert store.shared_items(BANKS, [ACME], starts, end, stories=False) == {ACME: [(3, 2), (4, 3)]}
        assert store.shared_items(EVERYTHING, [BANKS, ACME], [DAY], end, stories=True) == {
            BANKS: [(4, 3)],
            ACME: [(4, 3)],
        }

    def test_the_buckets_of_one_series_are_those_among_all(self, store: Store) -> None:
        store.commit(NEWS, [entry("a", 1, entities=("Acme",)), entry("b", 6, topic="Oil")], [moved(2)], NOW)
        everyone = store.buckets(FIRST_TIME, LAST_TIME)
        for series in (EVERYTHING, BANKS, ACME):
            assert store.buckets(FIRST_TIME, LAST_TIME, series) == [row for row in everyone if row[0] == series]

    def test_a_stored_item_is_as_it_came(self, store: Store) -> None:
        came = entry("a", 5, score=-0.25, late=True)
        store.commit(
            NEWS, [came, rename(came, "bare", body=None, source=None, url=None, language=None)], [moved(2)], NOW
        )
        item, bare = store.window_items(BANKS, DAY, NOW, 2)
        for field in ("id", "title", "published_at", "body", "source", "url", "language"):
            assert getattr(item, field) == getattr(came.scored.item, field)
        for field in ("topic", "sentiment", "sentiment_score", "model"):
            assert getattr(item, field) == getattr(came.scored, field)
        assert (item.event_at, item.story, item.late) == (came.event_at, came.story, True)
        assert (bare.body, bare.source, bare.url, bare.language) == (None,) * 4

    def test_recent_stories_are_the_oldest_first(self, store: Store) -> None:
        store.commit(NEWS, [entry("c", 9), entry("b", 5), entry("a", 4)], [moved(3)], NOW)
        since = DAY + timedelta(minutes=5)
        assert store.recent_stories(since) == [
            ("Title of b", "story of b", since),
            ("Title of c", "story of c", DAY + timedelta(minutes=9)),
        ]

    # Alerts

    def test_alerts_come_back_as_they_were_saved(self, store: Store) -> None:
        known = {"silenced": "drill", "notes": ("Acme reports", "XNYS closed: weekend")}
        group = {"also": (ACME, EVERYTHING), "left_group": "a", "left_at": DAY, "apart_from": ACME}
        first = alert("Banks", 0, **known, **group)
        follows = {"follows": first.id, "part_of": BANKS, "explained_by": BANKS}
        over = {"escalated_at": NOW, "resolved_at": NOW, "evidence": (), "p_value": 0.0}
        saved = [first, alert("Energy", 5, **over, **follows)]
        store.save_evaluation(NEWS, NOW, saved)
        assert store.alerts() == saved[::-1]
        assert store.alerts(limit=1) == store.alerts(since=DAY + timedelta(minutes=5)) == saved[1:]
        assert store.open_alerts() == saved[:1]
        assert store.evaluated_through(NEWS) == NOW
        assert store.evaluated_through("file:old") is None

    def test_an_alert_saved_again_replaces_what_was_saved(self, store: Store) -> None:
        store.save_evaluation(NEWS, DAY, [alert(), alert("Energy")])
        worse = alert(observed=15, severity="critical", revision=2, resolved_at=NOW)
        store.save_evaluation(NEWS, DAY, [worse, alert("Media", 5)])
        assert store.alerts()[0] == alert("Media", 5)
        assert set(store.alerts()[1:]) == {worse, alert("Energy")}

    def test_an_evaluation_behind_the_stored_one_is_refused(self, store: Store) -> None:
        store.save_evaluation(NEWS, NOW, [alert()])
        with pytest.raises(PositionConflict, match="is evaluated further than 2024-03-08T11:59:59"):
            store.save_evaluation(NEWS, NOW - timedelta(seconds=1), [alert("Energy")])
        assert (store.alerts(), store.evaluated_through(NEWS)) == ([alert()], NOW)

    def test_an_evaluation_that_fails_on_its_way_leaves_nothing(self, store: Store) -> None:
        with pytest.raises(ConnectionResetError), failing_at("INSERT INTO alerts"):
            store.save_evaluation(NEWS, NOW, [alert()])
        assert (store.alerts(), store.evaluated_through(NEWS)) == ([], None)

    def test_each_channel_is_told_each_revision_until_it_acknowledges(self, store: Store) -> None:
        store.save_evaluation(NEWS, DAY, [alert("Energy", 5), alert()])
        assert store.deliveries.undelivered("log", NOW) == [alert(), alert("Energy", 5)]
        assert store.deliveries.undelivered("log", NOW, limit=1) == [alert()]
        store.deliveries.delivered("log", alert(), NOW)
        assert store.deliveries.undelivered("log", NOW) == [alert("Energy", 5)]
        assert (store.deliveries.pending_deliveries("log"), store.deliveries.pending_deliveries("mail")) == (1, 2)
        resolved = alert(revision=2, resolved_at=NOW)
        store.save_evaluation(NEWS, NOW, [resolved])
        assert store.deliveries.undelivered("log", NOW) == [resolved, alert("Energy", 5)]
        store.deliveries.delivered("log", resolved, NOW)
        assert store.deliveries.undelivered("log", NOW) == [alert("Energy", 5)]

    def test_a_failed_delivery_is_due_again_at_its_next_attempt(self, store: Store) -> None:
        store.save_evaluation(NEWS, DAY, [alert()])
        later = NOW + timedelta(seconds=30)
        for number in (1, 2):
            store.deliveries.delivery_failed("log", alert(), NOW, "connection refused", later)
            assert store.deliveries.attempts("log", alert()) == number
        assert store.deliveries.undelivered("log", later - timedelta(microseconds=1)) == []
        assert store.deliveries.pending_deliveries("log") == 1
        assert store.deliveries.undelivered("log", later) == [alert()]
        store.deliveries.delivered("log", alert(), later)
        assert (store.deliveries.attempts("log", alert()), store.deliveries.pending_deliveries("log")) == (0, 0)

    def test_after_a_delivery_the_next_revision_is_due_at_once(self, store: Store) -> None:
        store.save_evaluation(NEWS, DAY, [alert()])
        store.deliveries.delivery_failed("log", alert(), NOW, "connection refused", NOW + timedelta(hours=1))
        store.deliveries.delivered("log", alert(), NOW)
        store.save_evaluation(NEWS, DAY, [alert(revision=2)])
        assert store.deliveries.undelivered("log", NOW) == [alert(revision=2)]

    def test_what_is_held_is_due_at_its_time_and_the_end_of_what_was_heard_of_at_once(self, store: Store) -> None:
        heard, unheard = alert(), alert("Energy", 5)
        store.save_evaluation(NEWS, DAY, [heard, unheard])
        store.deliveries.delivered("mail", heard, NOW)
        later = NOW + timedelta(hours=1)
        worse = alert(revision=2)
        store.save_evaluation(NEWS, DAY, [worse])
        for one in (worse, unheard):
            store.deliveries.hold("mail", one, NOW, later)
        assert store.deliveries.undelivered("mail", later - timedelta(microseconds=1)) == []
        assert (store.deliveries.pending_deliveries("mail"), store.deliveries.acknowledged("mail", worse)) == (0, 1)
        assert store.deliveries.undelivered("mail", later) == [worse, unheard]
        assert store.deliveries.undelivered("log", NOW) == [worse, unheard]
        over = [alert(revision=3, resolved_at=NOW), alert("Energy", 5, revision=2, resolved_at=NOW)]
        store.save_evaluation(NEWS, DAY, over)
        assert store.deliveries.undelivered("mail", NOW) == over[:1]
        assert store.deliveries.pending_deliveries("mail") == 1
        store.deliveries.enlist("mail", NOW)
        assert store.deliveries.undelivered("mail", NOW) == over

    def test_a_delivery_that_was_held_and_fails_waits_as_others_do(self, store: Store) -> None:
        store.save_evaluation(NEWS, DAY, [alert()])
        store.deliveries.hold("mail", alert(), NOW, NOW + timedelta(minutes=1))
        store.deliveries.delivery_failed("mail", alert(), NOW, "connection refused", NOW)
        assert store.deliveries.pending_deliveries("mail") == 1

    # Upkeep

    def test_prune_forgets_what_is_older_and_keeps_whole_buckets(self, store: Store) -> None:
        old = [entry(f"old {number}", 1, entities=("Acme",)) for number in range(2_500)]
        store.commit(NEWS, [*old, entry("kept", 6), entry("kept too", 9)], [moved(2_502)], NOW)
        gone, kept, open_ = alert("Gone", resolved_at=DAY), alert("Kept", resolved_at=NOW), alert("Open")
        store.save_evaluation(NEWS, DAY, [gone, kept, open_])
        store.deliveries.delivered("log", gone, NOW)
        assert store.prune(DAY + timedelta(minutes=8)) == 2_500 + 3 + 1
        assert {at for _, at, _ in store.buckets(FIRST_TIME, LAST_TIME)} == {DAY + timedelta(minutes=5)}
        assert store.counts() == {"items": 2, "stories": 2, "alerts": 2}
        assert store.window_items(ACME, FIRST_TIME, LAST_TIME, 1) == []
        assert set(store.alerts()) == {kept, open_}
        assert store.positions(NEWS, [0]) == {0: 2_502}
        assert store.prune(DAY + timedelta(minutes=8)) == 0

    def test_workers_that_start_at_once_create_the_database_once(self, url: str) -> None:
        start = threading.Barrier(6)

        def work(partition: int) -> None:
            start.wait(timeout=60)
            with Store(url) as store:
                store.commit(NEWS, [entry(f"{partition}", partition=partition)], [moved(1, partition)], NOW)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(6)))
        with Store(url) as store:
            store.ping()
            assert store.counts()["items"] == 6

    def test_the_migrations_end_in_the_tables_that_the_store_uses(self, url: str) -> None:
        Store(url).close()
        engine = sa.create_engine(url)
        with engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
        engine.dispose()

    def test_a_database_of_a_newer_version_is_refused(self, url: str) -> None:
        Store(url).close()
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        engine.dispose()
        with pytest.raises(StoreError, match=r"revision 9999, this program knows none after 0\d+: a newer version"):
            Store(url)


class TestRecallOnSqlite(RecallContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'news.db'}"

    def test_the_one_worker_evaluates(self, store: Store) -> None:
        assert store.evaluator_lock()

    def test_a_database_in_memory_serves_all_threads(self) -> None:
        with Store("sqlite://") as store, ThreadPoolExecutor(4) as pool:

            def work(partition: int) -> None:
                for number in range(10):
                    one = entry(f"{partition}.{number}", partition=partition)
                    store.commit(NEWS, [one], [moved(number + 1, partition, by=1 if number else None)], NOW)

            list(pool.map(work, range(4)))
            assert counted(store)[BANKS, DAY].items == 40
        with Store("sqlite://") as another:
            assert another.counts()["items"] == 0

    def test_a_database_locked_by_another_process_is_worth_another_try(self, tmp_path: Path) -> None:
        file = tmp_path / "news.db"
        with Store(f"sqlite:///{file}?timeout=0.05") as store:
            with closing(sqlite3.connect(file, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                assert store.counts()["items"] == 0
                with pytest.raises(StoreUnavailable, match=r"news\.db.*cannot store a batch: database is locked; "):
                    store.commit(NEWS, [entry("a")], [moved(1)], NOW)
            assert store.commit(NEWS, [entry("a")], [moved(1)], NOW) == [entry("a")]

    def test_a_new_database_that_another_worker_is_about_to_make_is_waited_for(self, tmp_path: Path) -> None:
        file = tmp_path / "news.db"
        with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as other:
            other.execute("CREATE TABLE early (x)")
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(
                StoreUnavailable, match=r"news\.db.*cannot create or migrate its tables: database is lock"
            ):
                Store(f"sqlite:///{file}?timeout=0.05")
            release = threading.Timer(0.2, other.execute, ("ROLLBACK",))
            release.start()
            with Store(f"sqlite:///{file}") as store:
                assert store.counts()["items"] == 0
            release.join()

    def test_a_full_disk_is_worth_another_try_once_there_is_space(self, store: Store) -> None:
        def limit(connection: sa.Connection) -> None:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

        batch = [entry(f"{number}") for number in range(500)]
        sa.event.listen(sa.Engine, "begin", limit)
        try:
            pages = 1  # no more than there are
            with pytest.raises(StoreUnavailable, match="database or disk is full; make space on its disk"):
                store.commit(NEWS, batch, [moved(500)], NOW)
            pages = 1_000_000
            assert store.commit(NEWS, batch, [moved(500)], NOW) == batch
        finally:
            sa.event.remove(sa.Engine, "begin", limit)

    def test_databases_are_created_in_several_threads_at_once(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(6) as pool:
            urls = [f"sqlite:///{tmp_path / str(number)}" for number in range(24)]
            for store in pool.map(Store, urls):
                with store:
                    assert store.counts()["items"] == 0

    def test_a_file_that_cannot_be_opened_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(
            StoreError, match=r"none/news\.db: cannot create .*; check that its folder exists"
        ) as caught:
            Store(f"sqlite:///{tmp_path / 'none' / 'news.db'}")
        assert not isinstance(caught.value, StoreUnavailable)

    def test_a_file_that_is_no_database_is_left_alone(self, tmp_path: Path) -> None:
        file = tmp_path / "letter.txt"
        file.write_text("Dear analyst, " * 100)
        with pytest.raises(StoreError, match=r"letter\.txt: cannot .*: file is not a database; check that the file"):
            Store(f"sqlite:///{file}")
        assert file.read_text() == "Dear analyst, " * 100

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("news.db", r"^database URL: not a URL; expected sqlite:///FILE or postgresql\+psycopg://"),
            ("mysql://desk:secret@db/news", r"^database mysql://desk:\*\*\*@db/news: mysql is not supported; exp"),
            ("sqlite:///news.db?timeout=soon", r"^database sqlite:///news\.db\?timeout=soon: not usable; expected"),
            ("sqlite://host/news.db", r"^database sqlite://host/news\.db: not usable; expected sqlite:///FILE or"),
        ],
    )
    def test_another_url_is_refused_without_its_password(self, url: str, message: str) -> None:
        with pytest.raises(StoreError, match=message) as caught:
            Store(url)
        assert "secret" not in str(caught.value)

    def test_the_missing_driver_of_postgresql_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "psycopg", None)
        with pytest.raises(StoreError, match=r"install .* pip install 'sentiment-monitor\[postgres\]'"):
            Store("postgresql://db/news")


def test_what_an_older_release_stored_counts_each_item_as_a_story(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    with Store(url) as store:
        store.commit(NEWS, [entry("a"), entry("b", score=0.5), entry("c", late=True)], [moved(3)], NOW)
    with sqlite3.connect(tmp_path / "old.db") as old:
        forget_promotions(old)
        for table, column in (
            ("items", "copy"),
            ("items", "negative"),
            ("buckets", "stories"),
            ("buckets", "negative_stories"),
            *(("alerts", name) for name in ("counting", "copies", "publishers", "words", "entities", "in_all")),
            *(("alerts", "silenced"), ("alerts", "notes"), ("deliveries", "held_until")),
            *(("deliveries", "severity"), ("deliveries", "follows")),
            *(("alerts", name) for name in ("follows", "part_of", "explained_by", "also")),
            *(("alerts", name) for name in ("left_group", "left_at", "apart_from")),
        ):
            old.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        for table in ("comparisons", "retrainings", "labels", "labelled_items", "promotions", "models"):
            old.execute(f"DROP TABLE {table}")
        old.execute("UPDATE alembic_version SET version_num = '0001'")

    with Store(url) as store:
        [counts] = [counts for series, _, counts in store.buckets(FIRST_TIME, LAST_TIME) if series == EVERYTHING]
        items = store.window_items(EVERYTHING, FIRST_TIME, LAST_TIME, 10)

    assert (counts.items, counts.late, counts.stories, counts.negative_stories) == (3, 1, 2, 1)
    assert {item.id for item in items} == {"a", "c"}
