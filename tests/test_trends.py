"""Event time: the watermark, lateness, and what windows hold."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from monitor.config import TrendSettings
from monitor.records import BUCKET, EVERYTHING, Counts, Entry, NewsItem, PartitionClock, Scored, Series
from monitor.trends import Trends, Watermark

NOON = datetime(2023, 3, 10, 12, tzinfo=UTC)
SETTINGS = TrendSettings(lateness_s=300, idle_after_s=30)
FINANCIALS = Series("topic", "Financials")


def _at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def _clock(newest_minutes: float | None, active_s_ago: float = 0, now: datetime = NOON) -> PartitionClock:
    newest = None if newest_minutes is None else _at(newest_minutes)
    return PartitionClock(next=1, newest_event_at=newest, active_at=now - timedelta(seconds=active_s_ago))


def test_watermark_is_the_newest_event_time_less_the_lateness() -> None:
    assert Watermark(SETTINGS).advance({0: _clock(0)}, NOON) == _at(-5)


def test_the_slowest_active_partition_decides() -> None:
    #  partition 0  -------------x        newest -1
    #  partition 1  ------x               newest -9   decides
    assert Watermark(SETTINGS).advance({0: _clock(-1), 1: _clock(-9)}, NOON) == _at(-14)


def test_an_idle_partition_stops_holding_the_others_back() -> None:
    assert Watermark(SETTINGS).advance({0: _clock(-1), 1: _clock(-9, active_s_ago=30)}, NOON) == _at(-6)


def test_a_partition_that_was_not_read_yet_but_holds_records_is_waited_for() -> None:
    watermark = Watermark(SETTINGS)
    assert watermark.advance({0: _clock(-1), 1: _clock(None)}, NOON) is None
    assert watermark.advance({0: _clock(-1), 1: _clock(-20)}, NOON) == _at(-25)


def test_an_empty_partition_holds_nothing_back_once_it_is_idle() -> None:
    assert Watermark(SETTINGS).advance({0: _clock(-1), 1: _clock(None, active_s_ago=31)}, NOON) == _at(-6)


def test_when_all_partitions_are_silent_event_time_runs_on_until_the_newest_items_bucket_has_closed() -> None:
    #  newest item at -60 (event time); its bucket ends at -55 at the latest
    watermark = Watermark(SETTINGS)
    assert watermark.advance({0: _clock(-60, active_s_ago=2 * 60)}, NOON) == _at(-63)
    assert watermark.advance({0: _clock(-60, active_s_ago=40 * 60)}, NOON) == _at(-55)
    assert watermark.advance({0: _clock(-60, active_s_ago=600 * 60)}, NOON) == _at(-55)


def test_event_time_runs_on_with_the_wall_clock_while_it_is_asked_to() -> None:
    watermark = Watermark(SETTINGS)
    assert watermark.advance({0: _clock(-60, active_s_ago=40 * 60)}, NOON, run_on=True) == _at(-25)
    assert watermark.advance({0: _clock(-60, active_s_ago=50 * 60)}, NOON, run_on=True) == _at(-15)


def test_watermark_never_goes_back() -> None:
    watermark = Watermark(SETTINGS)
    watermark.advance({0: _clock(0)}, NOON)
    assert watermark.advance({0: _clock(0), 1: _clock(-60)}, NOON) == _at(-5)


def test_nothing_is_known_before_the_first_item() -> None:
    watermark = Watermark(SETTINGS)
    assert watermark.advance({}, NOON) is None
    assert not watermark.is_late(_at(-1_000_000))


def test_an_item_behind_the_watermark_is_late_and_one_on_it_is_not() -> None:
    watermark = Watermark(SETTINGS)
    watermark.advance({0: _clock(0)}, NOON)
    assert watermark.is_late(_at(-5.001))
    assert not watermark.is_late(_at(-5))


def _trends(*negatives: int) -> Trends:
    trends = Trends([15, 60])
    for step, count in enumerate(negatives):
        trends.close(NOON + step * BUCKET, {FINANCIALS: Counts(items=10, negatives=count, score=-count)})
    return trends


def _late_entry(minutes: float) -> Entry:
    sentiment = {"negative": 0.75, "neutral": 0.25, "positive": 0.0}
    item = NewsItem("a", "Bank fails", _at(minutes))
    scored = Scored(item, "Financials", "negative", {"Financials": 1.0}, sentiment, "m")
    return Entry(scored, partition=0, offset=0, event_at=_at(minutes), story="s", negative_from=0.5, late=True)


def test_a_window_sums_the_last_closed_buckets() -> None:
    trends = _trends(1, 2, 3, 4)
    assert trends.window(FINANCIALS, 15) == Counts(items=30, negatives=9, score=-9)
    assert trends.window(FINANCIALS, 60) == Counts(items=40, negatives=10, score=-10)
    assert trends.window(EVERYTHING, 60) == Counts()


def test_buckets_older_than_the_longest_window_are_let_go() -> None:
    trends = _trends(*range(1, 15))
    assert trends.window(FINANCIALS, 60).negatives == sum(range(3, 15))
    assert [counts.negatives for counts in trends.history(FINANCIALS, 100)] == list(range(3, 15))


def test_a_late_item_is_added_to_its_closed_bucket_and_counted_as_late() -> None:
    trends = _trends(1, 2, 3)
    trends.amend(_late_entry(7))
    assert trends.history(FINANCIALS, 3)[1] == Counts(items=11, negatives=3, score=-2.75, late=1, late_negatives=1)
    assert trends.window(EVERYTHING, 15) == Counts(items=1, negatives=1, score=-0.75, late=1, late_negatives=1)


@pytest.mark.parametrize("minutes", [-1, 15])
def test_a_late_item_whose_bucket_is_gone_or_still_open_changes_no_window(minutes: float) -> None:
    trends = _trends(1, 2, 3)
    trends.amend(_late_entry(minutes))
    assert trends.window(FINANCIALS, 15).items == 30


def test_a_gap_between_buckets_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bucket 2023-03-10T12:20:00\+00:00 does not follow 2023-03-10T12:15:00"):
        _trends(1, 2, 3).close(_at(20), {})


def test_windows_hold_what_their_buckets_hold_however_many_have_passed_and_whatever_came_late() -> None:
    draw, trends = random.Random(4), Trends([15, 60])
    for step in range(60):
        present = [series for series in (FINANCIALS, EVERYTHING) if draw.random() < 0.5]
        trends.close(
            NOON + step * BUCKET, {series: Counts(items=draw.randint(1, 9), score=0.1) for series in present}
        )
        trends.amend(_late_entry(5 * draw.randint(step - 14, step + 1) + 2))
        for series in (FINANCIALS, EVERYTHING):
            for minutes in (15, 30, 60):
                window = trends.window(series, minutes)
                held = sum(trends.history(series, minutes // 5), Counts())
                assert replace(window, score=0.0) == replace(held, score=0.0)
                assert window.score == pytest.approx(held.score, abs=1e-12)
