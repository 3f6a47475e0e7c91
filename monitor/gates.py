"""What a series must pass to alarm: the detector's settings, or where an override gives them, its own."""

from collections.abc import Iterable
from typing import Final, get_args

import numpy as np
from numpy.typing import NDArray

from monitor.config import OverrideSettings, SpikeSettings
from monitor.records import Kind, Series

Floats = NDArray[np.float64]
_KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


class Gates:
    """A gate a row, in the order in which series are admitted; all arrays are (series,).

    Attributes:
        min_negatives, min_ratio, critical_p: as the settings have them.
        own_p: the p-value at which the series opens alerts; NaN where it opens where the others do.
        budgeted: whether the series shares the false alarms that all may raise: it may alarm by negative share, and
            has no `own_p`.
    """

    def __init__(self, settings: SpikeSettings, overrides: Iterable[OverrideSettings] = ()) -> None:
        self._settings = settings
        self._overrides = {override.series: override for override in overrides}
        self.min_negatives, self.min_ratio, self.critical_p, self.own_p = np.zeros((4, 0))
        self._allowed = np.zeros((len(_KINDS), 0), dtype=bool)
        self.budgeted = np.zeros(0, dtype=bool)

    def admit(self, new: Iterable[Series]) -> None:
        """Add the rows of these series."""
        overrides = [self._overrides.get(series) for series in new]
        settings = self._settings

        def column(name: str, usual: float) -> Floats:
            own = [None if override is None else getattr(override, name) for override in overrides]
            return np.array([usual if value is None else value for value in own], dtype=np.float64)

        self.min_negatives = np.append(self.min_negatives, column("min_negatives", settings.min_negatives))
        self.min_ratio = np.append(self.min_ratio, column("min_ratio", settings.min_ratio))
        self.critical_p = np.append(self.critical_p, column("critical_p", settings.critical_p))
        self.own_p = np.append(self.own_p, column("open_p", np.nan))
        kinds = [None if override is None else override.kinds for override in overrides]
        allowed = [[own is None or kind in own for own in kinds] for kind in _KINDS]
        self._allowed = np.append(self._allowed, np.array(allowed, dtype=bool).reshape(len(_KINDS), -1), axis=1)
        self.budgeted = self.allows("negative_share") & np.isnan(self.own_p)

    def allows(self, kind: Kind) -> NDArray[np.bool_]:
        """Whether a series may alarm in this way, (series,)."""
        allowed: NDArray[np.bool_] = self._allowed[_KINDS.index(kind)]
        return allowed

    def opens_at(self, open_p: float) -> Floats:
        """The p-value at or below which each series opens an alert, (series,), given the one that is not its own."""
        return np.where(np.isnan(self.own_p), open_p, self.own_p)
