"""A champion that is promoted while batches are read ahead of a real broker: none is lost, and none counted twice."""

import io
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path

import pytest

from monitor.champion import describe
from monitor.config import HttpSettings, KafkaSettings, ModelSettings, Settings, SourceSettings, StoreSettings
from monitor.daemon import Daemon
from monitor.metrics import Metrics
from monitor.sources.publisher import Publisher
from monitor.store import Store
from tests import tiny_model
from tests.integration.servers import Kafka
from tests.support import until

pytestmark = pytest.mark.integration

DAY = datetime(2023, 3, 10, tzinfo=UTC)


@contextmanager
def _publishing(settings: KafkaSettings, sent: list[int]) -> Iterator[None]:
    """Keep the topic full: the daemon is to have batches waiting at any moment."""
    enough = threading.Event()

    def publish() -> None:
        with Publisher(settings, settings.topic) as publisher:
            while not enough.wait(0.02):
                for number in range(len(sent), len(sent) + 60):
                    published = (DAY + timedelta(seconds=number)).isoformat()
                    record = {"id": f"n{number}", "title": f"Bank {number} posts", "published_at": published}
                    publisher.send(json.dumps(record).encode(), str(number % 7).encode())
                    sent.append(number)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def test_a_swap_under_load_stores_each_item_once_and_each_partition_by_one_model_after_the_other(
    tmp_path: Path, kafka: Kafka
) -> None:
    encoder = tiny_model.write_encoder(tmp_path / "encoder")
    for seed, name in enumerate(("one", "two"), start=1):
        tiny_model.write_checkpoint(tmp_path / name, tiny_model.network(encoder, seed=seed), encoder)
    database = tmp_path / "monitor.db"
    settings = Settings(
        kafka=KafkaSettings(bootstrap_servers=kafka.bootstrap, topic=kafka.make_topic(2)),
        source=SourceSettings(batch_items=32),
        model=ModelSettings(path="champion", backend="onnx", check_s=0.05),
        store=StoreSettings(url=f"sqlite:///{database}"),
        http=HttpSettings(port=0),
    )
    metrics, sent = Metrics(), list[int]()
    daemon = Daemon(settings, metrics, io.StringIO())
    thread = threading.Thread(target=daemon.run)

    def rows() -> list[tuple[int, str, str]]:
        with closing(sqlite3.connect(database)) as connection:
            return connection.execute(
                'SELECT partition, id, model FROM items ORDER BY partition, "offset"'
            ).fetchall()

    with Store(settings.store.url) as store:
        one, two = (
            store.models.add(describe(tmp_path / name, settings, DAY, lambda _: None)) for name in ("one", "two")
        )
        store.models.promote(one.version, seen=None, at=DAY, by="anna@desk")
        thread.start()
        try:
            with _publishing(settings.kafka, sent):
                for promoted in (two, one, two):
                    before = store.counts()["items"]
                    until(lambda before=before: store.counts()["items"] > before + 300)  # type: ignore[misc]
                    newest = store.models.champion()
                    store.models.promote(promoted.version, seen=newest, at=DAY, by="anna@desk")
                    until(lambda v=promoted.version: _shown(metrics) == {v})  # type: ignore[misc]
                before = store.counts()["items"]
                until(lambda: store.counts()["items"] > before + 300)
            until(lambda: store.counts()["items"] >= len(sent))
        finally:
            daemon.stop()
            thread.join(timeout=30)
    assert not thread.is_alive()
    stored = rows()
    assert sorted(name for _, name, _ in stored) == sorted(f"n{number}" for number in sent)
    for partition in (0, 1):
        models = [model for part, _, model in stored if part == partition]
        assert [model for model, _ in groupby(models)] == [one.version, two.version, one.version, two.version]
    read = metrics.registry.get_sample_value
    assert read("sentiment_model_swaps_total", {"outcome": "swapped"}) == 3
    assert (read("sentiment_repeated_items_total"), read("sentiment_batches_given_up_total")) == (0, 0)


def _shown(metrics: Metrics) -> set[str]:
    [family] = [each for each in metrics.registry.collect() if each.name == "sentiment_model_info"]
    return {sample.labels["model"] for sample in family.samples}
