"""The life of an alert, and its delivery."""

import io
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from monitor.alerting import AlertBook, Explain, as_json, sentence
from monitor.config import AlertSettings
from monitor.delivery import AlertmanagerReceiver, Delivery, DeliveryError, LogReceiver
from monitor.records import BUCKET, Alert, Channel, Evidence, Reading, Series, Severity
from monitor.store import Store

NOON = datetime(2023, 3, 10, 12, tzinfo=UTC)
BANKS = Series("topic", "Financials")


def _reading(p_value: float, *, firing: bool = True, severity: Severity | None = "warning") -> Reading:
    return Reading(
        series=BANKS,
        window_minutes=60,
        observed=42,
        items=60,
        expected=15.6,
        band=(9.1, 23.8),
        p_value=p_value,
        firing=firing,
        severity=severity,
    )


def _explained(alert: Alert, start: datetime) -> Alert:
    story = Evidence("a", "Harrowgate Trust halts withdrawals", start, -0.98, source="Meridian Wire")
    return replace(alert, evidence=(story,), models=("m1",))


def _opened(book: AlertBook, p_value: float = 1e-5) -> Alert:
    [alert] = book.step(NOON, [_reading(p_value)], _explained)
    return alert


def test_a_series_in_a_spike_opens_one_alert_with_its_evidence() -> None:
    book = AlertBook()
    alert = _opened(book)
    assert (alert.series, alert.window, alert.opened_at, alert.resolved_at) == (BANKS, "1h", NOON, None)
    assert alert.evidence[0].published_at == NOON - timedelta(hours=1)
    assert book.open == (alert,)


def test_an_alert_that_goes_on_as_it_was_is_not_told_again() -> None:
    book = AlertBook()
    _opened(book)
    assert book.step(NOON + timedelta(minutes=5), [_reading(0.9e-5)], _explained) == []


def test_an_alert_is_updated_when_its_p_value_falls_to_a_tenth() -> None:
    book = AlertBook()
    opened = _opened(book, 1e-5)
    [worse] = book.step(NOON + timedelta(minutes=5), [_reading(0.9e-6, severity="warning")], _explained)
    assert (worse.id, worse.revision, worse.p_value) == (opened.id, 2, 0.9e-6)
    assert worse.escalated_at is None


def test_a_warning_escalates_once_and_stays_critical() -> None:
    book = AlertBook()
    _opened(book)
    [critical] = book.step(NOON + timedelta(minutes=5), [_reading(9e-6, severity="critical")], _explained)
    assert (critical.severity, critical.escalated_at) == ("critical", NOON + timedelta(minutes=5))
    assert book.step(NOON + timedelta(minutes=10), [_reading(9e-6, severity="warning")], _explained) == []


def test_an_alert_resolves_when_its_series_left_the_spike() -> None:
    book = AlertBook()
    opened = _opened(book)
    [resolved] = book.step(NOON + timedelta(hours=1), [_reading(0.4, firing=False, severity=None)], _explained)
    assert (resolved.id, resolved.resolved_at, resolved.revision) == (opened.id, NOON + timedelta(hours=1), 2)
    assert resolved.observed == opened.observed  # what it says stays what was worst
    assert book.open == ()


def test_an_open_alert_from_before_a_restart_goes_on_under_the_same_id() -> None:
    opened = _opened(AlertBook())
    book = AlertBook([opened])
    assert book.step(NOON + timedelta(minutes=5), [_reading(1e-5)], _explained) == []
    [resolved] = book.step(NOON + timedelta(minutes=10), [], _explained)
    assert resolved.id == opened.id


def test_a_spike_that_opened_nothing_yet_waits_for_its_threshold() -> None:
    assert AlertBook().step(NOON, [_reading(0.01, severity=None)], _explained) == []


def test_the_fingerprint_is_the_series_and_the_id_is_one_opening() -> None:
    book = AlertBook()
    first = _opened(book)
    book.step(NOON + timedelta(hours=1), [], _explained)
    [second] = book.step(NOON + timedelta(hours=2), [_reading(1e-5)], _explained)
    assert second.fingerprint == first.fingerprint
    assert second.id != first.id


def test_an_alert_says_in_one_sentence_what_was_seen_and_what_is_usual() -> None:
    alert = replace(_opened(AlertBook()), words=("bank", "run"))
    assert sentence(alert) == (
        "42 of 60 stories on Financials were negative in the last hour; usual share 26%, so about 16 expected "
        '(9 to 24). Mostly: "Harrowgate Trust halts withdrawals". Words: bank, run'
    )


def test_an_alert_says_what_was_known_to_bring_news_also_when_it_is_over() -> None:
    alert = replace(_opened(AlertBook()), notes=("Apple reports", "XNYS closed: Good Friday"))
    known = ". Known: Apple reports; XNYS closed: Good Friday"
    assert sentence(alert).endswith(f'halts withdrawals"{known}')
    assert sentence(replace(alert, resolved_at=NOON + BUCKET)).endswith(f"(9 to 24){known}")


def test_an_alert_on_volume_says_how_many_came_and_of_what() -> None:
    alert = replace(_opened(AlertBook()), kind="negative_volume", window="10m", evidence=())
    assert sentence(alert) == "42 negative stories on Financials in the last 10 minutes; about 16 expected (9 to 24)"
    assert sentence(replace(alert, kind="volume_burst", counting="items")).startswith("42 items on Financials in")


def test_an_alert_that_is_over_says_how_long_it_was_and_how_much_in_all() -> None:
    alert = replace(_opened(AlertBook()), resolved_at=NOON + timedelta(minutes=200), in_all=(87, 130))
    assert sentence(alert).startswith(
        "Over after 3 h 20 min, in all 87 of 130 stories negative. At its worst: 42 of 60 stories on Financials"
    )


def test_a_resolved_alert_is_concluded() -> None:
    book = AlertBook()
    _opened(book)
    [over] = book.step(NOON + BUCKET, [], _explained, lambda alert: replace(alert, in_all=(50, 70)))
    assert (over.resolved_at, over.in_all) == (NOON + BUCKET, (50, 70))


def _by(publishers: int | None) -> Explain:
    return lambda alert, start: replace(_explained(alert, start), publishers=publishers)


@pytest.mark.parametrize(("publishers", "severity"), [(1, "warning"), (2, "critical"), (None, "critical")])
def test_it_takes_several_publishers_to_be_critical_where_publishers_are_known(
    publishers: int | None, severity: Severity
) -> None:
    [alert] = AlertBook().step(NOON, [_reading(1e-9, severity="critical")], _by(publishers))
    assert alert.severity == severity


def test_a_warning_turns_critical_once_a_second_publisher_has_it() -> None:
    book = AlertBook()
    book.step(NOON, [_reading(1e-9, severity="critical")], _by(1))
    assert book.step(NOON + BUCKET, [_reading(1e-9, severity="critical")], _by(1)) == []
    [alert] = book.step(NOON + 2 * BUCKET, [_reading(1e-9, severity="critical")], _by(2))
    assert (alert.severity, alert.escalated_at, alert.revision) == ("critical", NOON + 2 * BUCKET, 2)


def test_a_critical_alert_stays_so_when_fewer_publishers_tell_what_is_worse() -> None:
    book = AlertBook()
    book.step(NOON, [_reading(1e-9, severity="critical")], _by(3))
    [worse] = book.step(NOON + BUCKET, [_reading(1e-11, severity="critical")], _by(1))
    assert (worse.severity, worse.escalated_at, worse.p_value) == ("critical", None, 1e-11)


def test_an_alert_that_worsens_is_told_no_more_often_than_it_is_repeated() -> None:
    book = AlertBook(settings=AlertSettings(repeat_s=900))
    _opened(book, 1e-5)
    assert book.step(NOON + BUCKET, [_reading(1e-7)], _explained) == []
    [worse] = book.step(NOON + 3 * BUCKET, [_reading(1e-8)], _explained)
    assert worse.p_value == 1e-8


def test_a_series_has_one_open_alert_of_each_kind() -> None:
    book = AlertBook()
    share, volume = _reading(1e-5), replace(_reading(1e-5), kind="negative_volume")
    opened = book.step(NOON, [share, volume], _explained)
    assert [alert.kind for alert in opened] == ["negative_share", "negative_volume"]
    assert len({alert.fingerprint for alert in opened}) == len({alert.id for alert in opened}) == 2
    [over] = book.step(NOON + BUCKET, [share], _explained)
    assert over.kind == "negative_volume"
    assert [alert.kind for alert in book.open] == ["negative_share"]


def test_an_alert_as_json_has_the_keys_of_the_contract() -> None:
    line = as_json(_opened(AlertBook()))
    contract = {"opened_at", "resolved_at", "dimension", "name", "window", "observed", "expected", "p_value"}
    assert contract | {"severity", "evidence"} <= set(line)
    assert (line["dimension"], line["name"], line["resolved_at"]) == ("topic", "Financials", None)
    assert line["evidence"][0]["title"] == "Harrowgate Trust halts withdrawals"
    json.dumps(line)


@dataclass
class Desk:
    """A receiver that can be switched off."""

    key: str = "desk"
    channel: Channel = "alertmanager"
    repeats: bool = False
    settles_s: int = 0
    records: bool = False
    failure: DeliveryError | None = None
    got: list[tuple[str, int]] = field(default_factory=list)
    states: list[str] = field(default_factory=list)

    def send(self, alert: Alert, now: datetime) -> None:
        if self.failure is not None:
            raise self.failure
        self.got.append((alert.series.name, alert.revision))
        self.states.append("resolved" if alert.resolved_at else "firing")

    def close(self) -> None:
        pass


@pytest.fixture
def store() -> Iterator[Store]:
    with Store("sqlite://") as opened:
        yield opened


class Counted(list[tuple[str, str]]):
    def __call__(self, channel: Channel, outcome: str) -> None:
        self.append((channel, outcome))


def _delivery(store: Store, *receivers: Any, **settings: Any) -> tuple[Delivery, Counted]:
    counted = Counted()
    return Delivery(store.deliveries, receivers, AlertSettings(**settings), counted, NOON), counted


def _after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def test_each_change_is_delivered_once_to_each_receiver(store: Store) -> None:
    one, other = Desk("one"), Desk("other")
    delivery, _ = _delivery(store, one, other)
    alert = _opened(AlertBook())
    store.save_evaluation("s", NOON, [alert])
    delivery.run(_after(0))
    delivery.run(_after(1))
    store.save_evaluation("s", NOON, [replace(alert, revision=2)])
    delivery.run(_after(2))
    assert one.got == other.got == [("Financials", 1), ("Financials", 2)]


def test_while_a_receiver_is_down_nothing_is_lost_and_others_are_served(store: Store) -> None:
    down = Desk("down", failure=DeliveryError("no route", everything=True))
    well = Desk("well")
    delivery, counted = _delivery(store, down, well, retry_max_s=60)
    store.save_evaluation("s", NOON, [_opened(AlertBook())])
    for second in range(120):
        delivery.run(_after(second))
    assert well.got == [("Financials", 1)]
    assert delivery.pending() == {"alertmanager": 1}
    failures = counted.count(("alertmanager", "failed"))
    assert 5 <= failures <= 9  # at 0, 1, 3, 7, 15, 31, 63 seconds, and at most a minute apart from there
    down.failure = None
    for second in range(120, 190):
        delivery.run(_after(second))
    assert down.got == [("Financials", 1)]
    assert delivery.pending() == {"alertmanager": 0}


def test_delivery_goes_on_after_a_restart(store: Store) -> None:
    down = Desk("desk", failure=DeliveryError("no route", everything=True))
    store.save_evaluation("s", NOON, [_opened(AlertBook())])
    _delivery(store, down)[0].run(_after(0))
    up = Desk("desk")
    _delivery(store, up)[0].run(_after(100))
    assert up.got == [("Financials", 1)]


def test_an_alert_that_is_over_before_a_receiver_heard_of_it_is_told_as_open_first(store: Store) -> None:
    desk = Desk(settles_s=60)
    delivery, _ = _delivery(store, desk)
    delivery.run(_after(0))
    store.save_evaluation("s", NOON, [replace(_opened(AlertBook()), revision=2, resolved_at=_after(30))])
    delivery.run(_after(1))
    assert desk.states == ["firing"]
    delivery.run(_after(60))
    assert desk.states == ["firing"]
    delivery.run(_after(61))
    assert desk.states == ["firing", "resolved"]
    delivery.run(_after(200))
    assert desk.states == ["firing", "resolved"]


def test_a_new_receiver_is_not_told_of_what_is_long_over(store: Store) -> None:
    book = AlertBook()
    over = replace(_opened(book), revision=2, resolved_at=_after(30))
    still_open = replace(over, series=Series("topic", "Macro"), resolved_at=None)
    store.save_evaluation("s", NOON, [over, still_open])
    desk = Desk()
    delivery, _ = _delivery(store, desk)
    delivery.run(_after(100))
    assert desk.got == [("Macro", 2)]
    assert delivery.pending() == {"alertmanager": 0}


def test_an_alert_that_is_refused_does_not_hold_back_the_next_one(store: Store) -> None:
    first = _opened(AlertBook())
    second = replace(first, series=Series("topic", "Macro"))
    store.save_evaluation("s", NOON, [first, second])

    @dataclass
    class Picky(Desk):
        def send(self, alert: Alert, now: datetime) -> None:
            if alert.series == BANKS:
                raise DeliveryError("HTTP 400", everything=False)
            super().send(alert, now)

    desk = Picky()
    _delivery(store, desk)[0].run(NOON)
    assert desk.got == [("Macro", 1)]


def test_open_alerts_are_repeated_and_resolved_ones_are_not(store: Store) -> None:
    desk = Desk(repeats=True)
    delivery, _ = _delivery(store, desk, repeat_s=60)
    alert = _opened(AlertBook())
    store.save_evaluation("s", NOON, [alert])
    for second in range(0, 130, 10):
        delivery.run(_after(second))
    assert desk.got == [("Financials", 1)] * 3
    store.save_evaluation("s", NOON, [replace(alert, revision=2, resolved_at=_after(130))])
    for second in range(130, 300, 10):
        delivery.run(_after(second))
    assert desk.got[3:] == [("Financials", 2)]


def test_a_leader_is_told_before_those_that_follow_it_and_ends_after_them(store: Store) -> None:
    desk = Desk()
    delivery, _ = _delivery(store, desk)
    leader = replace(_opened(AlertBook()), series=Series("entity", "Harrowgate"), opened_at=_after(300))
    follower = replace(_opened(AlertBook()), follows=leader.id)
    store.save_evaluation("s", NOON, [follower, leader])
    delivery.run(_after(300))
    over = [replace(alert, revision=2, resolved_at=_after(600)) for alert in (leader, follower)]
    store.save_evaluation("s", NOON, over)
    delivery.run(_after(600))
    names = [name for name, _ in desk.got]
    assert names == ["Harrowgate", "Financials", "Financials", "Harrowgate"]


def test_the_log_gets_one_line_of_json_for_each_change(store: Store) -> None:
    stream = io.StringIO()
    delivery, _ = _delivery(store, LogReceiver(stream))
    alert = _opened(AlertBook())
    store.save_evaluation("s", NOON, [alert])
    delivery.run(NOON)
    store.save_evaluation("s", NOON, [replace(alert, revision=2, resolved_at=_after(60))])
    delivery.run(NOON)
    states = [json.loads(line)["state"] for line in stream.getvalue().splitlines()]
    assert states == ["firing", "resolved"]


def test_a_log_that_cannot_be_written_is_tried_again(store: Store) -> None:
    stream = io.StringIO()
    stream.close()
    delivery, counted = _delivery(store, LogReceiver(stream))
    store.save_evaluation("s", NOON, [_opened(AlertBook())])
    delivery.run(NOON)
    assert counted == [("log", "failed")]
    assert delivery.pending() == {"log": 1}


def test_an_alertmanager_that_is_not_there_is_named() -> None:
    refused = pytest.raises(DeliveryError, match=r"http://127\.0\.0\.1:1/api/v2/alerts: .*refused")
    with closing(AlertmanagerReceiver("http://127.0.0.1:1", AlertSettings())) as receiver, refused as caught:
        receiver.send(_opened(AlertBook()), NOON)
    assert caught.value.everything
