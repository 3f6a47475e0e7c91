"""Whether a day is far from those that it is compared with: at known values, and often enough by chance alone."""

from datetime import date, timedelta

import numpy as np
import pytest

from monitor.drift import MEASURES, LookedAt
from pipelines import drift_statistics as statistics
from pipelines.drift_measures import Reference, summary, words_of
from pipelines.drift_trial import estimates, false_alarms, found, simulated

MONDAY = date(2024, 1, 1)


def _seen(
    number: int,
    topics: dict[str, int],
    *,
    negatives: int = 20,
    confidence: float = 0.8,
    words: dict[int, int] | None = None,
    features: np.ndarray | None = None,
) -> LookedAt:
    items = sum(topics.values())
    sure = np.full(items, confidence) + np.tile([-0.1, 0.1], items)[:items]
    found = summary(
        topics=topics,
        negatives=negatives,
        of_topic=sure,
        of_sentiment=sure,
        words=words or {1: 100},
        features=features,
    )
    return LookedAt(model="m", day=MONDAY + timedelta(days=number), items=items, reference=True, found=found)


def _reference(weekend_negatives: int = 20) -> Reference:
    """Four weeks of days of 100 items that differ a little."""
    days = []
    for number in range(28):
        more = number % 3 - 1
        negatives = (weekend_negatives if number % 7 >= 5 else 20) + 2 * more
        topics = {"Macro": 60 + 4 * more, "Markets": 40 - 4 * more}
        words = {100 + word: 2 for word in range(40)} | {1_000 + number: 4 + more}
        days.append(_seen(number, topics, negatives=negatives, confidence=0.8 + 0.005 * more, words=words))
    return Reference(days, 365)


def test_a_day_is_measured_in_the_standard_deviations_of_its_sampling_and_of_days() -> None:
    # Values 1, 2, 3 about 2 with sampling variance 0.25: their variance is 1, of which days make 0.75.
    usual = statistics.usual([1.0, 2.0, 3.0], [0.25] * 3, [False] * 3)
    assert usual.levels == {False: 2.0}
    assert usual.between == pytest.approx(0.75)
    assert usual.scale == pytest.approx(1)
    assert usual.z(4.0, 0.25, False) == pytest.approx(2)
    assert usual.z(4.0, 3.25, False) == pytest.approx(1)  # of fewer items


def test_weekdays_and_weekends_have_a_level_of_their_own_and_one_spread() -> None:
    usual = statistics.usual([1.0, 2.0, 3.0, 11.0, 13.0], [0.0] * 5, [False, False, False, True, True])
    assert usual.levels == {False: pytest.approx(2), True: pytest.approx(12)}
    assert usual.between == pytest.approx(4 / 3)
    lone = statistics.usual([1.0, 2.0, 3.0, 11.0], [0.0] * 4, [False, False, False, True])
    assert list(lone.levels) == [False], "one day of a kind says nothing of how such days differ"


def test_reference_days_that_are_too_few_are_refused() -> None:
    with pytest.raises(ValueError, match="2 reference days, of which 2 can be used; give at least 4 alike"):
        statistics.usual([1.0, 2.0], [0.1, 0.1], [False, False])


def test_the_distance_between_days_is_what_sampling_leaves() -> None:
    apart, usual = statistics.usual_distance([0.3, 0.5, 0.4], [0.1] * 3, [1.5] * 3, [False] * 3)
    assert apart == pytest.approx(0.9 / 4.5)
    # The middle one is what is expected, so that its root is 1, about the level.
    assert statistics.root(0.4, 0.1, 1.5, apart) == pytest.approx(1)
    assert usual.levels[False] == pytest.approx(1, abs=0.01)


def test_no_single_day_alarms_and_a_change_that_lasts_does() -> None:
    least = statistics.threshold(20, 8, 30 * len(MEASURES), both_sides=False, apart=False)
    one = statistics.statistic(None, 1_000)
    assert one == pytest.approx(3) and one < statistics.threshold(20, 8, 365 * 6, both_sides=True, apart=False)
    assert statistics.statistic(one, 1_000) == pytest.approx(5.4) and least < 5.4
    assert statistics.beyond(-4, 3, both_sides=True) and not statistics.beyond(-4, 3, both_sides=False)


def test_the_threshold_grows_with_what_is_asked_and_with_what_the_reference_leaves_open() -> None:
    def asked(days: float, weekdays: int = 20, **sides: bool) -> float:
        return statistics.threshold(weekdays, 8, days, **{"both_sides": False, "apart": False} | sides)

    assert asked(180) < asked(540) < asked(2_190) < asked(2_190, apart=True)
    assert asked(2_190) < asked(2_190, both_sides=True)
    assert asked(2_190) < asked(2_190, weekdays=10)


def test_a_usual_day_is_quiet_and_an_unusual_one_is_measured() -> None:
    reference = _reference()
    usual = _seen(30, {"Macro": 60, "Markets": 40}, words={100 + word: 2 for word in range(40)} | {9: 4})
    rows = {row.measure: row for row in reference.compared(usual, {}).rows}
    assert set(rows) == set(MEASURES) - {"embeddings"}, "no day was embedded"
    assert {row.verdict for row in rows.values()} == {"quiet"}
    assert max(abs(row.z or 0) for row in rows.values()) < 2
    assert rows["negatives"].value == 0.2 and rows["negatives"].expected == pytest.approx(0.2, abs=0.002)
    assert rows["words"].value == pytest.approx(4 / 84)

    other = _seen(31, {"Macro": 20, "Sport": 80}, negatives=60, confidence=0.6, words={5: 100})
    before = dict.fromkeys((*MEASURES, "topic Macro"), 3.0)
    before |= dict.fromkeys(("topic_confidence", "sentiment_confidence", "topic Macro"), -4.0)
    rows, after = reference.compared(other, before)
    rows = {row.measure: row for row in rows}
    assert {row.verdict for row in rows.values()} == {"alarm"}
    assert rows["topics"].statistic == after["topic Macro"] == pytest.approx(-0.8 * 4 - 3)
    assert rows["topics"].note == "most of all Macro, 20.0 % of the items, usually 59.8 %"
    assert rows["topic_confidence"].statistic == pytest.approx(-0.8 * 4 - 3)
    assert rows["words"].value == 1


def test_a_weekend_is_compared_with_weekends() -> None:
    reference = _reference(weekend_negatives=40)
    topics = {"Macro": 60, "Markets": 40}
    saturday, monday = (_seen(number, topics, negatives=40) for number in (33, 35))
    assert abs(reference.compared(saturday, {}).rows[1].z or 9) < 1
    assert (reference.compared(monday, {}).rows[1].z or 0) > 4


def test_a_weekend_after_weekdays_alone_gets_no_verdict() -> None:
    days = [_seen(number, {"Macro": 60, "Markets": 40}) for number in range(28) if number % 7 < 5]
    rows, after = Reference(days, 365).compared(_seen(33, {"Macro": 60, "Markets": 40}), {"words": 1.0})
    assert {row.verdict for row in rows} == {"no like days"}
    assert after == {"words": 1.0}


def test_words_are_letters_in_any_case() -> None:
    assert words_of("Bank's Q3: banks cut 4.5%") == words_of("BANK 's banks CUT")[:1] + words_of("banks cut")


def test_accuracy_is_estimated_by_confidence() -> None:
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.5, 0.5]])
    accuracy, mean, above = estimates(probs, np.array([0, 1, 1, 0]), 0.7)
    assert (accuracy, mean, above) == (0.75, pytest.approx(0.7), 0.5)


def test_false_alarms_come_about_as_often_as_is_asked() -> None:
    """A small version of `python -m pipelines.drift --trial`, which asks for more years."""
    between, by = false_alarms(map(simulated, range(1_000)), 8, 28, 30.0, days=182)
    assert 15 < between < 60, by


def test_planted_drift_is_found_by_the_measure_that_it_is_of() -> None:
    recall, delay, by = found(map(simulated, range(2_000, 3_000)), "confidence", 4, 28, 365.0)
    assert recall == 1 and delay <= 5
    assert by["topic_confidence"] == by["sentiment_confidence"] == 4
