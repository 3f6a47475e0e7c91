"""The servers of this folder start, and take the configuration that we deploy."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx2
import psycopg
import pytest

from tests.integration.servers import (
    ALERTMANAGER_CONFIG,
    PROMETHEUS_CONFIG,
    Alertmanager,
    Kafka,
    Prometheus,
    Pushgateway,
    UnavailableError,
)
from tests.support import until

pytestmark = pytest.mark.integration


def test_server_that_is_not_installed_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for start, missing in (
        (lambda: Kafka(tmp_path), "no java on PATH"),
        (lambda: Prometheus(tmp_path, "127.0.0.1:9"), "no prometheus on PATH"),
        (lambda: Alertmanager(tmp_path), "no prometheus-alertmanager on PATH"),
        (lambda: Pushgateway(tmp_path), "no prometheus-pushgateway on PATH"),
    ):
        with pytest.raises(UnavailableError, match=missing):
            start()


def test_prometheus_accepts_the_deployed_configuration(prometheus: Callable[..., Prometheus]) -> None:
    prometheus("127.0.0.1:9")
    done = subprocess.run(["promtool", "check", "config", PROMETHEUS_CONFIG], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_prometheus_knows_that_a_target_is_down(prometheus: Callable[..., Prometheus]) -> None:
    server = prometheus("127.0.0.1:9")
    until(lambda: server.query("up"))
    (up,) = server.query('up{job="sentiment-monitor"}')
    assert up["value"][1] == "0"


def test_alertmanager_accepts_the_deployed_configuration(alertmanager: Alertmanager) -> None:
    done = subprocess.run(["amtool", "check-config", ALERTMANAGER_CONFIG], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("severity", "receiver"), [("warning", "risk-desk"), ("critical", "on-call")])
def test_alert_reaches_the_receiver_of_its_severity(alertmanager: Alertmanager, severity: str, receiver: str) -> None:
    labels = {"alertname": "NegativeNewsSpike", "dimension": "topic", "name": "Financials", "severity": severity}
    labels |= {"group": "5f0c", "role": "leads"}
    httpx2.post(f"{alertmanager.url}/api/v2/alerts", json=[{"labels": labels}]).raise_for_status()
    until(lambda: alertmanager.webhook)
    assert alertmanager.webhook[0]["receiver"] == receiver
    assert alertmanager.webhook[0]["groupLabels"] == {"alertname": "NegativeNewsSpike", "group": "5f0c"}


def test_alertmanager_comes_back_on_its_port_after_a_stop(alertmanager: Alertmanager) -> None:
    alertmanager.stop()
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(alertmanager.url)
    alertmanager.start()
    assert httpx2.get(f"{alertmanager.url}/-/ready").is_success


def test_each_postgres_database_is_empty_and_speaks_utf8(postgres_url: str) -> None:
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
        assert tables == (0,)


def test_each_topic_has_its_partitions(kafka_bootstrap: str, make_topic: Callable[..., str]) -> None:
    assert make_topic(3) != make_topic(3)
