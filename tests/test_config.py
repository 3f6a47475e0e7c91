"""Settings: one file, the environment over it, and errors that name the key."""

from datetime import timedelta
from pathlib import Path

import pytest

from monitor import config
from monitor.config import ConfigError, FileSettings, LabelSettings, Settings, SourceSettings


def _load(tmp_path: Path, text: str) -> config.Settings:
    path = tmp_path / "monitor.toml"
    path.write_text(text, encoding="utf-8")
    return config.load(path)


def test_without_a_file_every_setting_has_its_default() -> None:
    assert config.load().spikes.open_p is None


def test_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTIMENT_KAFKA__TOPIC", "from-environment")
    settings = _load(tmp_path, '[kafka]\ntopic = "from-file"\ngroup = "desk"\n')
    assert (settings.kafka.topic, settings.kafka.group) == ("from-environment", "desk")


def _silence(**lines: str) -> str:
    """A silence in TOML, as right as these lines are."""
    right = {"name": '"A"', "starts_at": "2026-03-10T12:00:00Z", "ends_at": "2026-03-11T12:00:00Z"}
    entry = right | {"comment": '"c"'} | lines
    return "[[silences]]\n" + "".join(f"{key} = {value}\n" for key, value in entry.items() if value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[spikes]\nopne_p = 0.1\n", r"spikes\.opne_p: unknown key, .*did you mean 'open_p'\?"),
        ("[spike]\nopen_p = 0.1\n", r"spike: unknown key, .*did you mean 'spikes'\?"),
        ("[spikes]\nopen_p = 2\n", r"monitor\.toml: spikes\.open_p: 2: input should be less than 1"),
        (
            "[spikes]\nwindows_minutes = [7]\n",
            r"spikes\.windows_minutes\[0\]: 7: must be a multiple of the 5-minute",
        ),
        ("[trends]\nwindows_minutes = [60, 15]\n", r"trends\.windows_minutes: .*must ascend"),
        ("spikes = [\n", r"monitor\.toml: not TOML: "),
        ('[source]\nkind = "file"\n', r'source\.kind is "file" but file\.path is not set'),
        ('[kafka]\nsecurity_protocol = "SASL_SSL"\n', r"also needs kafka\.sasl_mechanism"),
        ("[spikes]\nhalf_life_hours = 168\n", r"spikes\.baseline_days is 28, too few .*at least six times"),
        ("[spikes]\nlearning_days = 10\n", r"spikes\.baseline_days is 28, .*four times spikes\.learning_days \(10\)"),
        ("[spikes]\nvolume_z = 20\n", r"spikes: .*volume_critical_z is 13, less than volume_z \(20\)"),
        (
            '[labels]\ntopic = "news"\n',
            r"labels\.topic is 'news', as kafka\.topic is; name a topic of its own, or each would read what is meant",
        ),
        ('[labels]\ntopic = "news.rejected"\n', r"kafka\.dead_letter_topic is 'news\.rejected', as labels\.topic is"),
        ('[kafka]\ntopic = "news.rejected"\n', r"kafka\.dead_letter_topic is 'news\.rejected', as kafka\.topic is"),
        ("[model]\ncheck_s = inf\n", r"model\.check_s: inf: .* less than or equal to 86400"),
        ("[store]\nkeep_days = 30\n[spikes]\nbaseline_days = 60\n", r"store\.keep_days is 30, less than spikes"),
        ('[[watchlist]]\nname = "A"\n[[watchlist]]\nname = "a"\n', r"watchlist names 'a' twice"),
        (
            '[[watchlist]]\nname = "A"\nalias = ["B"]\n',
            r"watchlist\[0\]\.alias: unknown key.*did you mean 'aliases'",
        ),
        ('[[watchlist]]\naliases = ["A"]\n', r"watchlist\[0\]\.name: .*: field required"),
        ('[[watchlist]]\nname = "A"\naliases = ["B", " "]\n', r"watchlist\[0\]\.aliases\[1\]: ' ': empty; give"),
        ('[[watchlist]]\nname = "A"\ntickers = ["a"]\n', r"watchlist\[0\]\.tickers\[0\]: 'a': .* in capitals"),
        ('[[watchlist]]\nname = "A"\nrequires = ["b"]\n', r"watchlist\[0\]: .*requires is given without ambiguous"),
        (
            '[[overrides]]\nname = "A"\nopne_p = 0.1\n',
            r"overrides\[0\]\.opne_p: unknown key, .*did you mean 'open_p'",
        ),
        ('[[overrides]]\nname = "A"\nopen_p = 2\n', r"overrides\[0\]\.open_p: 2: input should be less than 1"),
        ('[[overrides]]\nname = "A"\n', r"overrides\[0\]: .*sets nothing; give one of open_p, critical_p"),
        (
            '[[overrides]]\nname = "A"\nkinds = []\n[[overrides]]\nname = "A"\nmin_ratio = 2\n',
            r"overrides\[1\]: topic 'A' is overridden by overrides\[0\] too; merge the two",
        ),
        (
            '[[overrides]]\nname = "A"\nkinds = ["volume_burst"]\n',
            r"overrides\[0\]\.kinds: 'volume_burst' is not among spikes\.kinds \(negative_share\), so .*add it there",
        ),
        (
            _silence(starts_at="2026-03-10T12:00:00"),
            r"silences\[0\]\.starts_at: .*: has no offset, expected one, e\.g\. 2023-03-10T16:42:07Z",
        ),
        (
            _silence(starts_at='"noon"'),
            r"silences\[0\]\.starts_at: 'noon': is not a time, expected RFC 3339",
        ),
        (
            _silence(starts_at="2026-03-12"),
            r"silences\[0\]\.starts_at: .*: is not a time",
        ),
        (
            _silence(starts_at="2026-03-12T12:00:00Z"),
            r"silences\[0\]: .*ends_at is 2026-03-11T12:00:00\+00:00, not after starts_at",
        ),
        (
            _silence(comment=""),
            r"silences\[0\]\.comment: .*field required",
        ),
        (
            _silence(comment='" "'),
            r"silences\[0\]\.comment: .*empty; give a text",
        ),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_was_expected(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _load(tmp_path, text)


def test_times_with_an_offset_are_taken_as_toml_or_text_and_series_are_overridden_in_each_dimension(
    tmp_path: Path,
) -> None:
    settings = _load(
        tmp_path,
        '[[silences]]\nname = "*"\nstarts_at = 2026-03-10T12:00:00+02:00\nends_at = "2026-03-10T12:00:00Z"\n'
        'comment = "drill"\n[[overrides]]\nname = "A"\nkinds = []\n'
        '[[overrides]]\nname = "A"\ndimension = "entity"\nopen_p = 1e-5\n',
    )
    assert settings.silences[0].ends_at - settings.silences[0].starts_at == timedelta(hours=2)
    assert [override.series.dimension for override in settings.overrides] == ["topic", "entity"]


def test_labels_may_come_by_the_topic_that_news_would_come_by_where_news_is_read_from_a_file() -> None:
    settings = Settings(
        source=SourceSettings(kind="file"), file=FileSettings(path=Path("a.csv")), labels=LabelSettings(topic="news")
    )
    assert settings.labels.topic == settings.kafka.topic


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read \(No such file"):
        config.load(tmp_path / "nowhere.toml")


def test_a_wrong_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTIMENT_HTTP__PORT", "many")
    with pytest.raises(
        ConfigError, match=r"environment variable SENTIMENT_HTTP__PORT: 'many': input should be a valid"
    ):
        config.load()


def test_an_unknown_section_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTIMENT_HTPP__PORT", "1")
    with pytest.raises(ConfigError, match=r"SENTIMENT_HTPP__PORT: there is no section 'htpp'.*did you mean 'http'"):
        config.load()


def test_a_password_never_stands_in_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, "[kafka]\nsasl_password = 1234567\n")
    assert "1234567" not in str(caught.value)


def test_every_setting_is_described() -> None:
    undescribed = [key for key, _, description in config.documented() if not description]
    assert undescribed == []
