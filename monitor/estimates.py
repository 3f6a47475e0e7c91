"""Figures with the interval that chance leaves them in."""

from dataclasses import dataclass
from typing import Final

CONFIDENCE: Final = 0.95
"""Of every interval."""


@dataclass(frozen=True)
class Estimate:
    """A figure with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def share(hits: int, of: int) -> Estimate:
    """A share with its Wilson interval, which holds for small counts and shares near 0 and 1 too.

    Raises:
        ValueError: `of` is 0.
    """
    from scipy.stats import binomtest  # takes longer to import than everything else here

    found = binomtest(hits, of).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(hits / of, float(found.low), float(found.high))
