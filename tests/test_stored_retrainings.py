"""Retrainings in the database: one at a time, and only who works on it writes."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from monitor.models import Model
from monitor.retraining import SILENT_AFTER, Comparison, Retraining, Step
from monitor.store import Store
from monitor.stored_retrainings import LostRetraining, RetrainingRuns

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
FOLDER = Path("/models/retraining")


@pytest.fixture
def store() -> Store:
    opened = Store("sqlite://")
    for version in ("a", "b"):
        files = {"model.json": version}
        opened.models.add(Model(version=version, folder=Path("/models") / version, files=files, added_at=NOON))
    return opened


def _begin(store: Store, by: str = "one:1", now: datetime = NOON) -> Retraining:
    return store.retrainings.begin("hand", by=by, champion="a", folder=FOLDER, now=now)


def _compared(item: str, **keys: object) -> Comparison:
    values = {"topic": "Macro", "sentiment": "negative", "negative": True, "confidence": 0.9}
    both = {f"{when}_{name}": value for when in ("before", "after") for name, value in values.items()}
    return Comparison(item=item, event_at=NOON, **both | keys)  # type: ignore[arg-type]


def test_a_retraining_is_read_back_as_it_was_stored(store: Store) -> None:
    begun = _begin(store)
    assert (begun.number, begun.step, begun.folder) == (1, "snapshot", FOLDER / "1")
    later = NOON + timedelta(minutes=1)
    moved = store.retrainings.advance(begun, later, step="train", snapshot="abc", found={"snapshot": {"items": 3}})
    moved = store.retrainings.advance(moved, later, challenger="b", found={"audit": {"suspicious": 1}})
    assert moved.found == {"snapshot": {"items": 3}, "audit": {"suspicious": 1}}
    assert store.retrainings.get(1) == store.retrainings.running() == moved
    ended = store.retrainings.end(moved, "refused", "worse", later)
    assert store.retrainings.running() is None
    assert store.retrainings.newest() == [ended]
    assert _begin(store).number == 2


def test_only_one_goes_on_at_a_time(store: Store) -> None:
    _begin(store)
    with pytest.raises(RetrainingRuns, match=r"retraining 1 goes on since .* step 'snapshot', by one:1, last heard"):
        _begin(store, by="two:2", now=NOON + timedelta(minutes=2))


def test_one_that_fell_silent_is_claimed_and_who_was_silent_writes_no_more(store: Store) -> None:
    begun = _begin(store)
    with pytest.raises(RetrainingRuns, match="wait for it"):
        store.retrainings.claim(begun, by="two:2", now=NOON + SILENT_AFTER - timedelta(seconds=1))
    claimed = store.retrainings.claim(begun, by="two:2", now=NOON + SILENT_AFTER)
    assert store.retrainings.get(1).by == "two:2"
    with pytest.raises(LostRetraining, match=r"no longer at step 'snapshot' by one:1: it is at step .* by two:2"):
        store.retrainings.advance(begun, NOON, step="audit")
    with pytest.raises(LostRetraining, match="nothing was written"):
        store.retrainings.beat(begun, NOON)
    store.retrainings.beat(claimed, NOON + SILENT_AFTER)


def test_of_two_that_end_a_step_the_first_does(store: Store) -> None:
    begun = store.retrainings.advance(_begin(store), NOON, step="shadow")
    store.retrainings.end(begun, "refused", "they differ", NOON)
    with pytest.raises(LostRetraining, match="it ended, refused"):
        store.retrainings.advance(begun, NOON, step="watch")


def test_an_item_is_compared_once_in_each_phase(store: Store) -> None:
    begun = _begin(store)
    later = _compared("y", after_sentiment="neutral", after_negative=False)
    store.retrainings.add_comparisons(begun, "shadow", [later, _compared("x")], NOON)
    store.retrainings.add_comparisons(begun, "shadow", [_compared("x", after_topic="Banks")], NOON)
    store.retrainings.add_comparisons(begun, "watch", [_compared("x")], NOON)
    store.retrainings.add_comparisons(begun, "watch", [], NOON)
    assert store.retrainings.count_comparisons(begun, "shadow") == 2
    assert store.retrainings.comparisons(begun, ["shadow"]) == [_compared("x"), later]
    assert len(store.retrainings.comparisons(begun, ["shadow", "watch"])) == 3


@pytest.mark.parametrize("step", ["snapshot", "gate", "shadow", "watch"])
def test_one_is_abandoned_at_any_step_whoever_works_on_it(store: Store, step: Step) -> None:
    begun = store.retrainings.advance(_begin(store), NOON, step=step)
    later = NOON + timedelta(minutes=1)
    ended = store.retrainings.abandon("abandoned by ann: stuck", later)
    assert ended is not None
    assert (ended.outcome, ended.reason, ended.ended_at) == ("failed", "abandoned by ann: stuck", later)
    assert (ended.step, ended.by) == (step, "one:1")
    with pytest.raises(LostRetraining, match="it ended, failed"):
        store.retrainings.beat(begun, later)
    assert store.retrainings.abandon("again", later) is None
    assert _begin(store, by="two:2").number == 2
