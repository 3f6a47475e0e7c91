"""The detector: are a window's items worse than the series' own history explains?

It compares shares, not volumes: a busy day with the usual mix stays silent. Per closed bucket with n items, k of
them negative, and per series:

- usual share  p = (K + w g) / (N + w): K and N are the series' decayed sums of negatives and items, g the share of
  the whole stream, and w the items that g weighs in each series, so that thin history leans on the others'. A
  bucket enters K with at most n p + 3 sqrt(n p (1 - p)) + 1 negatives, so that a spike does not teach itself in.
- a window of N_w items expects E negatives, the sum of n p over its buckets, each with the p of its time.
- news comes in clusters and p is an estimate, so the variance is phi times a binomial's, with
  phi = 1 + (N_w - 1) rho_w + N_w / (N + w).
- the p-value of X negatives is the upper tail of a binomial of N_w / phi items, written with the regularised
  incomplete beta function so that it holds for fractions: I_P(X / phi, (N_w - X) / phi + 1), P = E / N_w.
  (Abramowitz and Stegun, Handbook of Mathematical Functions, 26.5.24, for the binomial tail; the division by phi is
  quasi-likelihood: McCullagh and Nelder, Generalized Linear Models, 4.5.)
"""

from collections.abc import Mapping
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray
from scipy import special

from monitor.config import SpikeSettings
from monitor.records import BUCKET, EVERYTHING, Counts, Reading, Series, Severity

Floats = NDArray[np.float64]


class Detector:
    """Every series' baseline, windows and state, advanced one bucket at a time; free of clock, I/O and randomness.

    Feeding the same buckets again gives the same state, which is how it is rebuilt after a restart.
    """

    def __init__(self, settings: SpikeSettings) -> None:
        self.settings = settings
        self._spans = np.array([timedelta(minutes=m) // BUCKET for m in settings.windows_minutes])
        rho = settings.overdispersion
        self._rho = np.array([rho[min(i, len(rho) - 1)] for i in range(len(self._spans))])
        self._decay = 0.5 ** (BUCKET / timedelta(hours=settings.half_life_hours))
        self._calm_steps_needed = timedelta(minutes=settings.resolve_after_minutes) // BUCKET
        self._rows: dict[Series, int] = {}
        self._step = 0
        # K and N, (series,)
        self._usual_negatives = np.zeros(0)
        self._usual_items = np.zeros(0)
        # Sums from the first step to each of the last ones: items, negatives, expected; (3, ring, series).
        self._ring = int(self._spans.max()) + 1
        self._sums = np.zeros((3, self._ring, 0))
        self._firing = np.zeros(0, dtype=bool)
        self._calm_steps = np.zeros(0, dtype=np.int64)
        self._p_values = np.ones((len(self._spans), 0))

    def update(self, counts: Mapping[Series, Counts]) -> list[Reading]:
        """Advance by one closed bucket; gives a reading for every series that is in a spike, or just left one.

        Args:
            counts: what the bucket holds; a series that is missing had no items.
        """
        self._admit([EVERYTHING, *counts])
        items, negatives = np.zeros((2, len(self._rows)))
        for series, count in counts.items():
            row = self._rows[series]
            # What came late may not alert, neither now nor when this bucket is read again after a restart.
            items[row], negatives[row] = count.items - count.late, count.negatives - count.late_negatives

        share = self._usual_share()
        now, before = self._step % self._ring, (self._step - 1) % self._ring
        self._sums[:, now] = self._sums[:, before] + (items, negatives, items * share)
        self._step += 1
        window_items, observed, expected = self._windows()  # each (windows, series)
        self._p_values = self._tail(window_items, observed, expected)

        settings = self.settings
        enough = (observed >= settings.min_negatives) & (observed >= settings.min_ratio * expected)
        gated = np.where(enough, self._p_values, 1.0)
        best = gated.argmin(axis=0)
        least = gated.min(axis=0)
        calm = (self._p_values[:2] > settings.resolve_p).all(axis=0)
        self._calm_steps = np.where(calm, self._calm_steps + 1, 0)
        was_firing = self._firing
        resolved = was_firing & (self._calm_steps >= self._calm_steps_needed)
        self._firing = (was_firing & ~resolved) | (least <= settings.open_p)

        self._learn(items, negatives, share)
        names = list(self._rows)
        return [
            self._reading(names[row], row, int(best[row]), float(least[row]))
            for row in map(int, np.flatnonzero(was_firing | self._firing))
        ]

    def p_value(self, series: Series) -> float:
        """The least p-value over the windows at the last step, before the gates; 1 for a series without items."""
        row = self._rows.get(series)
        return 1.0 if row is None else float(self._p_values[:, row].min())

    def expected(self, series: Series, window_minutes: int) -> float:
        """The negatives that were usual for the items of one of the settings' windows; 0 for an unknown series."""
        row = self._rows.get(series)
        window = self.settings.windows_minutes.index(window_minutes)
        return 0.0 if row is None or not self._step else float(self._windows()[2, window, row])

    def usual_share(self, series: Series) -> float:
        """The share of this series' items that is usually negative, as the next bucket will be judged."""
        row = self._rows.get(series, self._rows.get(EVERYTHING))
        return self.settings.prior_share if row is None else float(self._usual_share()[row])

    def _admit(self, series: list[Series]) -> None:
        new = [name for name in dict.fromkeys(series) if name not in self._rows]
        if not new:
            return
        for name in new:
            self._rows[name] = len(self._rows)
        grow = (0, len(new))
        self._usual_negatives = np.pad(self._usual_negatives, grow)
        self._usual_items = np.pad(self._usual_items, grow)
        self._sums = np.pad(self._sums, ((0, 0), (0, 0), grow))
        self._firing = np.pad(self._firing, grow)
        self._calm_steps = np.pad(self._calm_steps, grow)

    def _usual_share(self) -> Floats:
        """p of every series, (series,)."""
        weight = self.settings.prior_items
        everything = self._rows[EVERYTHING]
        pooled = (self._usual_negatives[everything] + weight * self.settings.prior_share) / (
            self._usual_items[everything] + weight
        )
        return np.asarray((self._usual_negatives + weight * pooled) / (self._usual_items + weight), dtype=np.float64)

    def _windows(self) -> Floats:
        """Items, negatives and expected negatives in each window that ends now, (3, windows, series)."""
        end = (self._step - 1) % self._ring
        starts = (self._step - 1 - self._spans) % self._ring
        sums: Floats = self._sums[:, end, None, :] - self._sums[:, starts, :]
        return sums

    def _tail(self, items: Floats, observed: Floats, expected: Floats) -> Floats:
        """P(at least `observed` negatives if all is as usual), (windows, series)."""
        spread = self._spread(items)
        share = np.divide(expected, items, out=np.zeros_like(items), where=items > 0)
        p = special.betainc(
            np.maximum(observed, 1e-9) / spread, (items - observed) / spread + 1, np.clip(share, 0.0, 1.0)
        )
        return np.where(observed > 0, p, 1.0)

    def _spread(self, items: Floats) -> Floats:
        """phi: how many times a binomial's the variance of a window's negatives is, (windows, series)."""
        weight = self.settings.prior_items
        spread: Floats = 1 + np.maximum(items - 1, 0) * self._rho[:, None] + items / (self._usual_items + weight)
        return spread

    def _learn(self, items: Floats, negatives: Floats, share: Floats) -> None:
        cap = items * share + 3 * np.sqrt(items * share * (1 - share)) + 1
        self._usual_negatives = self._usual_negatives * self._decay + np.minimum(negatives, cap)
        self._usual_items = self._usual_items * self._decay + items

    def _reading(self, series: Series, row: int, window: int, p_value: float) -> Reading:
        items, observed, expected = self._windows()[:, window, row]
        settings = self.settings
        severity: Severity | None = None
        if p_value <= settings.open_p:
            severity = "critical" if p_value <= settings.critical_p else "warning"
        return Reading(
            series=series,
            window_minutes=settings.windows_minutes[window],
            observed=round(observed),
            items=round(items),
            expected=float(expected),
            band=self._band(float(items), float(expected), float(self._spread(self._windows()[0])[window, row])),
            p_value=p_value,
            firing=bool(self._firing[row]),
            severity=severity,
        )

    @staticmethod
    def _band(items: float, expected: float, spread: float) -> tuple[float, float]:
        """The central 95 % of the usual number of negatives: a beta distribution with the same mean and variance."""
        if items <= 0 or not 0 < expected < items:
            return (expected, expected)
        share = expected / items
        size = max(items / spread - 1, 1e-3)
        low, high = special.betaincinv(share * size, (1 - share) * size, [0.025, 0.975])
        return (items * float(low), items * float(high))
