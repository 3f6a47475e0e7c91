"""The store on a real PostgreSQL: all that it promises on SQLite, and what several workers need beyond that."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import sqlalchemy as sa

from monitor.store import Store, StoreUnavailable
from tests.support import until
from tests.test_models import RegistryContract
from tests.test_store import RecallContract
from tests.test_store_batches import FIRST_TIME, NEWS, NOW, BatchContract, entry, moved
from tests.test_stored_labels import LabelContract, given, history
from tests.test_stored_schedule import NEW_YEAR, SECOND, ScheduleContract, Worker, make_due, now

pytestmark = pytest.mark.integration


def end_sessions(url: str) -> None:
    """End every other session of the database, as a restart of the server would."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        others = "datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        ended = f"SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE {others}"  # noqa: S608
        assert connection.scalar(sa.text(ended)) > 0
    engine.dispose()


def becomes_evaluator(store: Store, within_s: float = 10) -> None:
    """The server frees the lock of a session a moment after the session has ended."""
    deadline = time.monotonic() + within_s
    while not store.evaluator_lock():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestStoreOnPostgres(BatchContract, RecallContract):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url

    def test_one_worker_at_a_time_evaluates(self, url: str) -> None:
        with Store(url) as second:
            with Store(url) as first:
                assert [first.evaluator_lock(), second.evaluator_lock(), first.evaluator_lock()] == [
                    True,
                    False,
                    True,
                ]
            becomes_evaluator(second)

    def test_an_evaluator_that_lost_its_connection_hears_of_it_before_it_can_evaluate_again(self, url: str) -> None:
        with Store(url) as first, Store(url) as second:
            assert first.evaluator_lock()
            end_sessions(url)
            assert second.evaluator_lock()
            assert not first.evaluator_lock()
            assert not first.evaluator_lock()
            second.close()
            becomes_evaluator(first)

    def test_a_lock_lost_to_nobody_is_reported_lost_all_the_same(self, url: str) -> None:
        with Store(url) as store:
            assert store.evaluator_lock()
            end_sessions(url)
            assert [store.evaluator_lock(), store.evaluator_lock()] == [False, True]

    def test_a_store_goes_on_after_the_server_was_away(self, store: Store, url: str) -> None:
        store.commit(NEWS, [entry("a")], [moved(1)], NOW)
        end_sessions(url)
        assert store.commit(NEWS, [entry("b")], [moved(2, by=1)], NOW) == [entry("b")]

    def test_a_connection_lost_in_a_batch_is_worth_another_try_and_leaves_nothing(
        self, store: Store, url: str
    ) -> None:
        def cut(_c: object, _cursor: object, sql: str, *_: object) -> None:
            if sql.startswith("INSERT INTO buckets"):
                sa.event.remove(sa.Engine, "before_cursor_execute", cut)
                end_sessions(url)

        sa.event.listen(sa.Engine, "before_cursor_execute", cut)
        with pytest.raises(StoreUnavailable, match=r"cannot store a batch: .*; check that the server runs"):
            store.commit(NEWS, [entry("a")], [moved(1)], NOW)
        assert (store.counts()["items"], store.positions(NEWS, [0])) == (0, {})
        assert store.commit(NEWS, [entry("a")], [moved(1)], NOW) == [entry("a")]


class TestLabelsOnPostgres(LabelContract):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url

    def test_workers_that_store_the_same_labels_at_once_store_each_once(self, store: Store, url: str) -> None:
        labels = [
            given("neutral", item=item, who=f"p{who}", hour=9) for who in range(200) for item in ("a", "b", "c")
        ]
        with Store(url) as other, ThreadPoolExecutor(2) as pool:
            both = [pool.submit(each.labels.add, labels[::step], NOW) for each, step in ((store, 1), (other, -1))]
            assert sum(len(future.result()[0]) for future in both) == len(labels)
        assert len(history(store)) == len(labels)

    def test_what_was_labelled_can_be_read_while_another_worker_labels_more(self, store: Store, url: str) -> None:
        store.labels.add([given("neutral", hour=9)], NOW)
        with Store(url) as other:
            more = [given("neutral", item="b", hour=9)]

            def label_more(_c: object, _cursor: object, sql: str, *_: object) -> None:
                if more and "FROM label" in sql:
                    other.labels.add([more.pop()], NOW)

            # Other statements of that transaction see what is stored by then.
            sa.event.listen(sa.Engine, "after_cursor_execute", label_more)
            try:
                labelled = store.labels.labelled()
            finally:
                sa.event.remove(sa.Engine, "after_cursor_execute", label_more)
        assert [(item.scored.item.id, len(item.labels)) for item in labelled] == [("a", 1)]

    def test_many_labelled_stories_are_left_out_at_once_and_not_one_by_one(self, store: Store, url: str) -> None:
        plans: list[str] = []

        def explain(connection: sa.Connection, _cursor: object, sql: str, values: object, *_: object) -> None:
            if sql.startswith("SELECT count(*)"):
                plans.extend(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {sql}", values))  # type: ignore[arg-type]

        sa.event.listen(sa.Engine, "after_cursor_execute", explain)
        try:
            store.labels.count_open(FIRST_TIME)
        finally:
            sa.event.remove(sa.Engine, "after_cursor_execute", explain)
        assert any("Anti Join" in line for line in plans)


class TestRegistryOnPostgres(RegistryContract):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url


def test_a_server_that_cannot_be_reached_is_named_without_its_password() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        for url in (
            f"postgresql://desk:secret@{host}/news",
            f"postgresql+psycopg://desk@{host}/news?password=secret",
        ):
            with pytest.raises(
                StoreUnavailable, match=rf"desk.*@{host}/news: cannot .* refused.*; check that"
            ) as caught:
                Store(url)
            assert "secret" not in str(caught.value)


class TestScheduleOnPostgres(ScheduleContract):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url

    def test_a_server_that_was_away_stops_nothing_for_good(self, url: str, life: ExitStack) -> None:
        worker = Worker(url, {"retrain": NEW_YEAR}, life)
        end_sessions(url)
        make_due(url, "retrain", now() - SECOND)

        def looked() -> bool:
            worker.schedule.look()
            return bool(worker.due)

        until(looked)
        worker.leave()
        assert worker.due == ["retrain"]
