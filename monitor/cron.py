"""Times that come again by the clock, as five fields of cron: their only parser."""

from datetime import UTC, datetime
from typing import Final, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.cron import CronTrigger

_EXPECTED: Final = (
    "expected five fields of cron (minute, hour, day of the month, month, weekday), e.g. `0 3 * * sat` for 03:00 on "
    "Saturdays"
)
_ANY_DAY: Final = datetime(2026, 1, 1, tzinfo=UTC)


class CronClock(CronTrigger):  # type: ignore[misc]
    """APScheduler's trigger; of an hour that comes twice, when clocks are set back, it takes the first.

    Where both a day of the month and a weekday are given, both must hold: `0 3 1-7 * sat` is each first Saturday. A
    time that a day lacks, when clocks are set forward, comes an hour later by the clock.
    """

    __slots__ = ()

    @classmethod
    def of(cls, text: str, zone: str) -> Self:
        """The trigger of these times; raises ValueError where the text is not cron's."""
        trigger: Self = cls.from_crontab(text, timezone=ZoneInfo(zone))
        return trigger

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """As the base class has it."""
        found: datetime | None = super().get_next_fire_time(previous_fire_time, now)
        while found is not None and found.fold:
            found = super().get_next_fire_time(found, found)
        return found


def next_time(text: str, zone: str, after: datetime) -> datetime:
    """The first of these times from a moment on; raises ValueError where the text is not cron's, or none comes."""
    found = CronClock.of(text, zone).get_next_fire_time(None, after)
    if found is None:
        raise ValueError("such a day never comes")
    return found


def check_cron(text: str) -> str:
    """The text as it is; raises ValueError where it names no times, or weekdays by numbers."""
    fields = text.split()
    # APScheduler counts weekdays from Monday, cron from Sunday: a number would start on another day than was meant.
    if len(fields) == 5 and any(character.isdigit() for character in fields[4]):
        raise ValueError(
            f"weekday {fields[4]!r} has a number, which programs count from different days; expected names, e.g. "
            "`sat` or `mon-fri`"
        )
    try:
        next_time(text, "UTC", _ANY_DAY)
    except ValueError as error:
        raise ValueError(f"{str(error).removesuffix('.')}; {_EXPECTED}") from error
    return text


def check_zone(name: str) -> str:
    """The name as it is; raises ValueError where there is no such time zone."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(
            "no time zone has this name; expected one of the IANA database, e.g. `Europe/London` or `UTC`"
        ) from error
    return name
