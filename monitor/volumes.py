"""Volume: did more come within ten minutes than the series' level and the time of day explain?

Two kinds share the method, each a kind of alert of its own: `volume_burst` counts all items, attention as such;
`negative_volume` counts the negative ones, for series that are mostly negative anyway, whose share can hardly rise.
Per closed bucket and per series, with x the items of this bucket and of the one before it, which finds more than the
bucket alone and not much later:

- usual count  mu, the sum over the two buckets of L s: L is the level, the mean count a bucket, and
  s = (C + k) / (L B + k) the shape of the time of day: C items came in B buckets about that time, and k items more
  in favour of the level draw s towards 1, so that a sparse series has hardly a shape. They are kept by hour of the
  day, UTC, and each time of day takes the four hours next to it with weights that pass smoothly from one hour to the
  next. L, C and B decay by half in `learning_days`.
- counts vary more than a Poisson's: their variance is D mu + 1, D the mean of (x - mu)^2 / mu, decayed alike, at
  least 1 and starting at `_START_DISPERSION` with the weight of a day (quasi-Poisson: McCullagh and Nelder,
  Generalized Linear Models, 6.2). Nothing is cut off, so a series that often bursts must burst higher. The 1 keeps
  two items on a series of nearly none from being a burst.
- score  z = (x - mu) / sqrt(D mu + 1), from a series' second day on. A bucket speaks only if its z exceeds every z of
  the previous 12 hours, so that a burst is told once and again only when it grows.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from monitor.config import SpikeSettings
from monitor.gates import Gates
from monitor.records import BUCKET, Reading, Series, Severity
from monitor.spells import Spells

Floats = NDArray[np.float64]
VolumeKind = Literal["volume_burst", "negative_volume"]

KINDS: Final[tuple[VolumeKind, ...]] = ("volume_burst", "negative_volume")
_BURST, _NEGATIVE = 0, 1
_DAY: Final = timedelta(days=1) // BUCKET
_MEMORY: Final = timedelta(hours=12) // BUCKET
WINDOW_MINUTES: Final = 2 * BUCKET // timedelta(minutes=1)
_SHAPE_ITEMS: Final = 30.0
_START_DISPERSION: Final = 1.5
_LEAST_USUAL: Final = 1e-3
_LEAST_P: Final = 1e-300


@dataclass(frozen=True, slots=True)
class VolumeReading(Reading):
    """A series of which unusually many items, or negative items, came within ten minutes, or did a short while ago.

    `observed` is the count that `kind` counts, `items` all items of the window, `expected` mu. `p_value` is the upper
    tail of a Poisson distribution of counts divided by their dispersion. `severity` is None at a step that does not
    speak.
    """

    z: float = 0.0


class Volumes:
    """Levels, shapes and scores of all series, advanced one bucket at a time. Axes are (kinds, series).

    Attributes:
        counts: items and negatives of the last window.
        usual: mu of the last window.
        z: its scores; 0 on a series' first day.
        spoken: z where it exceeds every score of the previous 12 hours, else 0.
        spells: which series are in a burst.
    """

    def __init__(self, settings: SpikeSettings) -> None:
        self.settings = settings
        self._decay = 0.5 ** (BUCKET / timedelta(days=settings.learning_days))
        self._calm_z = float(special.ndtri(1 - settings.resolve_p))
        self._step = 0
        none = (len(KINDS), 0)
        self._seen = np.zeros(0, dtype=np.int64)
        self._total, self._weight = np.zeros(none), np.zeros(0)
        self._by_hour, self._hours = np.zeros((24, *none)), np.zeros((24, 0))
        self._squares, self._counts_before, self._usual_before = np.zeros((3, *none))
        self._recent = np.zeros((_MEMORY, *none))
        self.counts, self.usual, self.variance, self.z, self.spoken = np.zeros((5, *none))
        self.spells = Spells(len(KINDS), resolve_after_minutes=settings.resolve_after_minutes)

    def grow(self, rows: int) -> None:
        """Make room for `rows` series more."""
        grow = (0, rows)
        self._seen, self._weight = np.pad(self._seen, grow), np.pad(self._weight, grow)
        self._total, self._squares, self._counts_before, self._usual_before = (
            np.pad(sums, ((0, 0), grow))
            for sums in (self._total, self._squares, self._counts_before, self._usual_before)
        )
        self._hours = np.pad(self._hours, ((0, 0), grow))
        self._by_hour, self._recent = (np.pad(sums, ((0, 0), (0, 0), grow)) for sums in (self._by_hour, self._recent))
        self.spells.grow(rows)

    def advance(self, items: Floats, negatives: Floats, at: datetime, gates: Gates | None = None) -> None:
        """Judge one closed bucket, then learn from it.

        Args:
            items, negatives: (series,), what the bucket holds.
            at: its start.
            gates: what each series must pass to alarm; None: what the settings say.
        """
        bucket = np.stack([items, negatives])
        level = np.divide(self._total, self._weight, out=bucket.copy(), where=self._weight > 0)
        hours, weights = _about(at)
        came = np.tensordot(weights, self._by_hour[hours], axes=1)
        buckets = weights @ self._hours[hours]
        usual = np.maximum(level * (came + _SHAPE_ITEMS) / (level * buckets + _SHAPE_ITEMS), _LEAST_USUAL)
        self.counts, self.usual = self._counts_before + bucket, self._usual_before + usual
        self._counts_before, self._usual_before = bucket, usual
        dispersion = (self._squares + _START_DISPERSION * _DAY) / (self._weight + _DAY)
        self.variance = np.maximum(dispersion, 1.0) * self.usual + 1
        self.z = np.where(self._seen >= _DAY, (self.counts - self.usual) / np.sqrt(self.variance), 0.0)
        self.spoken = np.where(self.z > np.maximum(self._recent.max(axis=0), 0.0), self.z, 0.0)
        self._recent[self._step % _MEMORY] = self.z
        self._step += 1
        least = self.settings.min_negatives if gates is None else gates.min_negatives
        opens = (self.spoken >= self.settings.volume_z) & (self.counts >= least)
        if gates is not None:
            opens &= np.stack([gates.allows(kind) for kind in KINDS])
        opens[_NEGATIVE] &= level[_NEGATIVE] >= self.settings.mostly_negative_share * level[_BURST]
        self.spells.advance(opens, self.z <= self._calm_z)
        self._learn(bucket, at.hour)

    def resume(self, kind: VolumeKind, row: int) -> None:
        """Have a series be in a burst, as it was by other counts of the same news."""
        self.spells.firing[KINDS.index(kind), row] = True

    def readings(self, names: list[Series]) -> list[VolumeReading]:
        """A reading for every kind and series that is in a burst, or just left one."""
        return [
            self._reading(names[row], int(kind), int(row))
            for kind, row in np.argwhere(self.spells.firing | self.spells.before)
        ]

    def without(
        self, kind: VolumeKind, row: int, other: int, count: float, gates: Gates | None = None
    ) -> tuple[float, float, float]:
        """What is left of a series' last window without `count` that it shares with another series.

        Args:
            gates: as in `advance`.

        Returns:
            z and p-value of what is left (0 and 1 where too few are left to be a burst), and of what is beyond the
            usual count, the share that is left out; 0 where nothing is beyond.
        """
        index = KINDS.index(kind)
        whole, usual = float(self.counts[index, row]), float(self.usual[index, row])
        dispersion = (float(self.variance[index, row]) - 1) / usual
        # Of the other series' usual count, the part that is usual for what both share.
        theirs = max(float(self.counts[index, other]), count, 1.0)
        shared_usual = float(self.usual[index, other]) * count / theirs
        left, left_usual = max(whole - count, 0.0), max(usual - shared_usual, _LEAST_USUAL)
        z, p_value = 0.0, 1.0
        if left >= (self.settings.min_negatives if gates is None else gates.min_negatives[row]):
            variance = dispersion * left_usual + 1
            z = (left - left_usual) / float(np.sqrt(variance))
            p_value = _upper_tail(left, left_usual, variance / left_usual)
        beyond = whole - usual
        return z, p_value, (count - shared_usual) / beyond if beyond > 0 else 0.0

    def _learn(self, bucket: Floats, hour: int) -> None:
        squared = (self.counts - self.usual) ** 2 / self.usual
        self._squares = self._squares * self._decay + squared
        self._total = self._total * self._decay + bucket
        self._weight = self._weight * self._decay + 1
        self._by_hour *= self._decay
        self._hours *= self._decay
        self._by_hour[hour] += bucket
        self._hours[hour] += 1
        self._seen += 1

    def _reading(self, series: Series, kind: int, row: int) -> VolumeReading:
        settings = self.settings
        count, usual = float(self.counts[kind, row]), float(self.usual[kind, row])
        variance, z = float(self.variance[kind, row]), float(self.z[kind, row])
        spread = variance / usual
        severity: Severity | None = None
        if self.spoken[kind, row] >= settings.volume_z:
            severity = "critical" if z >= settings.volume_critical_z else "warning"
        low, high = special.gammaincinv(usual / spread, [0.025, 0.975]) * spread
        return VolumeReading(
            series=series,
            window_minutes=WINDOW_MINUTES,
            observed=round(count),
            items=round(float(self.counts[_BURST, row])),
            expected=usual,
            band=(float(low), float(high)),
            p_value=_upper_tail(count, usual, spread),
            firing=bool(self.spells.firing[kind, row]),
            severity=severity,
            kind=KINDS[kind],
            z=z,
        )


def _upper_tail(count: float, usual: float, spread: float) -> float:
    """P(at least so many) of a Poisson distribution of counts divided by their dispersion."""
    return max(float(special.gammainc(count / spread, usual / spread)), _LEAST_P) if count else 1.0


def _about(at: datetime) -> tuple[NDArray[np.int64], Floats]:
    """The hours of the day that a bucket's usual count is read from, (4,), and their weights, which sum to 1."""
    middle = at + BUCKET / 2
    position = middle.hour + middle.minute / 60 - 0.5
    before = int(np.floor(position))
    past = position - before
    between = np.convolve([1 - past, past], [0.25, 0.5, 0.25])
    return np.arange(before - 1, before + 3) % 24, between
