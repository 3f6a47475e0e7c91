"""Simulated streams are what their description says."""

from datetime import timedelta

import numpy as np
import pytest

from monitor.records import BUCKET
from pipelines.simulation import DAY, FACTORS, HOURS, KINDS, RATES, WEEK, Stream, stream

HOUR = timedelta(hours=1) // BUCKET


def _autocorrelation(values: np.ndarray, lag: int) -> float:
    return float(np.corrcoef(values[:-lag], values[lag:])[0, 1])


def test_a_stream_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    first, again, other = (stream("B", 3, seed, weeks=1) for seed in (1, 1, 2))
    assert (first.items == again.items).all()
    assert (first.negatives == again.negatives).all()
    assert (first.items != other.items).any()


@pytest.mark.parametrize("scenario", ["A", "B"])
def test_rates_are_log_uniform_and_volumes_have_them_for_their_mean(scenario: str) -> None:
    made = stream(scenario, 40, 3, weeks=4)  # type: ignore[arg-type]
    logs = np.sort(np.log(made.rates / RATES[0]) / np.log(RATES[1] / RATES[0]))
    assert logs == pytest.approx((np.arange(40) + 0.5) / 40, abs=0.5 / 40)
    assert np.median(made.items.mean(axis=0) / made.rates) == pytest.approx(1, abs=0.1)
    assert (made.negatives <= made.items).all()


def test_volumes_of_b_hang_together_beyond_the_cycles_of_day_and_week() -> None:
    lagged = {}
    for scenario in ("A", "B"):
        made = stream(scenario, 30, 4, weeks=3)  # type: ignore[arg-type]
        busy = np.argsort(made.rates)[-10:]
        logs = np.log(made.items[:, busy] + 1.0)
        unexplained = logs[WEEK:] - logs[:-WEEK]
        lagged[scenario] = np.mean([_autocorrelation(column, 3) for column in unexplained.T])
    assert abs(lagged["A"]) < 0.05
    assert lagged["B"] > 0.2


def test_negatives_of_b_cluster_within_a_bucket_and_those_of_a_do_not() -> None:
    spread = {}
    for scenario in ("A", "B"):
        made = stream(scenario, 30, 5, weeks=2)  # type: ignore[arg-type]
        busy = made.rates > 50
        items, negatives = made.items[:, busy].astype(float), made.negatives[:, busy].astype(float)
        # Neighbouring buckets have nearly the same share, so half the squared difference is variance within.
        share = np.divide(negatives, items, out=np.zeros_like(items), where=items > 0)
        mean = share.mean(axis=0)
        within = ((share[1:] - share[:-1]) ** 2).mean(axis=0) / 2
        binomial = (mean * (1 - mean) / np.maximum(items, 1)).mean(axis=0)
        spread[scenario] = float(np.median((within - binomial) / (mean * (1 - mean))))
    assert spread["A"] == pytest.approx(0, abs=0.004)
    assert spread["B"] == pytest.approx(0.03, abs=0.006)


def test_real_volumes_are_thinned_to_the_rate() -> None:
    counts = np.random.default_rng(1).poisson(50, 2 * WEEK)
    made = stream("R", 6, 1, volumes=[counts], weeks=2)
    assert made.items.mean(axis=0) == pytest.approx(made.rates, rel=0.1)
    assert (made.items <= counts[:, None]).all()


def test_a_stream_of_real_volumes_ends_with_the_shortest_series_and_needs_one() -> None:
    made = stream("R", 4, 1, volumes=[np.full(WEEK, 30), np.full(WEEK + 5, 2)])
    assert made.items.shape == (WEEK, 4)
    with pytest.raises(ValueError, match="scenario R needs real volumes, got none"):
        stream("R", 4, 1)


@pytest.fixture(scope="module")
def spiky() -> tuple[Stream, Stream]:
    """The same topics with spikes and without."""
    return stream("A", 40, 6, spikes=True), stream("A", 40, 6)


def test_every_topic_has_each_spike_once_for_each_length_and_none_before_it_is_scored(
    spiky: tuple[Stream, Stream],
) -> None:
    made, quiet = spiky
    assert quiet.spikes == ()
    for topic in range(40):
        own = [spike for spike in made.spikes if spike.topic == topic and spike.kind != "market"]
        assert sorted((spike.kind, (spike.end - spike.start) // HOUR) for spike in own) == sorted(
            (kind, hours) for kind in KINDS for hours in HOURS
        )
        assert min(spike.start for spike in own) >= 2 * WEEK
        starts = sorted(spike.start for spike in own)
        assert min(np.diff(starts)) >= 2 * DAY


def test_spikes_do_to_items_and_negatives_what_they_are_named_for(spiky: tuple[Stream, Stream]) -> None:
    made, _ = spiky
    sums = {kind: np.zeros(4) for kind in (*KINDS, "market")}
    for spike in made.spikes:
        within, before = slice(spike.start, spike.end), slice(spike.start - DAY, spike.end - DAY)
        sums[spike.kind] += [
            made.items[within, spike.topic].sum(),
            made.items[before, spike.topic].sum(),
            made.negatives[within, spike.topic].sum(),
            made.negatives[before, spike.topic].sum(),
        ]
    volume, share = {}, {}
    for kind, (items, items_before, negatives, negatives_before) in sums.items():
        volume[kind] = items / items_before
        share[kind] = (negatives / items) / (negatives_before / items_before)
    assert volume["volume"] == pytest.approx(FACTORS["volume"], rel=0.3)
    assert volume["market"] == pytest.approx(FACTORS["market"], rel=0.3)
    assert volume["share"] == pytest.approx(1, rel=0.3)
    assert share["share"] == pytest.approx(FACTORS["share"], rel=0.2)
    assert share["volume"] == pytest.approx(1, rel=0.2)
    assert share["negatives"] > 2
