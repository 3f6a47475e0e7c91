"""The whole story: real headlines through a real Kafka, a daemon killed in the middle, and an alert that arrives."""

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from monitor.history import read_history
from monitor.records import RawRecord, RecordError
from tests.integration.servers import Alertmanager, Prometheus, free_port

COLUMNS = "title=title,published_at=published_utc,source=feed,body=description,url=link"
COMMAND = [sys.executable, "-m", "monitor"]
SLOW_FEED = Path(__file__).parents[2] / "deploy" / "slow-feed.toml"
DEADLINE_S = 420


def _headlines() -> Path:
    folder = Path(os.environ.get("MONITOR_DATA", Path(__file__).parents[3] / "shared" / "data"))
    path = folder / "svb-2023" / "headlines.csv"
    if not path.exists():
        pytest.skip(f"{path} is not there; name the folder of the data sets in MONITOR_DATA")
    return path


@contextmanager
def _daemon(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen([*COMMAND, "run", "--config", str(config)], stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _rows(database: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
        return connection.execute(query).fetchall()


def _stored(database: Path) -> int:
    try:
        [(count,)] = _rows(database, "SELECT count(*) FROM items")
    except sqlite3.OperationalError:  # the daemon has not made it yet
        return 0
    return int(str(count))


def _wait_for(what: str, reached: Callable[[], bool], daemon: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(
                f"no {what}; the daemon: {daemon.poll()}, the end of its log:\n{log.read_text()[-3000:]}"
            )
        time.sleep(0.2)


@pytest.mark.integration
def test_headlines_of_a_bank_run_alert_though_the_daemon_is_killed_in_the_middle(
    tmp_path: Path,
    kafka_bootstrap: str,
    make_topic: Callable[..., str],
    alertmanager: Alertmanager,
    prometheus: Callable[..., Prometheus],
) -> None:
    headlines = _headlines()
    topic = make_topic(partitions=3)
    database, log, port = tmp_path / "monitor.db", tmp_path / "daemon.log", free_port()
    config = tmp_path / "monitor.toml"
    config.write_text(
        f"""
        [kafka]
        bootstrap_servers = "{kafka_bootstrap}"
        topic = "{topic}"
        dead_letter_topic = "{topic}.rejected"
        [store]
        url = "sqlite:///{database}"
        [alerts]
        alertmanager_urls = ["{alertmanager.url}"]
        [http]
        port = {port}
        """
        + SLOW_FEED.read_text()
    )
    scraper = prometheus(f"127.0.0.1:{port}")
    expected = _ids(headlines)

    replay = [*COMMAND, "replay", str(headlines), "--columns", COLUMNS, "--to", f"{kafka_bootstrap}/{topic}"]
    with subprocess.Popen([*replay, "--speed", "100000"], stderr=subprocess.DEVNULL) as publishing:
        with _daemon(config, log) as daemon:
            _wait_for("1,500 items", lambda: _stored(database) >= 1_500, daemon, log)
            daemon.kill()
            daemon.wait()
        killed_at = _stored(database)
        assert killed_at < len(expected), "the daemon was too fast to be killed in the middle"

        with _daemon(config, log) as daemon:
            _wait_for("every item", lambda: _stored(database) >= len(expected), daemon, log)
            assert publishing.wait(timeout=60) == 0

            # Every item is there exactly once, and the buckets hold exactly the items.
            ids = [str(row[0]) for row in _rows(database, "SELECT id FROM items")]
            assert Counter(ids) == Counter(expected)
            _assert_buckets_equal_items(database)

            # The alert has reached the desk: banks, on the day that the first of them was closed.
            def told() -> list[dict[str, object]]:
                alerts = [alert for post in list(alertmanager.webhook) for alert in post["alerts"]]
                return [alert for alert in alerts if alert["labels"]["name"] == "Banks"]

            _wait_for("alert at the webhook", lambda: bool(told()), daemon, log)
            assert {str(alert["startsAt"])[:10] for alert in told()} == {"2023-03-10"}

            # Prometheus has the series of the run.
            series = 'sentiment_window_items{name="Everything",window="24h"}'
            _wait_for("series in Prometheus", lambda: bool(scraper.query(series)), daemon, log)
            counted = f"sum(sentiment_items_total) == {len(expected) - killed_at}"
            _wait_for("count of all items in Prometheus", lambda: bool(scraper.query(counted)), daemon, log)
            assert scraper.query("sentiment_source_lag_records")
            assert scraper.query("up")[0]["value"][1] == "1"

            started_s = time.monotonic()
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(timeout=20) == 0
            assert time.monotonic() - started_s < 10
    _assert_same_alerts_as_a_backtest(headlines, database, tmp_path)


def _ids(headlines: Path) -> list[str]:
    """The id of each item in the file, each once."""

    def refuse(record: RawRecord, error: RecordError) -> None:
        raise error

    columns = dict(pair.split("=") for pair in COLUMNS.split(","))
    with headlines.open(newline="", encoding="utf-8") as file:
        rows = sum(1 for _ in csv.DictReader(file))
    history = read_history(headlines, columns, refuse)
    assert len(history) == rows
    return list({dated.item.id: None for dated in history})


def _assert_buckets_equal_items(database: Path) -> None:
    items = _rows(database, "SELECT count(*), sum(negative) FROM items")
    everything = _rows(
        database, "SELECT sum(items), sum(negatives) FROM buckets WHERE dimension = 'topic' AND name = 'Everything'"
    )
    assert everything == items
    by_topic = _rows(database, "SELECT topic, count(*), sum(negative) FROM items GROUP BY topic")
    buckets = _rows(
        database,
        "SELECT name, sum(items), sum(negatives) FROM buckets "
        "WHERE dimension = 'topic' AND name != 'Everything' GROUP BY name",
    )
    assert sorted(buckets, key=str) == sorted(by_topic, key=str)


def _assert_same_alerts_as_a_backtest(headlines: Path, database: Path, tmp_path: Path) -> None:
    output = tmp_path / "alerts.jsonl"
    done = subprocess.run(
        [
            *[*COMMAND, "backtest", str(headlines), "--columns", COLUMNS],
            *["--config", str(SLOW_FEED), "--output", str(output)],
        ],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    backtested = {
        (line["name"], line["observed"], line["items"]) for line in map(json.loads, output.read_text().splitlines())
    }
    live = {tuple(row) for row in _rows(database, "SELECT name, observed, items FROM alerts")}
    assert live == backtested
