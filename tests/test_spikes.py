"""The detector, on timelines whose spikes are known."""

from collections.abc import Mapping

import numpy as np
import pytest
from scipy import stats

from monitor.config import SpikeSettings
from monitor.records import EVERYTHING, Counts, Reading, Series
from monitor.spikes import Detector

BANKS = Series("topic", "Financials")
OIL = Series("topic", "Energy | Oil")
DAY = 288


def _detector(**changes: object) -> Detector:
    return Detector(SpikeSettings(**changes))  # type: ignore[arg-type]


def _bucket(counts: Mapping[Series, tuple[int, int]]) -> dict[Series, Counts]:
    """(items, negatives) by series, and their sum as the series of everything."""
    made = {series: Counts(items, negatives) for series, (items, negatives) in counts.items()}
    return made | {EVERYTHING: sum(made.values(), Counts())}


def _feed(detector: Detector, steps: int, items: int, negatives: int) -> list[Reading]:
    readings: list[Reading] = []
    for _ in range(steps):
        readings = detector.update(_bucket({BANKS: (items, negatives)}))
    return readings


def test_a_day_of_the_usual_mix_stays_silent_however_busy_it_is() -> None:
    detector = _detector()
    _feed(detector, DAY, items=5, negatives=1)
    for _ in range(DAY):
        assert detector.update(_bucket({BANKS: (50, 10)})) == []


def test_a_burst_of_negatives_fires_within_two_buckets() -> None:
    detector = _detector()
    _feed(detector, DAY, items=10, negatives=2)
    assert detector.update(_bucket({BANKS: (10, 2)})) == []
    first = detector.update(_bucket({BANKS: (20, 18)}))
    second = detector.update(_bucket({BANKS: (20, 18)}))
    fired = [reading for reading in first + second if reading.series == BANKS]
    assert fired
    assert fired[-1].severity == "critical"
    assert fired[-1].observed > fired[-1].band[1] > fired[-1].expected > fired[-1].band[0]


def test_fewer_negatives_than_the_minimum_never_fire() -> None:
    detector = _detector(min_negatives=5)
    _feed(detector, DAY, items=1, negatives=0)
    assert detector.update(_bucket({BANKS: (4, 4)})) == []


def test_a_spike_does_not_teach_itself_in() -> None:
    detector = _detector()
    _feed(detector, DAY, items=10, negatives=2)
    _feed(detector, 12, items=40, negatives=40)
    # The sums as they are would say 0.34: (0.2 * 1,440 + 480) / (1,440 + 480) of what is left after decay.
    assert 0.2 < detector.usual_share(BANKS) < 0.28


def test_thin_history_leans_on_the_whole_stream() -> None:
    detector = _detector()
    for _ in range(DAY):
        detector.update(_bucket({BANKS: (20, 10)}))
    assert detector.usual_share(OIL) == pytest.approx(detector.usual_share(EVERYTHING))
    detector.update(_bucket({OIL: (1, 0), BANKS: (20, 10)}))
    assert detector.usual_share(OIL) == pytest.approx(0.5, abs=0.05)


def test_it_opens_at_one_p_and_resolves_only_after_half_an_hour_of_calm() -> None:
    detector = _detector(windows_minutes=(15, 60), resolve_after_minutes=30)
    _feed(detector, DAY, items=10, negatives=2)
    readings = _feed(detector, 3, items=20, negatives=18)
    assert all(reading.firing for reading in readings)
    fired = []
    for _ in range(40):
        readings = detector.update(_bucket({BANKS: (10, 2)}))
        fired.append(any(reading.firing for reading in readings if reading.series == BANKS))
    # one hour until the spike has left the longer window, then six calm buckets
    resolved = fired.index(False)
    assert 6 <= resolved <= 12 + 6 + 1
    assert not any(fired[resolved:])


def test_leaving_a_spike_is_read_once_and_then_no_more() -> None:
    detector = _detector(windows_minutes=(15,), resolve_after_minutes=5)
    _feed(detector, DAY, items=10, negatives=2)
    _feed(detector, 2, items=20, negatives=18)
    last = [[(r.series, r.firing) for r in detector.update(_bucket({BANKS: (10, 1)}))] for _ in range(20)]
    left = [step for step in last if (BANKS, False) in step]
    assert len(left) == 1
    assert last[-1] == []


def test_p_value_is_the_binomial_tail_where_nothing_is_over_dispersed() -> None:
    # Long, even history: the estimate of p adds next to nothing, and rho is zero.
    detector = _detector(windows_minutes=(5,), overdispersion=(0.0,), half_life_hours=24 * 365, min_negatives=1)
    _feed(detector, 2_000, items=100, negatives=20)
    detector.update(_bucket({BANKS: (50, 20)}))
    exact = stats.binom.sf(19, 50, detector.usual_share(BANKS))
    assert detector.p_value(BANKS) == pytest.approx(exact, rel=0.05)


def test_over_dispersion_makes_the_same_count_less_surprising() -> None:
    p_values = []
    for rho in (0.0, 0.02, 0.1):
        detector = _detector(windows_minutes=(15,), overdispersion=(rho,))
        _feed(detector, DAY, items=20, negatives=4)
        detector.update(_bucket({BANKS: (20, 14)}))
        p_values.append(detector.p_value(BANKS))
    assert p_values == sorted(p_values)
    assert p_values[0] < p_values[2] / 5


def test_the_same_buckets_give_the_same_state() -> None:
    rng = np.random.default_rng(7)
    timeline = [_bucket({BANKS: (n, int(rng.binomial(n, 0.3))), OIL: (3, 1)}) for n in rng.poisson(8, 500).tolist()]
    first, second = _detector(), _detector()
    readings = [[detector.update(bucket) for bucket in timeline] for detector in (first, second)]
    assert readings[0] == readings[1]
    assert first.p_value(BANKS) == second.p_value(BANKS)


def test_quiet_weeks_of_random_news_raise_few_alarms() -> None:
    rng = np.random.default_rng(11)
    detector = _detector()
    opened, was_firing = 0, False
    for _ in range(7 * DAY):
        n = int(rng.poisson(6))
        readings = detector.update(_bucket({BANKS: (n, int(rng.binomial(n, 0.25)))}))
        firing = any(reading.firing for reading in readings if reading.series == BANKS)
        opened += firing and not was_firing
        was_firing = firing
    assert opened <= 1


def test_a_series_seen_for_the_first_time_in_a_spike_is_judged_by_the_stream() -> None:
    detector = _detector()
    for _ in range(DAY):
        detector.update(_bucket({OIL: (10, 2)}))
    readings = detector.update(_bucket({OIL: (10, 2), BANKS: (30, 29)}))
    assert [reading.series for reading in readings if reading.firing and reading.series != EVERYTHING] == [BANKS]


def test_an_empty_bucket_changes_no_share() -> None:
    detector = _detector()
    _feed(detector, 50, items=10, negatives=3)
    before = detector.usual_share(BANKS)
    for _ in range(20):
        assert detector.update({}) == []
    assert detector.usual_share(BANKS) == pytest.approx(before, abs=0.02)
