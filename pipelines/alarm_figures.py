"""Alarms and spikes as the figures of the report: rates with intervals, recall, calibration, and the bars."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

from monitor.estimates import CONFIDENCE, Estimate, share
from monitor.spikes import OPEN_P
from pipelines.alarms import BANDS, P_LEVELS, RATE_EDGES, THRESHOLDS, Z_LEVELS, Found, Kept, Quiet, Restarted
from pipelines.simulation import HOURS, KINDS, Kind

EXTRA_EDGES: Final = (0.0, 5.0, 10.0, 20.0, 40.0, np.inf)
"""Of the bands of negatives beyond the usual ones."""
_ENOUGH_ITEMS: Final = 2.0
_MANY_ITEMS: Final = 20.0


@dataclass(frozen=True)
class Calibration:
    """False alarms a series and week by rate and threshold: alarms[i] (p / OPEN_P) ** slope at rates[i]."""

    rates: tuple[float, ...]
    alarms: tuple[float, ...]
    slope: float


@dataclass(frozen=True)
class Bar:
    """What was to be reached, at most or at least, and what was."""

    what: str
    value: float
    bar: float
    at_most: bool

    @property
    def met(self) -> bool:
        return self.value <= self.bar if self.at_most else self.value >= self.bar


def rate(events: int, exposure: float) -> Estimate:
    """Events a unit of exposure, with the exact Poisson interval."""
    tail = (1 - CONFIDENCE) / 2
    low = stats.chi2.ppf(tail, 2 * events) / 2 if events else 0.0
    return Estimate(events / exposure, low / exposure, float(stats.chi2.ppf(1 - tail, 2 * events + 2)) / 2 / exposure)


def of_quiet(found: Quiet) -> dict[str, Any]:
    """False alarms by rate, on the first days, and how the p-values are calibrated."""
    bare = THRESHOLDS.index(OPEN_P)
    topics = len(found.rates)

    def alarms(by_topic: NDArray[np.int64], low: float = 0.0, high: float = np.inf) -> dict[str, float]:
        within = (found.rates >= low) & (found.rates < high)
        return asdict(rate(int(by_topic[within].sum()), found.weeks * max(int(within.sum()), 1)))

    return {
        "topics": topics,
        "topic_weeks": topics * found.weeks,
        "false_alarms": alarms(found.alarms[bare]),
        "false_alarms_by_rate": {name: alarms(found.alarms[bare], low, high) for name, low, high in BANDS},
        "cold": asdict(rate(int(found.cold_alarms.sum()), topics * 7)),
        "observed_to_nominal": {
            f"{level:g}": float(below.mean() / level) for level, below in zip(P_LEVELS, found.below, strict=True)
        },
        "volume_alarms": alarms(found.volume_alarms),
        "volume_told": {
            f"{level:g}": float(told.sum() / topics / found.weeks)
            for level, told in zip(Z_LEVELS, found.volume_spoken, strict=True)
        },
    }


def of_spikes(found: Sequence[Found]) -> dict[str, Any]:
    """Recall and delay by kind, rate and length, and what a market that moves sets off."""
    market = [spike for spike in found if spike.kind == "market"]
    told = [spike for spike in found if spike.kind in ("share", "negatives")]
    extra = []
    for low, high in pairwise(EXTRA_EDGES):
        within = [_delay(spike) for spike in told if low <= spike.extra < high]
        extra.append({"from": low, "to": None if np.isinf(high) else high, **_recall(within)})
    return {
        "kinds": {kind: _of_kind(found, kind) for kind in KINDS},
        "by_extra_negatives": extra,
        "market": {
            "episodes": len(market),
            "share": asdict(share(sum(spike.share_delay is not None for spike in market), len(market))),
            "volume": asdict(share(sum(spike.volume_delay is not None for spike in market), len(market))),
        },
    }


def _of_kind(found: Sequence[Found], kind: Kind) -> dict[str, Any]:
    own = [spike for spike in found if spike.kind == kind]
    return {
        "enough": _recall([_delay(spike) for spike in own if spike.rate >= _ENOUGH_ITEMS]),
        "enough_then": _recall([_delay(spike) for spike in own if spike.usual_items >= _ENOUGH_ITEMS]),
        "many": _recall([_delay(spike) for spike in own if spike.rate >= _MANY_ITEMS]),
        "by_rate": {
            name: {
                str(hours): _recall(
                    [_delay(spike) for spike in own if low <= spike.rate < high and round(spike.hours) == hours]
                )
                for hours in HOURS
            }
            for name, low, high in BANDS
        },
    }


def _delay(spike: Found) -> int | None:
    return spike.volume_delay if spike.kind == "volume" else spike.share_delay


def _recall(delays: Sequence[int | None]) -> dict[str, Any]:
    found = [delay for delay in delays if delay is not None]
    if not delays:
        return {"spikes": 0, "recall": None, "median_delay": None}
    return {
        "spikes": len(delays),
        "recall": asdict(share(len(found), len(delays))),
        "median_delay": float(np.median(found)) if found else None,
    }


def of_kept(found: Sequence[Kept]) -> dict[str, Any]:
    """Alarms a week of monitors that were asked for the same number of false ones."""
    return {
        "asked": found[0].asked,
        "monitor_weeks": sum(one.weeks for one in found),
        "alarms": asdict(rate(sum(one.alarms for one in found), sum(one.weeks for one in found))),
        "open_p": float(np.mean([one.open_p for one in found])),
    }


def of_restart(found: Restarted) -> dict[str, Any]:
    """How much a restart changes."""
    return {
        "median_p_factor": float(np.median(found.p_factors)),
        "largest_p_factor": float(found.p_factors.max()),
        "median_z_difference": float(np.median(found.z_differences)),
        "largest_z_difference": float(found.z_differences.max()),
        "states": found.states,
        "other_state": found.other_state,
    }


def calibrate(found: Quiet) -> tuple[Calibration, list[dict[str, float]]]:
    """Alarms by rate and threshold, and what was counted beside what they give.

    A Poisson regression of the alarms in bands of rates: an intercept for each band, a slope of log p for all.
    """
    at = np.log(np.array(THRESHOLDS) / OPEN_P)
    counts, weeks, rates = [], [], []
    for low, high in pairwise(RATE_EDGES):
        within = (found.rates >= low) & (found.rates < high)
        counts.append(found.alarms[:, within].sum(axis=1))
        weeks.append(within.sum() * found.weeks)
        rates.append(float(np.exp(np.log(found.rates[within]).mean())))
    table, exposure = np.array(counts), np.array(weeks)

    def intercepts(slope: float) -> NDArray[np.float64]:
        made: NDArray[np.float64] = (table.sum(axis=1) + 0.5) / (exposure * np.exp(slope * at).sum())
        return made

    def score(slope: float) -> float:
        expected = (intercepts(slope) * exposure)[:, None] * np.exp(slope * at)
        return float(((table - expected) * at).sum())

    slope = float(brentq(score, 0.2, 2.0))
    alarms = intercepts(slope)
    rows = [
        {
            "rate": rates[band],
            "p": THRESHOLDS[level],
            "counted": float(table[band, level] / exposure[band]),
            "fitted": float(alarms[band] * np.exp(slope * at[level])),
        }
        for band in range(len(rates))
        for level in range(len(THRESHOLDS))
    ]
    return Calibration(tuple(rates), tuple(map(float, alarms)), slope), rows


def bars(found: Mapping[str, Any]) -> list[Bar]:
    """Every bar that what was measured can be held against."""
    made = []
    for name, scenario in found["scenarios"].items():
        quiet, spikes = scenario["quiet"], scenario["spikes"]
        most = {"A": 0.05, "B": 0.12, "R": 0.10}[name]
        made.append(
            Bar(f"{name}: false alarms a topic and week at p <= 1e-4", quiet["false_alarms"]["value"], most, True)
        )
        for level, most in (("0.001", 2.0), ("0.0001", 3.0)):
            ratio = quiet["observed_to_nominal"][level]
            made.append(Bar(f"{name}: observed to nominal p at {level}", ratio, most, True))
        if name == "B":
            made.append(Bar("B: false alarms a topic and day, on days 1 to 7", quiet["cold"]["value"], 0.03, True))
        kinds = spikes["kinds"]
        for kind, what in (("share", "share x3"), ("volume", "volume x5"), ("negatives", "negatives x5")):
            if recall := kinds[kind]["enough"]["recall"]:
                made.append(
                    Bar(f"{name}: recall of {what} at 2 items a bucket and more", recall["value"], 0.88, False)
                )
        many = kinds["share"]["many"]
        if many["median_delay"] is not None:
            made.append(Bar(f"{name}: recall of share x3 at 20 and more", many["recall"]["value"], 0.95, False))
            made.append(Bar(f"{name}: its median delay, buckets", many["median_delay"], 2.0, True))
        made.append(
            Bar(
                f"{name}: alarms of negative share a topic and episode, the market doubling",
                spikes["market"]["share"]["value"],
                0.005,
                True,
            )
        )
    if found["nab"]:
        made.append(Bar("NAB, standard profile", found["nab"]["profiles"]["standard"]["score"], 70.0, False))
    for row in found["cost"]["rows"]:
        if row["series"] <= 1_000:
            made.append(
                Bar(
                    f"microseconds a series and step, {row['series']} series",
                    1e6 * row["seconds"] / row["series"],
                    100.0,
                    True,
                )
            )
        else:
            made.append(Bar(f"seconds a step, {row['series']:,} series", row["seconds"], 0.3, True))
    return made
