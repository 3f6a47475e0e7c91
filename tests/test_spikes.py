"""The detector, on timelines whose spikes are known."""

from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
import pytest
from scipy import stats

from monitor.config import OverrideSettings, SpikeSettings
from monitor.records import BUCKET, EVERYTHING, Counts, Reading, Series
from monitor.spikes import (
    CALIBRATED_RATES,
    OPEN_P,
    THRESHOLDS,
    Detector,
    alarms_per_week,
    p_threshold,
)
from monitor.volumes import VolumeReading

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


def test_a_spike_that_is_resumed_goes_on_until_calm_unless_the_series_may_not_alarm() -> None:
    fired = {}
    for kinds in (None, ()):
        muted = () if kinds is None else (OverrideSettings(name=BANKS.name, kinds=kinds),)
        detector = Detector(SpikeSettings(windows_minutes=(15, 60)), overrides=muted)
        _feed(detector, DAY, items=10, negatives=2)
        # More than usual, and less than what would open an alert.
        readings = _feed(detector, 3, items=10, negatives=5)
        assert [reading for reading in readings if reading.series == BANKS] == []
        detector.resume(BANKS, "negative_share")
        fired[kinds] = [
            any(one.firing for one in detector.update(_bucket({BANKS: (10, 2)})) if one.series == BANKS)
            for _ in range(20)
        ]
    assert fired[None][0]
    assert not fired[None][-1]
    assert not any(fired[()])


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
        # So short a history that next to nothing of rho was learned from it.
        detector = _detector(windows_minutes=(15,), overdispersion=(rho,))
        _feed(detector, 6, items=20, negatives=4)
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


def _clustered(rng: np.random.Generator, items: int, share: float, rho: float) -> int:
    """Negatives of a bucket, any two of whose items correlate."""
    size = 1 / rho - 1
    return int(rng.binomial(items, rng.beta(share * size, (1 - share) * size)))


@pytest.mark.parametrize("rho", [0.005, 0.1])
def test_correlation_within_a_window_is_learned_from_what_its_residuals_were(rho: float) -> None:
    rng = np.random.default_rng(3)
    detector = _detector(windows_minutes=(5,), overdispersion=(0.02,))
    for _ in range(14 * DAY):
        detector.update(_bucket({BANKS: (60, _clustered(rng, 60, 0.3, rho))}))
    assert detector.shares.correlation()[0, 1] == pytest.approx(rho, rel=0.3)


def test_a_spike_teaches_correlation_no_more_than_three_deviations() -> None:
    # The same clustered news twice, once with two hours in which everything is negative.
    rng = np.random.default_rng(5)
    news = [(40, _clustered(rng, 40, 0.3, 0.02)) for _ in range(5 * DAY)]
    spike = [(40, 40) if 4 * DAY <= step < 4 * DAY + 24 else bucket for step, bucket in enumerate(news)]
    learned = []
    for timeline in (news, spike):
        detector = _detector()
        for bucket in timeline:
            detector.update(_bucket({BANKS: bucket}))
        learned.append(detector.shares.correlation()[:, 1])
    plain, taught = learned
    assert (taught > plain).all()
    assert (taught < 2.5 * plain).all()


def test_items_of_a_shorter_window_correlate_at_least_as_much_as_those_of_a_longer_one() -> None:
    detector = _detector(windows_minutes=(15, 60, 180), overdispersion=(0.0, 0.01, 0.005))
    detector.update(_bucket({BANKS: (10, 2)}))
    rho = detector.shares.correlation()[:, 1]
    assert list(rho) == sorted(rho, reverse=True)
    assert rho[0] >= 0.009


def test_the_p_value_of_several_windows_is_the_least_of_them_times_their_number() -> None:
    detector = _detector(windows_minutes=(15, 60, 180))
    _feed(detector, DAY, items=10, negatives=2)
    _feed(detector, 2, items=10, negatives=6)
    assert detector.p_value(BANKS) == pytest.approx(3 * detector.shares.p_values[:, 1].min())


def test_a_detector_rebuilt_from_the_days_that_a_restart_reads_judges_nearly_alike() -> None:
    # Nine weeks; the second detector sees the last `baseline_days` alone, as after a restart.
    rng = np.random.default_rng(17)
    settings = SpikeSettings()
    steps = 63 * DAY
    share = 0.25 + 0.1 * np.sin(2 * np.pi * np.arange(steps) / (6 * DAY))
    items = rng.poisson(12, (steps, 2))
    negatives = np.array(
        [[_clustered(rng, n, p, 0.05) for n in bucket] for bucket, p in zip(items.tolist(), share, strict=True)]
    )
    detectors = [Detector(settings, 1.0), Detector(settings, 1.0)]
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for detector, first in zip(detectors, (0, steps - settings.baseline_days * DAY), strict=True):
        detector.admit([BANKS, OIL])
        for step in range(first, steps):
            detector.advance(
                np.array([items[step].sum(), *items[step]], dtype=float),
                np.array([negatives[step].sum(), *negatives[step]], dtype=float),
                start + step * BUCKET,
            )
    whole, rebuilt = detectors
    assert rebuilt.shares.usual_share() == pytest.approx(whole.shares.usual_share(), rel=1e-6)
    assert rebuilt.shares.correlation() == pytest.approx(whole.shares.correlation(), rel=0.08)
    assert np.log10(rebuilt.shares.p_values) == pytest.approx(np.log10(whole.shares.p_values), abs=0.05)
    assert rebuilt.volumes.z == pytest.approx(whole.volumes.z, abs=0.05)
    assert rebuilt.open_p == pytest.approx(whole.open_p, rel=0.01)


def test_more_series_and_busier_ones_need_a_smaller_p_value_for_the_same_false_alarms() -> None:
    few, many = p_threshold(1.0, np.full(20, 5.0)), p_threshold(1.0, np.full(200, 5.0))
    busy = p_threshold(1.0, np.full(20, 50.0))
    assert few > busy > many
    assert alarms_per_week(np.full(200, 5.0), many).sum() == pytest.approx(1.0)


def test_asking_for_more_false_alarms_gives_a_larger_threshold_within_what_was_calibrated() -> None:
    rates = np.full(50, 10.0)
    asked = [p_threshold(alarms, rates) for alarms in (1e-9, 0.1, 1.0, 10.0, 1e9)]
    assert asked == sorted(asked)
    assert (asked[0], asked[-1]) == THRESHOLDS
    assert p_threshold(1.0, np.zeros(3)) == p_threshold(1.0, np.full(3, 1e-280)) == THRESHOLDS[1]


def test_a_series_of_next_to_nothing_raises_next_to_no_false_alarms() -> None:
    sparse = np.array([0.0, CALIBRATED_RATES[0] / 100, CALIBRATED_RATES[0]])
    alarms = alarms_per_week(sparse)
    assert alarms[0] == 0
    assert alarms[1] == pytest.approx(alarms[2] / 100)


def test_the_threshold_follows_from_the_false_alarms_a_week_unless_it_is_set() -> None:
    asked = Detector(SpikeSettings(), false_alarms_per_week=0.01)
    fixed = Detector(SpikeSettings(open_p=1e-5), false_alarms_per_week=0.01)
    bare = Detector(SpikeSettings())
    for detector in (asked, fixed, bare):
        _feed(detector, DAY, items=20, negatives=4)
    assert asked.open_p == pytest.approx(p_threshold(0.01, np.array([20.0, 20.0])), rel=1e-6)
    assert (fixed.open_p, bare.open_p) == (1e-5, OPEN_P)


def test_critical_is_a_hundredth_of_what_opens_an_alert_where_that_is_less() -> None:
    def spike(open_p: float) -> Reading:
        detector = _detector(open_p=open_p)
        _feed(detector, DAY, items=10, negatives=2)
        return next(r for r in detector.update(_bucket({BANKS: (30, 29)})) if r.series == BANKS)

    usual = spike(1e-4)
    strict = spike(10 * usual.p_value)
    assert strict.p_value == usual.p_value < 1e-6
    assert (usual.severity, strict.severity) == ("critical", "warning")


def test_volumes_are_judged_once_the_time_is_given() -> None:
    detector = _detector()
    start = datetime(2026, 3, 2, tzinfo=UTC)
    for step in range(2 * DAY):
        assert detector.update(_bucket({BANKS: (10, 2)}), start + step * BUCKET) == []
    burst = detector.update(_bucket({BANKS: (200, 40)}), start + 2 * DAY * BUCKET)
    assert {(r.series, r.kind) for r in burst if isinstance(r, VolumeReading)} == {
        (BANKS, "volume_burst"),
        (EVERYTHING, "volume_burst"),
    }
    assert len(burst) == 2


def test_a_series_first_seen_through_a_late_item_is_followed_from_its_first_one_on_time() -> None:
    late, without = _detector(), _detector()
    late.update(_bucket({BANKS: (5, 1)}) | {OIL: Counts(items=1, late=1)})
    without.update(_bucket({BANKS: (5, 1)}))
    for detector in (late, without):
        detector.update(_bucket({BANKS: (5, 1), OIL: (5, 1)}), datetime(2024, 3, 8, tzinfo=UTC))
    assert late.volumes._seen.tolist() == without.volumes._seen.tolist()


HARROWGATE = Series("entity", "Harrowgate")


def _named(all_of_them: tuple[int, int], entity: tuple[int, int]) -> dict[Series, Counts]:
    """A bucket of a topic, some of whose items name the entity."""
    return _bucket({BANKS: all_of_them}) | {HARROWGATE: Counts(*entity)}


def test_what_is_left_without_an_entity_is_the_binomial_tail_of_the_other_items() -> None:
    detector = _detector(windows_minutes=(5,), overdispersion=(0.0,), half_life_hours=24 * 365, min_negatives=1)
    for _ in range(2_000):
        detector.update(_named((100, 20), (10, 2)))
    detector.update(_named((50, 30), (25, 22)))
    share = detector.usual_share(BANKS)
    left = detector.without(BANKS, "negative_share", HARROWGATE, [(25, 22)])
    assert left is not None
    assert left.p_value == pytest.approx(stats.binom.sf(7, 25, share), rel=0.05)
    # 30 - 50 * 0.2 = 20 negatives are beyond the usual ones, 22 - 25 * 0.2 = 17 of them the entity's.
    assert left.accounts_for == pytest.approx(17 / 20, rel=0.01)
    assert (left.spike, left.explained) == (False, True)


def test_without_an_entity_that_shares_no_item_all_is_as_it_was_judged() -> None:
    detector = _detector()
    for _ in range(DAY):
        detector.update(_named((10, 2), (1, 0)))
    detector.update(_named((20, 18), (1, 0)))
    left = detector.without(BANKS, "negative_share", HARROWGATE, [(0, 0)] * 3)
    assert left is not None
    assert left.p_value == pytest.approx(detector.least[1], rel=1e-12)
    assert (left.spike, left.accounts_for, left.explained) == (True, 0.0, False)


def test_fewer_negatives_than_the_minimum_are_no_spike_that_is_left() -> None:
    detector = _detector(min_negatives=5)
    for _ in range(DAY):
        detector.update(_named((3, 0), (1, 0)))
    detector.update(_named((12, 12), (8, 8)))
    left = detector.without(BANKS, "negative_share", HARROWGATE, [(8, 8)] * 3)
    assert left is not None
    assert (left.p_value, left.explained) == (1.0, True)


def test_an_entity_that_explains_the_last_minutes_explains_no_spike_of_the_hour_before_them() -> None:
    #   -60 min ............ -15 min .... now
    #      other banks' news          the entity's
    detector = _detector(windows_minutes=(15, 60))
    for _ in range(DAY):
        detector.update(_named((10, 2), (1, 0)))
    for _ in range(9):
        detector.update(_named((10, 7), (0, 0)))
    for _ in range(3):
        detector.update(_named((20, 18), (18, 18)))
    left = detector.without(BANKS, "negative_share", HARROWGATE, [(54, 54), (54, 54)])
    alone = _detector(windows_minutes=(15,))
    for _ in range(DAY + 9):
        alone.update(_named((10, 2), (1, 0)))
    for _ in range(3):
        alone.update(_named((20, 18), (18, 18)))
    minutes = alone.without(BANKS, "negative_share", HARROWGATE, [(54, 54)])
    assert left is not None
    assert minutes is not None
    assert (left.spike, minutes.spike) == (True, False)


def test_nothing_is_known_of_a_series_that_never_came() -> None:
    detector = _detector()
    _feed(detector, 5, items=10, negatives=2)
    assert detector.without(BANKS, "negative_share", HARROWGATE, [(0, 0)] * 3) is None
    assert detector.without(HARROWGATE, "negative_share", BANKS, [(0, 0)] * 3) is None


@pytest.mark.parametrize(
    ("entity_share", "others_share", "explained"),
    [(0.95, 0.2, True), (0.95, 0.8, False)],
    ids=["the entity alone", "both independently"],
)
def test_simulated_spikes_are_explained_by_the_entity_that_causes_them_and_by_no_other(
    entity_share: float, others_share: float, explained: bool
) -> None:
    #   two usual days, then half an hour in which ten items a bucket name the entity and ten on its topic do not
    answers = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        detector = _detector()
        of_entity: list[tuple[int, int]] = []
        for step in range(2 * DAY + 6):
            spike = step >= 2 * DAY
            named = _clustered_news(rng, 10 if spike else 0.5, entity_share if spike else 0.2)
            others = _clustered_news(rng, 10, others_share if spike else 0.2)
            detector.update(_named((named[0] + others[0], named[1] + others[1]), named))
            of_entity.append(named)
        everything, topic, entity = detector.least
        if max(everything, topic, entity) > detector.open_p:
            continue
        shared = [
            np.sum(of_entity[-minutes // 5 :], axis=0).tolist() for minutes in detector.settings.windows_minutes
        ]
        left = detector.without(BANKS, "negative_share", HARROWGATE, shared)
        assert left is not None
        answers.append(left.explained)
    assert len(answers) >= 25
    assert answers.count(explained) >= 0.95 * len(answers)


def _clustered_news(rng: np.random.Generator, rate: float, share: float) -> tuple[int, int]:
    items = int(rng.poisson(rate))
    return items, _clustered(rng, items, share, 0.005)
