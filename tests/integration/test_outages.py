"""A daemon whose database goes away and comes back: nothing is lost, and nothing is counted twice."""

import io
import json
import threading
from pathlib import Path

import httpx2
import pytest

from monitor.config import FileSettings, HttpSettings, Settings, SourceSettings, StoreSettings
from monitor.daemon import Daemon
from monitor.metrics import Metrics
from monitor.records import EVERYTHING, Counts, bucket_start, parse
from monitor.store import Store
from tests.integration.servers import PostgreSQL
from tests.support import until


def _line(number: int) -> bytes:
    title = f"Company {number} opens plant number {number}"
    return json.dumps({"title": title, "published_at": f"2023-03-10T12:{number:02}:00Z"}).encode()


def _append(path: Path, start: int, end: int) -> None:
    with path.open("ab") as file:
        file.writelines(_line(number) + b"\n" for number in range(start, end))


@pytest.mark.integration
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
