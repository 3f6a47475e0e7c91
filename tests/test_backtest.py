"""A backtest: the same alerts as the daemon, held against events, and reported."""

import io
import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from monitor import backtest, history, tuning
from monitor.config import EntitySettings, FileSettings, HttpSettings, Settings, SourceSettings, StoreSettings
from monitor.daemon import Daemon
from monitor.engine import Engine
from monitor.metrics import Metrics
from monitor.model.scorer import open_scorer
from monitor.output import Misuse
from monitor.records import Alert, MonitorError, RawRecord, RecordError
from monitor.store import Store
from pipelines import backtest as pipeline
from tests.support import WordScorer

START = datetime(2023, 3, 8, tzinfo=UTC)
RUN = START + timedelta(days=2, hours=12)
SETTINGS = Settings(watchlist=(EntitySettings(name="Harrowgate"),))


def _record(at: datetime, title: str, source: str) -> dict[str, str]:
    return {"title": title, "published_at": at.isoformat(), "source": source}


def _three_days() -> list[dict[str, str]]:
    """Ordinary company news every three minutes, copies among it, and an hour of bank losses at noon of day 3."""
    news = [
        _record(
            START + timedelta(minutes=3 * i), f"Company {i} opens plant number {i} in {i % 7} towns", f"wire {i % 3}"
        )
        for i in range(3 * 480)
    ]
    news += [
        _record(
            RUN + timedelta(seconds=80 * i),
            f"Harrowgate branch {i} posts a record loss of ${i} billion",
            f"paper {i % 4}",
        )
        for i in range(45)
    ]
    news += [_record(RUN + timedelta(minutes=2 * i), news[3 * 480 + i]["title"], "copyist") for i in range(1, 9)]
    return sorted(news, key=lambda record: record["published_at"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "news.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in _three_days()))
    return path


def _refuse(record: RawRecord, error: RecordError) -> None:
    raise error


def _backtested(file: Path, settings: Settings) -> list[Alert]:
    scorer = open_scorer(settings.model, lambda text: None)
    with Store("sqlite://") as store:
        engine = Engine(settings, store, scorer, Metrics(), source="history", reject=_refuse)
        return backtest.run(engine, history.read_history(file, {}, _refuse))


@pytest.mark.parametrize("batch_items", [256, 7])
def test_the_daemon_raises_on_a_file_exactly_the_alerts_of_a_backtest_of_it(
    tmp_path: Path, file: Path, batch_items: int
) -> None:
    settings = SETTINGS.model_copy(
        update={
            "source": SourceSettings(kind="file", batch_items=batch_items),
            "file": FileSettings(path=file, follow=False),
            "store": StoreSettings(url=f"sqlite:///{tmp_path / 'monitor.db'}"),
            "http": HttpSettings(port=0),
        }
    )
    log = io.StringIO()
    Daemon(settings, Metrics(), log).run()
    with Store(settings.store.url) as store:
        live = sorted(store.alerts(), key=lambda alert: (alert.opened_at, alert.series))
    expected = sorted(_backtested(file, settings), key=lambda alert: (alert.opened_at, alert.series))
    assert {"Everything", "Harrowgate"} <= {alert.series.name for alert in expected}
    assert all(alert.resolved_at is not None for alert in expected)
    assert live == expected  # every field: window, p-value, evidence, words, publishers ...
    assert {json.loads(line)["fingerprint"] for line in log.getvalue().splitlines()} == {a.fingerprint for a in live}


def test_sparse_news_is_evaluated_from_its_first_item_on(tmp_path: Path) -> None:
    # Four months of two items a day are one batch, and more than spikes.baseline_days.
    path = tmp_path / "news.jsonl"
    records = [_record(START + timedelta(hours=12 * i), f"Macro: fine {i}", "wire") for i in range(240)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    marks = []
    with Store("sqlite://") as store:
        engine = Engine(Settings(), store, WordScorer(), Metrics(), source="history", reject=_refuse)
        items = history.read_history(path, {}, _refuse)
        backtest.run(engine, items, lambda count: marks.append(store.evaluated_through("history")))
    seen = [mark for mark in marks if mark is not None]
    assert min(seen) < START + timedelta(days=2)
    assert all(later - mark <= timedelta(days=1) for mark, later in pairwise(seen))


def _events(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "events.csv"
    path.write_text("\n".join(["name,starts_at,ends_at,label", *rows]) + "\n")
    return path


def _command(file: Path, **options: Any) -> dict[str, Any]:
    return backtest.command(file, SETTINGS, {}, backtest.Options(**options))


def test_events_are_found_or_missed_and_every_other_alert_is_false(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = _events(
        tmp_path,
        f"Harrowgate,{RUN.isoformat()},{(RUN + timedelta(hours=1)).isoformat()},run on Harrowgate",
        "Harrowgate,2023-03-09T00:00:00Z,2023-03-09T01:00:00Z,nothing",
        "Harrowgate,2024-03-09T00:00:00Z,2024-03-09T01:00:00Z,next year",
    )
    output, report = tmp_path / "alerts.jsonl", tmp_path / "report.json"
    figures = _command(file, output=output, events=events, report=report)
    scores = figures["scores"]
    assert json.loads(report.read_text()) == figures
    assert [(row["label"], row["found"]) for row in scores["by_event"]] == [
        ("run on Harrowgate", True),
        ("nothing", False),
    ]
    assert 5 <= scores["by_event"][0]["delay_minutes"] <= 60
    assert scores["recall"]["value"] == 0.5
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert {line["name"]: line["events"] for line in lines} == {
        line["name"]: ["run on Harrowgate"] if line["name"] == "Harrowgate" else [] for line in lines
    }
    # Those that the run explains follow its alert, so nobody was alarmed for nothing.
    assert scores["alerts"] == len(lines) > 1
    assert (scores["false_alarms"], scores["false_alarms_per_week"]) == (0, 0.0)
    told = capsys.readouterr().err
    assert "next year, 2024-03-09 00:00, lies outside of the history and is not counted" in told
    assert "1 of 2 events found, recall 0.50 (95 % interval 0.09 to 0.91)" in told
    assert "missed" in told


def test_without_events_in_the_file_figures_are_not_defined_and_said_so(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = _command(file, output=tmp_path / "alerts.jsonl", events=_events(tmp_path))["scores"]
    assert (scores["recall"], scores["median_delay_minutes"]) == (None, None)
    assert (scores["alerts"], scores["false_alarms"]) == (3, 1)
    weeks = (3 * 24 * 60 - 3) / (7 * 24 * 60)
    assert scores["false_alarms_per_week"] == pytest.approx(1 / weeks)
    told = capsys.readouterr().err
    assert "holds no event, so every alarm counts as false" in told
    assert "0 of 0 events found, recall n/a, median delay n/a" in told


def test_events_of_another_time_are_a_misuse(tmp_path: Path, file: Path) -> None:
    events = _events(tmp_path, "Harrowgate,2024-03-09T00:00:00Z,2024-03-09T01:00:00Z,next year")
    with pytest.raises(Misuse, match=r"none of its events lies in the history, .*news\.jsonl goes from 2023-03-08"):
        _command(file, events=events)


def test_a_picture_without_a_sweep_or_of_an_unknown_kind_is_refused(tmp_path: Path, file: Path) -> None:
    with pytest.raises(Misuse, match="--picture: shows a sweep; add --sweep"):
        _command(file, picture=tmp_path / "sweep.svg")
    with pytest.raises(Misuse, match=r"sweep\.pdf ends in '\.pdf', expected \.svg or \.png"):
        _command(file, sweep=True, picture=tmp_path / "sweep.pdf")
    with pytest.raises(Misuse, match=r"there is no folder .*missing; give another path"):
        _command(file, sweep=True, picture=tmp_path / "missing" / "sweep.svg")


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ("output", "report", r"--report: .*same\.csv is what --output names too; give another name"),
        ("events", "report", r"--report: .*same\.csv is what --events names too"),
        ("report", "picture", r"--picture: .*same\.csv is what --report names too"),
    ],
)
def test_no_two_options_name_one_file(tmp_path: Path, file: Path, one: str, other: str, message: str) -> None:
    same = tmp_path / "same.csv"
    with pytest.raises(Misuse, match=message):
        _command(file, sweep=True, **{one: same, other: tmp_path / "." / "same.csv"})
    with pytest.raises(Misuse, match=r"--report: .*news\.jsonl is what FILE names too"):
        _command(file, report=file)


def test_a_history_that_is_not_there_is_named_though_the_output_is(tmp_path: Path) -> None:
    output = tmp_path / "alerts.jsonl"
    output.write_text("of before\n")
    with pytest.raises(Misuse, match=r"nowhere\.csv: cannot be read"):
        _command(tmp_path / "nowhere.csv", output=output)
    assert output.read_text() == "of before\n"


def test_a_history_too_short_for_a_sweep_is_told_before_it_is_played(tmp_path: Path) -> None:
    path = tmp_path / "news.jsonl"
    records = [_record(START + timedelta(hours=i), f"Company {i} opens a plant", "wire") for i in range(30)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(MonitorError, match=r"news\.jsonl: holds 1\.2 days of news, .* a sweep needs 2 days at least"):
        _command(path, sweep=True)


def test_the_report_in_a_folder_holds_alerts_figures_document_and_picture(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tuning, "FALSE_ALARMS_PER_WEEK", (1.0,))
    events = _events(tmp_path, f",{RUN.isoformat()},{(RUN + timedelta(hours=1)).isoformat()},run | on")
    folder = tmp_path / "report"
    pipeline.main(file, output=folder, events=events)
    assert {path.name for path in folder.iterdir()} == {"alerts.jsonl", "report.json", "report.md", "sweep.svg"}
    document = (folder / "report.md").read_text()
    assert document == pipeline.render(json.loads((folder / "report.json").read_text()))
    assert "1 of 1 found, recall 1.000 (0.207 to 1.000)" in document
    assert r"| run \| on | any |" in document
    assert document.count("`[spikes]`") == 3
    assert (folder / "sweep.svg").read_bytes().startswith(b"<?xml")
