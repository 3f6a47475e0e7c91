"""The sweep: its rows, the spikes that it plants, what it prints to paste, and its picture."""

import io
import json
import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.progress import Progress

from monitor import backtest, config, history, tuning, tuning_picture, tuning_report
from monitor.alert_scores import GRACE, Event
from monitor.config import AlertSettings, EntitySettings, OverrideSettings, Settings, SpikeSettings
from monitor.engine import Engine
from monitor.history import Dated
from monitor.metrics import Metrics
from monitor.model.scorer import open_scorer
from monitor.output import Misuse
from monitor.records import BUCKET, EVERYTHING, Alert, Counts, RawRecord, RecordError, Series
from monitor.store import Store
from monitor.wire import parse
from tests.support import WordScorer

START = datetime(2023, 3, 1, tzinfo=UTC)
BUSY, QUIET = Series("topic", "Financials"), Series("entity", "Harrowgate")
SETTINGS = Settings(watchlist=(EntitySettings(name="Harrowgate"),), alerts=AlertSettings(min_publishers=7))
SLOW_FEED = Path(__file__).parents[1] / "deploy" / "slow-feed.toml"
HOUR = timedelta(hours=1)


def _refuse(record: RawRecord, error: RecordError) -> None:
    raise error


def _dated(minute: float, title: str, source: str) -> Dated:
    at = START + timedelta(minutes=minute)
    value = json.dumps({"title": title, "published_at": at.isoformat(), "source": source}).encode()
    return Dated(RawRecord(0, 0, value), parse(value))


def _news(days: int, seed: int = 1) -> list[Dated]:
    """An item a minute, a fifth of them bad; at noon of day 4 a run told by ten, and of day 5 one on Macro by one."""
    rng = np.random.default_rng(seed)
    timeline: list[tuple[float, str, str]] = []
    for minute in rng.uniform(0, days * 1440, days * 1440).tolist():
        topic, mood = "Financials" if rng.random() < 0.5 else "Macro", "bad" if rng.random() < 0.2 else "fine"
        timeline.append((minute, f"{topic}: {mood} {minute:.5f}", f"wire {int(minute) % 5}"))
    for topic, noon, sources in (("Financials", 3.5, 10), ("Macro", 4.5, 1)):
        for minute in rng.uniform(noon * 1440, noon * 1440 + 45, 60).tolist():
            name = " on Harrowgate" if topic == "Financials" else ""
            timeline.append((minute, f"{topic}: bad run{name} {minute:.5f}", f"wire {int(minute * 100) % sources}"))
    return [_dated(minute, title, source) for minute, title, source in sorted(timeline)]


class _Played:
    """A backtest and its store."""

    def __init__(self, store: Store, items: Sequence[Dated], settings: Settings, scorer: Any) -> None:
        engine = Engine(settings, store, scorer, Metrics(), source="history", reject=_refuse)
        self.settings = settings
        self.alerts = backtest.run(engine, items)
        self.past = tuning.Past(store, engine.series, items[0].item.published_at, items[-1].item.published_at)

    def sweep(self, events: Sequence[Event] | None = None, progress: Progress | None = None) -> tuning.Sweep:
        return tuning.sweep(self.settings, self.past, events, GRACE, progress or Progress(disable=True))


@pytest.fixture(scope="module")
def played() -> Iterator[_Played]:
    with Store("sqlite://") as store:
        yield _Played(store, _news(days=6), SETTINGS, WordScorer())


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid of four."""
    monkeypatch.setattr(tuning, "FALSE_ALARMS_PER_WEEK", (0.25, 1.0))
    monkeypatch.setattr(tuning, "OPEN_P_FACTORS", (1.0, 10.0))
    monkeypatch.setattr(tuning, "WINDOWS_MINUTES", ((15, 60, 180), (60, 180, 360)))


def _shape(alerts: Sequence[Alert]) -> list[tuple[Any, ...]]:
    shape = [(a.opened_at, a.series, a.kind, a.resolved_at, a.escalated_at, a.severity, a.p_value) for a in alerts]
    return sorted(shape, key=str)


def _current(found: tuning.Sweep) -> tuning.Row:
    [row] = [row for row in found.rows if row.choice.current]
    return row


@pytest.mark.usefixtures("few")
def test_the_row_of_the_current_settings_is_what_the_backtest_raised(played: _Played) -> None:
    row = _current(played.sweep())
    assert _shape(row.scores.alerts) == _shape(played.alerts)
    severities = {alert.series: alert.severity for alert in played.alerts}
    # Usual news has five publishers, the run on Macro one of them: too few for what is critical, and the rows know.
    assert (severities[BUSY], severities[Series("topic", "Macro")]) == ("critical", "warning")
    assert _shape(row.scores.false_alarms) == _shape([alert for alert in played.alerts if alert.role == "leads"])


@pytest.mark.parametrize(
    "spikes",
    [
        SpikeSettings(counting="items", windows_minutes=(60, 180), open_p=1e-3),
        SpikeSettings(kinds=("negative_share", "volume_burst"), volume_z=4.0, volume_critical_z=6.0),
    ],
)
def test_the_row_of_other_current_settings_is_what_their_backtest_raised(spikes: SpikeSettings) -> None:
    settings = SETTINGS.model_copy(update={"spikes": spikes})
    with Store("sqlite://") as store:
        there = _Played(store, _news(days=4, seed=2), settings, WordScorer())
        row_of = tuning.alerts_of(settings, tuning.history_of(there.past), store)
    assert len(there.alerts) > 1
    assert {alert.kind for alert in there.alerts} == set(spikes.kinds)
    assert _shape(row_of) == _shape(there.alerts)


def test_on_real_headlines_the_row_of_the_slow_feeds_settings_is_what_the_backtest_raised() -> None:
    folder = Path(os.environ.get("MONITOR_DATA", Path(__file__).parents[2] / "shared" / "data"))
    headlines = folder / "svb-2023" / "headlines.csv"
    if not headlines.exists():
        pytest.skip(f"{headlines} is not there; name the folder of the data sets in MONITOR_DATA")
    columns = {"title": "title", "published_at": "published_utc", "source": "feed", "body": "description"}
    settings = config.load(SLOW_FEED)
    settings = settings.model_copy(update={"spikes": replace(settings.spikes, open_p=0.03)})  # more alerts
    items = history.read_history(headlines, columns, _refuse)
    with Store("sqlite://") as store:
        there = _Played(store, items, settings, open_scorer(settings.model, lambda text: None))
        row_of = tuning.alerts_of(settings, tuning.history_of(there.past), store)
    assert len(there.alerts) > 5
    assert _shape(row_of) == _shape(there.alerts)


def test_the_grid_holds_the_current_settings_once_and_fits_a_screen() -> None:
    usual = tuning.choices(Settings())
    assert len(usual) == 15
    odd = Settings(spikes=SpikeSettings(windows_minutes=(30, 120)), alerts=AlertSettings(false_alarms_per_week=3.0))
    assert len(tuning.choices(odd)) == 24
    for settings in (Settings(), odd, config.load(SLOW_FEED)):
        [current] = [choice for choice in tuning.choices(settings) if choice.current]
        assert current.settings == settings
    slow = tuning.choices(config.load(SLOW_FEED))
    assert {choice.threshold[2] for choice in slow} == {3e-4, 1e-3, 3e-3, 9e-3, 3e-2}
    assert all(choice.settings.watchlist for choice in slow)


def test_with_events_recall_is_theirs_and_what_matches_none_is_false(played: _Played, few: None) -> None:
    run = START + timedelta(days=3.5)
    events = [Event(run, run + HOUR, "Financials"), Event(START + HOUR, START + 3 * HOUR, "Macro")]
    found = played.sweep(events)
    assert found.plants is None
    row = _current(found)
    assert row.recall_scores == row.scores
    assert row.scores.found == 1
    matching = [alert for alert in played.alerts if alert.series == BUSY and run < alert.opened_at < run + 2 * HOUR]
    assert matching
    groups = {alert.group for alert in matching}
    others = [alert for alert in played.alerts if alert.role == "leads" and alert.group not in groups]
    assert others
    assert _shape(row.scores.false_alarms) == _shape(others)


def test_planted_spikes_turn_items_negative_at_their_places_alone_and_add_none(played: _Played) -> None:
    buckets = tuning.history_of(played.past)
    plants = tuning.plant(buckets, played.settings, played.past.series)
    planted = {(event.name, event.starts_at + n * BUCKET) for event in plants.spikes for n in range(_length(event))}
    before = after = items = 0
    for (at, held), (same, turned) in zip(buckets, plants.buckets, strict=True):
        assert at == same
        assert held.keys() == turned.keys()
        for series, counts in held.items():
            if (series.name, at) not in planted:
                assert turned[series] == counts
                continue
            assert turned[series].stories == counts.stories >= turned[series].negative_stories
            before += counts.negative_stories
            after += turned[series].negative_stories
            items += counts.stories
    assert before / items == pytest.approx(0.2, abs=0.05)
    assert after / items == pytest.approx(0.6, abs=0.08)


def _length(event: Event) -> int:
    return (event.ends_at - event.starts_at) // BUCKET


def test_planted_spikes_come_after_a_warm_up_apart_from_each_other_and_last_one_or_three_hours(
    played: _Played,
) -> None:
    plants = tuning.plant(tuning.history_of(played.past), played.settings, played.past.series)
    assert {event.ends_at - event.starts_at for event in plants.spikes} == {HOUR, 3 * HOUR}
    for series in (EVERYTHING, BUSY):
        own = [event for event in plants.spikes if event.concerns(series)]
        assert len(own) == 2
        assert own[0].starts_at >= START + timedelta(days=2)
        assert own[1].starts_at - own[0].ends_at > timedelta(days=1) - 3 * HOUR


def test_a_setting_of_long_windows_has_spikes_as_long(played: _Played) -> None:
    settings = Settings(spikes=SpikeSettings(windows_minutes=(180, 720)))
    lengths = set()
    for seed in range(6):
        plants = tuning.plant(tuning.history_of(played.past), settings, played.past.series, seed)
        lengths |= {event.ends_at - event.starts_at for event in plants.spikes}
    assert lengths == {HOUR, 3 * HOUR, 12 * HOUR}


def test_the_same_spikes_are_planted_again_and_a_series_more_moves_none_of_the_others(played: _Played) -> None:
    buckets, series = tuning.history_of(played.past), played.past.series
    plants = tuning.plant(buckets, played.settings, series)
    assert tuning.plant(buckets, played.settings, series) == plants
    fewer = tuning.plant(buckets, played.settings, [one for one in series if one.name != "Macro"])
    assert [event for event in plants.spikes if event.name != "Macro"] == list(fewer.spikes)


@pytest.mark.usefixtures("few")
def test_a_series_with_too_few_items_is_told_as_not_detectable_and_not_counted(played: _Played) -> None:
    plants = tuning.plant(tuning.history_of(played.past), played.settings, played.past.series)
    # Harrowgate has items during the run alone, which is before the warm-up ends or in one place of a stretch.
    assert plants.undetectable == (QUIET,)
    assert not [event for event in plants.spikes if event.concerns(QUIET)]
    out = io.StringIO()
    tuning_report.tell(played.sweep(), out)
    assert "not counted: 1 series (Harrowgate)." in out.getvalue()


@pytest.mark.usefixtures("few")
def test_spikes_of_a_busy_series_are_found_within_them_and_soon(played: _Played) -> None:
    row = _current(played.sweep())
    busy = [outcome for outcome in row.recall_scores.outcomes if outcome.event.name == "Everything"]
    assert len(busy) == 2
    for outcome in busy:
        assert outcome.alert is not None
        assert outcome.event.starts_at < outcome.alert.opened_at <= outcome.event.ends_at
        assert outcome.delay is not None
        assert outcome.delay <= HOUR


@pytest.mark.usefixtures("few")
def test_the_front_holds_the_rows_that_no_other_beats(played: _Played) -> None:
    rows = played.sweep().rows
    front = [row for row in rows if row.front]
    assert front
    for row in rows:
        better = [
            other
            for other in rows
            if (len(other.scores.false_alarms), -other.recall_scores.found)
            != (len(row.scores.false_alarms), -row.recall_scores.found)
            and len(other.scores.false_alarms) <= len(row.scores.false_alarms)
            and other.recall_scores.found >= row.recall_scores.found
        ]
        if better:
            assert not row.front


def test_a_series_that_an_override_keeps_from_alarming_gets_no_spike_and_is_named(played: _Played) -> None:
    settings = played.settings.model_copy(update={"overrides": (OverrideSettings(name="Macro", kinds=()),)})
    plants = tuning.plant(tuning.history_of(played.past), settings, played.past.series)
    usual = tuning.plant(tuning.history_of(played.past), played.settings, played.past.series)
    assert plants.quiet == (Series("topic", "Macro"),)
    assert usual.quiet == ()
    assert {event.name for event in usual.spikes} - {event.name for event in plants.spikes} == {"Macro"}


@pytest.mark.usefixtures("few")
def test_without_anything_to_find_no_row_is_on_the_front_and_recall_is_not_defined(played: _Played) -> None:
    found = played.sweep([])
    assert not any(row.front for row in found.rows)
    out = io.StringIO()
    tuning_report.tell(found, out)
    assert re.search(r"0 of 0 +n/a +n/a", out.getvalue())
    assert "No row finds anything, so that none is marked *." in out.getvalue()
    assert [row["recall"] for row in tuning_report.as_json(found)["rows"]] == [None] * 4


def _pasted(tmp_path: Path, snippet: str, more: str = "") -> Settings:
    path = tmp_path / "monitor.toml"
    path.write_text(snippet + more)
    return config.load(path)


@pytest.mark.parametrize("settings", [SETTINGS, config.load(SLOW_FEED)], ids=["false alarms a week", "open_p"])
def test_every_line_that_is_printed_can_be_pasted(
    tmp_path: Path, played: _Played, few: None, settings: Settings
) -> None:
    found = tuning.sweep(settings, played.past, None, GRACE, Progress(disable=True))
    out = io.StringIO()
    tuning_report.tell(found, out)
    lines = out.getvalue().splitlines()
    # A row of the table: each cell under the head that names its section.
    heads = re.findall(r"\[(\w+)\]", lines[0])
    for row, line in zip(found.rows, lines[1:], strict=False):
        cells = re.findall(r"\w+ = (?:\[.*?\]|\S+)", line)
        sections: dict[str, list[str]] = {}
        for section, cell in zip(heads, cells, strict=True):
            sections.setdefault(section, []).append(cell)
        loaded = _pasted(tmp_path, "".join(f"[{name}]\n" + "\n".join(held) + "\n" for name, held in sections.items()))
        _assert_sets(row.choice, loaded)
    # The blocks of the front, each by itself and before other settings.
    blocks = out.getvalue().split("\n# ")[1:]
    does: dict[tuple[object, ...], tuning.Row] = {}
    for row in found.rows:
        if row.front:
            key = (len(row.scores.alerts), row.recall_scores.found, row.recall_scores.median_delay_minutes)
            does[key] = row if row.choice.current else does.get(key, row)
    front = [row for row in found.rows if any(row is told for told in does.values())]
    assert len(blocks) == len(front) > 0
    for row, block in zip(front, blocks, strict=True):
        snippet = f"# {block}"
        _assert_sets(row.choice, _pasted(tmp_path, snippet, '[log]\nlevel = "ERROR"\n'))
        assert tomllib.loads(snippet) == tomllib.loads(tuning_report.toml(row.choice))
    for row, shown in zip(found.rows, tuning_report.as_json(found)["rows"], strict=True):
        _assert_sets(row.choice, _pasted(tmp_path, shown["toml"]))


def _assert_sets(choice: tuning.Choice, loaded: Settings) -> None:
    assert loaded.spikes.windows_minutes == choice.settings.spikes.windows_minutes
    assert loaded.spikes.open_p == choice.settings.spikes.open_p
    assert loaded.alerts.false_alarms_per_week == choice.settings.alerts.false_alarms_per_week


def test_a_tiny_threshold_is_printed_as_toml_reads_it(tmp_path: Path) -> None:
    settings = Settings(spikes=SpikeSettings(open_p=1e-5))
    for choice in tuning.choices(settings):
        _assert_sets(choice, _pasted(tmp_path, tuning_report.toml(choice)))


@pytest.mark.usefixtures("few")
def test_the_progress_bar_reaches_its_end(played: _Played) -> None:
    reached = []

    class Watched(Progress):
        def remove_task(self, task_id: Any) -> None:
            reached.append(self.tasks[0].completed / (self.tasks[0].total or 0))
            super().remove_task(task_id)

    played.sweep(progress=Watched(disable=True))
    assert reached == [1.0]


@pytest.mark.usefixtures("few")
def test_the_picture_has_a_line_for_each_set_of_windows_and_a_label_for_each_point(
    tmp_path: Path, played: _Played
) -> None:
    found = played.sweep()
    figure = tuning_picture.draw(found)
    recall, _ = figure.axes
    assert [text.get_text() for text in recall.get_legend().get_texts()] == [  # type: ignore[union-attr]
        "windows of 15, 60, 180 min",
        "windows of 60, 180, 360 min",
    ]
    labels = ", ".join(text.get_text() for text in recall.texts).split(", ")
    assert sorted(labels) == ["0.25", "0.25", "1", "1"]
    for name, begins in (("sweep.svg", b"<?xml"), ("sweep.PNG", b"\x89PNG")):
        tuning_picture.write(found, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(begins)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_sweep_needs_alerts_on_negative_share() -> None:
    settings = Settings(spikes=SpikeSettings(kinds=("volume_burst",)))
    with pytest.raises(Misuse, match=r"spikes\.kinds is \['volume_burst'\]; add negative_share to it"):
        tuning.check(settings, timedelta(days=30), "news.csv")


def test_a_bucket_without_items_counts_as_one_of_the_history(played: _Played) -> None:
    buckets = tuning.history_of(played.past)
    assert [at for at, _ in buckets] == [START + n * BUCKET for n in range(6 * 288)]
    assert sum((held.get(EVERYTHING, Counts()) for _, held in buckets), Counts()).items == 6 * 1440 + 120
