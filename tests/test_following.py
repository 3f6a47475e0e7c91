"""What an engine follows, and settings that name what it does not."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from monitor import config
from monitor.config import CalendarSettings, ConfigError, EntitySettings, OverrideSettings, Settings, SilenceSettings
from monitor.following import follow
from monitor.model import checkpoint
from monitor.records import Series

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
TOPICS = ("Financials", "Energy | Oil")
LASTS = {"starts_at": datetime(2026, 3, 10, tzinfo=UTC), "ends_at": datetime(2026, 3, 11, tzinfo=UTC)}
HEAD = "name,starts_at,ends_at,note\n"
DAY = "2026-03-10T00:00:00Z,2026-03-11T00:00:00Z"


def _settings(**sections: Any) -> Settings:
    return Settings(watchlist=(EntitySettings(name="Shell"), EntitySettings(name="Apple Inc")), **sections)


def _override(**keys: Any) -> dict[str, Any]:
    return {"overrides": (OverrideSettings(**{"kinds": ()} | keys),)}


def _silence(**keys: Any) -> dict[str, Any]:
    return {"silences": (SilenceSettings(**LASTS, comment="why", **keys),)}


def _events(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "events.csv"
    file.write_text(text)
    return _settings(calendar=CalendarSettings(file=file))


def test_the_examples_of_the_readme_are_right(tmp_path: Path) -> None:
    section = README.split("\n### Tuning it for a desk\n", 1)[1].split("\n## ", 1)[0]
    toml, events = (re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL) for kind in ("toml", "csv"))
    assert toml
    assert events
    file = tmp_path / "events.csv"
    file.write_text(events[1])
    config_file = tmp_path / "monitor.toml"
    config_file.write_text(toml[1].replace("events.csv", str(file)) + '[[watchlist]]\nname = "Shell"\n')
    settings = config.load(config_file)
    calendar = follow(settings, checkpoint.read("default").info.tasks["topic"]).calendar
    end = datetime(2026, 4, 30, 7, 5, tzinfo=UTC)
    assert calendar.notes(Series("entity", "Shell"), (), end - timedelta(minutes=15), end) == (
        "Shell reports its first quarter",
        "first hour of trading on XLON",
    )


def test_topics_come_first_and_watched_entities_after_them() -> None:
    followed = follow(_settings(), TOPICS)
    assert [series.name for series in followed.series] == [*TOPICS, "Shell", "Apple Inc"]


@pytest.mark.parametrize(
    "sections",
    [
        _override(name="Everything"),
        _override(name="Energy | Oil"),
        _override(name="Shell", dimension="entity"),
        _silence(name="*"),
        _silence(name="Shell"),
        _silence(name="Everything", dimension="topic"),
    ],
)
def test_what_is_followed_may_be_named(sections: dict[str, Any]) -> None:
    assert Series("entity", "Shell") in follow(_settings(**sections), TOPICS).series


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            _override(name="Finance"),
            r"overrides\[0\]\.name: 'Finance' is not followed, .*did you mean 'Financials'\?",
        ),
        (_override(name="Shell"), r"'Shell' is not followed, .* it is in the dimension 'entity', say dimension = "),
        (_override(name="Everything", dimension="entity"), r"say dimension = \"topic\""),
        (_override(name="Apple", dimension="entity"), r"name of a watched entity .*did you mean 'Apple Inc'\?"),
        (_silence(name="Shel"), r"silences\[0\]\.name: 'Shel' is not followed, .*did you mean 'Shell'\?"),
    ],
)
def test_an_unknown_name_is_an_error_that_names_the_nearest(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        follow(_settings(**sections), TOPICS)


def test_events_of_a_file_become_notes(tmp_path: Path) -> None:
    settings = _events(
        tmp_path,
        f"note,name,ends_at,starts_at\nApple reports,Apple Inc,{DAY.split(',')[1]},2026-03-10T21:30:00+02:00\n",
    )
    calendar = follow(settings, TOPICS).calendar
    before, after = datetime(2026, 3, 10, 19, 25, tzinfo=UTC), datetime(2026, 3, 10, 19, 35, tzinfo=UTC)
    apple = Series("entity", "Apple Inc")
    assert calendar.notes(apple, (), before, after) == ("Apple reports",)
    assert calendar.notes(apple, (), datetime(2026, 3, 10, 19, tzinfo=UTC), before) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEAD}Aple Inc,{DAY},x\n", r"events\.csv, row 2, column name: 'Aple Inc' .*did you mean 'Apple Inc'\?"),
        (
            f"{HEAD},,2026-03-11T00:00:00Z,x\n",
            r"events\.csv, row 2, column starts_at: '': is not a time, expected RFC",
        ),
        (f"{HEAD},2026-03-10 14:00,2026-03-11T00:00:00Z,x\n", r"row 2, column starts_at: '2026-03-10 14:00': "),
        (f"{HEAD},2026-03-10T14:00:00,2026-03-11T00:00:00Z,x\n", r"row 2, column starts_at: .*: has no offset"),
        (f"{HEAD}\n,2026-03-12T00:00:00Z,2026-03-11T00:00:00Z,x\n", r"row 3: ends_at is 2026-03-11T.*, not after"),
        (f"{HEAD},{DAY},\n", r"row 2, column note: '': empty; give a text"),
        (f"{HEAD},{DAY},a, b\n", r"row 2: has 5 cells, but there are 4 columns"),
        ("name,starts_at,note\n", r"row 1: there is no column 'ends_at'"),
        ("name,start_at,ends_at,note\n", r"unknown column 'start_at', expected .*did you mean 'starts_at'"),
    ],
)
def test_a_wrong_row_is_named_with_its_column_and_value(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        follow(_events(tmp_path, text), TOPICS)
    assert "\n" not in str(caught.value)


def test_a_missing_file_of_events_is_named_with_its_setting(tmp_path: Path) -> None:
    settings = _settings(calendar=CalendarSettings(file=tmp_path / "nowhere.csv"))
    with pytest.raises(ConfigError, match=r"nowhere\.csv: cannot be read \(No such file.*calendar\.file names a CSV"):
        follow(settings, TOPICS)
