"""The loop: a file to its end, signals, health, and what happens when the database goes away."""

import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from monitor.config import (
    AlertSettings,
    ConfigError,
    FileSettings,
    HttpSettings,
    Settings,
    SourceSettings,
    StoreSettings,
)
from monitor.daemon import Daemon
from monitor.engine import Engine
from monitor.metrics import Metrics
from monitor.records import Alert, Batch, PositionUpdate, RawRecord, Series
from monitor.sources import SourceError
from monitor.store import Store
from tests.support import WordScorer, until


def _write(path: Path, records: int, start: int = 0) -> None:
    with path.open("a", encoding="utf-8") as file:
        for i in range(start, start + records):
            record = {
                "title": f"Company {i} opens a plant",
                "published_at": f"2023-03-10T{i // 60:02}:{i % 60:02}:00Z",
            }
            file.write(json.dumps(record) + "\n")


def _settings(tmp_path: Path, *, follow: bool = False, **http: Any) -> Settings:
    return Settings(
        source=SourceSettings(kind="file", batch_items=16),
        file=FileSettings(path=tmp_path / "news.jsonl", follow=follow),
        store=StoreSettings(url=f"sqlite:///{tmp_path / 'monitor.db'}"),
        http=HttpSettings(port=0, **http),
    )


def _items(tmp_path: Path) -> int:
    with Store(f"sqlite:///{tmp_path / 'monitor.db'}") as store:
        return store.counts()["items"]


def test_a_file_is_read_to_its_end_and_a_second_run_reads_on_from_there(tmp_path: Path) -> None:
    _write(tmp_path / "news.jsonl", 40)
    Daemon(_settings(tmp_path), Metrics(), io.StringIO()).run()
    assert _items(tmp_path) == 40
    _write(tmp_path / "news.jsonl", 5, start=40)
    metrics = Metrics()
    Daemon(_settings(tmp_path), metrics, io.StringIO()).run()
    assert _items(tmp_path) == 45
    stored = [s.value for f in metrics.items.collect() for s in f.samples if s.name == "sentiment_items_total"]
    assert sum(stored) == 5


def test_a_bad_line_becomes_a_dead_letter_with_its_reason_and_the_rest_is_stored(tmp_path: Path) -> None:
    _write(tmp_path / "news.jsonl", 3)
    with (tmp_path / "news.jsonl").open("a") as file:
        file.write('{"title": "no time"}\n')
    _write(tmp_path / "news.jsonl", 3, start=3)
    Daemon(_settings(tmp_path), Metrics(), io.StringIO()).run()
    assert _items(tmp_path) == 6
    [letter] = map(json.loads, (tmp_path / "news.jsonl.rejected.jsonl").read_text().splitlines())
    assert (letter["reason"], letter["line"]) == ("missing", 4)
    assert letter["record"] == '{"title": "no time"}'


def test_a_source_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"news\.jsonl"):
        Daemon(_settings(tmp_path), Metrics(), io.StringIO()).run()


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "news.jsonl", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        settings = _settings(tmp_path)
        taken = Settings(source=settings.source, file=settings.file, http=HttpSettings(port=port))
        with pytest.raises(ConfigError, match=rf"http\.port: cannot listen on http://127\.0\.0\.1:{port}"):
            Daemon(taken, Metrics(), io.StringIO()).run()


def test_health_and_metrics_are_served_while_it_runs_and_new_lines_are_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _write(tmp_path / "news.jsonl", 4)
    daemon = Daemon(_settings(tmp_path, follow=True), Metrics(), io.StringIO())
    with caplog.at_level("INFO"):
        thread = threading.Thread(target=daemon.run)
        thread.start()
        try:
            until(lambda: any("metrics and health at" in message for message in caplog.messages))
            [url] = [m.rsplit(" ", 1)[1] for m in caplog.messages if "metrics and health at" in m]
            until(lambda: httpx2.get(f"{url}/readyz").status_code == 200)
            assert httpx2.get(f"{url}/healthz").json() == {"ok": True, "parts": {"loop": "ok"}}
            until(lambda: _items(tmp_path) == 4)
            _write(tmp_path / "news.jsonl", 2, start=4)
            until(lambda: _items(tmp_path) == 6)
            exposed = httpx2.get(f"{url}/metrics", follow_redirects=False).text
            assert 'sentiment_items_total{sentiment="negative",topic="Financials"}' in exposed
            assert "sentiment_model_info{" in exposed
        finally:
            daemon.stop()
            thread.join(timeout=15)
    assert not thread.is_alive()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_within_ten_seconds_and_nothing_is_lost(tmp_path: Path, number: signal.Signals) -> None:
    _write(tmp_path / "news.jsonl", 1_400)
    config = tmp_path / "monitor.toml"
    config.write_text(
        f'[source]\nkind = "file"\n[file]\npath = "{tmp_path}/news.jsonl"\n'
        f'[store]\nurl = "sqlite:///{tmp_path}/monitor.db"\n[http]\nport = 0\n'
    )
    command = [sys.executable, "-m", "monitor", "run", "--config", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: (tmp_path / "monitor.db").exists() and _items(tmp_path) > 0)
        started_s = time.monotonic()
        process.send_signal(number)
        _, log = process.communicate(timeout=20)
        assert time.monotonic() - started_s < 10
    finally:
        process.kill()
    assert process.returncode == 0, log
    assert "stopped, with nothing half-written" in log
    with Store(f"sqlite:///{tmp_path / 'monitor.db'}") as store:
        [position] = store.positions(f"file:{tmp_path}/news.jsonl", [0]).values()
        assert store.counts()["items"] == position < 1_400, "it was to be stopped in the middle"


def test_receivers_that_never_answer_do_not_delay_the_stop(tmp_path: Path) -> None:
    _write(tmp_path / "news.jsonl", 4)
    now = datetime.now(UTC)
    alert = Alert(
        series=Series("topic", "Macro"),
        window="1h",
        severity="warning",
        opened_at=now,
        updated_at=now,
        observed=9,
        items=12,
        expected=2.5,
        band=(0.4, 5.5),
        p_value=5e-5,
    )
    with ExitStack() as life:
        # They accept a connection, as a listening socket does, and say nothing.
        mute = [life.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        urls = tuple(f"http://127.0.0.1:{listener.getsockname()[1]}" for listener in mute)
        settings = _settings(tmp_path, follow=True).model_copy(
            update={"alerts": AlertSettings(alertmanager_urls=urls)}
        )
        with Store(settings.store.url) as store:
            store.save_evaluation("another", now, [alert])
        metrics = Metrics()
        daemon = Daemon(settings, metrics, io.StringIO())
        thread = threading.Thread(target=daemon.run)
        thread.start()
        failed = {"channel": "alertmanager", "outcome": "failed"}
        until(lambda: metrics.registry.get_sample_value("sentiment_alert_deliveries_total", failed))
        started_s = time.monotonic()
        daemon.stop()
        thread.join(timeout=30)
        assert time.monotonic() - started_s < 10
    with Store(settings.store.url) as store:
        assert [waiting.id for waiting in store.open_alerts()] == [alert.id]


class _Read:
    """A source of two partitions of which everything was read."""

    name, expired = "memory", 0

    def lag(self) -> dict[int, int]:
        return {0: 0, 1: 0}


@pytest.mark.parametrize(("read_ahead", "watermark"), [([], 90), ([1], 5)], ids=["nothing", "partition 1"])
def test_a_partition_whose_records_were_read_ahead_and_are_not_stored_yet_holds_event_time(
    tmp_path: Path, read_ahead: list[int], watermark: int
) -> None:
    #  partition 0   12:00 ........................ 13:35   read a moment ago
    #  partition 1   12:00 .. 12:10                         silent since, but for what was read ahead
    noon = datetime(2023, 3, 10, 12, tzinfo=UTC)
    now = noon + timedelta(minutes=96)
    settings, metrics = _settings(tmp_path), Metrics()
    with Store(settings.store.url) as store:
        engine = Engine(settings, store, WordScorer(), metrics, source="memory", reject=lambda *_: None)
        for partition, minute, seen in ((1, 10, noon + timedelta(minutes=11)), (0, 95, now)):
            published = (noon + timedelta(minutes=minute)).isoformat()
            record = json.dumps({"title": "Macro: fine", "published_at": published}).encode()
            batch = Batch((RawRecord(partition, 0, record),), (PositionUpdate(partition, None, 1),))
            engine.process(batch, seen)
        daemon = Daemon(settings, metrics, io.StringIO(), now=lambda: now)
        daemon._tick(_Read(), engine, read_ahead, works=True)  # type: ignore[arg-type]
        assert engine.watermark == noon + timedelta(minutes=watermark)
