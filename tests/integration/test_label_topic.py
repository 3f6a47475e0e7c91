"""Labels from a real Kafka topic, read by the daemon with the guarantees that news has."""

import gc
import io
import json
import sqlite3
import threading
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx2
import pytest
from kafka import KafkaConsumer, TopicPartition

from monitor.config import (
    FileSettings,
    HttpSettings,
    KafkaSettings,
    LabelSettings,
    Settings,
    SourceSettings,
    StoreSettings,
)
from monitor.daemon import Daemon
from monitor.labelling import LabelReader, open_label_source
from monitor.metrics import Metrics
from monitor.records import Batch
from monitor.sources import SourceError
from monitor.sources.kafka import KafkaSource
from monitor.sources.publisher import Publisher
from monitor.store import Store
from tests.integration.servers import Kafka, PostgreSQL
from tests.support import until
from tests.test_store_batches import NEWS, NOW, entry, moved
from tests.test_stored_labels import history

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]


@pytest.fixture(scope="module", autouse=True)
def leaky_sockets() -> Iterator[None]:
    """kafka-python leaves the sockets of failed connections to the garbage collector, which must come by here."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'monitor.db'}"
    with Store(url) as store:
        store.commit(NEWS, [entry(name, 1) for name in ("a", "b", "c")], [moved(3)], NOW)
    return url


def _settings(kafka: Kafka, url: str, topic: str) -> Settings:
    return Settings(
        source=SourceSettings(kind="file"),
        file=FileSettings(path=Path("news.jsonl")),
        kafka=KafkaSettings(
            bootstrap_servers=kafka.bootstrap, group=f"of-{topic}", dead_letter_topic=f"{topic}.rejected"
        ),
        store=StoreSettings(url=url),
        http=HttpSettings(port=0),
        labels=LabelSettings(topic=topic),
    )


def _said(item: str, label: str = "neutral", who: str = "Ada") -> bytes:
    return json.dumps({"id": item, "task": "sentiment", "label": label, "by": who}).encode()


def _publish(settings: Settings, *values: bytes) -> None:
    with Publisher(settings.kafka, settings.labels.topic or "") as publisher:
        for value in values:
            publisher.send(value)


def _dead_letters(settings: Settings, count: int) -> list[tuple[bytes, dict[str, str]]]:
    with closing(
        KafkaConsumer(
            settings.kafka.dead_letter_topic,
            bootstrap_servers=settings.kafka.bootstrap_servers,
            auto_offset_reset="earliest",
            consumer_timeout_ms=60_000,
        )
    ) as consumer:
        return [
            (record.value, {name: value.decode() for name, value in record.headers})
            for _, record in zip(range(count), consumer, strict=False)
        ]


@contextmanager
def _reading(settings: Settings, store: Store, metrics: Metrics) -> Iterator[KafkaSource]:
    """A reader in a thread of its own, as the daemon runs it."""
    stopping = threading.Event()
    with closing(open_label_source(settings, settings.labels.topic or "", store)) as source:
        reader = LabelReader(source, store, metrics, lambda: NOW)
        thread = threading.Thread(target=reader.run, args=(stopping,))
        thread.start()
        try:
            yield source
        finally:
            stopping.set()
            thread.join(timeout=30)
            assert not thread.is_alive()


def _labels(store: Store) -> dict[tuple[str, str], str]:
    return {(label.item, label.who): label.label for label in store.labels.standing()}


def test_the_daemon_reads_labels_beside_news_and_after_a_restart_goes_on_from_the_database(
    kafka: Kafka, tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = _settings(kafka, url, kafka.make_topic(2))
    settings = settings.model_copy(update={"file": FileSettings(path=tmp_path / "news.jsonl")})
    (tmp_path / "news.jsonl").write_text('{"id": "n", "title": "Oil up", "published_at": "2024-03-08T11:00:00Z"}\n')
    _publish(settings, _said("a"), _said("z"), b"not JSON", _said("b"))
    with Store(url) as store, caplog.at_level("INFO"):
        for published, expected in (
            ((), {("a", "Ada"): "neutral", ("b", "Ada"): "neutral"}),
            ((_said("c"), _said("n", "positive")), {("c", "Ada"): "neutral", ("n", "Ada"): "positive"}),
        ):
            caplog.clear()
            metrics = Metrics()
            daemon = Daemon(settings, metrics, io.StringIO())
            thread = threading.Thread(target=daemon.run)
            thread.start()
            try:
                until(lambda: store.counts()["items"] == 4)
                _publish(settings, *published)
                until(lambda expected=expected: expected.items() <= _labels(store).items())
                until(lambda: any("metrics and health at" in message for message in caplog.messages))
                [address] = [m.rsplit(" ", 1)[1] for m in caplog.messages if "metrics and health at" in m]
                assert httpx2.get(f"{address}/healthz").json()["parts"] == {"loop": "ok", "labels": "ok"}
            finally:
                daemon.stop()
                thread.join(timeout=30)
            counted = metrics.registry.get_sample_value(
                "sentiment_labels_total", {"task": "sentiment", "outcome": "stored"}
            )
            assert counted == 2, "what was stored before the restart is not read again"
        assert len(history(store)) == 4
    letters = _dead_letters(settings, 2)
    assert {(value, headers["reason"], headers["topic"]) for value, headers in letters} == {
        (_said("z"), "unknown_item", settings.labels.topic),
        (b"not JSON", "not_json", settings.labels.topic),
    }
    [unknown] = [headers for _, headers in letters if headers["reason"] == "unknown_item"]
    assert unknown["message"].startswith("id: 'z' is no item of this database")


@contextmanager
def _locked(path: Path) -> Iterator[sqlite3.Connection]:
    """A SQLite database that another process is writing to, until it rolls back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


def test_labels_that_could_not_be_stored_are_read_again_and_stored_once(kafka: Kafka, url: str) -> None:
    settings, metrics = _settings(kafka, url, kafka.make_topic()), Metrics()
    failed = {"part": "labels"}
    with Store(f"{url}?timeout=0.05") as store, _locked(Path(url.removeprefix("sqlite:///"))) as other:
        _publish(settings, _said("a"), _said("b"))
        with _reading(settings, store, metrics):
            until(lambda: metrics.registry.get_sample_value("sentiment_failures_total", failed))
            assert (history(store), store.positions(f"kafka:{settings.labels.topic}", [0])) == ([], {})
            other.execute("ROLLBACK")
            until(lambda: len(_labels(store)) == 2)
        assert len(history(store)) == 2


def test_a_reader_whose_partition_another_took_over_stores_nothing_and_goes_on(kafka: Kafka, url: str) -> None:
    settings, metrics = _settings(kafka, url, kafka.make_topic()), Metrics()
    _publish(settings, _said("a"), _said("b"))
    with Store(url) as store:
        source = open_label_source(settings, settings.labels.topic or "", store)
        with closing(source):
            given_up = until(lambda: _batch(source))
            # Another worker stores the first label, and leaves the second.
            store.labels.add([], NOW, source.name, [moved(1)])
            reader = LabelReader(source, store, metrics, lambda: NOW)
            with pytest.raises(Exception, match="stands at offset 1, this batch expected None"):
                reader._process(given_up)
            assert history(store) == []
            stopping = threading.Event()
            thread = threading.Thread(target=reader.run, args=(stopping,))
            thread.start()
            until(lambda: _labels(store))
            stopping.set()
            thread.join(timeout=30)
        assert _labels(store) == {("b", "Ada"): "neutral"}


def test_workers_share_the_partitions_and_each_label_is_stored_once(kafka: Kafka, postgres: PostgreSQL) -> None:
    url = postgres.create_database()
    settings, counts = _settings(kafka, url, kafka.make_topic(4)), [Metrics(), Metrics()]
    names = [f"n{number}" for number in range(200)]
    with Store(url) as one, Store(url) as other:
        one.commit(NEWS, [entry(name, 1) for name in names], [moved(200)], NOW)
        with _reading(settings, one, counts[0]) as first, _reading(settings, other, counts[1]) as second:
            until(lambda: len(first._partitions) == len(second._partitions) == 2)
            _publish(settings, *(_said(name) for name in names))
            until(lambda: len(_labels(one)) == len(names))
        assert len(history(one)) == len(names)
    stored = {"task": "sentiment", "outcome": "stored"}
    assert sum(each.registry.get_sample_value("sentiment_labels_total", stored) or 0 for each in counts) == len(names)
    postgres.drop_database(url)


def test_labels_are_read_in_a_group_of_their_own_so_that_news_is_not_interrupted(kafka: Kafka, url: str) -> None:
    settings = _settings(kafka, url, kafka.make_topic())
    _publish(settings, _said("a"))
    with Store(url) as store, _reading(settings, store, Metrics()):
        until(lambda: _labels(store))
    place = TopicPartition(settings.labels.topic, 0)
    for group, offset in ((f"{settings.kafka.group}-labels", 1), (settings.kafka.group, None)):
        with closing(KafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=group)) as tool:
            assert tool.committed(place) == offset


def test_a_topic_that_is_not_there_stops_the_start(kafka: Kafka, url: str) -> None:
    settings = _settings(kafka, url, "no-such-topic")
    with Store(url) as store, pytest.raises(SourceError, match=r"has no topic 'no-such-topic', .* labels\.topic"):
        open_label_source(settings, "no-such-topic", store)


def _batch(source: KafkaSource) -> Batch | None:
    batch = source.poll(64, linger_s=0.05, wait_s=1.0)
    return batch if batch.records else None
