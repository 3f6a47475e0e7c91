"""Overrides: a series that is measured otherwise than the others."""

from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
import pytest

from monitor.config import OverrideSettings, SpikeSettings
from monitor.records import BUCKET, EVERYTHING, Counts, Reading, Series
from monitor.spikes import Detector, p_threshold

BANKS = Series("topic", "Financials")
OIL = Series("topic", "Energy | Oil")
SHELL = Series("entity", "Shell")
DAY = 288
START = datetime(2026, 3, 2, tzinfo=UTC)


def _detector(*overrides: OverrideSettings, asked: float | None = None, **changes: object) -> Detector:
    return Detector(SpikeSettings(**changes), asked, overrides)  # type: ignore[arg-type]


def _counts(judged: Mapping[Series, tuple[int, int]]) -> dict[Series, Counts]:
    made = {series: Counts(items, negatives) for series, (items, negatives) in judged.items()}
    return made | {EVERYTHING: sum(made.values(), Counts())}


def _spike(detector: Detector, items: int = 30, negatives: int = 29) -> dict[Series, Reading]:
    """The readings of a spike that is the same on three series, after a day of the same usual news on each."""
    for _ in range(DAY):
        assert detector.update(_counts(dict.fromkeys((BANKS, OIL, SHELL), (10, 2)))) == []
    readings = detector.update(_counts(dict.fromkeys((BANKS, OIL, SHELL), (items, negatives))))
    return {reading.series: reading for reading in readings if reading.firing}


def test_a_series_opens_at_its_own_p_value_and_the_others_at_theirs() -> None:
    usual = _spike(_detector(open_p=1e-4))
    assert set(usual) >= {BANKS, OIL, SHELL}
    p_value = usual[OIL].p_value
    strict = _spike(_detector(OverrideSettings(name=OIL.name, open_p=p_value / 2), open_p=1e-4))
    assert set(usual) - set(strict) == {OIL}
    loose = OverrideSettings(dimension="entity", name="Shell", open_p=2 * p_value)
    assert set(_spike(_detector(loose, open_p=p_value / 2))) & {BANKS, OIL, SHELL} == {SHELL}


def test_an_entitys_override_leaves_the_topic_of_its_name_alone() -> None:
    override = OverrideSettings(dimension="entity", name=OIL.name, kinds=())
    assert OIL in _spike(_detector(override))


def test_severity_goes_by_the_series_own_critical_p_value_and_at_most_a_hundredth_of_where_it_opens() -> None:
    usual = _spike(_detector(open_p=1e-4))
    assert {reading.severity for reading in usual.values()} == {"critical"}
    p_value = usual[OIL].p_value
    own = _spike(
        _detector(
            OverrideSettings(name=OIL.name, critical_p=p_value / 2),
            OverrideSettings(name=BANKS.name, open_p=50 * p_value),
            open_p=1e-4,
        )
    )
    assert {series: own[series].severity for series in (OIL, BANKS, SHELL)} == {
        OIL: "warning",
        BANKS: "warning",
        SHELL: "critical",
    }


def test_a_series_needs_its_own_fewest_negatives_and_ratio() -> None:
    many = OverrideSettings(name=OIL.name, min_negatives=200)
    often = OverrideSettings(name=BANKS.name, min_ratio=20)
    assert set(_spike(_detector(many, often))) & {BANKS, OIL, SHELL} == {SHELL}


def test_a_series_that_may_not_alarm_is_followed_as_before() -> None:
    muted, usual = _detector(OverrideSettings(name=OIL.name, kinds=())), _detector()
    assert OIL not in _spike(muted)
    assert OIL in _spike(usual)
    assert muted.p_value(OIL) == usual.p_value(OIL) < 1e-6
    assert muted.usual_share(OIL) == usual.usual_share(OIL)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (None, {"negative_share", "volume_burst"}),
        ({"kinds": ("volume_burst",)}, {"volume_burst"}),
        ({"kinds": ("negative_share",)}, {"negative_share"}),
        ({"kinds": ()}, set()),
        ({"min_negatives": 1000}, set()),
    ],
)
def test_a_series_alarms_by_the_kinds_that_it_may_alone(
    override: Mapping[str, object] | None, told: set[str]
) -> None:
    overrides = () if override is None else (OverrideSettings(name=OIL.name, **override),)  # type: ignore[arg-type]
    detector = _detector(*overrides)
    for step in range(2 * DAY):
        detector.update(_counts({OIL: (10, 2), BANKS: (10, 2)}), START + step * BUCKET)
    readings = detector.update(_counts({OIL: (200, 90), BANKS: (10, 2)}), START + 2 * DAY * BUCKET)
    assert {reading.kind for reading in readings if reading.series == OIL} == told


def test_a_series_with_a_p_value_of_its_own_takes_none_of_the_false_alarms_that_the_others_share() -> None:
    rates = np.full(4, 10.0)  # everything is three times as busy
    rates[0] = 30.0
    shared = _detector(asked=0.05)
    one_apart = _detector(OverrideSettings(name=OIL.name, open_p=1e-2), asked=0.05)
    one_mute = _detector(OverrideSettings(name=OIL.name, kinds=()), asked=0.05)
    stricter = _detector(OverrideSettings(name=OIL.name, min_negatives=50), asked=0.05)
    for detector in (shared, one_apart, one_mute, stricter):
        _spike(detector, 10, 2)
    assert shared.open_p == stricter.open_p == pytest.approx(p_threshold(0.05, rates), rel=1e-6)
    assert one_apart.open_p == one_mute.open_p == pytest.approx(p_threshold(0.05, rates[:3]), rel=1e-6)
    assert one_apart.open_p > shared.open_p


def test_the_same_buckets_give_the_same_readings_whenever_a_series_came_first() -> None:
    overrides = [OverrideSettings(name=OIL.name, open_p=1e-3), OverrideSettings(name=BANKS.name, min_ratio=3)]
    one, other = _detector(*overrides), _detector(*reversed(overrides))
    other.admit([SHELL, OIL])
    assert _spike(one) == _spike(other)


def test_what_is_left_without_another_series_is_measured_by_a_series_own_thresholds() -> None:
    # Five of the negatives of OIL name SHELL too.
    shared = [(5, 5)] * 3
    usual, own = _detector(), _detector(OverrideSettings(name=OIL.name, min_negatives=200))
    for detector in (usual, own):
        detector.admit([SHELL])
        _spike(detector)
    before, after = (detector.without(OIL, "negative_share", SHELL, shared) for detector in (usual, own))
    assert before is not None
    assert after is not None
    assert (before.spike, after.spike) == (True, False)
