"""What two models say of the same items: what is measured, and where its bounds lie."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime

import numpy as np
import pytest

from monitor.estimates import share
from monitor.labels import Label
from monitor.measures import (
    MAX_DROP,
    MIN_LABELLED,
    Findings,
    Measure,
    agreement_measures,
    change_measures,
    label_measures,
    sampled,
)
from monitor.retrain_settings import RetrainSettings
from monitor.retraining import Comparison

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
SETTINGS = RetrainSettings(min_agreement=0.75, max_negative_ratio=2.0)


def _compared(
    items: int,
    *,
    topics: int | None = None,
    sentiments: int | None = None,
    both: int = 0,
    before: int = 0,
    after: int = 0,
) -> list[Comparison]:
    """Both models agree on so many `topics` and `sentiments` (None: on all); negative by `both`, or by `before`
    or `after` alone."""
    topics, sentiments = (items if agreed is None else agreed for agreed in (topics, sentiments))
    return [
        Comparison(
            item=f"n{n}",
            event_at=NOON,
            before_topic="Banks",
            after_topic="Banks" if n < topics else "Macro",
            before_sentiment="neutral",
            after_sentiment="neutral" if n < sentiments else "positive",
            before_negative=n < both + before,
            after_negative=n < both or both + before <= n < both + before + after,
            before_confidence=0.9,
            after_confidence=0.8,
        )
        for n in range(items)
    ]


def _named(measures: Iterable[Measure]) -> dict[str, Measure]:
    return {one.measure: one for one in measures}


def _passed(compared: list[Comparison]) -> dict[str, bool]:
    return {one.measure: one.passed for one in agreement_measures(compared, SETTINGS)}


def test_agreement_passes_at_its_bound_and_not_below_it_in_each_task() -> None:
    every = {"topic_agreement": True, "sentiment_agreement": True, "negative_ratio": True}
    assert _passed(_compared(400, topics=300, sentiments=300)) == every
    assert _passed(_compared(400, topics=299)) == every | {"topic_agreement": False}
    assert _passed(_compared(400, sentiments=299)) == every | {"sentiment_agreement": False}


def test_the_negative_ratio_passes_at_its_bound_either_way_and_not_beyond_it() -> None:
    assert _passed(_compared(400, both=40, after=40))["negative_ratio"]
    assert not _passed(_compared(400, both=40, after=41))["negative_ratio"]
    assert _passed(_compared(400, both=40, before=40))["negative_ratio"]
    assert not _passed(_compared(400, both=40, before=41))["negative_ratio"]


def test_a_negative_ratio_that_chance_explains_passes() -> None:
    assert _passed(_compared(20, before=1))["negative_ratio"]
    assert _passed(_compared(100, both=2, after=3))["negative_ratio"]
    assert not _passed(_compared(100, after=9))["negative_ratio"]


def test_models_that_call_nothing_negative_agree_on_that_and_one_that_alone_does_is_beyond_any_ratio() -> None:
    neither = _named(agreement_measures(_compared(400), SETTINGS))["negative_ratio"]
    assert (neither.passed, neither.hopeless, neither.row["value"]) == (True, False, None)
    alone = _named(agreement_measures(_compared(400, after=60), SETTINGS))["negative_ratio"]
    assert (alone.passed, alone.hopeless) == (False, True)
    assert json.loads(json.dumps(alone.row, allow_nan=False))["high"] is None


def test_agreement_has_wilsons_interval_and_is_hopeless_once_that_lies_below_the_bound() -> None:
    found = _named(agreement_measures(_compared(200, topics=140), SETTINGS))["topic_agreement"]
    wilson = share(140, 200)
    assert (found.value, found.low, found.high) == (0.7, wilson.low, wilson.high)
    assert (found.passed, found.hopeless) == (False, False), "0.75 may still be true of it"
    assert _named(agreement_measures(_compared(200, topics=130), SETTINGS))["topic_agreement"].hopeless


@pytest.mark.parametrize(("items", "negative", "missed", "added"), [(300, 0.2, 0.2, 0.05), (2000, 0.05, 0.3, 0.02)])
def test_the_interval_of_the_negative_ratio_holds_the_truth_nineteen_times_in_twenty(
    items: int, negative: float, missed: float, added: float
) -> None:
    rng, truth = np.random.default_rng(0), (negative * (1 - missed) + (1 - negative) * added) / negative
    held = 0
    for _ in range(300):
        before = rng.random(items) < negative
        after = np.where(before, rng.random(items) >= missed, rng.random(items) < added)
        counts = [int(count.sum()) for count in (before & after, before & ~after, after & ~before)]
        compared = _compared(items, both=counts[0], before=counts[1], after=counts[2])
        ratio = _named(agreement_measures(compared, SETTINGS))["negative_ratio"]
        held += ratio.low <= truth <= ratio.high
    assert 0.92 <= held / 300 <= 0.98


def _changes(now: list[Comparison], then: list[Comparison]) -> dict[str, Measure]:
    before = json.loads(json.dumps([one.row for one in agreement_measures(then, SETTINGS)]))
    return _named(change_measures(agreement_measures(now, SETTINGS), before, SETTINGS))


def test_a_drop_of_agreement_fails_once_its_whole_interval_lies_beyond_what_other_news_may_bring() -> None:
    then = _compared(2000, topics=1900)
    same = _changes(then, then)["topic_agreement_change"]
    assert (same.value, same.passed, same.hopeless) == (0.0, True, False)
    assert same.low == pytest.approx(-same.high, abs=1e-9)
    for agreed, passed in ((1840, True), (1770, True), (1700, False)):  # 3, 6.5 and 10 points less
        change = _changes(_compared(2000, topics=agreed), then)["topic_agreement_change"]
        assert (change.passed, change.hopeless) == (passed, not passed), agreed
        assert (change.high < -MAX_DROP) == (not passed)
    few = _changes(_compared(20, topics=17), then)["topic_agreement_change"]
    assert few.passed, "ten points less, of twenty items, may be chance"
    assert _changes(_compared(2000), then)["topic_agreement_change"].passed, "more is no harm"


def test_a_change_of_the_negative_ratio_fails_beyond_the_root_of_its_bound() -> None:
    then = _compared(2000, both=400)
    assert _changes(_compared(2000, both=400, after=80), then)["negative_ratio_change"].passed
    change = _changes(_compared(2000, both=400, after=300), then)["negative_ratio_change"]
    assert (change.value, change.passed) == (pytest.approx(1.75), False)
    assert change.low > change.bound == pytest.approx(2**0.5)


def test_what_was_not_measured_before_has_no_change() -> None:
    assert change_measures(agreement_measures(_compared(10), SETTINGS), [], SETTINGS) == []
    assert list(_changes(_compared(10), _compared(10))) == ["topic_agreement_change", "sentiment_agreement_change"]
    assert "negative_ratio_change" not in _changes(_compared(10, after=2), _compared(10, both=2))


def _labels(items: int, label: str) -> list[Label]:
    return [Label(f"n{n}", "sentiment", label, "Ada", NOON) for n in range(items)]


def test_labels_speak_against_a_challenger_that_is_wrong_where_the_champion_before_was_right() -> None:
    compared = _compared(100, sentiments=60)  # of the last 40 the one says neutral, the other positive
    assert label_measures(compared, _labels(MIN_LABELLED - 1, "neutral")) == []
    assert label_measures(compared, _labels(MIN_LABELLED, "neutral")) == [], "both are right of all of them"
    [against] = label_measures(compared, _labels(100, "neutral"))
    assert (against.measure, against.value, against.passed, against.hopeless) == (
        "sentiment_labels",
        0.0,
        False,
        False,
    )
    [in_favour] = label_measures(compared, _labels(100, "positive"))
    assert (in_favour.value, in_favour.passed) == (1.0, True)
    mixed = [*_labels(80, "neutral"), *_labels(100, "positive")[80:]]
    assert label_measures(compared, mixed)[0].value == 0.5


def test_findings_say_in_words_what_was_measured_and_what_is_beyond_its_bound() -> None:
    found = Findings(400, tuple(agreement_measures(_compared(400, topics=200, both=40, after=4), SETTINGS)))
    assert str(found) == (
        "of 400 items that both models scored: topic agreement 50.0% (45.1% to 54.9%), beyond the bound of 75.0%, "
        "sentiment agreement 100.0% (99.0% to 100.0%), negative ratio 1.10 (0.99 to 1.22)"
    )
    assert (found.passed, found.hopeless) == (False, True)
    assert json.loads(json.dumps(found.row))["rows"][0] == {
        "measure": "topic_agreement",
        "value": 0.5,
        "low": pytest.approx(0.4512, abs=1e-4),
        "high": pytest.approx(0.5488, abs=1e-4),
        "bound": 0.75,
        "passed": False,
    }


def test_a_share_of_the_items_is_chosen_by_their_id_alone() -> None:
    ids = [f"n{n}" for n in range(20_000)]
    quarter = {one for one in ids if sampled(one, 0.25)}
    assert len(quarter) / len(ids) == pytest.approx(0.25, abs=0.012)
    assert quarter == {one for one in reversed(ids) if sampled(one, 0.25)}
    assert quarter < {one for one in ids if sampled(one, 0.5)}
    assert all(sampled(one, 1.0) for one in ids)
    assert [one for one in ids[:12] if sampled(one, 0.25)] == ["n5"], "in every process"
