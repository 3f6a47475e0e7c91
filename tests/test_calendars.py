"""What is known to bring news: hours and holidays of exchanges, and listed events."""

import logging
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from monitor.calendars import Calendar
from monitor.config import ConfigError
from monitor.desk_settings import Event
from monitor.records import EVERYTHING, Series

APPLE = Series("entity", "Apple")
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


def _notes(calendar: Calendar, end: str, minutes: int = 15) -> tuple[str, ...]:
    until = datetime.fromisoformat(end)
    return calendar.notes(EVERYTHING, (), until - timedelta(minutes=minutes), until)


@pytest.fixture(scope="module")
def new_york() -> Calendar:
    return Calendar(["XNYS"])


@pytest.mark.parametrize(
    ("end", "notes"),
    [
        ("2026-04-03T15:00:00Z", ("XNYS closed: Good Friday",)),
        ("2026-03-07T15:00:00Z", ("XNYS closed: weekend",)),
        ("2025-01-09T18:00:00Z", ("XNYS closed",)),  # a day of mourning, which is in no list of holidays
        ("2026-11-27T15:50:00Z", ("XNYS closes early, at 13:00 local time",)),
        ("2026-11-27T17:30:00Z", ("XNYS closes early, at 13:00 local time", "last hour of trading on XNYS")),
        ("2026-03-10T13:30:00Z", ()),  # opens
        ("2026-03-10T13:35:00Z", ("first hour of trading on XNYS",)),
        ("2026-03-10T14:40:00Z", ("first hour of trading on XNYS",)),  # the window begins at 14:25
        ("2026-03-10T14:45:00Z", ()),
        ("2026-03-10T19:00:00Z", ()),
        ("2026-03-10T19:05:00Z", ("last hour of trading on XNYS",)),
        ("2026-03-10T20:10:00Z", ("last hour of trading on XNYS",)),  # closed at 20:00
        ("2026-03-10T20:15:00Z", ()),
        ("2026-03-11T03:59:00Z", ()),  # the night between two days of trading is nothing to note
        ("2026-03-06T14:35:00Z", ("first hour of trading on XNYS",)),  # before the clocks change
    ],
)
def test_what_an_exchange_does_at_the_time_of_a_window_is_noted(
    new_york: Calendar, end: str, notes: tuple[str, ...]
) -> None:
    assert _notes(new_york, end) == notes


def test_the_day_is_the_exchanges_own(new_york: Calendar) -> None:
    # Friday evening in New York is Saturday in London, and Sunday's is Monday's morning in Tokyo.
    assert _notes(new_york, "2026-03-07T03:00:00Z") == ()
    assert _notes(Calendar(["XTKS"]), "2026-03-08T14:00:00Z") == ("XTKS closed: weekend",)
    assert _notes(Calendar(["XTKS"]), "2026-03-09T00:10:00Z") == ("first hour of trading on XTKS",)


def test_of_a_long_window_only_its_last_hour_is_held_against_the_hours_of_trading(new_york: Calendar) -> None:
    assert _notes(new_york, "2026-03-10T18:00:00Z", minutes=1440) == ()
    assert _notes(new_york, "2026-03-10T14:00:00Z", minutes=1440) == ("first hour of trading on XNYS",)


@pytest.mark.parametrize(
    ("end", "note"),
    [
        ("2031-04-11T15:00:00Z", "XNYS closed: Good Friday"),
        ("2058-12-25T15:00:00Z", "XNYS closed: Christmas"),
        ("1999-11-25T15:00:00Z", "XNYS closed: Thanksgiving"),
    ],
)
def test_a_calendar_made_once_knows_the_years_to_come_and_those_past(new_york: Calendar, end: str, note: str) -> None:
    assert _notes(new_york, end) == (note,)


def test_the_turn_of_the_year_is_no_end_of_it(new_york: Calendar) -> None:
    assert _notes(new_york, "2027-01-01T00:30:00Z") == ()  # still Thursday, 31 December
    assert _notes(new_york, "2027-01-01T05:30:00Z") == ("XNYS closed: New Year's Day",)


def test_a_year_that_is_not_known_has_no_notes_and_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    calendar = Calendar(["XKRX", "XNYS"])
    with caplog.at_level(logging.WARNING):
        assert _notes(calendar, "2062-12-25T15:00:00Z") == ("XNYS closed: Christmas",)
        assert _notes(calendar, "2062-12-25T16:00:00Z") == ("XNYS closed: Christmas",)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["no notes on XKRX in 2062"]


def test_an_unknown_exchange_is_named_with_the_nearest_code() -> None:
    with pytest.raises(
        ConfigError, match=r"calendar\.exchanges: 'XNYX' is not an exchange, .*; did you mean 'XNYS'\?"
    ):
        Calendar(["XLON", "XNYX"])


def test_nothing_heavy_is_imported_unless_an_exchange_is_named() -> None:
    code = (
        "import sys; from monitor.calendars import Calendar; Calendar();"
        "sys.exit(str({'pandas', 'exchange_calendars'} & set(sys.modules) or 0))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == "0\n"


def _event(name: str, note: str, start: int = -60, end: int = 60) -> Event:
    at = [NOON + timedelta(minutes=minutes) for minutes in (start, end)]
    return Event(name=name, starts_at=at[0], ends_at=at[1], note=note)


def test_an_event_is_noted_on_its_series_on_those_it_stands_out_in_and_where_it_names_none_on_all() -> None:
    calendar = Calendar(events=[_event("Apple", "Apple reports"), _event("", "Fed decides")])
    hour = (NOON - timedelta(hours=1), NOON)
    assert calendar.notes(APPLE, (), *hour) == ("Apple reports", "Fed decides")
    assert calendar.notes(EVERYTHING, ("Shell", "Apple"), *hour) == ("Apple reports", "Fed decides")
    assert calendar.notes(EVERYTHING, ("Shell",), *hour) == ("Fed decides",)


@pytest.mark.parametrize(
    ("start", "end", "noted"),
    [(0, 60, False), (-1, 60, True), (-120, -60, False), (-120, -59, True), (-40, -30, True)],
)
def test_an_event_is_noted_where_it_overlaps_the_window(start: int, end: int, noted: bool) -> None:
    calendar = Calendar(events=[_event("", "Fed decides", start, end)])
    assert bool(calendar.notes(APPLE, (), NOON - timedelta(hours=1), NOON)) is noted
