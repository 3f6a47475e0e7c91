"""How far a day is from the days that it is compared with, and when that is too far for chance.

A day is compared with reference days of its kind, weekday or weekend. What a day is by chance has two parts: the
sampling error of its items, which falls with their number, and that days differ, which does not. z is the distance
from what is usual in standard deviations of both, estimated from the reference days as in a random-effects
meta-analysis (DerSimonian and Laird 1986, doi:10.1016/0197-2456(86)90046-2), and rescaled by their spread about it,
so that its distribution depends on how many reference days there are and hardly on anything else.

The statistic is a running mean of z with exponential weights (EWMA: Roberts 1959,
doi:10.1080/00401706.1959.10489860), with each z cut at `Z_LIMIT`: a change that lasts adds up, and no single day is
enough. Its threshold is found by simulation, with the error of the reference in it, which tables of control charts
leave out (Jensen et al. 2006, doi:10.1080/00224065.2006.11918623). The detectors of river (ADWIN, PageHinkley, KSWIN)
take no such rate of false alarms, nor do they know that a day has a number of items, so they are not used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

WEIGHT: Final = 0.2
"""Of the newest day in the running mean."""
Z_LIMIT: Final = 5.0
LEAST_ALIKE: Final = 2
"""Fewest reference days of a kind, weekday or weekend, for a day of it to be compared."""
_DEVIATION: Final = float(np.sqrt(WEIGHT / (2 - WEIGHT)))  # of the running mean of independent standard normal z
_DAYS: Final = 364  # that each simulated stream lasts after its reference
_ALARMS: Final = 600  # onsets that a threshold is found by
_STREAMS: Final = (2_000, 20_000)


def is_weekend(day: date) -> bool:
    return day.weekday() >= 5


@dataclass(frozen=True)
class Usual:
    """What is usual on the reference days.

    Attributes:
        levels: by kind of day (False: weekday), the mean; kinds with fewer than `LEAST_ALIKE` days are not in it.
        between: variance between days of a kind, beside their sampling error.
        scale: the variance of reference days about their level, to what was made out to be theirs.
    """

    levels: dict[bool, float]
    between: float
    scale: float

    def z(self, value: float, variance: float, weekend: bool) -> float:
        """How far a value with this sampling variance is from its kind's level, in standard deviations."""
        spread = self.scale * (variance + self.between)
        return (value - self.levels[weekend]) / float(np.sqrt(max(spread, 1e-12)))  # days may be all the same


def usual(values: Sequence[float], variances: Sequence[float], weekend: Sequence[bool]) -> Usual:
    """What is usual, from the reference days' values, sampling variances and kinds, each (days,).

    Raises:
        ValueError: there are fewer than three days more than kinds of days.
    """
    y, v, kind = np.asarray(values, float), np.maximum(variances, 1e-12), np.asarray(weekend, bool)
    kept = [one for one in (False, True) if (kind == one).sum() >= LEAST_ALIKE]
    free = int(np.isin(kind, kept).sum()) - len(kept)
    if free < 2:
        raise ValueError(f"{len(y)} reference days, of which {free + len(kept)} can be used; give at least 4 alike")

    def about(weights: Floats) -> float:
        """The weighted squares about each kind's level."""
        squares = 0.0
        for one in kept:
            of, given = y[kind == one], weights[kind == one]
            squares += float((given * (of - np.average(of, weights=given)) ** 2).sum())
        return squares

    plain = 1 / v
    gained = sum(
        float(plain[at].sum() - (plain[at] ** 2).sum() / plain[at].sum()) for at in (kind == k for k in kept)
    )
    between = max(0.0, (about(plain) - free) / gained)
    weights = 1 / (v + between)
    levels = {one: float(np.average(y[kind == one], weights=weights[kind == one])) for one in kept}
    return Usual(levels, between, max(about(weights) / free, 1e-12))


def usual_distance(
    squares: Sequence[float], sampling: Sequence[float], left: Sequence[float], weekend: Sequence[bool]
) -> tuple[float, Usual]:
    """What is usual of squared distances of a day from the others, and the part of them that is between days.

    A squared distance is about the sampling variance plus what days differ by; its cube root, divided by that of its
    mean, is nearly normal (Wilson and Hilferty 1931, doi:10.1073/pnas.17.12.684).

    Args:
        squares: of each reference day from the others of its kind, (days,).
        sampling: what they are by sampling alone, (days,).
        left: by how much what days differ by is larger for the few days that it is compared with, (days,): 1 + 1/d.
    """
    apart = max(0.0, float(np.sum(squares) - np.sum(sampling)) / float(np.sum(left)))
    roots = [root(*one, apart) for one in zip(squares, sampling, left, strict=True)]
    return apart, usual(roots, [0.0] * len(roots), weekend)


def root(square: float, sampling: float, left: float, apart: float) -> float:
    """A squared distance as `usual_distance` compares it."""
    return float(np.cbrt(square / max(sampling + left * apart, 1e-12)))


def statistic(before: float | None, z: float) -> float:
    """The running mean after another day, in its own standard deviations; `before` is None on the first."""
    cut = float(np.clip(z, -Z_LIMIT, Z_LIMIT))
    return (1 - WEIGHT) * (before or 0.0) + WEIGHT * cut / _DEVIATION


def beyond(value: float, threshold: float, *, both_sides: bool) -> bool:
    return (abs(value) if both_sides else value) > threshold


@lru_cache(maxsize=32)
def threshold(weekdays: int, weekend_days: int, days: float, *, both_sides: bool, apart: bool) -> float:
    """The threshold of one measure's statistic at which alarms by chance begin once in `days` days on average.

    The average is over streams of news and over what their reference days happened to be: a stream with unlucky
    ones alarms more often, most streams alarm less.

    Args:
        weekdays, weekend_days: how many reference days there are of each kind.
        both_sides: whether a fall alarms too.
        apart: whether a day is measured from what the reference days hold together, a mix or a vocabulary. That lasts
            as their level does, and is off by chance too: the error of the reference counts twice.
    """
    streams = int(np.clip(_ALARMS * days / _DAYS, *_STREAMS))
    rng = np.random.default_rng([weekdays, weekend_days])
    counts = [n if n >= LEAST_ALIKE else 0 for n in (weekdays, weekend_days)]
    free = sum(counts) - sum(n > 0 for n in counts)
    pattern = np.array([0, 0, 0, 0, 0, 1, 1] if all(counts) else [int(counts[0] == 0)])
    off = rng.standard_normal((2, streams)) * np.sqrt((1 + apart) / np.maximum(counts, 1))[:, None]
    spread = np.sqrt(rng.chisquare(free, streams) / free)
    running = np.empty((_DAYS, streams))
    last = np.zeros(streams)
    for day, kind in enumerate(np.resize(pattern, _DAYS)):
        z = (rng.standard_normal(streams) - off[kind]) / spread
        last = running[day] = (1 - WEIGHT) * last + WEIGHT / _DEVIATION * np.clip(z, -Z_LIMIT, Z_LIMIT)
    if both_sides:
        np.abs(running, out=running)
    low, high = 0.0, Z_LIMIT / _DEVIATION
    wanted = streams * _DAYS / days
    for _ in range(24):
        middle = (low + high) / 2
        over = running > middle
        begun = int(over[0].sum() + (over[1:] & ~over[:-1]).sum())
        low, high = (middle, high) if begun > wanted or middle < 1 else (low, middle)
    return high
