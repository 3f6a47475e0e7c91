"""What an engine follows, and settings that name what it does not."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from monitor import config
from monitor.config import ConfigError, EntitySettings, OverrideSettings, Settings, SilenceSettings
from monitor.following import follow
from monitor.model import checkpoint
from monitor.records import Series

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
TOPICS = ("Financials", "Energy | Oil")
LASTS = {"starts_at": datetime(2026, 3, 10, tzinfo=UTC), "ends_at": datetime(2026, 3, 11, tzinfo=UTC)}


def _settings(**sections: Any) -> Settings:
    return Settings(watchlist=(EntitySettings(name="Shell"), EntitySettings(name="Apple Inc")), **sections)


def _override(**keys: Any) -> dict[str, Any]:
    return {"overrides": (OverrideSettings(**{"kinds": ()} | keys),)}


def _silence(**keys: Any) -> dict[str, Any]:
    return {"silences": (SilenceSettings(**LASTS, comment="why", **keys),)}


def test_the_examples_of_the_readme_are_right(tmp_path: Path) -> None:
    section = README.split("\n### Tuning it for a desk\n", 1)[1].split("\n## ", 1)[0]
    toml = re.search(r"```toml\n(.*?)```", section, re.DOTALL)
    assert toml
    config_file = tmp_path / "monitor.toml"
    config_file.write_text(toml[1] + '[[watchlist]]\nname = "Shell"\n')
    assert follow(config.load(config_file), checkpoint.read("default").info.tasks["topic"]).series


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
