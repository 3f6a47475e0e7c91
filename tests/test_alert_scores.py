"""Alerts against labelled events: what matches, finds or is false, and what is refused in a file of events."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from monitor.alert_scores import Event, EventsError, as_json, matches, read_events, score
from monitor.records import EVERYTHING, Alert, Series

NOON = datetime(2023, 3, 10, 12, tzinfo=UTC)
BANKS = Series("entity", "Banks")
MACRO = Series("topic", "Macro")
KNOWN = (EVERYTHING, MACRO, Series("topic", "Banks"), BANKS)
DAY = timedelta(days=1)
GRACE = timedelta(minutes=60)


def _at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def _alert(opened: float, resolved: float | None, series: Series = BANKS) -> Alert:
    return Alert(
        series=series,
        window="1h",
        severity="warning",
        opened_at=_at(opened),
        updated_at=_at(opened),
        resolved_at=None if resolved is None else _at(resolved),
        observed=9,
        items=12,
        expected=2.5,
        band=(0.4, 5.5),
        p_value=5e-5,
    )


def _event(name: str | None = "Banks", **keys: str) -> Event:
    return Event(_at(0), _at(120), name, **keys)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("opened", "resolved", "matched", "found"),
    [
        #  event                 0 ------- 120 .... 180
        (-60, -5, False, False),
        (-60, 0, False, False),  # over as it began
        (-60, 5, True, False),  # open before: tells nothing new
        (0, 30, True, False),  # of what came before it began
        (5, 30, True, True),
        (5, None, True, True),
        (120, 150, True, True),
        (180, 200, True, True),
        (185, 200, False, False),
    ],
)
def test_an_alert_matches_what_it_overlaps_and_finds_what_began_before_it_opened(
    opened: float, resolved: float | None, matched: bool, found: bool
) -> None:
    alert = _alert(opened, resolved)
    assert matches(alert, _event(), GRACE) == matched
    scores = score([alert], [_event()], _at(-1440), _at(1440), GRACE)
    assert scores.found == found
    assert scores.false_alarms == (() if matched else (alert,))


def test_the_grace_says_how_long_after_its_end_an_event_may_be_found() -> None:
    late = _alert(185, 200)
    assert score([late], [_event()], _at(-1440), _at(1440), timedelta(minutes=65)).found == 1
    assert score([_alert(125, 200)], [_event()], _at(-1440), _at(1440), timedelta(0)).found == 0


@pytest.mark.parametrize(
    ("name", "dimension", "series", "found"),
    [
        ("Banks", None, BANKS, True),
        ("Banks", None, Series("topic", "Banks"), True),
        ("Banks", "topic", BANKS, False),
        ("Banks", None, MACRO, False),
        (None, None, MACRO, True),
        (None, "entity", MACRO, False),
    ],
)
def test_an_event_is_found_on_its_series_alone(
    name: str | None, dimension: str | None, series: Series, found: bool
) -> None:
    event = Event(_at(0), _at(120), name, dimension)  # type: ignore[arg-type]
    assert score([_alert(10, 20, series)], [event], _at(-60), _at(600)).found == found


def test_of_several_alerts_the_first_finds_the_event_and_gives_its_delay() -> None:
    alerts = [_alert(65, 90), _alert(25, 40), _alert(-30, 10)]
    scores = score(alerts, [_event()], _at(-1440), _at(1440))
    [outcome] = scores.outcomes
    assert outcome.alert == alerts[1]
    assert (outcome.delay, outcome.delay_buckets) == (timedelta(minutes=25), 5)
    assert scores.false_alarms == ()


def test_recall_delay_and_rates_are_those_worked_out_by_hand() -> None:
    events = [Event(_at(day * 1440), _at(day * 1440 + 60), "Banks") for day in range(4)]
    alerts = [
        *(_alert(day * 1440 + 10 * (day + 1), day * 1440 + 50) for day in range(3)),
        _alert(700, 720),
        _alert(800, 900, MACRO),
    ]
    scores = score(alerts, events, NOON, NOON + 14 * DAY)
    assert scores.recall is not None
    assert (scores.found, scores.recall.value) == (3, 0.75)
    assert (scores.recall.low, scores.recall.high) == pytest.approx((0.3006, 0.9544), abs=1e-4)  # Wilson's, 3 of 4
    assert (scores.median_delay_minutes, scores.median_delay_buckets) == (20, 4)
    assert scores.false_alarms_per_week == 1.0
    shown = as_json(scores)
    assert [(row["name"], row["alerts"], row["false_alarms_per_week"]) for row in shown["by_series"]] == [
        ("Banks", 4, 0.5),
        ("Macro", 1, 0.5),
    ]
    assert [row["found"] for row in shown["by_event"]] == [True, True, True, False]
    assert shown["by_event"][1]["alert"]["opened_at"] == _at(1460).isoformat()
    assert (
        shown["by_event"][3] | {"delay_minutes": None, "delay_buckets": None, "alert": None} == shown["by_event"][3]
    )


def test_what_is_not_defined_is_none_and_not_zero() -> None:
    scores = score([], [], NOON, NOON)
    assert scores.recall is None
    assert scores.median_delay_minutes is None
    assert scores.median_delay_buckets is None
    assert scores.false_alarms_per_week is None
    missed = score([], [_event()], _at(-60), _at(600))
    assert missed.recall is not None
    assert (missed.recall.value, missed.median_delay_minutes) == (0.0, None)


def test_alerts_of_one_group_are_one_false_alarm_and_none_if_one_of_them_matches() -> None:
    leader = _alert(5, 90, MACRO)
    follower = replace(_alert(10, 60, EVERYTHING), follows=leader.id)
    later = _alert(300, 320, MACRO)
    on_everything = Event(_at(0), _at(120), "Everything")
    raised = [leader, follower, later]
    assert score(raised, [], _at(-1440), _at(1440)).false_alarms == (leader, later)
    assert score(raised, [on_everything], _at(-1440), _at(1440)).false_alarms == (later,)


def test_an_event_outside_of_the_history_is_not_counted_as_missed() -> None:
    outside = Event(_at(3 * 1440), _at(4 * 1440), "Banks")
    scores = score([_alert(5, 30)], [_event(), outside], _at(-1440), _at(1440))
    assert scores.outside == (outside,)
    assert len(scores.outcomes) == scores.found == 1


def test_events_are_read_with_their_columns_in_any_order(tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_bytes(
        b"\xef\xbb\xbflabel,ends_at,name,starts_at,dimension\r\n"
        b"run on banks,2023-03-14T00:00:00Z,Banks,2023-03-10T00:00:00+01:00,entity\r\n"
        b"\r\n"
        b",2023-03-14T00:00:00Z,,2023-03-10T00:00:00Z,\r\n"
    )
    first, second = read_events(file, KNOWN)
    assert first == Event(
        datetime(2023, 3, 9, 23, tzinfo=UTC), datetime(2023, 3, 14, tzinfo=UTC), "Banks", "entity", "run on banks"
    )
    assert (second.name, second.dimension, second.label) == (None, None, None)


def test_a_file_of_column_names_alone_says_that_nothing_happened(tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_text("name,starts_at,ends_at\n")
    assert read_events(file, KNOWN) == ()


_TIMES = "2023-03-10T00:00:00Z,2023-03-14T00:00:00Z"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"events\.csv: is empty; its first row names the columns: name, dimension, starts_at"),
        ("name,starts_at,ends\n", r"row 1: unknown column 'ends', expected one of .*; did you mean 'ends_at'\?"),
        ("name,starts_at\n", r"row 1: there is no column 'ends_at'"),
        ("name;starts_at;ends_at\n", r"row 1: its columns are separated by ';'; separate them by commas"),
        (
            f"name,starts_at,ends_at\nBanks,{_TIMES}\nBnks,{_TIMES}\n",
            r"row 3, column name: 'Bnks': there is no topic or watched entity of .*; did you mean 'Banks'\?",
        ),
        (
            f"name,dimension,starts_at,ends_at\nMacro,entity,{_TIMES}\n",
            r"row 2, column name: 'Macro': there is no entity of this name",
        ),
        (
            f"name,dimension,starts_at,ends_at\nMacro,topics,{_TIMES}\n",
            r"row 2, column dimension: 'topics': input should be 'topic' or 'entity'",
        ),
        (
            "name,starts_at,ends_at\nBanks,2023-03-10T00:00:00,2023-03-14T00:00:00Z\n",
            r"row 2, column starts_at: '2023-03-10T00:00:00': has no offset, expected RFC 3339 with an offset",
        ),
        (
            '\n"name",starts_at,ends_at\n"Banks",2023-03-10T00:00:00Z\n',
            r"row 3, column ends_at: field required",
        ),
        (
            "name,starts_at,ends_at\nBanks,2023-03-14T00:00:00Z,2023-03-10T00:00:00Z\n",
            r"row 2: ends_at is 2023-03-10T00:00:00\+00:00, not after starts_at \(2023-03-14T00:00:00\+00:00\)",
        ),
        (f"name,starts_at,ends_at\nBanks, big,{_TIMES}\n", r"row 2: has 4 cells, but there are 3 columns"),
        ('name,starts_at,ends_at\n"Banks,x\n', r"row 2: not CSV: unexpected end of data"),
    ],
)
def test_a_wrong_row_is_named_with_its_column_its_value_and_what_is_expected(
    tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "events.csv"
    file.write_text(content)
    with pytest.raises(EventsError, match=message) as raised:
        read_events(file, KNOWN)
    assert str(raised.value).startswith(str(file))


def test_a_file_that_is_not_there_or_not_utf_8_is_named(tmp_path: Path) -> None:
    with pytest.raises(EventsError, match=r"nowhere\.csv: cannot be read \(No such file or directory\); --events"):
        read_events(tmp_path / "nowhere.csv", KNOWN)
    file = tmp_path / "events.csv"
    file.write_bytes(b"name,starts_at,ends_at\nBanqu\xe9,,\n")
    with pytest.raises(EventsError, match=r"line 2: byte 0xe9 is not UTF-8"):
        read_events(file, KNOWN)
