"""A daemon whose database goes away and comes back: nothing is lost, and nothing is counted twice."""

import io
import json
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from monitor.config import FileSettings, HttpSettings, KafkaSettings, Settings, SourceSettings, StoreSettings
from monitor.daemon import Daemon
from monitor.metrics import Metrics
from monitor.records import BUCKET, EVERYTHING, Counts, bucket_start
from monitor.sources.publisher import Publisher
from monitor.store import Store
from monitor.wire import parse
from tests.integration.servers import Kafka, PostgreSQL, free_port
from tests.support import until

pytestmark = pytest.mark.integration


def _line(number: int) -> bytes:
    title = f"Company {number} opens plant number {number}"
    return json.dumps(
        {"title": title, "published_at": f"2023-03-10T{12 + number // 60}:{number % 60:02}:00Z"}
    ).encode()


def _append(path: Path, start: int, end: int) -> None:
    with path.open("ab") as file:
        file.writelines(_line(number) + b"\n" for number in range(start, end))


def test_items_that_come_while_the_database_is_away_are_stored_once_it_is_back(
    tmp_path: Path, postgres: PostgreSQL, caplog: pytest.LogCaptureFixture
) -> None:
    url = postgres.create_database()
    news = tmp_path / "news.jsonl"
    _append(news, 0, 10)
    settings = Settings(
        source=SourceSettings(kind="file"),
        file=FileSettings(path=news),
        store=StoreSettings(url=url),
        http=HttpSettings(port=0),
    )
    daemon = Daemon(settings, Metrics(), io.StringIO())
    thread = threading.Thread(target=daemon.run)
    with caplog.at_level("INFO"):
        thread.start()
        try:
            until(lambda: any(message.startswith("reading file:") for message in caplog.messages))
            [address] = [m.rsplit(" ", 1)[1] for m in caplog.messages if "metrics and health at" in m]
            with Store(url) as store:
                until(lambda: store.counts()["items"] == 10)
            postgres.stop()
            _append(news, 10, 30)
            until(lambda: httpx2.get(f"{address}/readyz", timeout=30).status_code == 503)
            assert httpx2.get(f"{address}/healthz").status_code == 200
            postgres.start()
            with Store(url) as store:
                until(lambda: store.counts()["items"] == 30)
            until(lambda: httpx2.get(f"{address}/readyz", timeout=30).status_code == 200)
        finally:
            daemon.stop()
            thread.join(timeout=20)
    assert not thread.is_alive()
    first = bucket_start(parse(_line(0)).published_at)
    last = bucket_start(parse(_line(59)).published_at)
    with Store(url) as store:
        rows = store.buckets(first, last)
        assert sum((counts for series, _, counts in rows if series == EVERYTHING), Counts()).items == 30
        assert store.positions(f"file:{news}", [0]) == {0: 30}
    postgres.drop_database(url)


def test_workers_that_get_in_each_others_way_store_each_item_once(tmp_path: Path, kafka: Kafka) -> None:
    topic, url = kafka.make_topic(2), f"sqlite:///{tmp_path}/monitor.db"
    _publish(KafkaSettings(bootstrap_servers=kafka.bootstrap, topic=topic), 0, 240)
    both = [Metrics(), Metrics()]
    # In groups of their own, so that each believes to have every partition.
    workers = [
        Daemon(
            Settings(
                kafka=KafkaSettings(bootstrap_servers=kafka.bootstrap, topic=topic, group=f"{topic}-{number}"),
                source=SourceSettings(batch_items=4),
                store=StoreSettings(url=url),
                http=HttpSettings(port=0),
            ),
            metrics,
            io.StringIO(),
        )
        for number, metrics in enumerate(both)
    ]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        with Store(url) as store:
            until(lambda: sum(store.positions(f"kafka:{topic}", [0, 1]).values()) == 240, within_s=120)
            assert store.counts()["items"] == 240
            rows = store.buckets(parse(_line(0)).published_at, parse(_line(239)).published_at + BUCKET)
            assert sum((counts for series, _, counts in rows if series == EVERYTHING), Counts()).items == 240
    finally:
        for worker in workers:
            worker.stop()
        for thread in threads:
            thread.join(timeout=20)
    given_up = [metrics.registry.get_sample_value("sentiment_batches_given_up_total") or 0 for metrics in both]
    assert sum(given_up) > 0, "they were to get in each other's way"


def test_while_kafka_is_away_it_is_not_ready_and_what_came_before_and_after_is_stored_once(
    tmp_path: Path, kafka: Kafka
) -> None:
    topic, url, port = kafka.make_topic(2), f"sqlite:///{tmp_path}/monitor.db", free_port()
    news = KafkaSettings(bootstrap_servers=kafka.bootstrap, topic=topic)
    config, address = tmp_path / "monitor.toml", f"http://127.0.0.1:{port}"
    config.write_text(
        f'[kafka]\nbootstrap_servers = "{kafka.bootstrap}"\ntopic = "{topic}"\ngroup = "{topic}"\n'
        f'[store]\nurl = "{url}"\n[http]\nport = {port}\n'
    )

    def ready() -> httpx2.Response | None:
        with suppress(httpx2.ConnectError):
            return httpx2.get(f"{address}/readyz", timeout=30)
        return None

    _publish(news, 0, 10)
    # A process of its own: kafka-python leaves the sockets of lost connections to the garbage collector.
    daemon = subprocess.Popen([sys.executable, "-m", "monitor", "run", "--config", str(config)])
    try:
        until(lambda: (answer := ready()) is not None and answer.status_code == 200)
        with Store(url) as store:
            until(lambda: store.counts()["items"] == 10)
            kafka.stop()
            until(lambda: (answer := ready()) is not None and answer.status_code == 503)
            assert "Kafka at" in httpx2.get(f"{address}/readyz", timeout=30).json()["parts"]["source"]
            assert 'sentiment_failures_total{part="source"} 0.0' not in httpx2.get(f"{address}/metrics").text
            kafka.start()
            _publish(news, 10, 30)
            until(lambda: store.counts()["items"] == 30)
        until(lambda: (answer := ready()) is not None and answer.status_code == 200)
        daemon.terminate()
        assert daemon.wait(timeout=10) == 0
    finally:
        daemon.kill()
        daemon.wait()


def _publish(news: KafkaSettings, start: int, end: int) -> None:
    with Publisher(news, news.topic) as publisher:
        for number in range(start, end):
            publisher.send(_line(number), str(number).encode())
