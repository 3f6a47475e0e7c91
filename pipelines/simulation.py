"""Simulated news whose truth is known: how many items and negatives each topic has in each bucket, and its spikes.

A stream is eight weeks of 5-minute buckets of some topics of one monitor; the first two weeks are for the detector to
learn and are not scored. Topic by topic, `uniform(a, b)` being drawn once for each:

- **A**. Volume is negative binomial with r = uniform(5, 20) around m(t) = rate x day(t) x week(t). Rates are
  log-uniform from 0.2 to 200 items a bucket, one in each of as many equal strata as there are topics. day(t) is
  exp(a sin(2 pi (t - s))), a = uniform(0.3, 0.9), s = uniform(0, 1) of a day; week(t) is uniform(0.4, 1) on two days
  of seven and 1 on the others; the product is scaled to mean 1. Negatives are binomial with a share p(t) that drifts:
  logit p is an Ornstein-Uhlenbeck process around logit p0, p0 = uniform(0.1, 0.4), with standard deviation 0.3 and a
  relaxation time of 3 days.
- **B**. As A, and m(t) is multiplied by two log-normal processes of standard deviation 0.25, one with a relaxation
  time of 30 minutes and one of 6 hours (mean 1 each); negatives are beta-binomial within a bucket: any two of its
  items correlate with rho = 0.03.
- **R**. Volumes are real ones (mentions of companies, 5-minute counts), thinned: each item of a series is kept with
  the probability that makes its mean the topic's rate. Series take turns; rates are log-uniform from 0.2 to 200, or
  to the series' own mean where that is less. Negatives are those of B. Where a series is shorter than eight weeks,
  the stream ends with it.

Spikes, where asked for, are one a scored week in each topic, in an order and at times of its own:

- `share`: p(t) becomes min(3 p(t), 0.95), volume stays;
- `volume`: m(t) becomes 5 m(t), the share stays (a real series' items are counted five times over, and negatives
  are drawn for all of them);
- `negatives`: as many items more as make the negatives five times as many, all of them negative;

each once for one hour and once for three. On the last day of every second week, when no topic has a spike, the
**market** moves: for two hours every topic has twice its volume and its usual share.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from monitor.records import BUCKET

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Scenario = Literal["A", "B", "R"]
Kind = Literal["share", "volume", "negatives", "market"]

DAY: Final = timedelta(days=1) // BUCKET
WEEK: Final = 7 * DAY
WEEKS: Final = 8
UNSCORED_WEEKS: Final = 2
RATES: Final = (0.2, 200.0)
KINDS: Final[tuple[Kind, ...]] = ("share", "volume", "negatives")
HOURS: Final = (1, 3)
MARKET_HOURS: Final = 2
_SPIKE_DAYS: Final = 5
FACTORS: Final[dict[Kind, float]] = {"share": 3.0, "volume": 5.0, "negatives": 5.0, "market": 2.0}
_HOUR: Final = timedelta(hours=1) // BUCKET
_CORRELATION: Final = 0.03


@dataclass(frozen=True)
class Spike:
    """What happens to one topic in the buckets [start, end)."""

    topic: int
    kind: Kind
    start: int
    end: int


@dataclass(frozen=True)
class Stream:
    """Some topics of one monitor.

    Attributes:
        items: (buckets, topics).
        negatives: (buckets, topics).
        rates: (topics,), mean items a bucket.
        spikes: what is unusual in it; empty where nothing is.
    """

    items: Ints
    negatives: Ints
    rates: Floats
    spikes: tuple[Spike, ...]


def stream(
    scenario: Scenario,
    topics: int,
    seed: int,
    *,
    spikes: bool = False,
    volumes: Sequence[Ints] = (),
    weeks: int = WEEKS,
) -> Stream:
    """A stream of a scenario; the same for the same arguments.

    Args:
        volumes: real counts by bucket, for scenario R.

    Raises:
        ValueError: scenario R without volumes.
    """
    rng = np.random.default_rng([ord(scenario), seed])
    steps = weeks * WEEK
    if scenario == "R":
        if not volumes:
            raise ValueError("scenario R needs real volumes, got none; give the counts of some series")
        steps = min(steps, *(len(counts) for counts in volumes))
    strata = (rng.permutation(topics) + rng.random(topics)) / topics
    rates = RATES[0] * (RATES[1] / RATES[0]) ** strata
    if scenario == "R":
        ceilings = np.array([min(RATES[1], volumes[topic % len(volumes)].mean()) for topic in range(topics)])
        rates = RATES[0] * (np.maximum(ceilings, RATES[0]) / RATES[0]) ** strata
        rates = np.minimum(rates, ceilings)
    planned = _plan(topics, steps, rng) if spikes else ()
    boost, share_factor, extra = (np.ones((steps, topics), dtype=np.float32) for _ in range(3))
    for spike in planned:
        where = {"share": share_factor, "negatives": extra}.get(spike.kind, boost)
        where[spike.start : spike.end, spike.topic] = FACTORS[spike.kind]

    share = _drifting_share(steps, topics, rng)
    if scenario == "R":
        base = np.stack(
            [
                rng.binomial(
                    volumes[topic % len(volumes)][:steps], rates[topic] / volumes[topic % len(volumes)].mean()
                )
                for topic in range(topics)
            ],
            axis=1,
        )
        items = np.rint(base * boost).astype(np.int64)
    else:
        mean = rates * _cycles(steps, topics, rng) * boost
        if scenario == "B":
            mean *= _log_normal(steps, topics, timedelta(minutes=30), rng)
            mean *= _log_normal(steps, topics, timedelta(hours=6), rng)
        size = rng.uniform(5, 20, topics)
        items = rng.poisson(rng.gamma(size, mean / size)).astype(np.int64)
    share = np.minimum(share * share_factor, np.where(share_factor > 1, 0.95, 1.0))
    clustered = 1 / _CORRELATION - 1
    drawn = share if scenario == "A" else rng.beta(share * clustered, (1 - share) * clustered)
    negatives = rng.binomial(items, drawn)
    more = rng.poisson(np.where(extra > 1, (extra - 1) * share * items, 0.0))
    return Stream(items + more, negatives + more, rates, planned)


def _plan(topics: int, steps: int, rng: np.random.Generator) -> tuple[Spike, ...]:
    planned = []
    kinds = [(kind, hours) for kind in KINDS for hours in HOURS]
    weeks = range(UNSCORED_WEEKS * WEEK, steps - WEEK + 1, WEEK)
    for topic in range(topics):
        for start, index in zip(weeks, rng.permutation(len(kinds)), strict=False):
            kind, hours = kinds[index]
            at = start + int(rng.integers(0, _SPIKE_DAYS * DAY))
            planned.append(Spike(topic, kind, at, at + hours * _HOUR))
    for start in weeks[1::2]:
        at = start + WEEK - DAY + int(rng.integers(0, DAY - MARKET_HOURS * _HOUR))
        planned += [Spike(topic, "market", at, at + MARKET_HOURS * _HOUR) for topic in range(topics)]
    return tuple(planned)


def _cycles(steps: int, topics: int, rng: np.random.Generator) -> Floats:
    """(steps, topics), mean 1."""
    at = np.arange(steps)[:, None] / DAY
    day = np.exp(rng.uniform(0.3, 0.9, topics) * np.sin(2 * np.pi * (at - rng.random(topics))))
    cycles = day * np.where((at // 1) % 7 >= 5, rng.uniform(0.4, 1.0, topics), 1.0)
    scaled: Floats = cycles / cycles.mean(axis=0)
    return scaled


def _drifting_share(steps: int, topics: int, rng: np.random.Generator) -> Floats:
    """(steps, topics), the probability that an item is negative."""
    usual = rng.uniform(0.1, 0.4, topics)
    drift = 0.3 * _ornstein_uhlenbeck(steps, topics, timedelta(days=3), rng)
    share: Floats = 1 / (1 + np.exp(-(np.log(usual / (1 - usual)) + drift)))
    return share


def _log_normal(steps: int, topics: int, relaxation: timedelta, rng: np.random.Generator) -> Floats:
    deviation = 0.25
    factor: Floats = np.exp(deviation * _ornstein_uhlenbeck(steps, topics, relaxation, rng) - deviation**2 / 2)
    return factor


def _ornstein_uhlenbeck(steps: int, topics: int, relaxation: timedelta, rng: np.random.Generator) -> Floats:
    """(steps, topics), stationary with mean 0 and variance 1."""
    keep = np.exp(-(BUCKET / relaxation))
    shocks = rng.standard_normal((steps, topics))
    shocks[1:] *= np.sqrt(1 - keep**2)
    for step in range(1, steps):
        shocks[step] += keep * shocks[step - 1]
    return shocks
