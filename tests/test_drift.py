"""The search for drift, from the items in a database to what people and Prometheus are told."""

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from monitor import config
from monitor.config import ModelSettings, Settings
from monitor.delivery import Delivery
from monitor.drift import MEASURES, Drift, LookedAt, sentence
from monitor.engine import Engine
from monitor.metrics import Metrics
from monitor.model import checkpoint
from monitor.model.scorer import Scorer, open_scorer
from monitor.models import Model
from monitor.records import Entry, NewsItem, PositionUpdate
from monitor.schedule import Jobs
from monitor.silences import Silences
from monitor.store import Store
from pipelines.drift import DayError, look, retraining_refused
from pipelines.drift_measures import Embedder
from tests import tiny_model
from tests.support import until
from tests.test_cli import _run

MONDAY = date(2024, 1, 1)
REFERENCE = 14
NOW = datetime(2024, 2, 1, tzinfo=UTC)
USUAL = ("strong earnings", "the bank cuts rates", "stock rises on deal", "gold falls", "talks of a deal", "oil on")
OTHER = ("collapse", "weak weak collapse of oil", "zebra quilt vexed jumpy", "qqqq zzzz")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    encoder = tiny_model.write_encoder(folder / "encoder")
    tiny_model.write_checkpoint(folder / "one", tiny_model.network(encoder), encoder)
    return folder / "one"


@pytest.fixture(scope="module")
def scorer(model: Path) -> Scorer:
    return open_scorer(ModelSettings(path=str(model), backend="torch", device="cpu"))


@pytest.fixture
def file(tmp_path: Path, model: Path) -> Path:
    written = tmp_path / "monitor.toml"
    written.write_text(
        f'[model]\npath = "{model}"\nbackend = "torch"\n[store]\nurl = "sqlite:///{tmp_path}/news.db"\n'
        f'[source]\nkind = "file"\n[file]\npath = "{tmp_path}/news.jsonl"\n'
        "[retrain]\nniceness = 0\n"
        f"[drift]\nreference_days = {REFERENCE}\nfalse_alarm_days = 30\nsample = 100\n"
    )
    return written


@pytest.fixture
def settings(file: Path) -> Settings:
    return config.load(file)


def _add(store: Store, scorer: Scorer, number: int, items: int = 80, phrases: Sequence[str] = USUAL) -> None:
    """A day of news: its number after a Monday."""
    rng = np.random.default_rng(number)
    start = datetime.combine(MONDAY + timedelta(days=number), datetime.min.time(), UTC)
    news = [
        NewsItem(f"{number}-{index}", " ".join(rng.choice(phrases, 2)), start + timedelta(minutes=10 * index))
        for index in range(items)
    ]
    entries = [Entry(one, 0, 0, one.item.published_at, one.item.id, negative_from=0.4) for one in scorer.score(news)]
    at = store.positions("file:news", [0]).get(0)
    store.commit("file:news", entries, [PositionUpdate(0, at, (at or 0) + len(entries))], NOW)


def _process(file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.drift", "--config", str(file)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )


def test_other_news_alarms_once_it_lasts_and_is_told_everywhere(
    file: Path, settings: Settings, scorer: Scorer, tmp_path: Path
) -> None:
    with Store(settings.store.url) as store:
        for number in range(REFERENCE + 3):
            _add(store, scorer, number)
        for number in range(REFERENCE + 3, REFERENCE + 9):
            _add(store, scorer, number, phrases=OTHER)

    done = _process(file)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    learning = [line for line in lines if line.endswith("one of the days that later ones are compared with")]
    assert len(learning) == REFERENCE
    alarms = [line for line in lines if line.startswith("drift in ")]
    assert any("drift in words, " in line and "of the words in titles are new, usually " in line for line in alarms)
    assert any("drift in embeddings, " in line for line in alarms)
    assert lines[-1] == 'no retraining is started: drift.then is "nothing"'

    last = MONDAY + timedelta(days=REFERENCE + 7)  # the day after is not over
    with Store(settings.store.url) as store:
        rows = store.drift.of_day(scorer.version)
        assert {row.day for row in rows} == {last}
        assert {row.measure for row in rows} == set(MEASURES)
        assert not any(row.alarm for row in store.drift.of_day(scorer.version, MONDAY + timedelta(days=REFERENCE)))
        words = {row.measure: row for row in rows}["words"]
        assert words.alarm and words.value is not None and words.expected is not None
        assert words.value > 0.3 > words.expected
        [first] = [one for one in store.drift.looked_at(scorer.version, reference=True) if one.day == MONDAY]
        assert first.items == 80 and first.found["embeddings"]["sample"] == 80

    metrics = Metrics()
    metrics.show_drift(rows)
    scraped = metrics.exposition("")[0].decode()
    assert 'sentiment_drift_alarm{measure="words"} 1.0' in scraped
    assert f'sentiment_drift_statistic{{measure="words"}} {words.statistic}' in scraped
    assert 'sentiment_estimated_accuracy_ratio{task="sentiment"} 0.' in scraped

    with Store(settings.store.url) as store:
        assert look(store, settings, None, pytest.fail) == [], "every complete day was looked at"
        assert len(look(store, settings, last, pytest.fail)) == len(MEASURES)
        assert store.drift.of_day(scorer.version) == rows, "a day that is looked at again replaces what was found"

    listed = _run("models", "drift", "--days", "3", "--config", file)
    assert listed.returncode == 0, listed.stderr
    head, *table = listed.stdout.splitlines()
    assert head.split() == ["day", "model", "items", "verdict", *MEASURES]
    assert [line.split()[0] for line in table[:3]] == [str(last - timedelta(days=back)) for back in (2, 1, 0)]
    assert table[2].split()[1:4] == [scorer.version, "80", "alarm"]
    assert sentence(words) in table[3:]


def test_the_daemon_shows_drift_of_the_model_that_scores_and_of_no_other(settings: Settings, scorer: Scorer) -> None:
    metrics = Metrics()
    with Store("sqlite://") as store:
        for version, alarm in ((scorer.version, True), ("another", False)):
            row = _row(version, alarm=alarm)
            store.drift.save(LookedAt(model=version, day=MONDAY, items=80, reference=False, found={}), [row])
        engine = Engine(settings, store, scorer, metrics, source="file:news", reject=lambda *_: None)
        delivery = Delivery(store, [], settings.alerts, metrics.delivered, NOW, silences=Silences(()))
        jobs = Jobs(
            settings, store, engine, delivery, metrics, config_path=None, now=lambda: NOW, leaving=lambda: False
        )
        with jobs.running():
            until(lambda: 'sentiment_drift_alarm{measure="negatives"} 1.0' in metrics.exposition("")[0].decode())
    metrics.show_drift([])
    assert "sentiment_drift_alarm{" not in metrics.exposition("")[0].decode()


def test_a_day_of_few_items_gives_no_verdict_and_is_no_reference(settings: Settings, scorer: Scorer) -> None:
    with Store("sqlite://") as store:
        _add(store, scorer, 0, items=49)
        _add(store, scorer, 1, items=50)
        _add(store, scorer, 2, items=2)
        rows = look(store, settings, None, pytest.fail)
        days = store.drift.looked_at(scorer.version, reference=False)
    assert [(one.items, one.reference, bool(one.found)) for one in days] == [(49, False, False), (50, True, True)]
    assert {row.verdict for row in rows if row.day == MONDAY} == {"too few"}
    assert {row.verdict for row in rows if row.day != MONDAY} == {"learning"}


def test_a_new_model_has_a_reference_of_its_own(settings: Settings, scorer: Scorer, tmp_path: Path) -> None:
    encoder = tiny_model.write_encoder(tmp_path / "encoder")
    tiny_model.write_checkpoint(tmp_path / "two", tiny_model.network(encoder, seed=2), encoder)
    second = open_scorer(ModelSettings(path=str(tmp_path / "two"), backend="torch", device="cpu"))
    told: list[str] = []
    with Store("sqlite://") as store:
        for number in range(REFERENCE + 2):
            _add(store, scorer if number <= REFERENCE else second, number)
        _add(store, second, REFERENCE + 2, items=2)
        rows = look(store, settings, None, told.append)
    assert {row.verdict for row in rows if row.model == scorer.version} == {"learning", "quiet"}
    assert {row.verdict for row in rows if row.model == second.version} == {"learning"}
    assert [line.split(":")[0] for line in told] == [f"embeddings of {second.version} are left out"]


def test_days_that_cannot_be_looked_at_are_named(settings: Settings, scorer: Scorer, file: Path) -> None:
    with Store("sqlite://") as store:
        with pytest.raises(DayError, match="no items are stored, so there is no day to look at"):
            look(store, settings, None, pytest.fail)
        _add(store, scorer, 0)
        _add(store, scorer, 1, items=2)
        with pytest.raises(DayError, match=r"--day 2024-01-02: not complete, .* give a day before 2024-01-02"):
            look(store, settings, MONDAY + timedelta(days=1), pytest.fail)
        with pytest.raises(DayError, match=r"--day 2023-12-31: no items of that day are stored"):
            look(store, settings, MONDAY - timedelta(days=1), pytest.fail)
        look(store, settings, None, pytest.fail)
        store.prune(NOW)
        _add(store, scorer, 5, items=1)
        with pytest.raises(DayError, match=r"0 items of .* are stored, 80 were when it was looked at: older ones"):
            look(store, settings, MONDAY, pytest.fail)
    empty = _process(file)
    assert empty.returncode == 2 and empty.stderr.startswith("drift: database sqlite:///")
    none = _run("models", "drift", "--config", file)
    assert none.returncode == 0 and none.stderr.startswith("no day was looked at yet; run python -m pipelines.drift")


def test_an_items_copies_do_not_count(settings: Settings, scorer: Scorer) -> None:
    at = datetime.combine(MONDAY, datetime.min.time(), UTC)
    with Store("sqlite://") as store:
        for name, copy in (("a", False), ("b", True)):
            [scored] = scorer.score([NewsItem(name, "gold falls", at)])
            entry = Entry(scored, 0, 0, at, "a", negative_from=0.4, copy=copy)
            store.commit(f"file:{name}", [entry], [PositionUpdate(0, None, 1)], NOW)
        assert store.drift.days(MONDAY, MONDAY + timedelta(days=1)) == [(MONDAY, scorer.version, 1)]
        assert [one.id for one in store.drift.items(scorer.version, MONDAY)] == ["a"]


def test_embeddings_have_length_one_and_do_not_depend_on_their_batch(model: Path) -> None:
    embed = Embedder(checkpoint.read(model))
    texts = ["gold falls", "a bank raises rates on strong earnings", *["oil"] * 40]
    rows = embed(texts)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(rows[:1], embed(texts[:1]), atol=1e-5)
    assert np.abs(rows[0] - rows[1]).max() > 0.01


def _row(version: str, *, alarm: bool) -> Drift:
    figures = {"value": 0.3, "expected": 0.2, "z": 4.0, "statistic": 5.0, "threshold": 4.4}
    return Drift(
        model=version, day=MONDAY, measure="negatives", items=80, verdict="alarm" if alarm else "quiet", **figures
    )


def test_drift_starts_a_retraining_at_most_once_a_week_and_none_beside_another(settings: Settings) -> None:
    retrain = config.Settings(model={"path": "champion"}, drift={"then": "retrain"}, **_file_source())  # type: ignore[arg-type]
    with Store("sqlite://") as store:
        rows = [_row("a", alarm=True)]

        def refused(rows: Sequence[Drift] = rows, now: datetime = NOW, settings: Settings = retrain) -> str | None:
            return retraining_refused(store, settings, rows, now)

        assert refused(settings=settings) == 'drift.then is "nothing"'
        assert "no model is champion yet" in str(refused())
        store.models.add(Model(version="a", folder=Path("/models/a"), files={"model.json": "a"}, added_at=NOW))
        store.models.promote("a", seen=None, at=NOW, by="a person", reason=None)
        assert refused() is None
        assert refused([_row("a", alarm=False)]) == "nothing alarms on the newest day of a, the champion"
        assert refused([_row("b", alarm=True)]) == "nothing alarms on the newest day of a, the champion"
        begun = store.retrainings.begin("drift", by="one:1", champion="a", folder=Path("/retraining"), now=NOW)
        assert refused() == "retraining 1 goes on, at step 'snapshot'"
        store.retrainings.end(begun, "refused", "no better", NOW)
        assert refused() == "drift started retraining 1 at 2024-02-01 00:00 UTC, within a week"
        assert refused(now=NOW + timedelta(days=7)) is None


def _file_source() -> dict[str, object]:
    return {"source": {"kind": "file"}, "file": {"path": "news.jsonl"}}


def test_drift_may_not_retrain_what_no_promotion_changes() -> None:
    with pytest.raises(ValidationError, match=r"drift.then is \"retrain\", but model.path is 'default'"):
        config.Settings(drift={"then": "retrain"}, **_file_source())  # type: ignore[arg-type]


def test_an_alarm_says_what_changed_from_what_to_what() -> None:
    assert sentence(_row("a", alarm=True)) == (
        "2024-01-01: 30.0 % of the items are negative, usually 20.0 %; over the last days that is 5.0 standard "
        "deviations off, 4.4 are usual at most (80 items of a)"
    )


def test_the_last_day_that_was_compared_is_neither_a_reference_day_nor_one_of_few_items() -> None:
    with Store("sqlite://") as store:
        for number, (items, reference) in enumerate(((60, True), (60, False), (10, False), (70, False))):
            day = MONDAY + timedelta(days=number)
            row = Drift(model="a", day=day, measure="words", items=items, value=0.1, note="new", verdict="quiet")
            seen = LookedAt(model="a", day=day, items=items, reference=reference, found={"statistics": {"words": 1}})
            store.drift.save(seen, [row])
            assert store.drift.of_day("a") == [row]
        last = store.drift.last_compared("a", MONDAY + timedelta(days=3))
        assert last is not None and last.day == MONDAY + timedelta(days=1)
        assert store.drift.last_compared("a", MONDAY + timedelta(days=1)) is None
        assert store.drift.last_compared("b", MONDAY + timedelta(days=3)) is None
        assert store.drift.last_day() == MONDAY + timedelta(days=3)
        assert len(store.drift.rows(MONDAY + timedelta(days=1))) == 3
