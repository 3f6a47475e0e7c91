"""The whole monitor without its I/O: what is counted, when windows close, and what restarts change (nothing)."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monitor.config import (
    AlertSettings,
    CalendarSettings,
    EntitySettings,
    OverrideSettings,
    Settings,
    SilenceSettings,
    SpikeSettings,
    TrendSettings,
)
from monitor.engine import Engine
from monitor.evaluation import Evaluation
from monitor.metrics import Metrics
from monitor.records import (
    BUCKET,
    EVERYTHING,
    Alert,
    Batch,
    Counts,
    PositionUpdate,
    RawRecord,
    RecordError,
    Series,
)
from monitor.store import PositionConflict, Store, StoreUnavailable
from tests.support import WordScorer

NOON = datetime(2023, 3, 10, 12, tzinfo=UTC)
BANKS = Series("topic", "Financials")
SETTINGS = Settings(
    trends=TrendSettings(lateness_s=300, idle_after_s=30),
    spikes=SpikeSettings(windows_minutes=(15, 60), half_life_hours=24, min_negatives=5),
    watchlist=(EntitySettings(name="Harrowgate"),),
)
Rejected = list[tuple[RawRecord, RecordError]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path / 'monitor.db'}") as opened:
        yield opened


def _engine(store: Store, rejected: Rejected | None = None, settings: Settings = SETTINGS) -> Engine:
    kept: Rejected = [] if rejected is None else rejected
    return Engine(
        settings,
        store,
        WordScorer(),
        Metrics(),
        source="test",
        reject=lambda record, error: kept.append((record, error)),
    )


def _at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def _news(minutes: float, text: str = "Financials: fine", **keys: Any) -> bytes:
    return json.dumps({"title": text, "published_at": _at(minutes).isoformat()} | keys).encode()


def _batch(values: Sequence[bytes], *, start: int = 0, partition: int = 0) -> Batch:
    records = tuple(RawRecord(partition, start + i, value) for i, value in enumerate(values))
    return Batch(records, (PositionUpdate(partition, start or None, start + len(values)),))


def _sample(engine: Engine, metric: str, /, **labels: str) -> float | None:
    return engine.metrics.registry.get_sample_value(metric, labels)


def _bucket_sums(store: Store, series: Series) -> Counts:
    rows = store.buckets(NOON - timedelta(days=9), NOON + timedelta(days=9))
    return sum((counts for name, _, counts in rows if name == series), Counts())


def test_each_item_is_counted_in_its_topic_its_entities_and_everything(store: Store) -> None:
    engine = _engine(store)
    engine.process(
        _batch([_news(0, "Financials: bad day for Harrowgate"), _news(1, "Macro: fine"), _news(2, "Macro: bad")]),
        _at(3),
    )
    assert _bucket_sums(store, EVERYTHING) == Counts(items=3, negatives=2, score=-0.5, stories=3, negative_stories=2)
    assert _bucket_sums(store, Series("topic", "Macro")) == Counts(
        items=2, negatives=1, stories=2, negative_stories=1
    )
    assert _bucket_sums(store, Series("entity", "Harrowgate")) == Counts(
        items=1, negatives=1, score=-0.5, stories=1, negative_stories=1
    )
    assert _sample(engine, "sentiment_items_total", topic="Macro", sentiment="negative") == 1
    assert _sample(engine, "sentiment_entity_items_total", entity="Harrowgate") == 1


def test_an_item_sent_twice_is_counted_once(store: Store) -> None:
    engine = _engine(store)
    engine.process(_batch([_news(0, id="a"), _news(1, id="b"), _news(0, id="a")]), _at(3))
    engine.process(_batch([_news(1, id="b")], start=3), _at(4))
    assert _bucket_sums(store, EVERYTHING).items == 2
    assert _sample(engine, "sentiment_repeated_items_total") == 2


def test_a_bad_record_is_rejected_with_its_reason_and_the_rest_is_stored(store: Store) -> None:
    rejected: Rejected = []
    engine = _engine(store, rejected)
    stored = engine.process(_batch([_news(0), b"{", _news(1, "Macro: fine")]), _at(3))
    assert [entry.offset for entry in stored] == [0, 2]
    assert [(record.offset, error.reason) for record, error in rejected] == [(1, "not_json")]
    assert _sample(engine, "sentiment_rejected_records_total", reason="not_json") == 1
    assert store.positions("test", [0]) == {0: 3}


def test_a_batch_of_bad_records_alone_moves_the_position(store: Store) -> None:
    _engine(store).process(_batch([b"", b"[]"]), NOON)
    assert store.positions("test", [0]) == {0: 2}


def test_an_item_from_the_future_counts_at_its_arrival(store: Store) -> None:
    engine = _engine(store)
    near, far = engine.process(_batch([_news(5, "Macro: near"), _news(60, "Macro: far")]), NOON)
    assert (near.event_at, far.event_at) == (_at(5), NOON)
    assert _sample(engine, "sentiment_future_items_total") == 1


@pytest.mark.parametrize("restarted", [None, "before the late items", "after them"])
@pytest.mark.parametrize("minute", [104, 111], ids=["in a closed bucket", "in the open bucket"])
def test_item_behind_the_watermark_is_counted_but_never_alerts(
    store: Store, minute: float, restarted: str | None
) -> None:
    #  12:00 .................... 13:58   items as usual; watermark at 13:53, 13:50 is the last closed bucket's end
    #                   13:44  13:51      then twenty negatives from before the watermark
    engine = _engine(store)
    usual = [_news(m, f"Financials: fine {m}") for m in range(0, 119, 2)]
    engine.process(_batch(usual), _at(118))
    engine.tick(_at(118))
    late = [_news(minute, f"Financials: bad {n}") for n in range(20)]
    if restarted == "before the late items":
        engine = _engine(store)
        engine.tick(_at(118))
    stored = engine.process(_batch(late, start=len(usual)), _at(119))
    assert all(entry.late for entry in stored)
    stored_late = _sample(engine, "sentiment_late_items_total")
    if restarted == "after them":
        engine = _engine(store)
    alerts = engine.tick(_at(119))
    engine.process(_batch([_news(125, "Macro: fine")], start=len(usual) + 20), _at(125))
    alerts += engine.tick(_at(125)) + engine.finish()
    assert alerts == []
    assert _bucket_sums(store, BANKS).late == 20
    assert _bucket_sums(store, BANKS).negatives == 20
    assert stored_late == 20


def _timeline(seed: int = 3) -> list[tuple[float, bytes]]:
    """Two days of ordinary news, with half an hour of bad news about banks near the end of the second."""
    rng = np.random.default_rng(seed)
    timeline = []
    for minute in np.sort(rng.uniform(0, 2 * 1440, 1_500)).tolist():
        topic = "Financials" if rng.random() < 0.4 else "Macro"
        mood = "bad" if rng.random() < 0.2 else "fine"
        timeline.append((minute, f"{topic}: {mood} {minute:.4f}"))
    run = rng.uniform(2_600, 2_630, 30).tolist()
    timeline += [(minute, f"Financials: bad run on Harrowgate {minute:.4f}") for minute in run]
    return [(minute, _news(minute, text)) for minute, text in sorted(timeline)]


def _alerts_of(
    store: Store, batch_items: int, restart_every: int | None, settings: Settings = SETTINGS
) -> list[Alert]:
    timeline = _timeline()
    engine = _engine(store, settings=settings)
    for number, start in enumerate(range(0, len(timeline), batch_items)):
        if restart_every and number % restart_every == restart_every - 1:
            engine = _engine(store, settings=settings)
        part = timeline[start : start + batch_items]
        now = _at(part[-1][0])
        engine.process(_batch([value for _, value in part], start=start), now)
        engine.tick(now)
    engine.finish()
    return sorted(store.alerts(), key=lambda alert: (alert.opened_at, alert.series))


def test_a_spike_opens_updates_and_resolves_with_its_evidence(store: Store) -> None:
    alerts = _alerts_of(store, batch_items=10, restart_every=None)
    assert {alert.series for alert in alerts} >= {BANKS, Series("entity", "Harrowgate")}
    [alert] = [alert for alert in alerts if alert.series == BANKS]
    assert _at(2_600) <= alert.opened_at <= _at(2_630)
    assert alert.resolved_at is not None
    assert alert.resolved_at > _at(2_630)
    assert alert.severity == "critical"
    assert alert.models == ("words-1",)
    assert 1 <= len(alert.evidence) <= 5
    assert all("bad" in story.title for story in alert.evidence)
    assert len({story.title for story in alert.evidence}) == len(alert.evidence)


@pytest.mark.parametrize(("batch_items", "restart_every"), [(1, None), (64, None), (10, 7), (3, 50), (64, 1)])
def test_batch_sizes_and_restarts_change_no_alert(
    store: Store, tmp_path: Path, batch_items: int, restart_every: int | None
) -> None:
    with Store(f"sqlite:///{tmp_path / 'reference.db'}") as reference:
        expected = _alerts_of(reference, batch_items=10, restart_every=None)
    found = _alerts_of(store, batch_items, restart_every)
    assert [asdict(alert) for alert in found] == [asdict(alert) for alert in expected]


WORDS = ["run", "halt", "fraud", "loss", "default", "probe", "strike", "recall", "breach", "layoff", "outage", "fine"]


def _after_a_usual_day(store: Store, told: Sequence[bytes], settings: Settings = SETTINGS) -> list[Alert]:
    """The alerts on Financials after a day of 720 different fine stories and then, within 20 minutes, `told`."""
    usual = [_news(m, f"Financials: fine {m}") for m in range(0, 1440, 2)]
    _engine(store, settings=settings).process(_batch(usual), _at(1440))
    engine = _engine(store, settings=settings)
    engine.process(_batch(told, start=len(usual)), _at(1460))
    engine.tick(_at(1460))
    engine.finish()
    return [alert for alert in store.alerts() if alert.series == BANKS]


def _copied(stories: int, copies: int) -> list[bytes]:
    return [
        _news(1441 + copy / 2, f"Financials: bad {WORDS[story]}", id=f"{story}-{copy}", source=f"publisher {copy}")
        for copy in range(copies)
        for story in range(stories)
    ]


def test_copies_of_a_story_are_folded_in_the_evidence_through_a_restart(store: Store) -> None:
    [alert] = _after_a_usual_day(store, _copied(stories=12, copies=3))
    assert [story.copies for story in alert.evidence] == [3] * 5


def test_copies_of_one_story_raise_no_alert_unless_items_are_counted(store: Store, tmp_path: Path) -> None:
    one_story = _copied(stories=1, copies=12)
    assert _after_a_usual_day(store, one_story) == []
    items = SETTINGS.model_copy(update={"spikes": replace(SETTINGS.spikes, counting="items")})
    with Store(f"sqlite:///{tmp_path / 'items.db'}") as other:
        [alert] = _after_a_usual_day(other, one_story, items)
    assert alert.observed == 12


def test_an_item_counts_as_negative_from_the_set_probability_on(store: Store) -> None:
    strict = SETTINGS.model_copy(update={"spikes": replace(SETTINGS.spikes, negative_from=0.9)})
    engine = _engine(store, settings=strict)
    engine.process(_batch([_news(0, "Financials: bad")]), _at(1))
    counted = _bucket_sums(store, BANKS)
    assert (counted.items, counted.negatives, counted.stories, counted.negative_stories) == (1, 0, 1, 0)
    assert _sample(engine, "sentiment_items_total", topic="Financials", sentiment="negative") == 1


def test_an_item_is_late_if_event_time_has_passed_it_once_it_is_stored_though_not_when_it_was_scored(
    store: Store,
) -> None:
    engine = _engine(store)
    ahead = engine.score(engine.parse(_batch([_news(0, "Macro: slow")], partition=1)))
    engine.process(_batch([_news(60)]), _at(60))
    engine.tick(_at(60))
    [stored] = engine.commit(engine.prepare(ahead, _at(60)), _at(60))
    assert stored.late


def test_a_batch_that_was_scored_and_given_up_leaves_no_trace(store: Store) -> None:
    rejected: Rejected = []
    engine = _engine(store, rejected)
    batch = _batch([_news(0, "Macro: once"), b"{"])
    engine.score(engine.parse(batch))
    assert (rejected, store.counts()["items"]) == ([], 0)
    engine.process(batch, NOON)
    assert _sample(engine, "sentiment_story_copies_total") == 0
    assert [error.reason for _, error in rejected] == ["not_json"]


def test_a_worker_that_lost_its_partition_writes_nothing(store: Store) -> None:
    engine = _engine(store)
    engine.process(_batch([_news(0)]), NOON)
    with pytest.raises(PositionConflict):
        engine.process(_batch([_news(1, "Macro: other")]), NOON)
    assert _bucket_sums(store, EVERYTHING).items == 1


def test_two_workers_alert_as_one_would(store: Store, tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path / 'reference.db'}") as reference:
        expected = _alerts_of(reference, batch_items=10, restart_every=None)
    timeline = _timeline()
    workers = [_engine(store), _engine(store)]
    positions = [0, 0]
    for start in range(0, len(timeline), 10):
        part = timeline[start : start + 10]
        now = _at(part[-1][0])
        for partition, worker in enumerate(workers):
            mine = [value for _, value in part[partition::2]]
            worker.process(_batch(mine, start=positions[partition], partition=partition), now)
            positions[partition] += len(mine)
        # Each in turn finds that the other one has evaluated meanwhile.
        workers[(start // 10) % 2].tick(now)
    workers[0].finish()
    found = sorted(store.alerts(), key=lambda alert: (alert.opened_at, alert.series))
    shape = [(a.series, a.opened_at, a.resolved_at, a.observed, a.severity) for a in found]
    assert shape == [(a.series, a.opened_at, a.resolved_at, a.observed, a.severity) for a in expected]


def test_a_partition_with_a_backlog_holds_the_windows_open(store: Store) -> None:
    engine = _engine(store)
    engine.process(_batch([_news(m, f"Macro: fine {m}") for m in range(0, 60)]), _at(60))
    engine.tick(_at(60), behind=[0, 1])
    assert engine.watermark is None
    engine.process(_batch([_news(1, "Macro: first of the other")], partition=1), _at(60))
    engine.tick(_at(60), behind=[0, 1])
    assert engine.watermark == _at(-4)


def test_a_partition_that_begins_to_wait_is_noted_at_once_though_another_was_noted_a_moment_ago(store: Store) -> None:
    #  partition 0   12:00 ............................ 13:00   has a backlog
    #  partition 1   12:00 ... 12:10                            silent, until a record comes that is not stored yet
    engine = _engine(store)
    store.touch("test", [0], _at(60))
    engine.process(_batch([_news(m, f"Macro: other {m}") for m in range(11)], partition=1), _at(11))
    engine.tick(_at(60), behind=[0])
    engine.process(_batch([_news(m, f"Macro: fine {m}") for m in range(61)]), _at(60))
    engine.tick(_at(60) + timedelta(seconds=5), behind=[0, 1])
    assert engine.watermark == _at(5)


def test_a_partition_of_bad_records_alone_holds_nothing_back_for_long(store: Store) -> None:
    engine = _engine(store)
    engine.process(_batch([_news(m, f"Macro: fine {m}") for m in range(60)]), _at(60))
    for second in range(0, 120, 10):
        engine.process(_batch([b"bad"], start=second // 10, partition=1), _at(60) + timedelta(seconds=second))
        engine.process(
            _batch([_news(60 + second / 60, f"Macro: {second}")], start=60 + second // 10),
            _at(60) + timedelta(seconds=second),
        )
        engine.tick(_at(60) + timedelta(seconds=second))
    assert engine.watermark is not None
    assert engine.watermark > _at(55)


def test_one_fast_clock_does_not_make_other_publishers_late(store: Store) -> None:
    engine = _engine(store)
    engine.process(_batch([_news(4.9, "Macro: from the future")]), NOON)
    engine.tick(NOON)
    stored = engine.process(_batch([_news(-0.3, f"Macro: fine {n}") for n in range(20)], start=1), NOON)
    assert not any(entry.late for entry in stored)


def test_a_backlog_after_hours_of_silence_can_still_alert(store: Store) -> None:
    engine = _engine(store)
    usual = [_news(m, f"Financials: fine {m}") for m in range(0, 600, 2)]
    engine.process(_batch(usual), _at(600))
    for minutes in range(600, 720, 5):
        engine.tick(_at(minutes))
    missed = [_news(620 + n, f"Financials: bad {n}") for n in range(40)]
    engine.process(_batch(missed, start=len(usual)), _at(720))
    engine.process(_batch([_news(719, "Macro: now")], start=len(usual) + 40), _at(720))
    alerts = engine.tick(_at(720))
    assert BANKS in {alert.series for alert in alerts}


def test_an_outage_in_the_first_evaluation_is_made_up_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = _engine(store)
    engine.process(_batch([_news(m, f"Macro: fine {m}") for m in range(60)]), _at(60))

    def away(*_: object) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(store, "save_evaluation", away)
        with pytest.raises(StoreUnavailable):
            engine.tick(_at(60))
    engine.tick(_at(60))
    assert store.evaluated_through("test") == _at(50)


def test_a_restart_shows_windows_and_open_alerts_at_once(store: Store) -> None:
    timeline = [entry for entry in _timeline() if entry[0] < 2_630]
    engine = _engine(store)
    for start in range(0, len(timeline), 50):
        part = timeline[start : start + 50]
        engine.process(_batch([value for _, value in part], start=start), _at(part[-1][0]))
        engine.tick(_at(part[-1][0]))
    assert engine.open_alerts
    again = _engine(store)
    again.tick(_at(2_630))
    severities = [_sample(again, "sentiment_alerts_open", severity=name) or 0 for name in ("warning", "critical")]
    assert sum(severities) == len(engine.open_alerts)


def test_a_repeat_is_no_copy_of_its_own_story(store: Store) -> None:
    engine = _engine(store)
    engine.process(_batch([_news(0, id="a")] * 3), NOON)
    assert _sample(engine, "sentiment_story_copies_total") == 0


def test_a_gap_of_months_does_not_evaluate_every_empty_bucket_between(store: Store) -> None:
    engine = _engine(store)
    engine.process(_batch([_news(0), _news(20, "Macro: before")]), _at(20))
    engine.tick(_at(20))
    assert store.evaluated_through("test") == _at(15)
    later = 60 * 24 * 365
    engine.process(_batch([_news(later, "Macro: back")], start=2), _at(later))
    engine.tick(_at(later))
    assert store.evaluated_through("test") == _at(later - 5)
    assert engine.trends.closed_through == _at(later - 5)


def test_the_quiet_after_a_spike_resolves_it(store: Store) -> None:
    timeline = [entry for entry in _timeline() if entry[0] < 2_630]
    engine = _engine(store)
    for start in range(0, len(timeline), 50):
        part = timeline[start : start + 50]
        engine.process(_batch([value for _, value in part], start=start), _at(part[-1][0]))
        engine.tick(_at(part[-1][0]))
    assert BANKS in {alert.series for alert in engine.open_alerts}
    # No item comes any more; the wall clock goes on.
    for minutes in range(0, 240, 5):
        engine.tick(_at(2_630 + minutes))
    assert engine.open_alerts == ()


def test_windows_are_shown_as_they_closed(store: Store) -> None:
    engine = _engine(store)
    engine.process(
        _batch([_news(m / 2, f"Macro: {'bad' if m % 4 == 0 else 'fine'} {m}") for m in range(40)]), _at(20)
    )
    engine.tick(_at(20))
    labels = {"dimension": "topic", "name": "Macro", "window": "15m"}
    assert engine.watermark == _at(14.5)
    assert _sample(engine, "sentiment_window_items", **labels) == 20  # 12:00 to 12:10, the closed ones
    assert _sample(engine, "sentiment_window_negative_items", **labels) == 5
    assert _sample(engine, "sentiment_window_score", **labels) == pytest.approx(0.25)
    assert store.evaluated_through("test") == _at(10)
    assert (_at(10) - NOON) % BUCKET == timedelta(0)


def test_stories_of_a_batch_that_another_worker_held_up_are_told_anew_and_are_no_copies(store: Store) -> None:
    engine = _engine(store)
    store.commit("test", [], [PositionUpdate(1, None, 7)], _at(0))
    news = _news(0, "Financials: bad run on Harrowgate")
    both = Batch((RawRecord(0, 0, news),), (PositionUpdate(0, None, 1), PositionUpdate(1, 6, 8)))
    with pytest.raises(PositionConflict):
        engine.process(both, _at(1))
    [stored] = engine.process(_batch([news]), _at(2))
    assert not stored.copy
    assert _bucket_sums(store, BANKS).negative_stories == 1


def test_a_burst_of_volume_is_judged_by_all_that_came_and_not_by_its_few_negative_items(store: Store) -> None:
    settings = SETTINGS.model_copy(
        update={"spikes": replace(SETTINGS.spikes, kinds=("volume_burst",), counting="items", volume_critical_z=7.0)}
    )
    engine = _engine(store, settings=settings)
    usual = [_news(m, f"Financials: fine {m}", source="wire") for m in range(0, 3 * 1440, 10)]
    engine.process(_batch(usual), _at(3 * 1440))
    burst = [
        _news(3 * 1440 + n / 30, f"Financials: fine {n}", id=f"b{n}", source=f"publisher {n % 5}") for n in range(90)
    ]
    burst.append(_news(3 * 1440 + 2, "Financials: bad day", id="bad", source="publisher 1"))
    engine.process(_batch(burst, start=len(usual)), _at(3 * 1440 + 4))
    engine.finish()
    [alert] = [alert for alert in store.alerts() if alert.series == BANKS]
    assert (alert.kind, alert.observed, alert.publishers, alert.severity) == ("volume_burst", 91, 5, "critical")


def _tuned(tmp_path: Path, **sections: Any) -> Settings:
    """Settings with a note on Harrowgate and a silence over the topic during the bad news of `_timeline`."""
    file = tmp_path / "events.csv"
    start, end = _at(2_590).isoformat(), _at(2_640).isoformat()
    file.write_text(f"name,starts_at,ends_at,note\nHarrowgate,{start},{end},Harrowgate reports\n")
    silence = SilenceSettings(name="Financials", starts_at=_at(2_500), ends_at=_at(2_640), comment="drill")
    calendar = CalendarSettings(exchanges=("XNYS",), file=file)
    return SETTINGS.model_copy(update={"calendar": calendar, "silences": (silence,)} | sections)


@pytest.mark.parametrize("restart_every", [None, 7])
def test_alerts_carry_their_silence_and_what_was_known_through_restarts(
    store: Store, tmp_path: Path, restart_every: int | None
) -> None:
    alerts = _alerts_of(store, 10, restart_every, _tuned(tmp_path))
    by_series = {alert.series: alert for alert in alerts}
    banks, harrowgate = by_series[BANKS], by_series[Series("entity", "Harrowgate")]
    # 12 March 2023, from 7:20 on, is a Sunday.
    assert banks.notes == harrowgate.notes == ("Harrowgate reports", "XNYS closed: weekend")
    assert banks.entities == ("Harrowgate",)  # which is why its event is noted on the topic
    assert (banks.silenced, harrowgate.silenced) == ("drill", None)


def test_alerts_that_opened_in_a_silence_are_counted(store: Store, tmp_path: Path) -> None:
    settings = _tuned(tmp_path)
    engine = _engine(store, settings=settings)
    timeline = _timeline()
    engine.process(_batch([value for _, value in timeline]), _at(timeline[-1][0]))
    engine.finish()
    assert [alert.series for alert in store.alerts() if alert.silenced] == [BANKS]
    assert _sample(engine, "sentiment_alerts_silenced_total", dimension="topic") == 1
    assert _sample(engine, "sentiment_alerts_silenced_total", dimension="entity") == 0


@pytest.mark.parametrize("restart_every", [None, 7])
def test_a_series_that_may_not_alarm_does_not_and_the_others_go_on_through_restarts(
    store: Store, tmp_path: Path, restart_every: int | None
) -> None:
    with Store(f"sqlite:///{tmp_path / 'reference.db'}") as reference:
        expected = _alerts_of(reference, 10, None)
    muted = (OverrideSettings(dimension="entity", name="Harrowgate", kinds=()),)
    settings = SETTINGS.model_copy(update={"overrides": muted})
    found = _alerts_of(store, 10, restart_every, settings)
    kept = [(alert.series, alert.opened_at) for alert in expected if alert.series.dimension == "topic"]
    assert [(alert.series, alert.opened_at) for alert in found] == kept
    assert len(kept) < len(expected)
    assert _bucket_sums(store, Series("entity", "Harrowgate")).items >= 30


def test_an_alert_on_a_series_that_may_alarm_no_more_resolves_after_the_restart(store: Store) -> None:
    timeline = [entry for entry in _timeline() if entry[0] < 2_630]
    engine = _engine(store)
    engine.process(_batch([value for _, value in timeline]), _at(2_630))
    engine.tick(_at(2_630))
    assert BANKS in {alert.series for alert in engine.open_alerts}
    muted = (OverrideSettings(name="Financials", kinds=()),)
    again = _engine(store, settings=SETTINGS.model_copy(update={"overrides": muted}))
    for minutes in (2_640, 2_650):
        again.tick(_at(minutes))
    assert BANKS not in {alert.series for alert in again.open_alerts}
    assert [alert.series for alert in store.alerts() if alert.resolved_at] == [BANKS]


def test_a_worker_that_stands_by_holds_no_alert_that_another_has_resolved(store: Store) -> None:
    _after_a_usual_day(store, _copied(stories=12, copies=1))
    evaluation = Evaluation(SETTINGS, store, Metrics(), source="test", shown=())
    assert evaluation.open_alerts
    resolved = [
        replace(alert, resolved_at=_at(1600), revision=alert.revision + 1) for alert in evaluation.open_alerts
    ]
    store.save_evaluation("test", _at(1600), resolved)
    evaluation.stand_by()
    assert evaluation.open_alerts == ()


RUN = [(1440 + n / 2, f"Financials: bad run on Harrowgate {n}") for n in range(24)]


def _spikes(
    store: Store, told: Sequence[tuple[float, str]], settings: Settings = SETTINGS, *, restarting: bool = False
) -> dict[str, Alert]:
    """By series, the alerts after a day of usual news on banks and on the economy, and then `told`."""
    usual = [
        (m, f"{'Macro' if m % 4 else 'Financials'}: {'bad' if m % 20 < 4 else 'fine'} {m}") for m in range(0, 1440, 2)
    ]
    timeline = sorted(usual + list(told))
    engine = _engine(store, settings=settings)
    for start in range(0, len(timeline), 5):
        if restarting:
            engine = _engine(store, settings=settings)
        part = timeline[start : start + 5]
        engine.process(_batch([_news(minute, text) for minute, text in part], start=start), _at(part[-1][0]))
        engine.tick(_at(part[-1][0]))
    for minutes in range(0, 240, 5):  # it is quiet, until all is over
        engine.tick(_at(1460 + minutes))
    return {alert.series.name: alert for alert in store.alerts()}


def test_one_cause_is_one_alert_that_names_the_others_and_outlasts_them(store: Store) -> None:
    alerts = _spikes(store, RUN)
    assert set(alerts) == {"Harrowgate", "Financials", "Everything"}
    [leader] = [alert for alert in alerts.values() if alert.role == "leads"]
    assert {alert.group for alert in alerts.values()} == {leader.id}
    assert {series.name for series in leader.also} == set(alerts) - {leader.series.name}
    for name in ("Financials", "Everything"):
        assert alerts[name].explained_by == Series("entity", "Harrowgate")
    ends = [alert.resolved_at for alert in alerts.values() if alert.resolved_at is not None]
    assert len(ends) == 3
    assert leader.resolved_at == max(ends)


def test_a_topic_that_rises_by_itself_leads_beside_an_entity_that_does(store: Store) -> None:
    others = [(1440 + n / 2 + 0.1, f"Financials: bad loan book {n}") for n in range(24)]
    alerts = _spikes(store, RUN + others)
    assert (alerts["Harrowgate"].role, alerts["Financials"].role) == ("leads", "leads")
    assert alerts["Financials"].explained_by is None
    assert alerts["Everything"].part_of == BANKS


def test_alerts_are_told_apart_where_grouping_is_switched_off(store: Store) -> None:
    alerts = _spikes(store, RUN, SETTINGS.model_copy(update={"alerts": AlertSettings(group=False)}))
    assert len(alerts) == 3
    assert {(alert.role, alert.part_of, alert.also) for alert in alerts.values()} == {("leads", None, ())}


def test_a_group_is_the_same_after_a_restart_at_every_step(store: Store, tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path / 'restarted.db'}") as other:
        assert _spikes(other, RUN, restarting=True) == _spikes(store, RUN)


def test_a_burst_of_volume_on_an_entity_leads_that_of_its_topic(store: Store) -> None:
    settings = SETTINGS.model_copy(update={"spikes": replace(SETTINGS.spikes, kinds=("volume_burst",))})
    engine = _engine(store, settings=settings)
    usual = [_news(m, f"Financials: fine {'Harrowgate' if m % 50 else ''} {m}") for m in range(0, 3 * 1440, 10)]
    engine.process(_batch(usual), _at(3 * 1440))
    burst = [_news(3 * 1440 + n / 30, f"Financials: fine Harrowgate {n}", id=f"b{n}") for n in range(90)]
    engine.process(_batch(burst, start=len(usual)), _at(3 * 1440 + 4))
    engine.finish()
    roles = {(alert.series.name, alert.kind): (alert.role, alert.part_of) for alert in store.alerts()}
    bank = Series("entity", "Harrowgate")
    assert roles == {
        ("Harrowgate", "volume_burst"): ("leads", None),
        ("Financials", "volume_burst"): ("follows", bank),
        ("Everything", "volume_burst"): ("follows", bank),
    }
