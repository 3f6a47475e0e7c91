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
from monitor.records import Alert, Evidence, Series, Severity
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
    with closing(
        Delivery(store.deliveries, [receiver], SETTINGS, lambda channel, outcome: None, datetime.now(UTC))
    ) as opened:
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
    with closing(
        Delivery(store.deliveries, [receiver], SETTINGS, lambda *_: None, now, silences=Silences([silence]))
    ) as quiet:
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


BANK = Series("entity", "Harrowgate")
TOPIC = Series("topic", "Financials")


def _group(leads: Severity, follows: Severity) -> list[Alert]:
    leader = _alert(series=BANK, severity=leads, also=(TOPIC,))
    return [
        leader,
        _alert(series=TOPIC, severity=follows, follows=leader.id, part_of=BANK, explained_by=BANK),
    ]


def _statuses(alertmanager: Alertmanager) -> dict[tuple[str, str, str], dict[str, Any]]:
    """By name, role and severity; an alert that ended is not among them."""
    alerts = httpx2.get(f"{alertmanager.url}/api/v2/alerts").json()
    return {
        (alert["labels"]["name"], alert["labels"]["role"], alert["labels"]["severity"]): alert for alert in alerts
    }


def _told(alertmanager: Alertmanager) -> list[tuple[str, str, str]]:
    """What each notification said: name, severity and status of each of its alerts."""
    return [
        (alert["labels"]["name"], alert["labels"]["severity"], alert["status"])
        for post in list(alertmanager.webhook)
        for alert in post["alerts"]
    ]


def _wait_for_another(alertmanager: Alertmanager) -> None:
    """Wait until an alert that came after all others was told, and so all that they set off."""
    labels = {"alertname": "Another", "name": "Another", "severity": "warning"}
    httpx2.post(f"{alertmanager.url}/api/v2/alerts", json=[{"labels": labels}]).raise_for_status()
    until(lambda: ("Another", "warning", "firing") in _told(alertmanager))


@pytest.mark.parametrize(
    ("leads", "follows"), [("warning", "warning"), ("critical", "critical"), ("critical", "warning")]
)
def test_what_follows_is_muted_by_what_leads_and_people_get_one_notification(
    store: Store, alertmanager: Alertmanager, delivery: Delivery, leads: Severity, follows: Severity
) -> None:
    group = _group(leads, follows)
    store.save_evaluation("s", group[0].updated_at, group)
    delivery.run(datetime.now(UTC))
    until(lambda: _told(alertmanager))
    statuses = _statuses(alertmanager)
    leader, follower = statuses["Harrowgate", "leads", leads], statuses["Financials", "follows", follows]
    assert leader["status"]["state"] == "active"
    assert leader["annotations"]["also"] == "Financials"
    assert follower["status"]["state"] == "suppressed"
    assert follower["status"]["inhibitedBy"] == [leader["fingerprint"]]
    assert follower["annotations"]["summary"].find("Part of the alert on Harrowgate, without which") > 0
    _wait_for_another(alertmanager)
    assert [told for told in _told(alertmanager) if told[0] == "Financials"] == []
    assert _told(alertmanager).count(("Harrowgate", leads, "firing")) == 1


def test_a_critical_alert_is_not_muted_by_a_warning_that_it_follows(
    store: Store, alertmanager: Alertmanager, delivery: Delivery
) -> None:
    group = _group("warning", "critical")
    store.save_evaluation("s", group[0].updated_at, group)
    delivery.run(datetime.now(UTC))
    until(lambda: {told[0] for told in _told(alertmanager)} == {"Harrowgate", "Financials"})
    assert _statuses(alertmanager)["Financials", "follows", "critical"]["status"]["inhibitedBy"] == []


def test_an_alert_of_another_group_is_told_beside_it(
    store: Store, alertmanager: Alertmanager, delivery: Delivery
) -> None:
    group = [*_group("warning", "warning"), _alert(series=Series("topic", "Energy"))]
    store.save_evaluation("s", group[0].updated_at, group)
    delivery.run(datetime.now(UTC))
    until(lambda: {told[0] for told in _told(alertmanager)} == {"Harrowgate", "Energy"})


def test_an_alert_that_leaves_its_group_is_told_by_itself_and_ends_as_a_follower(
    store: Store, alertmanager: Alertmanager, delivery: Delivery
) -> None:
    leader, follower = _group("warning", "warning")
    store.save_evaluation("s", leader.updated_at, [leader, follower])
    delivery.run(datetime.now(UTC))
    until(lambda: _told(alertmanager))
    apart = replace(
        follower,
        **{"follows": None, "part_of": None, "explained_by": None, "apart_from": BANK, "revision": 2},
        left_group=leader.id,
        left_at=datetime.now(UTC),
    )
    store.save_evaluation("s", leader.updated_at, [apart])
    delivery.run(datetime.now(UTC))
    until(lambda: ("Financials", "warning", "firing") in _told(alertmanager))
    until(lambda: ("Financials", "follows", "warning") not in _statuses(alertmanager))
    alone = _statuses(alertmanager)["Financials", "leads", "warning"]
    assert (alone["status"]["state"], alone["labels"]["group"]) == ("active", apart.id)
    assert alone["annotations"]["summary"].find("A spike without Harrowgate too") > 0

    worse = replace(apart, severity="critical", escalated_at=datetime.now(UTC), revision=3)
    store.save_evaluation("s", leader.updated_at, [worse])
    delivery.run(datetime.now(UTC))
    until(lambda: ("Financials", "critical", "firing") in _told(alertmanager))
    until(
        lambda: (
            set(_statuses(alertmanager)) == {("Harrowgate", "leads", "warning"), ("Financials", "leads", "critical")}
        )
    )


def test_a_group_that_is_over_ends_in_one_notification(
    store: Store, alertmanager: Alertmanager, delivery: Delivery
) -> None:
    group = _group("warning", "warning")
    store.save_evaluation("s", group[0].updated_at, group)
    delivery.run(datetime.now(UTC))
    until(lambda: _told(alertmanager))
    over = [replace(alert, revision=2, resolved_at=datetime.now(UTC)) for alert in group]
    store.save_evaluation("s", group[0].updated_at, over)
    delivery.run(datetime.now(UTC))
    until(lambda: ("Harrowgate", "warning", "resolved") in _told(alertmanager))
    _wait_for_another(alertmanager)
    assert _told(alertmanager).count(("Harrowgate", "warning", "resolved")) == 1
    assert ("Financials", "warning", "firing") not in _told(alertmanager)
