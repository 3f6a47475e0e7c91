"""The detector: names, gates and thresholds around the two ways of judging a series.

`monitor/shares.py` asks whether a window's items are worse than usual, `monitor/volumes.py` whether more came than
usual. How small a p-value must be to open an alert follows from how many false alarms a week people can bear, over
all series: `p_threshold`.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from monitor.config import OverrideSettings, SpikeSettings
from monitor.gates import Gates
from monitor.records import EVERYTHING, Counts, Kind, Reading, Remainder, Series, Severity
from monitor.shares import Floats, Shares
from monitor.spells import Spells
from monitor.volumes import WINDOW_MINUTES, Volumes

OPEN_P: Final = 1e-4
"""Where alerts open if nothing else is asked for."""

# False alarms that a series raises in a week at OPEN_P, by its items a bucket, and how they grow with the threshold:
# alarms(p) = alarms(OPEN_P) (p / OPEN_P) ** SLOPE. Fitted on scenario B of pipelines/simulation.py, in which news
# comes in clusters; `python -m pipelines.alert_quality` prints them anew beside what was counted.
CALIBRATED_RATES: Final = (0.36, 1.1, 3.6, 11.0, 36.0, 110.0)
CALIBRATED_ALARMS: Final = (0.004, 0.02, 0.047, 0.075, 0.099, 0.118)
SLOPE: Final = 0.85
THRESHOLDS: Final = (1e-8, 1e-3)
"""The least and the largest p-value that `p_threshold` gives: beyond them nothing was calibrated."""


def alarms_per_week(rates: Floats, p: float = OPEN_P) -> Floats:
    """False alarms of negative share that series raise in a week at a p-value threshold, (series,).

    Args:
        rates: (series,), items a bucket. Below the least calibrated rate alarms are taken to fall with it.
    """
    known = np.interp(np.log(np.maximum(rates, CALIBRATED_RATES[0])), np.log(CALIBRATED_RATES), CALIBRATED_ALARMS)
    sparse = np.minimum(rates / CALIBRATED_RATES[0], 1.0)
    alarms: Floats = known * sparse * (p / OPEN_P) ** SLOPE
    return alarms


def p_threshold(false_alarms_per_week: float, rates: Floats) -> float:
    """The p-value at which all series together raise this many false alarms a week, within `THRESHOLDS`.

    Args:
        rates: (series,), items a bucket of each.
    """
    at_open_p = float(alarms_per_week(rates).sum())
    least, largest = THRESHOLDS
    if at_open_p * (largest / OPEN_P) ** SLOPE <= false_alarms_per_week:
        return largest
    return float(np.clip(OPEN_P * (false_alarms_per_week / at_open_p) ** (1 / SLOPE), least, largest))


class Detector:
    """Every series' baseline, windows and state, advanced one bucket at a time; free of clock, I/O and randomness.

    Feeding the same buckets again gives the same state, which is how it is rebuilt after a restart: what lies further
    back than `baseline_days` weighs next to nothing.

    Args:
        false_alarms_per_week: how many all series together may raise; sets the p-value at which alerts open, unless
            the settings have `open_p`. None: `OPEN_P`.
        overrides: series with measures of their own. One with an `open_p` opens alerts there, and one whose `kinds`
            leave out negative share raises none: both are left out of the sum that the false alarms a week are
            shared by, so that the others have all of them. Other overrides do not move the shared threshold.

    Attributes:
        open_p: the p-value at or below which an alert opened at the last step, in a series without its own.
        least: (series,), p-values of negative share at the last step, over all windows that pass the gates.
    """

    def __init__(
        self,
        settings: SpikeSettings,
        false_alarms_per_week: float | None = None,
        overrides: Sequence[OverrideSettings] = (),
    ) -> None:
        self.settings = settings
        self._false_alarms_per_week = false_alarms_per_week
        self._rows: dict[Series, int] = {}
        self._gates = Gates(settings, overrides)
        self.shares = Shares(settings)
        self.volumes = Volumes(settings)
        self.spells = Spells(resolve_after_minutes=settings.resolve_after_minutes)
        self.open_p = settings.open_p or OPEN_P
        self.least: Floats = np.ones(0)
        self._opens_at: Floats = np.zeros(0)
        self.admit([EVERYTHING])

    def update(self, counts: Mapping[Series, Counts], at: datetime | None = None) -> list[Reading]:
        """Advance by one closed bucket; gives a reading for every series that is in a spike, or just left one.

        Args:
            counts: what the bucket holds; a series that is missing had no items.
            at: when the bucket starts. With it volumes are judged too, and their readings, which are
                `VolumeReading`, follow those of negative share.
        """
        # What came late may not alert, neither now nor when this bucket is read again after a restart.
        on_time = {
            series: (count.items - count.late, count.negatives - count.late_negatives)
            for series, count in counts.items()
            if count.items > count.late
        }
        self.admit(on_time)
        items, negatives = np.zeros((2, len(self._rows)))
        for series, judged in on_time.items():
            items[self._rows[series]], negatives[self._rows[series]] = judged
        window = self.advance(items, negatives, at)
        names = list(self._rows)
        readings: list[Reading] = [
            self._reading(names[row], row, int(window[row]))
            for row in map(int, np.flatnonzero(self.spells.before | self.spells.firing))
        ]
        return readings if at is None else readings + list(self.volumes.readings(names))

    def admit(self, series: Iterable[Series]) -> None:
        """Give rows to the series that have none yet, in their order; the series of everything has row 0."""
        new = [name for name in dict.fromkeys(series) if name not in self._rows]
        if not new:
            return
        self._rows |= {name: len(self._rows) + index for index, name in enumerate(new)}
        self._gates.admit(new)
        for part in (self.shares, self.volumes, self.spells):
            part.grow(len(new))

    def advance(self, items: Floats, negatives: Floats, at: datetime | None = None) -> NDArray[np.int64]:
        """Advance by one closed bucket, without readings; gives the window that speaks most clearly, (series,).

        Args:
            items, negatives: (series,), by row.
            at: as in `update`.
        """
        self.shares.advance(items, negatives)
        if at is not None:
            self.volumes.advance(items, negatives, at, self._gates)
        if self.settings.open_p is None and self._false_alarms_per_week is not None:
            self.open_p = p_threshold(self._false_alarms_per_week, self.shares.rates()[self._gates.budgeted])
        self.least, window = self.shares.least(self._gates)
        self._opens_at = self._gates.opens_at(self.open_p)
        opens = (self.least <= self._opens_at) & self._gates.allows("negative_share")
        self.spells.advance(opens, self.shares.calm())
        return window

    def p_value(self, series: Series) -> float:
        """The least p-value over the windows at the last step, before the gates; 1 for a series without items."""
        row = self._rows.get(series)
        return 1.0 if row is None else float(self.shares.together(self.shares.p_values[:, row].min()))

    def expected(self, series: Series, window_minutes: int) -> float:
        """The negatives that were usual for the items of one of the settings' windows; 0 for an unknown series."""
        row = self._rows.get(series)
        window = self.settings.windows_minutes.index(window_minutes)
        return 0.0 if row is None else float(self.shares.expected[window, row])

    def usual_share(self, series: Series) -> float:
        """The share of this series' items that is usually negative, as the next bucket will be judged."""
        return float(self.shares.usual_share()[self._rows.get(series, 0)])

    def windows_minutes(self, kind: Kind) -> tuple[int, ...]:
        """The windows that alerts of this kind are judged by, minutes."""
        return self.settings.windows_minutes if kind == "negative_share" else (WINDOW_MINUTES,)

    def without(
        self, series: Series, kind: Kind, other: Series, shared: Sequence[tuple[int, int]]
    ) -> Remainder | None:
        """What would be left of a series' spike at the last step without the items that it shares with another one.

        Of volumes, as much of the usual count is left out as is usual for the other's items. None where nothing is
        known of one of the two.

        Args:
            shared: in each window of `windows_minutes(kind)`, the items and negatives that are in both, counted as
                the detector's own are.
        """
        row, by = self._rows.get(series), self._rows.get(other)
        if row is None or by is None:
            return None
        if kind == "negative_share":
            items, negatives = np.array(shared, dtype=float).T
            p_value, accounts_for = self.shares.without(row, items, negatives, self._gates)
            return Remainder(p_value <= float(self._opens_at[row]), p_value, accounts_for)
        count = float(shared[0][kind == "negative_volume"])
        z, p_value, accounts_for = self.volumes.without(kind, row, by, count, self._gates)
        return Remainder(z >= self.settings.volume_z, p_value, accounts_for)

    def resume(self, series: Series, kind: Kind) -> None:
        """Have a series be in a spike, if it may alarm so: by other counts of the same news it was found to be."""
        row = self._rows.get(series)
        if row is None or not self._gates.allows(kind)[row]:
            return
        if kind == "negative_share":
            self.spells.firing[row] = True
        else:
            self.volumes.resume(kind, row)

    def _reading(self, series: Series, row: int, window: int) -> Reading:
        p_value, open_p = float(self.least[row]), float(self._opens_at[row])
        severity: Severity | None = None
        if p_value <= open_p:
            severity = "critical" if p_value <= min(float(self._gates.critical_p[row]), open_p / 100) else "warning"
        return Reading(
            series=series,
            window_minutes=self.settings.windows_minutes[window],
            observed=round(self.shares.observed[window, row]),
            items=round(self.shares.items[window, row]),
            expected=float(self.shares.expected[window, row]),
            band=self.shares.band(window, row),
            p_value=p_value,
            firing=bool(self.spells.firing[row]),
            severity=severity,
        )
