"""Volume bursts, on counts whose bursts are known."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pytest

from monitor.config import SpikeSettings
from monitor.records import BUCKET, EVERYTHING, Series
from monitor.volumes import VolumeReading, Volumes

BANKS = Series("topic", "Financials")
DAY = 288
HOUR = 12
START = datetime(2026, 3, 2, tzinfo=UTC)


class Feed:
    """One series, bucket after bucket."""

    def __init__(self, **changes: object) -> None:
        self.volumes = Volumes(SpikeSettings(**changes))  # type: ignore[arg-type]
        self.volumes.grow(1)
        self.at = START

    def __call__(self, counts: Sequence[int], negatives: Sequence[int] | None = None) -> list[VolumeReading]:
        readings: list[VolumeReading] = []
        for index, count in enumerate(counts):
            negative = 0 if negatives is None else negatives[index]
            self.volumes.advance(np.array([float(count)]), np.array([float(negative)]), self.at)
            self.at += BUCKET
            readings += self.volumes.readings([BANKS])
        return readings

    @property
    def z(self) -> float:
        return float(self.volumes.z[0, 0])

    @property
    def spoken(self) -> float:
        return float(self.volumes.spoken[0, 0])


def _usual(days: int, mean: float = 8.0, seed: int = 1) -> list[int]:
    counts: list[int] = np.random.default_rng(seed).poisson(mean, days * DAY).tolist()
    return counts


def test_usual_counts_stay_silent_and_a_burst_opens_at_once() -> None:
    feed = Feed()
    assert feed(_usual(7)) == []
    (opened,) = feed([100])
    assert (opened.kind, opened.severity, opened.firing) == ("volume_burst", "critical", True)
    assert opened.observed > opened.band[1] > opened.expected > opened.band[0]
    assert opened.expected == pytest.approx(16, rel=0.2)
    assert opened.p_value < 1e-9


def test_nothing_is_said_on_the_first_day() -> None:
    feed = Feed()
    feed(_usual(1)[:-1])
    assert feed([500]) == []
    assert feed.z == 0


def test_a_burst_is_told_again_only_when_it_grows() -> None:
    #  counts:   60   60   200   150  ...
    #  told:      x    x    x            (ten minutes of 60 hold more than the first bucket alone)
    feed = Feed()
    feed(_usual(7))
    told = []
    for count in (60, 60, 60, 200, 200, 100, 60):
        readings = feed([count])
        told.append(readings[0].severity is not None)
        assert readings[0].firing
    assert told == [True, True, False, True, True, False, False]


def test_an_equal_burst_within_twelve_hours_is_not_told_and_one_after_them_is() -> None:
    for hours, expected in ((11, False), (13, True)):
        feed = Feed()
        feed(_usual(7))
        feed([60])
        feed(_usual(1, seed=2)[: hours * HOUR])
        feed([59 if hours == 11 else 100])
        assert (feed.spoken > 0) is expected


def test_a_series_that_often_bursts_must_burst_higher() -> None:
    quiet, bursty = Feed(), Feed()
    quiet(_usual(14))
    bursty([200 if step % DAY == 100 else count for step, count in enumerate(_usual(14))])
    for feed in (quiet, bursty):
        feed([60])
    assert bursty.z < quiet.z / 2


def test_what_the_hour_of_the_day_explains_is_no_burst() -> None:
    # From 4 items a bucket at 0:00 to 36 at 12:00 and back, every day.
    day = 20 - 16 * np.cos(2 * np.pi * np.arange(DAY) / DAY)
    feed = Feed()
    rng = np.random.default_rng(4)
    feed(rng.poisson(np.tile(day, 7)).tolist())
    assert feed(rng.poisson(np.tile(day, 7)).tolist()) == []
    (opened,) = feed([72])
    assert opened.severity is not None


def test_a_few_items_on_a_series_of_nearly_none_are_no_burst() -> None:
    feed = Feed()
    feed([int(step % 200 == 0) for step in range(7 * DAY)])
    assert feed([3]) == []
    assert feed.z < 4


def test_it_resolves_after_half_an_hour_of_usual_counts() -> None:
    feed = Feed(resolve_after_minutes=30)
    feed(_usual(7))
    feed([60])
    firing = [[reading.firing for reading in feed([8])] for _ in range(10)]
    assert firing == [[True]] * 6 + [[False]] + [[]] * 3


@pytest.mark.parametrize(("share", "kinds"), [(0.2, {"volume_burst"}), (0.8, {"volume_burst", "negative_volume"})])
def test_the_number_of_negatives_is_watched_where_most_are_negative_anyway(share: float, kinds: set[str]) -> None:
    rng = np.random.default_rng(9)
    counts = _usual(7, mean=20)
    feed = Feed()
    assert feed(counts, rng.binomial(counts, share).tolist()) == []
    readings = feed([150], [120])
    assert {reading.kind for reading in readings} == kinds
    assert {reading.items for reading in readings} == {readings[0].items}


def test_negatives_alone_may_burst_where_the_volume_is_usual() -> None:
    rng = np.random.default_rng(9)
    feed = Feed(mostly_negative_share=0.5, volume_z=5.0)
    counts = rng.poisson(100, 7 * DAY)
    feed(counts.tolist(), rng.binomial(counts, 0.6).tolist())
    (reading,) = feed([110, 110], [108, 108])[-1:]
    assert (reading.kind, reading.observed, reading.items) == ("negative_volume", 216, 220)


def test_series_are_judged_independently_of_each_other() -> None:
    one, both = Feed(), Volumes(SpikeSettings())
    both.grow(2)
    rng = np.random.default_rng(6)
    for count in _usual(3):
        one([count])
        both.advance(np.array([float(count), float(rng.poisson(100))]), np.zeros(2), one.at - BUCKET)
    assert both.z[0, 0] == one.z
    assert EVERYTHING not in {reading.series for reading in both.readings([BANKS, EVERYTHING])}


def _after_usual_days(topic: int, entity: int) -> Volumes:
    """Even news, of which every fifth item of the topic names the entity, and then a bucket with these counts."""
    volumes = Volumes(SpikeSettings())
    volumes.grow(2)
    at = START
    for counts in [(10.0, 2.0)] * (3 * DAY) + [(float(topic), float(entity))]:
        volumes.advance(np.array(counts), np.zeros(2), at)
        at += BUCKET
    return volumes


def test_what_is_left_of_a_burst_without_an_entity_is_the_others_count_against_the_others_usual() -> None:
    volumes = _after_usual_days(topic=90, entity=80)
    # The last ten minutes: 100 items where 20 are usual, 82 of them the entity's where 4 are. D is 1 after even news.
    assert volumes.counts[0].tolist() == [100, 82]
    z, p_value, accounts_for = volumes.without("volume_burst", 0, 1, 82)
    assert z == pytest.approx((18 - 16) / np.sqrt(16 + 1), abs=0.02)
    assert 0.2 < p_value < 0.5
    assert accounts_for == pytest.approx((82 - 4) / (100 - 20), rel=0.01)


def test_a_burst_of_all_but_an_entity_is_left_without_it() -> None:
    volumes = _after_usual_days(topic=90, entity=2)
    z, _, accounts_for = volumes.without("volume_burst", 0, 1, 4)
    assert z == pytest.approx((96 - 16) / np.sqrt(16 + 1), rel=0.01)
    assert accounts_for == pytest.approx(0, abs=0.01)


def test_too_few_items_are_no_burst_that_is_left() -> None:
    volumes = _after_usual_days(topic=90, entity=90)
    assert volumes.without("volume_burst", 0, 1, 97)[:2] == (0.0, 1.0)
