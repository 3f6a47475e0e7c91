"""What is known to bring news: the hours and holidays of exchanges, and events that people listed.

The hours come from exchange_calendars (Apache-2.0), which knows for each exchange the holidays, half-days and changes
of rules of its past and future. It is imported only where an exchange is named, and asked for one year at a time as
alerts come to it, so that a monitor that runs for years, or a history of long ago, meets no end of the calendar.
"""

import logging
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo

from monitor.config import ConfigError
from monitor.desk_settings import Event
from monitor.entities import closest
from monitor.records import Series

log = logging.getLogger(__name__)

_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_YEARS: Final = 8
"""Of an exchange, so many years are kept once they were asked for."""


class Calendar:
    """Notes on what was expected to bring news, for the alerts that it may explain.

    Args:
        exchanges: codes of exchange_calendars, which are those of ISO 10383 and a few aliases.
        events: what people know of, in any order.

    Raises:
        ConfigError: an exchange is not known.
    """

    def __init__(self, exchanges: Sequence[str] = (), events: Collection[Event] = ()) -> None:
        self._exchanges = [_Exchange(code) for code in dict.fromkeys(exchanges)]
        self._events = sorted(events, key=lambda event: event.starts_at)

    def notes(self, series: Series, entities: Collection[str], start: datetime, end: datetime) -> tuple[str, ...]:
        """What was known of a window [start, end) of a series, each once: its events, then the exchanges.

        An event of a watched entity is noted on that entity, and on any other series in whose news of the window
        the entity stands out, as `entities` says.
        """
        about = {series.name, "", *entities}
        events = [
            event.note
            for event in self._events
            if event.starts_at < end and event.ends_at > start and event.name in about
        ]
        hours = [note for exchange in self._exchanges for note in exchange.notes(start, end)]
        return tuple(dict.fromkeys(events + hours))


@dataclass(frozen=True, slots=True)
class _Year:
    """One exchange's trading of a year, by its own date."""

    zone: ZoneInfo
    weekmask: str
    sessions: dict[date, tuple[datetime, datetime]]
    half_days: frozenset[date]
    holidays: dict[date, str]


class _Exchange:
    """The hours of one exchange."""

    def __init__(self, code: str) -> None:
        import exchange_calendars

        known = exchange_calendars.get_calendar_names()
        if code not in known:
            raise ConfigError(
                f"calendar.exchanges: {code!r} is not an exchange, expected a code of ISO 10383 such as XNYS or XLON"
                f"{closest(code, known)}"
            )
        self.code = code
        self._year = lru_cache(_YEARS)(self._read_year)

    def notes(self, start: datetime, end: datetime) -> list[str]:
        """Closed, why, or closing early, on the day of the window's end; and the first and last hour of trading.

        Of a window longer than an hour its last hour alone is looked at for these: nearly every longer one would
        hold them.
        """
        last = end - timedelta(microseconds=1)
        if (near := self._year(last.year)) is None:
            return []
        today = last.astimezone(near.zone).date()
        if (year := self._year(today.year)) is None:
            return []
        notes = []
        if today not in year.sessions:
            why = year.holidays.get(today) or ("weekend" if year.weekmask[today.weekday()] == "0" else "")
            notes.append(f"{self.code} closed" + (f": {why}" if why else ""))
        if today in year.half_days:
            closes = year.sessions[today][1].astimezone(year.zone)
            notes.append(f"{self.code} closes early, at {closes:%H:%M} local time")
        start = max(start, end - _HOUR)
        # What trades on one date may open on the evening before it.
        for day in (today - _DAY, today, today + _DAY):
            session = None if (its_year := self._year(day.year)) is None else its_year.sessions.get(day)
            if session is None or session[1] - session[0] >= _DAY:
                continue
            opens, closes = session
            if start < opens + _HOUR and end > opens:
                notes.append(f"first hour of trading on {self.code}")
            if start < closes and end > closes - _HOUR:
                notes.append(f"last hour of trading on {self.code}")
        return notes

    def _read_year(self, year: int) -> _Year | None:
        """A year's trading; None where exchange_calendars does not know it."""
        try:
            return _read_year(self.code, year)
        except Exception as error:
            # Whatever the library trips over: an alert goes out without its notes rather than not at all.
            log.warning("no notes on %s in %d: %s; a newer exchange_calendars may know", self.code, year, error)
            return None


def _read_year(code: str, year: int) -> _Year:
    import exchange_calendars

    first, last = f"{year}-01-01", f"{year}-12-31"
    calendar: Any = exchange_calendars.get_calendar(code, start=first, end=last)
    schedule = calendar.schedule
    sessions = {
        session.date(): (_utc(opens), _utc(closes))
        for session, opens, closes in zip(schedule.index, schedule["open"], schedule["close"], strict=True)
    }
    holidays: dict[date, str] = {}
    # Some exchanges' holidays are dates without names.
    with suppress(NotImplementedError):
        if (regular := calendar.regular_holidays) is not None:
            for day, name in regular.holidays(first, last, return_name=True).items():
                holidays.setdefault(day.date(), str(name))
    half_days = frozenset(day.date() for day in calendar.early_closes)
    return _Year(ZoneInfo(str(calendar.tz)), calendar.weekmask, sessions, half_days, holidays)


def _utc(stamp: Any) -> datetime:
    moment: datetime = stamp.to_pydatetime()
    return moment.astimezone(UTC)
