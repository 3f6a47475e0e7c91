"""Silences: who is told of what, and when."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from monitor.config import AlertSettings, SilenceSettings
from monitor.delivery import Delivery, DeliveryError, LogReceiver
from monitor.records import Alert, Channel, Kind, Series
from monitor.silences import Silences
from monitor.store import Store

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
BANKS = Series("topic", "Financials")


def _at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def _silence(start: float = 10, end: float = 60, **keys: Any) -> SilenceSettings:
    return SilenceSettings(
        **{"name": "Financials", "starts_at": _at(start), "ends_at": _at(end), "comment": "stress test"} | keys
    )


def _alert(opened: float, series: Series = BANKS, kind: Kind = "negative_share", **keys: Any) -> Alert:
    values = {
        "series": series, "kind": kind, "window": "1h", "severity": "warning", "opened_at": _at(opened),
        "updated_at": _at(opened), "observed": 42, "items": 60, "expected": 15.6, "band": (9.1, 23.8),
        "p_value": 2e-5,
    }  # fmt: skip
    return Alert(**values | keys)


def _resolved(alert: Alert, minutes: float) -> Alert:
    return replace(alert, resolved_at=_at(minutes), updated_at=_at(minutes), revision=alert.revision + 1)


@dataclass
class Desk:
    """A receiver that says when it was told what."""

    key: str = "desk"
    channel: Channel = "alertmanager"
    repeats: bool = False
    settles_s: int = 0
    records: bool = False
    failure: DeliveryError | None = None
    told: list[tuple[float, str, str]] = field(default_factory=list)

    def send(self, alert: Alert, now: datetime) -> None:
        if self.failure is not None:
            raise self.failure
        state = "resolved" if alert.resolved_at else alert.severity
        self.told.append(((now - NOON) / timedelta(minutes=1), alert.series.name, state))

    def close(self) -> None:
        pass


class Ward:
    """A delivery on a store that is kept through restarts, driven minute by minute."""

    def __init__(self, store: Store, *receivers: Any, silences: tuple[SilenceSettings, ...] = ()) -> None:
        self.store, self.receivers = store, receivers
        self.restart(0, *silences)

    def restart(self, minutes: float, *silences: SilenceSettings) -> None:
        self.delivery = Delivery(
            self.store.deliveries,
            self.receivers,
            AlertSettings(),
            lambda *_: None,
            _at(minutes),
            silences=Silences(silences),
        )

    def save(self, *alerts: Alert) -> None:
        self.store.save_evaluation("s", NOON, alerts)

    def run(self, start: float, end: float) -> None:
        for minute in range(int(start), int(end)):
            self.delivery.run(_at(minute))


@pytest.fixture
def store() -> Iterator[Store]:
    with Store("sqlite://") as opened:
        yield opened


@pytest.mark.parametrize(
    ("keys", "covered"),
    [
        ({}, True),
        ({"name": "*"}, True),
        ({"name": "Macro"}, False),
        ({"dimension": "topic"}, True),
        ({"dimension": "entity"}, False),
        ({"kinds": ("negative_share", "volume_burst")}, True),
        ({"kinds": ("volume_burst",)}, False),
    ],
)
def test_a_silence_covers_what_it_names(keys: dict[str, Any], covered: bool) -> None:
    comment = Silences([_silence(**keys)]).comment(_alert(20), _at(20))
    assert (comment == "stress test") is covered


def test_a_silence_lasts_from_its_start_to_before_its_end_and_on_through_those_that_overlap() -> None:
    silences = Silences([_silence(60, 90), _silence(10, 40), _silence(30, 60, name="*"), _silence(95, 99)])
    alert = _alert(0)
    assert [silences.until(alert, _at(minute)) for minute in (9, 90)] == [None, None]
    assert {silences.until(alert, _at(minute)) for minute in (10, 35, 60, 89)} == {_at(90)}


def test_nobody_is_told_while_a_silence_lasts_and_what_is_open_at_its_end_is_told_then(store: Store) -> None:
    #  silence        10 |-------------------| 60
    #  Financials        20 |--------------------------------| 80
    #  Macro             20 |--------------------------------->      not silenced
    desk = Desk()
    ward = Ward(store, desk, silences=(_silence(),))
    ward.save(_alert(20), _alert(20, Series("topic", "Macro")))
    ward.run(20, 80)
    ward.save(_resolved(_alert(20), 80))
    ward.run(80, 90)
    assert desk.told == [(20, "Macro", "warning"), (60, "Financials", "warning"), (80, "Financials", "resolved")]


@pytest.mark.parametrize("looked_at", [range(20, 90), range(20, 30), range(70, 90)], ids=["all", "before", "after"])
def test_what_opened_and_resolved_within_a_silence_is_never_told(store: Store, looked_at: range) -> None:
    desk = Desk()
    ward = Ward(store, desk, silences=(_silence(),))
    alert = _alert(20)
    ward.save(alert)
    for minute in looked_at:
        if minute >= 50:
            ward.save(_resolved(alert, 50))
        ward.run(minute, minute + 1)
    ward.save(_resolved(alert, 50))
    ward.restart(95, _silence())
    ward.run(95, 120)
    assert desk.told == []
    assert ward.delivery.pending() == {"alertmanager": 0}


def test_what_was_told_before_a_silence_is_told_as_resolved_within_it_and_not_as_worse(store: Store) -> None:
    #  silence        10 |-------------------------| 60
    #  alert      5 |---------- worse ------| 40
    desk = Desk()
    ward = Ward(store, desk, silences=(_silence(),))
    alert = _alert(5)
    ward.save(alert)
    ward.run(5, 20)
    worse = replace(alert, severity="critical", escalated_at=_at(20), revision=2)
    ward.save(worse)
    ward.run(20, 40)
    ward.save(_resolved(worse, 40))
    ward.run(40, 90)
    assert desk.told == [(5, "Financials", "warning"), (40, "Financials", "resolved")]


def test_what_got_worse_in_a_silence_is_told_as_worse_at_its_end(store: Store) -> None:
    desk = Desk()
    ward = Ward(store, desk, silences=(_silence(),))
    ward.save(_alert(5))
    ward.run(5, 20)
    ward.save(replace(_alert(5), severity="critical", escalated_at=_at(20), revision=2))
    ward.run(20, 90)
    assert desk.told == [(5, "Financials", "warning"), (60, "Financials", "critical")]


def test_where_alerts_expire_what_was_told_is_kept_open_through_a_silence_as_it_was_told(store: Store) -> None:
    desk = Desk(repeats=True)
    ward = Ward(store, desk, silences=(_silence(),))
    ward.save(_alert(5))
    ward.run(5, 20)
    ward.save(
        replace(_alert(5), severity="critical", escalated_at=_at(20), revision=2), _alert(20, kind="volume_burst")
    )
    ward.run(20, 60)
    assert {state for _, _, state in desk.told} == {"warning"}
    assert [minute for minute, _, _ in desk.told] == [5, *range(6, 20), *range(21, 60)]
    ward.run(60, 61)
    assert [told for told in desk.told if told[0] == 60] == [
        (60, "Financials", "critical"),
        (60, "Financials", "warning"),
    ]


@pytest.mark.parametrize("entered_at", [10, 39], ids=["a first silence before", "entered after the fact"])
def test_an_alert_told_as_critical_is_kept_open_as_that_in_whatever_silence(store: Store, entered_at: int) -> None:
    #  opened 5 ... told as critical 35 ... a silence that covers its escalation too is set and read at 40
    desk = Desk(repeats=True)
    ward = Ward(store, desk, silences=(_silence(10, 30),) if entered_at == 10 else ())
    alert = _alert(5)
    ward.save(alert)
    ward.run(5, 20)
    worse = replace(alert, severity="critical", escalated_at=_at(20), updated_at=_at(20), revision=2)
    ward.save(worse)
    ward.run(20, 40)
    ward.restart(40, _silence(10, 90))
    ward.save(replace(worse, revision=3, updated_at=_at(42)))
    desk.told.clear()
    ward.run(41, 60)
    assert {state for _, _, state in desk.told} == {"critical"}


def test_an_alert_that_worsened_just_before_a_silence_and_was_not_told_so_is_kept_open_as_it_was_told(
    store: Store,
) -> None:
    desk = Desk(repeats=True)
    ward = Ward(store, desk, silences=(_silence(10, 60),))
    alert = _alert(5)
    ward.save(alert)
    ward.run(5, 12)
    # Event time lags: what happened at 9 is evaluated at 12.
    ward.save(replace(alert, severity="critical", escalated_at=_at(9), updated_at=_at(9), revision=2))
    ward.run(12, 60)
    assert {state for _, _, state in desk.told} == {"warning"}
    ward.run(60, 62)
    assert desk.told[-1][2] == "critical"


def test_nothing_is_lost_or_told_too_soon_over_restarts(store: Store) -> None:
    desk = Desk()
    ward = Ward(store, desk, silences=(_silence(),))
    ward.save(_alert(20))
    for minute in range(20, 70, 3):
        ward.restart(minute, _silence())
        ward.run(minute, minute + 3)
    assert desk.told == [(60, "Financials", "warning")]


def test_a_silence_that_is_taken_out_or_moved_ends_with_the_restart(store: Store) -> None:
    desk = Desk()
    ward = Ward(store, desk, silences=(_silence(),))
    ward.save(_alert(20))
    ward.run(20, 25)
    ward.restart(25, _silence(10, 30))
    ward.run(25, 40)
    assert desk.told == [(30, "Financials", "warning")]
    ward.save(_alert(41, Series("topic", "Macro")))
    ward.restart(45, _silence(40, 90, name="Macro"))
    ward.run(45, 50)
    ward.restart(50)
    ward.run(50, 51)
    assert desk.told[1:] == [(50, "Macro", "warning")]


def test_what_was_over_before_a_silence_and_could_not_be_told_is_told_after_it(store: Store) -> None:
    desk = Desk(failure=DeliveryError("no route", everything=True))
    ward = Ward(store, desk, silences=(_silence(),))
    ward.save(_resolved(_alert(2), 8))
    ward.run(2, 20)
    desk.failure = None
    ward.run(20, 70)
    assert desk.told == [(60, "Financials", "warning"), (61, "Financials", "resolved")]


def test_many_silenced_alerts_hold_up_no_other_and_count_as_no_backlog(store: Store) -> None:
    desk = Desk()
    ward = Ward(store, desk, silences=(_silence(name="*", dimension="entity"),))
    ward.save(*(_alert(20, Series("entity", f"entity {n}")) for n in range(250)))
    ward.save(_alert(21, Series("topic", "Macro")))
    ward.run(21, 26)
    assert desk.told == [(23, "Macro", "warning")]
    assert ward.delivery.pending() == {"alertmanager": 0}


def test_the_log_has_every_alert_at_once_with_the_comment_of_its_silence(store: Store) -> None:
    stream = io.StringIO()
    ward = Ward(store, LogReceiver(stream), silences=(_silence(),))
    alert = replace(_alert(20), silenced="stress test")
    ward.save(alert)
    ward.run(20, 30)
    ward.save(_resolved(alert, 30))
    ward.run(30, 31)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["state"], line["silenced"]) for line in lines] == [
        ("firing", "stress test"),
        ("resolved", "stress test"),
    ]
    assert [alert.silenced for alert in store.alerts()] == ["stress test"]
