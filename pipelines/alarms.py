"""What the detector makes of simulated streams: how often it is wrong, what it finds, and how soon.

The detector is the monitor's own, with its settings; each stream is one monitor whose topics are judged together.
An alarm is the opening of an alert. Where nothing unusual was put into a stream, every alarm is false. A spike is
found if an alert opens within it, of negative share for a worse share or more negatives, of volume for more items.
Its delay is the number of buckets between its first one and that at whose end the alert opened: 0 if that is the
first one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from monitor.config import SpikeSettings
from monitor.records import BUCKET, Series
from monitor.spells import Spells
from monitor.spikes import OPEN_P, Detector
from pipelines.simulation import DAY, FACTORS, UNSCORED_WEEKS, WEEK, WEEKS, Kind, Scenario, Stream, stream

BANDS: Final = (("below 2", 0.0, 2.0), ("2 to 20", 2.0, 20.0), ("20 and more", 20.0, np.inf))
"""Of topics, by their items a bucket: name, from, to."""
P_LEVELS: Final = (1e-2, 1e-3, 1e-4, 1e-5)
THRESHOLDS: Final = (1e-3, 10**-3.5, 1e-4, 10**-4.5, 1e-5)
RATE_EDGES: Final = (0.2, 0.63, 2.0, 6.3, 20.0, 63.0, 200.0)
"""Of the bands of rates that the p-value threshold is calibrated in."""
Z_LEVELS: Final = (5.0, 6.0, 7.0, 8.0, 10.0)
COLD_DAYS: Final = 7
_SCORED: Final = UNSCORED_WEEKS * WEEK
_START: Final = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Job:
    """One stream to watch."""

    scenario: Scenario
    topics: int
    seed: int
    spikes: bool
    volumes: tuple[NDArray[np.int64], ...] = ()
    weeks: int = WEEKS


@dataclass(frozen=True)
class Quiet:
    """What a stream without spikes gave, by topic where not said otherwise.

    Attributes:
        rates: (topics,), items a bucket.
        weeks: that were scored.
        alarms: (thresholds, topics), of negative share in the scored weeks, by `THRESHOLDS`.
        cold_alarms: (topics,), of negative share at `OPEN_P` in the first `COLD_DAYS` days.
        below: (levels, topics), the share of scored buckets whose p-value is at most one of `P_LEVELS`.
        volume_alarms: (topics,), of volume bursts in the scored weeks, with the settings' threshold.
        volume_spoken: (levels, topics), how many scored buckets told of a volume burst of one of `Z_LEVELS`.
    """

    rates: NDArray[np.float64]
    weeks: float
    alarms: NDArray[np.int64]
    cold_alarms: NDArray[np.int64]
    below: NDArray[np.float64]
    volume_alarms: NDArray[np.int64]
    volume_spoken: NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """A spike and what became of it.

    Attributes:
        usual_items: items a bucket that came within it, less those that the spike brought.
        extra: negatives in it beyond the usual ones.
        share_delay, volume_delay: in buckets, of the first alarm of that kind; None if there was none.
    """

    kind: Kind
    hours: float
    rate: float
    usual_items: float
    extra: float
    share_delay: int | None
    volume_delay: int | None


def quiet(job: Job) -> Quiet:
    """Watch a stream in which nothing unusual happens."""
    made = _stream(job)
    steps, topics = made.items.shape
    weeks = (steps - _SCORED) / WEEK
    spells = Spells(len(THRESHOLDS), resolve_after_minutes=SpikeSettings().resolve_after_minutes)
    spells.grow(topics + 1)
    alarms = np.zeros((len(THRESHOLDS), topics), dtype=np.int64)
    cold, volume_alarms = np.zeros((2, topics), dtype=np.int64)
    below, spoken = np.zeros((len(P_LEVELS), topics)), np.zeros((len(Z_LEVELS), topics), dtype=np.int64)
    bare = THRESHOLDS.index(OPEN_P)
    for step, detector in enumerate(_watch(made)):
        spells.advance(detector.least <= np.array(THRESHOLDS)[:, None], detector.shares.calm())
        opened = (spells.firing & ~spells.before)[:, 1:]
        if step < COLD_DAYS * DAY:
            cold += opened[bare]
        if step < _SCORED:
            continue
        alarms += opened
        p_values = detector.shares.together(detector.shares.p_values.min(axis=0))[1:]
        below += p_values <= np.array(P_LEVELS)[:, None]
        burst = detector.volumes.spells
        volume_alarms += (burst.firing & ~burst.before)[0, 1:]
        spoken += detector.volumes.spoken[0, 1:] >= np.array(Z_LEVELS)[:, None]
    return Quiet(made.rates, weeks, alarms, cold, below / (steps - _SCORED), volume_alarms, spoken)


def spiky(job: Job) -> list[Found]:
    """Watch a stream with spikes, and say which of them were found."""
    made = _stream(job)
    opened = np.zeros((2, *made.items.shape), dtype=bool)
    for step, detector in enumerate(_watch(made)):
        share, burst = detector.spells, detector.volumes.spells
        opened[0, step] = (share.firing & ~share.before)[1:]
        opened[1, step] = (burst.firing & ~burst.before)[0, 1:]
    found = []
    for spike in made.spikes:
        within = slice(spike.start, spike.end)
        share_at, volume_at = (np.flatnonzero(alarms[within, spike.topic]) for alarms in opened)
        lasted = spike.end - spike.start
        extra = float(made.negatives[within, spike.topic].sum()) * (1 - 1 / FACTORS[spike.kind])
        items = float(made.items[within, spike.topic].sum())
        brought = {"negatives": extra, "volume": items * (1 - 1 / FACTORS["volume"])}.get(spike.kind, 0.0)
        found.append(
            Found(
                kind=spike.kind,
                hours=lasted / (DAY / 24),
                rate=float(made.rates[spike.topic]),
                usual_items=(items - brought) / lasted,
                extra=extra,
                share_delay=int(share_at[0]) if len(share_at) else None,
                volume_delay=int(volume_at[0]) if len(volume_at) else None,
            )
        )
    return found


@dataclass(frozen=True)
class Restarted:
    """How a detector that was rebuilt from `baseline_days` differs from one that never stopped, in its first day.

    Attributes:
        p_factors: (states,), the larger p-value of the two over the smaller, where one is below 0.05.
        z_differences: (states,), of volume bursts.
        states: how many of a series at a step were compared.
        other_state: in how many the series was in a spike with one and not with the other.
    """

    p_factors: NDArray[np.float64]
    z_differences: NDArray[np.float64]
    states: int
    other_state: int


@dataclass(frozen=True)
class Kept:
    """What came of asking for so many false alarms a week over all series, that of everything included.

    Attributes:
        open_p: the p-value that alerts opened at, mean over the scored weeks.
    """

    asked: float
    alarms: int
    weeks: float
    open_p: float


def kept(job: Job, asked: float) -> Kept:
    """Watch a stream in which nothing unusual happens, with the threshold that the asked false alarms give."""
    made = _stream(job)
    alarms, open_p = 0, 0.0
    for step, detector in enumerate(_watch(made, asked=asked)):
        if step >= _SCORED:
            alarms += int((detector.spells.firing & ~detector.spells.before).sum())
            open_p += detector.open_p
    steps = len(made.items) - _SCORED
    return Kept(asked, alarms, steps / WEEK, open_p / steps)


def restarted(topics: int, seed: int) -> Restarted:
    """Ten weeks of scenario B with spikes, and a restart after nine of them."""
    made = stream("B", topics, seed, spikes=True, weeks=10)
    stop = 9 * WEEK
    first = stop - SpikeSettings().baseline_days * DAY
    watched = zip(_watch(made, 0, stop + DAY), _lagging(first, _watch(made, first, stop + DAY)), strict=True)
    p_factors, z_differences, other = [], [], 0
    for step, (whole, rebuilt) in enumerate(watched):
        if step < stop or rebuilt is None:
            continue
        p_values = np.maximum(np.stack([whole.least, rebuilt.least]), 1e-300)
        p_factors.append((p_values.max(axis=0) / p_values.min(axis=0))[p_values.min(axis=0) < 0.05])
        z_differences.append(np.abs(whole.volumes.z - rebuilt.volumes.z)[0])
        other += int((whole.spells.firing != rebuilt.spells.firing).sum())
    return Restarted(np.concatenate(p_factors), np.concatenate(z_differences), DAY * (topics + 1), other)


def _lagging(steps: int, watched: Iterator[Detector]) -> Iterator[Detector | None]:
    yield from (None for _ in range(steps))
    yield from watched


def joined(parts: Sequence[Quiet]) -> Quiet:
    """Streams of one scenario as if they were one."""
    return Quiet(
        rates=np.concatenate([part.rates for part in parts]),
        weeks=parts[0].weeks,
        alarms=np.concatenate([part.alarms for part in parts], axis=1),
        cold_alarms=np.concatenate([part.cold_alarms for part in parts]),
        below=np.concatenate([part.below for part in parts], axis=1),
        volume_alarms=np.concatenate([part.volume_alarms for part in parts]),
        volume_spoken=np.concatenate([part.volume_spoken for part in parts], axis=1),
    )


def _stream(job: Job) -> Stream:
    return stream(job.scenario, job.topics, job.seed, spikes=job.spikes, volumes=job.volumes, weeks=job.weeks)


def _watch(made: Stream, first: int = 0, end: int | None = None, asked: float | None = None) -> Iterator[Detector]:
    """The detector after each bucket from `first` to `end`; row 0 is the series of everything, topics follow."""
    detector = Detector(SpikeSettings(), asked)
    detector.admit(Series("topic", f"topic {index}") for index in range(made.items.shape[1]))
    items, negatives = (
        np.concatenate([counts.sum(axis=1, keepdims=True), counts], axis=1).astype(np.float64)
        for counts in (made.items, made.negatives)
    )
    for step in range(first, len(items) if end is None else end):
        detector.advance(items[step], negatives[step], _START + step * BUCKET)
        yield detector
