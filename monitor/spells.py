"""When a series is in a spike: from the step that opens one until it has been calm for long enough."""

from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from monitor.records import BUCKET

Flags = NDArray[np.bool_]


class Spells:
    """Which series are in a spike, for any shape of flags whose last axis is the series.

    Attributes:
        firing: in a spike after the last step.
        before: in a spike after the step before it.
    """

    def __init__(self, *lead: int, resolve_after_minutes: int) -> None:
        self._steps_needed = timedelta(minutes=resolve_after_minutes) // BUCKET
        self.firing: Flags = np.zeros((*lead, 0), dtype=bool)
        self.before: Flags = self.firing
        self._calm_steps = np.zeros((*lead, 0), dtype=np.int64)

    def grow(self, rows: int) -> None:
        """Make room for `rows` series more."""
        grow = [(0, 0)] * (self.firing.ndim - 1) + [(0, rows)]
        self.firing = np.pad(self.firing, grow)
        self.before = np.pad(self.before, grow)
        self._calm_steps = np.pad(self._calm_steps, grow)

    def advance(self, opens: Flags, calm: Flags) -> None:
        """One step: what opens a spike now, and what is as usual now."""
        self._calm_steps = np.where(calm, self._calm_steps + 1, 0)
        self.before = self.firing
        self.firing = (self.firing & (self._calm_steps < self._steps_needed)) | opens
