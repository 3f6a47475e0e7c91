"""What metrics say of retrainings, from a real database."""

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from monitor.config import RetrainSettings, Settings, StoreSettings
from monitor.labels import Label
from monitor.metrics import Metrics
from monitor.model import checkpoint
from monitor.models import Model
from monitor.retraining import Outcome, Retraining
from monitor.retraining_figures import push_figures, retraining_figures
from monitor.store import Store
from tests.test_store_batches import NEWS, entry, moved

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SHADOW = {
    "items": 2000,
    "rows": [
        {"measure": "topic_agreement", "value": 0.9},
        {"measure": "sentiment_agreement", "value": 0.8},
        {"measure": "negative_ratio", "value": None},
    ],
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = Store("sqlite://")
    for version in ("a", "b"):
        files = {"model.json": version}
        opened.models.add(Model(version=version, folder=tmp_path / version, files=files, added_at=NOON))
    return opened


def _run(store: Store, at: datetime, outcome: Outcome | None = None, **changes: object) -> Retraining:
    begun = store.retrainings.begin("hand", by="one:1", champion="a", folder=Path("/models"), now=at)
    begun = store.retrainings.advance(begun, at, **changes)
    return begun if outcome is None else store.retrainings.end(begun, outcome, "so it is", at + HOUR)


def _shown(metrics: Metrics) -> dict[str, float]:
    """Every sample of a gauge on retraining, as `name{value of its label}`."""
    return {
        sample.name.removeprefix("sentiment_")
        + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if family.type == "gauge"
    }


def test_figures_are_those_of_the_database(store: Store) -> None:
    settings = Settings()
    store.commit(NEWS, [entry("x"), entry("y")], [moved(2)], NOON)
    store.labels.add([Label("x", "topic", "Banks", "ann", NOON)], NOON - HOUR)
    outcomes: list[Outcome] = [
        "promoted",
        "refused",
        "failed",
        "refused",
        "rolled back",
        "refused",
        "failed",
        "refused",
    ]
    for hour, outcome in enumerate(outcomes):
        found = {"shadow": SHADOW} if hour == 4 else {}
        _run(store, NOON + 2 * hour * HOUR, outcome, found=found)
    store.labels.add(
        [Label("y", "topic", "Banks", "ann", NOON), Label("x", "topic", "Banks", "bob", NOON)], NOON + 99 * HOUR
    )

    figures = retraining_figures(settings, store)

    assert figures.ended == {"promoted": 1, "refused": 4, "failed": 2, "rolled back": 1}
    assert figures.ended_at["failed"] == NOON + 13 * HOUR
    assert figures.refused_in_a_row == 2, "since one got through the gate; a failed one says nothing of it"
    assert (figures.step, figures.started_at, figures.seen_at) == (None, None, None)
    assert (figures.agreement, figures.negative_ratio) == ({"topic": 0.9, "sentiment": 0.8}, None)
    assert figures.new_labels == {"topic": 2, "sentiment": 0}, "those since the newest began"


def test_the_one_that_goes_on_is_shown_and_gone_when_it_ends(store: Store) -> None:
    metrics, settings = Metrics(), Settings()
    begun = _run(store, NOON, step="train")
    store.retrainings.beat(begun, NOON + HOUR)
    metrics.retraining.show(retraining_figures(settings, store))
    shown = _shown(metrics)
    assert [step for step in ("audit", "train", "gate") if shown[f"retraining_step{{{step}}}"]] == ["train"]
    assert shown["retraining_at_work_timestamp_seconds{started}"] == NOON.timestamp()
    assert shown["retraining_at_work_timestamp_seconds{seen}"] == (NOON + HOUR).timestamp()

    store.retrainings.end(begun, "refused", "worse", NOON + HOUR)
    metrics.retraining.show(retraining_figures(settings, store))
    shown = _shown(metrics)
    assert not [name for name in shown if name.startswith("retraining_at_work")]
    assert shown["retraining_step{train}"] == 0
    assert shown["retraining_ended_timestamp_seconds{refused}"] == (NOON + HOUR).timestamp()
    assert shown["retrainings_refused_in_a_row"] == 1


def test_the_age_shown_is_that_of_the_model_that_scores(store: Store) -> None:
    shipped = checkpoint.read("default").info
    trained_at = datetime.combine(shipped.trained_on, datetime.min.time(), UTC)
    settings = Settings.model_validate({"model": {"path": "champion"}})
    metrics = Metrics()
    assert retraining_figures(settings, store).trained_at == {shipped.version: trained_at}, "none was promoted yet"
    metrics.retraining.show(retraining_figures(settings, store))
    assert _shown(metrics)[f"model_trained_timestamp_seconds{{{shipped.version}}}"] == trained_at.timestamp()

    store.models.promote("a", seen=None, at=NOON, by="ann")  # whose files are not there
    metrics.retraining.show(retraining_figures(settings, store))
    assert not [name for name in _shown(metrics) if name.startswith("model_trained")]


def test_a_pushgateway_that_does_not_answer_is_warned_of_and_no_more(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    push_figures(Settings(), store, {})
    assert caplog.text == ""
    settings = Settings(
        store=StoreSettings(url="sqlite://"), retrain=RetrainSettings(pushgateway="http://127.0.0.1:9")
    )
    with caplog.at_level(logging.WARNING):
        push_figures(settings, store, {"instance": "trainer"})
    assert "retrain.pushgateway: http://127.0.0.1:9 is not told how the retraining stands: " in caplog.text
