"""Times by the clock: what is refused when the settings are read, and when a time comes where clocks are moved."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from monitor import config
from monitor.cron import CronClock, next_time

LONDON = "Europe/London"


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("retrain", "schedule", "0 3 * *", "Wrong number of fields; got 4, expected 5; expected five fields of cron"),
        (
            "retrain",
            "schedule",
            "61 3 * * *",
            "the last value (61) is higher than the maximum value (59); expected five",
        ),
        ("retrain", "schedule", "0 3 * * 6", "weekday '6' has a number, which programs count from different days"),
        ("retrain", "schedule", "0 3 * * saturday", 'Invalid weekday name "saturday"; expected five'),
        ("retrain", "schedule", "0 3 31 feb *", "such a day never comes; expected five fields of cron"),
        ("retrain", "timezone", "Europe/Londn", "no time zone has this name; expected one of the IANA database"),
        ("retrain", "timezone", "../etc/passwd", "no time zone has this name; expected one of the IANA database"),
        ("drift", "at", "at night", "Wrong number of fields; got 2, expected 5"),
    ],
)
def test_a_wrong_time_is_refused_with_its_key_and_value(
    tmp_path: Path, section: str, key: str, value: str, message: str
) -> None:
    file = tmp_path / "monitor.toml"
    file.write_text(f'[model]\npath = "champion"\n[{section}]\n{key} = "{value}"\n')
    with pytest.raises(config.ConfigError) as refused:
        config.load(file)
    assert str(refused.value).startswith(f"{file}: {section}.{key}: {value!r}: ")
    assert message.lower() in str(refused.value).lower()


def test_a_time_is_of_its_zone_in_summer_and_in_winter() -> None:
    winter = next_time("0 3 * * sat", LONDON, datetime(2026, 3, 27, tzinfo=UTC))
    summer = next_time("0 3 * * sat", LONDON, datetime(2026, 3, 29, tzinfo=UTC))
    assert winter.astimezone(UTC) == datetime(2026, 3, 28, 3, tzinfo=UTC)
    assert summer.astimezone(UTC) == datetime(2026, 4, 4, 2, tzinfo=UTC)


def test_of_an_hour_that_comes_twice_the_first_counts() -> None:
    in_summer_time = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    a_day_later = datetime(2026, 10, 26, 1, 30, tzinfo=UTC)
    trigger = CronClock.of("30 1 * * *", LONDON)
    first = trigger.get_next_fire_time(None, datetime(2026, 10, 24, 12, tzinfo=UTC))
    assert first is not None
    assert first.astimezone(UTC) == in_summer_time
    assert trigger.get_next_fire_time(first, in_summer_time) == a_day_later
    assert trigger.get_next_fire_time(None, datetime(2026, 10, 25, 1, tzinfo=UTC)) == a_day_later, "after a restart"


def test_a_time_that_a_day_lacks_comes_once_on_that_day() -> None:
    first = next_time("30 1 * * *", LONDON, datetime(2026, 3, 28, 12, tzinfo=UTC))
    second = next_time("30 1 * * *", LONDON, datetime(2026, 3, 29, 2, tzinfo=UTC))
    assert first.astimezone(UTC) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    assert second.astimezone(UTC) == datetime(2026, 3, 30, 0, 30, tzinfo=UTC)


def test_a_day_of_the_month_and_a_weekday_must_both_hold() -> None:
    assert next_time("0 3 1-7 * sat", "UTC", datetime(2026, 3, 8, tzinfo=UTC)).day == 4
