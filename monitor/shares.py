"""Negative share: are a window's items worse than the series' own history explains?

It compares shares, not volumes: a busy day with the usual mix stays silent. Per closed bucket with n items, k of
them negative, and per series:

- usual share  p = (K + w g) / (N + w): K and N are the series' decayed sums of negatives and items, g the share of
  the whole stream, and w the items that g weighs in each series, so that thin history leans on the others'. A
  bucket enters K with at most n p + 3 sqrt(n p (1 - p)) + 1 negatives, so that a spike does not teach itself in.
- a window of N_w items expects E negatives, the sum of n p over its buckets, each with the p of its time.
- news comes in clusters and p is an estimate, so the variance is phi times a binomial's, with
  phi = 1 + (N_w - 1) rho_w + N_w / (N + w).
- rho_w, the correlation between a window's items, is learned for each series and window from what its residuals were:
  weighted least squares of r^2 - 1 - N_w / (N + w) on N_w - 1, with weights 1 / phi^2 that decay by half in
  `learning_days`, where r is the residual in binomial standard deviations, at most 3 sqrt(phi). It starts at
  `overdispersion`, which weighs as much as `_START_WINDOWS` full windows that do not overlap. Items of a shorter
  window are closer to each other, so its rho is at least that of the longer ones.
- the p-value of X negatives is the upper tail of a binomial of N_w / phi items, written with the regularised
  incomplete beta function so that it holds for fractions: I_P(X / phi, (N_w - X) / phi + 1), P = E / N_w.
  (Abramowitz and Stegun, Handbook of Mathematical Functions, 26.5.24, for the binomial tail; the division by phi is
  quasi-likelihood: McCullagh and Nelder, Generalized Linear Models, 4.5.)
- several windows have several chances to look unusual, so each p-value is multiplied by their number (Bonferroni).
"""

from datetime import timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from monitor.config import SpikeSettings
from monitor.gates import Gates
from monitor.records import BUCKET

Floats = NDArray[np.float64]

_CAP_DEVIATIONS: Final = 3.0
_START_WINDOWS: Final = 24
_LEAST_CORRELATED: Final = 1e-4
_MOST_CORRELATED: Final = 0.5


class Shares:
    """Baselines and windows of all series, advanced one bucket at a time; row 0 is the series of everything.

    Attributes:
        items, observed, expected: (windows, series), what each window that ends with the last bucket holds.
        p_values: (windows, series), of `observed` in each window by itself, before any gate.
    """

    def __init__(self, settings: SpikeSettings) -> None:
        self.settings = settings
        self.spans = np.array([timedelta(minutes=m) // BUCKET for m in settings.windows_minutes])
        rho = settings.overdispersion
        self._start_rho = np.array([[rho[min(i, len(rho) - 1)]] for i in range(len(self.spans))])
        self._decay = 0.5 ** (BUCKET / timedelta(hours=settings.half_life_hours))
        self._slow_decay = 0.5 ** (BUCKET / timedelta(days=settings.learning_days))
        self._step = 0
        # K and N, (series,)
        self._usual_negatives = np.zeros(0)
        self._usual_items = np.zeros(0)
        # Sums from the first step to each of the last ones: items, negatives, expected; (3, ring, series).
        self._ring = int(self.spans.max()) + 1
        self._sums = np.zeros((3, self._ring, 0))
        # Both sides of the least squares for rho, (windows, series).
        self._excess = np.zeros((len(self.spans), 0))
        self._weight = np.zeros((len(self.spans), 0))
        self.items, self.observed, self.expected = np.zeros((3, len(self.spans), 0))
        self.p_values = np.ones((len(self.spans), 0))
        self._spread = np.ones((len(self.spans), 0))
        # What the last bucket was judged with: rho, and the items behind p.
        self._rho = np.zeros((len(self.spans), 0))
        self._behind = np.zeros(0)

    def grow(self, rows: int) -> None:
        """Make room for `rows` series more."""
        grow = (0, rows)
        self._usual_negatives = np.pad(self._usual_negatives, grow)
        self._usual_items = np.pad(self._usual_items, grow)
        self._sums = np.pad(self._sums, ((0, 0), (0, 0), grow))
        self._excess = np.pad(self._excess, ((0, 0), grow))
        self._weight = np.pad(self._weight, ((0, 0), grow))
        self.items, self.observed, self.expected = (
            np.pad(sums, ((0, 0), grow)) for sums in (self.items, self.observed, self.expected)
        )
        self.p_values = np.pad(self.p_values, ((0, 0), grow), constant_values=1.0)
        self._rho, self._behind = np.pad(self._rho, ((0, 0), grow)), np.pad(self._behind, grow, constant_values=1.0)

    def advance(self, items: Floats, negatives: Floats) -> None:
        """Judge one closed bucket, then learn from it.

        Args:
            items, negatives: (series,), what the bucket holds.
        """
        share = self.usual_share()
        now, before = self._step % self._ring, (self._step - 1) % self._ring
        self._sums[:, now] = self._sums[:, before] + (items, negatives, items * share)
        self._step += 1
        starts = (self._step - 1 - self.spans) % self._ring
        self.items, self.observed, self.expected = self._sums[:, now, None, :] - self._sums[:, starts, :]
        self._rho, self._behind = self.correlation(), self._usual_items + self.settings.prior_items
        self._spread = spread = _spread(self.items, self._rho, self._behind)
        usual = np.divide(self.expected, self.items, out=np.zeros_like(self.items), where=self.items > 0)
        usual = np.clip(usual, 0.0, 1.0)
        self.p_values = _tail(self.observed, self.items, usual, spread)
        self._learn_correlation(usual, spread)
        self._learn_share(items, negatives, share)

    def usual_share(self) -> Floats:
        """p, (series,)."""
        weight = self.settings.prior_items
        pooled = (self._usual_negatives[0] + weight * self.settings.prior_share) / (self._usual_items[0] + weight)
        share: Floats = (self._usual_negatives + weight * pooled) / (self._usual_items + weight)
        return share

    def rates(self) -> Floats:
        """Items a bucket, as the decayed history has them, (series,)."""
        steps = max(self._step, 1)
        rates: Floats = self._usual_items * (1 - self._decay) / (1 - self._decay**steps)
        return rates

    def least(self, gates: Gates) -> tuple[Floats, NDArray[np.int64]]:
        """The least p-value over windows that pass the gates, for all of them together, and its window; (series,)."""
        gated = _gated(self.p_values, self.observed, self.expected, gates.min_negatives, gates.min_ratio)
        window = gated.argmin(axis=0)
        return self.together(gated.min(axis=0)), window

    def without(self, row: int, items: Floats, negatives: Floats, gates: Gates) -> tuple[float, float]:
        """What `least` would have been without some of a series' items, all else as it was judged, and their part.

        Args:
            items, negatives: (windows,), what is left out of each window.
            gates: as in `least`.

        Returns:
            The p-value for all windows together, and of the negatives beyond the usual ones, in the window that
            speaks most clearly with everything in it, the share that is left out; 0 where there are none beyond.
        """
        usual = np.divide(
            self.expected[:, row], self.items[:, row], out=np.zeros(len(self.spans)), where=self.items[:, row] > 0
        )
        left = np.maximum(self.items[:, row] - items, 0.0)
        observed = np.clip(self.observed[:, row] - negatives, 0.0, left)
        spread = _spread(left, self._rho[:, row], self._behind[row])
        own = gates.min_negatives[row], gates.min_ratio[row]
        p_values = _gated(_tail(observed, left, np.clip(usual, 0.0, 1.0), spread), observed, left * usual, *own)
        clearest = _gated(self.p_values[:, row], self.observed[:, row], self.expected[:, row], *own).argmin()
        beyond = float(self.observed[clearest, row] - self.expected[clearest, row])
        taken = float(negatives[clearest] - items[clearest] * usual[clearest])
        return float(self.together(p_values.min())), taken / beyond if beyond > 0 else 0.0

    def together(self, least: Floats) -> Floats:
        """The p-value of what was the least of all windows' p-values."""
        return np.minimum(least * len(self.spans), 1.0)

    def calm(self) -> NDArray[np.bool_]:
        """Whether the two shortest windows are as usual, (series,)."""
        return np.asarray((self.p_values[:2] > self.settings.resolve_p).all(axis=0))

    def correlation(self) -> Floats:
        """rho as the next bucket will be judged, (windows, series)."""
        strength = _START_WINDOWS * self.spans[:, None] / np.maximum(self._start_rho, _LEAST_CORRELATED) ** 2
        learned = (strength * self._start_rho + self._excess) / (strength + self._weight)
        at_least_the_longer = np.maximum.accumulate(learned[::-1], axis=0)[::-1]
        return np.clip(at_least_the_longer, 0.0, _MOST_CORRELATED)

    def band(self, window: int, row: int) -> tuple[float, float]:
        """The central 95 % of a window's usual negatives: a beta distribution with the same mean and variance."""
        items, expected = float(self.items[window, row]), float(self.expected[window, row])
        if items <= 0 or not 0 < expected < items:
            return (expected, expected)
        share = expected / items
        size = max(items / float(self._spread[window, row]) - 1, 1e-3)
        low, high = special.betaincinv(share * size, (1 - share) * size, [0.025, 0.975])
        return (items * float(low), items * float(high))

    def _learn_correlation(self, usual: Floats, spread: Floats) -> None:
        variance = self.items * usual * (1 - usual)
        squared = np.divide(
            (self.observed - self.expected) ** 2, variance, out=np.zeros_like(variance), where=variance > 0
        )
        excess = np.minimum(squared, _CAP_DEVIATIONS**2 * spread) - 1 - self.items / self._behind
        pairs = np.maximum(self.items - 1, 0)
        self._excess = self._excess * self._slow_decay + pairs * excess / spread**2
        self._weight = self._weight * self._slow_decay + (pairs / spread) ** 2

    def _learn_share(self, items: Floats, negatives: Floats, share: Floats) -> None:
        cap = items * share + _CAP_DEVIATIONS * np.sqrt(items * share * (1 - share)) + 1
        self._usual_negatives = self._usual_negatives * self._decay + np.minimum(negatives, cap)
        self._usual_items = self._usual_items * self._decay + items


def _spread(items: Floats, rho: Floats, behind: Floats) -> Floats:
    """phi: how many times a binomial's the variance of a window's negatives is; `behind` is N + w."""
    spread: Floats = 1 + np.maximum(items - 1, 0) * rho + items / behind
    return spread


def _tail(observed: Floats, items: Floats, usual: Floats, spread: Floats) -> Floats:
    """P(at least `observed` negatives if all is as usual)."""
    p = special.betainc(np.maximum(observed, 1e-9) / spread, (items - observed) / spread + 1, usual)
    return np.where(observed > 0, p, 1.0)


def _gated(
    p_values: Floats,
    observed: Floats,
    expected: Floats,
    min_negatives: Floats | np.float64,
    min_ratio: Floats | np.float64,
) -> Floats:
    """The p-values of windows with enough negatives, 1 for the others."""
    return np.where((observed >= min_negatives) & (observed >= min_ratio * expected), p_values, 1.0)
