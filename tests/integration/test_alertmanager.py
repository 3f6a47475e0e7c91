"""Alerts at a real Alertmanager: they arrive, stay, end, and survive its absence."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from monitor.config import AlertSettings, SilenceSettings
from monitor.delivery import AlertmanagerReceiver, Delivery
from monitor.records import Alert, Evidence, Series
from monitor.silences import Silences
from monitor.store import Store
from tests.integration.servers import Alertmanager
from tests.support import until

pytestmark = pytest.mark.integration
SETTINGS = AlertSettings(retry_max_s=1)


@pytest.fixture
def store() -> Iterator[Store]:
    with Store("sqlite://") as opened:
        yield opened


def _alert(**changes: Any) -> Alert:
    now = datetime.now(UTC)
    alert = Alert(
        series=Series("topic", "M&A | Investments"),
        window="1h",
        severity="warning",
        opened_at=now - timedelta(minutes=5),
        updated_at=now,
        observed=42,
        items=60,
        expected=15.6,
        band=(9.1, 23.8),
        p_value=2e-5,
        evidence=(Evidence("a", "Harrowgate's bid “fails” <b>", now, -0.9, source="Meridian Wire"),),
        models=("m1",),
    )
    return replace(alert, **changes)


@pytest.fixture
def delivery(store: Store, alertmanager: Alertmanager) -> Iterator[Delivery]:
    receiver = AlertmanagerReceiver(alertmanager.url, SETTINGS, external_url="http://monitor.example:9310")
    with closing(Delivery(store, [receiver], SETTINGS, lambda channel, outcome: None, datetime.now(UTC))) as opened:
        yield opened


def _posts(alertmanager: Alertmanager, status: str, severity: str) -> list[dict[str, Any]]:
    alerts = [alert for post in list(alertmanager.webhook) for alert in post["alerts"]]
    return [alert for alert in alerts if (alert["status"], alert["labels"]["severity"]) == (status, severity)]


def _active(alertmanager: Alertmanager) -> list[str]:
    alerts = httpx2.get(f"{alertmanager.url}/api/v2/alerts", params={"active": "true"}).json()
    return [alert["labels"]["severity"] for alert in alerts if alert["status"]["state"] == "active"]


def test_an_alert_arrives_with_its_evidence_and_ends_when_it_resolves(
    store: Store, alertmanager: Alertmanager, delivery: Delivery
) -> None:
    alert = _alert()
    store.save_evaluation("s", alert.updated_at, [alert])
    delivery.run(datetime.now(UTC))
    [fired] = until(lambda: _posts(alertmanager, "firing", "warning"))
    assert fired["labels"]["name"] == "M&A | Investments"
    assert fired["annotations"]["summary"].startswith("42 of 60 stories on M&A | Investments were negative")
    assert fired["annotations"]["evidence"] == "Harrowgate's bid “fails” <b> (Meridian Wire)"
    assert fired["generatorURL"] == "http://monitor.example:9310"

    store.save_evaluation("s", alert.updated_at, [replace(alert, revision=2, resolved_at=datetime.now(UTC))])
    delivery.run(datetime.now(UTC))
    until(lambda: _posts(alertmanager, "resolved", "warning"))
    assert delivery.pending() == {"alertmanager": 0}


def test_a_warning_that_escalates_ends_as_a_warning_and_goes_on_as_critical(
    store: Store, alertmanager: Alertmanager, delivery: Delivery
) -> None:
    alert = _alert()
    store.save_evaluation("s", alert.updated_at, [alert])
    delivery.run(datetime.now(UTC))
    until(lambda: _active(alertmanager) == ["warning"])
    worse = replace(alert, severity="critical", escalated_at=datetime.now(UTC), revision=2)
    store.save_evaluation("s", alert.updated_at, [worse])
    delivery.run(datetime.now(UTC))
    until(lambda: _posts(alertmanager, "firing", "critical"))
    until(lambda: _posts(alertmanager, "resolved", "warning"))
    assert _active(alertmanager) == ["critical"]


def test_an_alert_of_a_replayed_past_arrives_too(
    store: Store, alertmanager: Alertmanager, delivery: Delivery
) -> None:
    past = datetime(2023, 3, 10, 17, tzinfo=UTC)
    alert = _alert(opened_at=past, updated_at=past)
    store.save_evaluation("s", past, [alert])
    delivery.run(datetime.now(UTC))
    [fired] = until(lambda: _posts(alertmanager, "firing", "warning"))
    assert fired["startsAt"].startswith("2023-03-10T17:00")


def test_while_alertmanager_is_down_alerts_wait_and_then_arrive(
    store: Store, alertmanager: Alertmanager, delivery: Delivery
) -> None:
    alertmanager.stop()
    alert = _alert()
    store.save_evaluation("s", alert.updated_at, [alert])
    delivery.run(datetime.now(UTC))
    assert delivery.pending() == {"alertmanager": 1}
    assert alertmanager.webhook == []

    alertmanager.start()

    def delivered() -> bool:
        delivery.run(datetime.now(UTC))
        return delivery.pending() == {"alertmanager": 0}

    until(delivered)
    until(lambda: _posts(alertmanager, "firing", "warning"))


def test_a_silenced_alert_arrives_when_the_silence_ends_with_what_was_known(
    store: Store, alertmanager: Alertmanager
) -> None:
    now = datetime.now(UTC)
    silence = SilenceSettings(
        name="*", starts_at=now - timedelta(hours=1), ends_at=now + timedelta(hours=1), comment="drill"
    )
    alert = _alert(notes=("Harrowgate reports", "XLON closed: weekend"), silenced="drill")
    over = _alert(series=Series("topic", "Macro"), revision=2, resolved_at=now)
    receiver = AlertmanagerReceiver(alertmanager.url, SETTINGS)
    with closing(Delivery(store, [receiver], SETTINGS, lambda *_: None, now, silences=Silences([silence]))) as quiet:
        store.save_evaluation("s", now, [alert, over])
        quiet.run(now)
        quiet.run(now + timedelta(minutes=30))
        assert httpx2.get(f"{alertmanager.url}/api/v2/alerts").json() == []
        quiet.run(now + timedelta(hours=1))
    [fired] = until(lambda: _posts(alertmanager, "firing", "warning"))
    assert fired["labels"]["name"] == "M&A | Investments"
    assert fired["annotations"]["silenced"] == "drill"
    assert fired["annotations"]["notes"] == "Harrowgate reports\nXLON closed: weekend"
    assert fired["annotations"]["summary"].endswith(". Known: Harrowgate reports; XLON closed: weekend")


def test_check_gives_its_version(alertmanager: Alertmanager) -> None:
    with closing(AlertmanagerReceiver(alertmanager.url, SETTINGS)) as receiver:
        assert receiver.check().startswith("version 0.")
