"""What a store promises of labels, on SQLite here and on PostgreSQL in `integration/test_store_postgres.py`."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from monitor.labels import Label, Labelled
from monitor.records import Entry, RecordError
from monitor.store import PositionConflict, Store
from tests.test_store_batches import DAY, FIRST_TIME, NEWS, NOW, entry, failing_at, moved

LABELS = "kafka:news.labels"


def given(label: str, item: str = "a", who: str = "Ada", hour: float | None = None, task: str = "sentiment") -> Label:
    at = None if hour is None else DAY + timedelta(hours=hour)
    return Label(item, task, label, who, at)  # type: ignore[arg-type]


def history(store: Store) -> list[tuple[str, str, datetime]]:
    """(who, label, when) of every label that was ever stored."""
    with store._database.read("look at labels") as connection:
        rows = connection.execute(sa.text("SELECT who, label, at FROM labels ORDER BY at, turn"))
        return [(row.who, row.label, row.at) for row in rows]


class LabelContract:
    """Holds for every database; a subclass says which by a fixture `url`."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        with Store(url) as store:
            store.commit(NEWS, [entry("a", 1), entry("b", 2), entry("c", 3)], [moved(3)], NOW)
            yield store

    def test_what_is_labelled_is_kept_with_what_the_model_had_said(self, store: Store) -> None:
        stored, repeated = store.labels.add([given("neutral", hour=9), given("Banks", task="topic", hour=9)], NOW)
        assert (len(stored), repeated) == (2, [])
        [item] = store.labels.labelled()
        said = entry("a", 1)
        assert (item.scored, item.story) == (said.scored, said.story)
        assert set(item.labels) == {given("neutral", hour=9), given("Banks", task="topic", hour=9)}

    def test_labels_outlive_the_pruning_of_their_item_and_more_can_come(self, store: Store) -> None:
        store.labels.add([given("neutral", hour=9)], NOW)
        assert store.prune(NOW + timedelta(days=1)) > 0
        assert store.counts()["items"] == 0
        store.labels.add([given("positive", who="Bob", hour=10)], NOW)
        [item] = store.labels.labelled()
        assert item.scored == entry("a", 1).scored
        assert {label.who: label.label for label in item.labels} == {"Ada": "neutral", "Bob": "positive"}

    def test_the_same_label_at_the_same_time_is_stored_once(self, store: Store) -> None:
        labels = [given("neutral", hour=9), given("neutral", who="Bob", hour=9)]
        assert store.labels.add(labels, NOW) == (labels, [])
        assert store.labels.add(labels, NOW + timedelta(hours=1)) == ([], labels)
        assert store.labels.add([given("neutral", item="b", hour=9)] * 2, NOW)[1] == [given("neutral", "b", hour=9)]
        assert len(history(store)) == 3

    def test_a_persons_later_label_counts_in_whatever_order_they_come_and_all_are_kept(self, store: Store) -> None:
        store.labels.add([given("negative", hour=10)], NOW)
        store.labels.add([given("neutral", hour=9), given("positive", who="Bob", hour=8)], NOW)
        assert store.labels.standing() == [given("positive", who="Bob", hour=8), given("negative", hour=10)]
        assert [label for _, label, _ in history(store)] == ["positive", "neutral", "negative"]

    def test_of_labels_given_at_one_time_the_one_that_came_later_counts(self, store: Store) -> None:
        store.labels.add([given("positive", hour=9), given("negative", hour=9)], NOW)
        assert store.labels.standing() == [given("negative", hour=9)]
        store.labels.add([given("neutral", hour=9)], NOW + timedelta(seconds=1))
        assert store.labels.standing() == [given("neutral", hour=9)]

    def test_a_label_without_a_time_counts_when_it_comes_and_is_a_repeat_where_it_changes_nothing(
        self, store: Store
    ) -> None:
        stored, _ = store.labels.add([given("neutral")], NOW)
        assert stored == [replace(given("neutral"), at=NOW)]
        assert store.labels.add([given("neutral")], NOW + timedelta(hours=1)) == ([], [given("neutral")])
        later = NOW + timedelta(hours=2)
        stored, repeated = store.labels.add([given("positive"), given("positive"), given("neutral")], later)
        assert ([label.label for label in stored], repeated) == (["positive", "neutral"], [given("positive")])
        assert [label.label for label in store.labels.standing()] == ["neutral"]

    def test_a_label_without_a_time_counts_after_what_its_person_said_before_it_in_the_same_batch(
        self, store: Store
    ) -> None:
        store.labels.add([given("neutral", hour=1)], NOW)
        stored, repeated = store.labels.add([given("positive", hour=2), given("neutral")], NOW)
        assert ([label.label for label in stored], repeated) == (["positive", "neutral"], [])
        assert [label.label for label in store.labels.standing()] == ["neutral"]
        later = NOW + timedelta(minutes=1)
        again = [given("negative", hour=1), given("neutral"), replace(given("positive"), at=later), given("positive")]
        stored, repeated = store.labels.add(again, later)
        assert ([label.label for label in stored], repeated) == (
            ["negative", "positive"],
            [given("neutral"), given("positive")],
        )

    def test_a_label_without_a_time_counts_after_one_by_a_clock_that_is_ahead(self, store: Store) -> None:
        ahead = replace(given("negative"), at=NOW + timedelta(minutes=4))
        store.labels.add([ahead], NOW)
        stored, _ = store.labels.add([given("neutral"), given("positive")], NOW + timedelta(minutes=1))
        assert [label.label for label in stored] == ["neutral", "positive"]
        assert [label.label for label in store.labels.standing()] == ["positive"]

    def test_several_people_may_disagree(self, store: Store) -> None:
        store.labels.add([given("neutral", who=who, hour=9) for who in ("Ada", "Bob")], NOW)
        store.labels.add([given("negative", who="Cleo", hour=9)], NOW)
        said = {label.who: label.label for label in store.labels.standing()}
        assert said == {"Ada": "neutral", "Bob": "neutral", "Cleo": "negative"}

    def test_amounts_are_of_what_stands_of_each_persons_labels(self, store: Store) -> None:
        assert store.labels.amounts() == {"topic": Labelled(0, ()), "sentiment": Labelled(0, ())}
        store.labels.add([given("neutral", hour=9), given("neutral", who="Bob", hour=9)], NOW)
        store.labels.add([given("positive", hour=10), given("negative", hour=8), given("negative", hour=10)], NOW)
        store.labels.add([given("neutral", item="b", hour=9), given("Banks", task="topic", hour=9)], NOW)
        store.labels.add([given("positive", item="b", hour=10)], NOW)
        amounts = store.labels.amounts()
        assert amounts["topic"] == Labelled(1, ())
        assert (amounts["sentiment"].items, list(map(sorted, amounts["sentiment"].by_several))) == (
            2,
            [["negative", "neutral"]],
        )

    def test_what_cannot_be_stored_is_named_and_nothing_of_its_batch_is(self, store: Store) -> None:
        labels = [
            given("neutral", hour=9),
            given("neutral", item="z", hour=9),
            given("Bank", task="topic", hour=9),
        ]
        right, unknown, wrong = store.labels.problems(labels)
        assert right is None
        assert unknown is not None
        assert (unknown.reason, str(unknown)) == (
            "unknown_item",
            "id: 'z' is no item of this database; give an id that `label --queue` or an alert shows",
        )
        assert wrong is not None
        assert (wrong.reason, str(wrong)) == (
            "bad_value",
            "topic: 'Bank' is no topic, expected one of Banks; did you mean 'Banks'?",
        )
        with pytest.raises(RecordError, match="id: 'z' is no item"):
            store.labels.add(labels[:2], NOW, LABELS, [moved(2)])
        assert (history(store), store.labels.labelled(), store.positions(LABELS, [0])) == ([], [], {})

    def test_labels_and_the_position_of_their_stream_are_one_transaction(self, store: Store) -> None:
        with failing_at("INSERT INTO labels"), pytest.raises(ConnectionResetError):
            store.labels.add([given("neutral", hour=9)], NOW, LABELS, [moved(1)])
        assert (history(store), store.positions(LABELS, [0])) == ([], {})
        store.labels.add([given("neutral", hour=9)], NOW, LABELS, [moved(1)])
        assert (len(history(store)), store.positions(LABELS, [0])) == (1, {0: 1})

    def test_a_worker_that_lost_its_partition_stores_no_label(self, store: Store) -> None:
        store.labels.add([given("neutral", hour=9)], NOW, LABELS, [moved(5)])
        with pytest.raises(PositionConflict, match=r"kafka:news\.labels stands at offset 5, .* expected 3"):
            store.labels.add([given("positive", hour=10)], NOW, LABELS, [moved(6, by=3)])
        assert len(history(store)) == 1

    def test_labels_leave_the_event_time_of_news_alone(self, store: Store) -> None:
        before = store.clocks(NEWS)
        store.labels.add([given("neutral", hour=9)], NOW, LABELS, [moved(1)])
        assert store.clocks(NEWS) == before

    def test_a_batch_of_many_items_is_stored_whole(self, store: Store) -> None:
        names = [f"n{number}" for number in range(1_200)]
        store.commit(NEWS, [entry(name, 4) for name in names], [moved(1_203, by=1_200)], NOW)
        labels = [given("neutral", item=name, hour=9) for name in names]
        assert store.labels.problems(labels) == [None] * len(labels)
        assert len(store.labels.add(labels, NOW)[0]) == len(store.labels.labelled()) == len(names)
        assert len(store.labels.add([replace(label, at=None) for label in labels], NOW)[1]) == len(names)

    def test_open_are_the_first_items_of_stories_that_nobody_labelled(self, store: Store) -> None:
        def copy_of(name: str, story: str) -> Entry:
            return replace(entry(name, 5), story=f"story of {story}", copy=True)

        store.commit(NEWS, [copy_of("a2", "a"), copy_of("b2", "b")], [moved(5, by=2)], NOW)
        assert {item.id for item in store.labels.open_items(FIRST_TIME)} == {"a", "b", "c"}
        assert {item.id for item in store.labels.open_items(DAY + timedelta(minutes=2))} == {"b", "c"}
        store.labels.add([given("neutral", item="b2", hour=9)], NOW)
        assert {item.id for item in store.labels.open_items(FIRST_TIME)} == {"a", "c"}
        assert store.labels.count_open(FIRST_TIME) == 2
        [one] = [item for item in store.labels.open_items(FIRST_TIME) if item.id == "a"]
        said = entry("a", 1).scored
        assert (one.topic_probs, one.sentiment_probs) == (said.topic_probs, said.sentiment_probs)
        assert store.labels.scored(["a", "z"]) == [("story of a", said)]

    def test_the_newest_item_is_told_from_its_event_time(self, store: Store) -> None:
        assert store.labels.newest_item_at() == DAY + timedelta(minutes=3)


class TestLabelsOnSqlite(LabelContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'news.db'}"


def test_a_store_without_items_has_no_newest_one() -> None:
    with Store("sqlite://") as store:
        assert (store.labels.newest_item_at(), list(store.labels.open_items(FIRST_TIME))) == (None, [])
