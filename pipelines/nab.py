"""How early and how rarely wrong volume bursts are, as the Numenta Anomaly Benchmark scores detectors.

Source: A. Lavin and S. Ahmad, "Evaluating Real-time Anomaly Detection Algorithms - the Numenta Anomaly Benchmark",
ICMLA 2015, arXiv:1510.03336. In short, with weights A_TP, A_FP and A_FN of an application profile:

- a detector gives each record a score from what came up to it; a record whose score reaches the threshold, one for
  all series, is a detection;
- what it says within the first 15 % of a series does not count (of 5,000 records at most: the benchmark's probation);
- position y runs from -1 at a window's first record to 0 at its last, and on beyond it in lengths of the window;
  sigma(y) = 2 / (1 + exp(5 y)) - 1 is what a detection is worth there;
- of the detections in a window the first counts, A_TP sigma(y) / sigma(-1); a window without one counts -A_FN;
- each detection outside counts A_FP sigma(y) by the window before it, -A_FP where there is none, or far behind it;
- the score is 100 (S - S_null) / (S_perfect - S_null): 0 is what a detector gets that never speaks, 100 what one gets
  that speaks at the first record of each window and never else.

The threshold is the one with the best score, profile by profile, as the benchmark has it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitor.records import MonitorError

Floats = NDArray[np.float64]

PROBATION: Final = 0.15
PROBATION_RECORDS: Final = 5_000
_STEEPNESS: Final = 5.0
_FAR: Final = 3.0


class BenchmarkError(MonitorError):
    """A file of the benchmark is absent or not as expected; the message names it."""


@dataclass(frozen=True)
class Profile:
    """What an application gains by a detection, and loses by a false and by a missed one."""

    true_positive: float
    false_positive: float
    false_negative: float


PROFILES: Final = {
    "standard": Profile(1.0, 0.11, 1.0),
    "low FP": Profile(1.0, 0.22, 1.0),
    "low FN": Profile(1.0, 0.11, 2.0),
}


@dataclass(frozen=True)
class LabelledSeries:
    """Counts by 5-minute record, and the windows that hold something unusual, as records [first, last], both in."""

    name: str
    times: pd.DatetimeIndex
    counts: Floats
    windows: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Result:
    """A profile's score at the threshold that is best for it, and what was detected at it."""

    score: float
    threshold: float
    found: int
    windows: int
    false_detections: int


def read(folder: Path) -> list[LabelledSeries]:
    """The series of a folder: CSV files with `windows.json` beside them, or a checkout of the benchmark.

    Of a checkout all of `data/realTweets` are read.

    Raises:
        BenchmarkError: there are none, or a file is not as expected.
    """
    labels = folder / "labels" / "combined_windows.json"
    files = sorted((folder / "data" / "realTweets").glob("*.csv"))
    if not labels.exists():
        labels, files = folder / "windows.json", sorted(folder.glob("*.csv"))
    if not files or not labels.exists():
        raise BenchmarkError(
            f"{folder}: no series here; expected CSV files and windows.json, or a checkout of the benchmark with "
            "data/realTweets and labels/combined_windows.json"
        )
    try:
        windows = json.loads(labels.read_text(encoding="utf-8"))
        return [_labelled(path, windows[f"realTweets/{path.name}"]) for path in files]
    except (KeyError, ValueError, TypeError) as error:
        raise BenchmarkError(f"{labels} and the series beside it are not as expected: {error!r}") from error


def _labelled(path: Path, windows: Sequence[Sequence[str]]) -> LabelledSeries:
    rows = pd.read_csv(path)
    times = pd.DatetimeIndex(pd.to_datetime(rows["timestamp"], utc=True))
    ends = [[pd.Timestamp(end, tz="UTC") for end in window] for window in windows]
    places = tuple(
        (int(times.searchsorted(first)), int(times.searchsorted(last, side="right")) - 1) for first, last in ends
    )
    return LabelledSeries(path.stem, times, rows["value"].to_numpy(dtype=np.float64), places)


def sigma(position: Floats) -> Floats:
    """What a detection at these positions is worth, from -1 to nearly 1."""
    return np.where(position > _FAR, -1.0, 2 / (1 + np.exp(_STEEPNESS * np.minimum(position, _FAR))) - 1)


def worth(records: int, windows: Sequence[tuple[int, int]]) -> tuple[Floats, NDArray[np.int64]]:
    """What a detection at each record is worth, and the window that it lies in (-1: none); the first is 1 at a
    window's first record."""
    at = np.arange(records)
    value, inside = np.full(records, -1.0), np.full(records, -1)
    for index, (first, last) in enumerate(sorted(windows)):
        width = last - first + 1
        within = (at >= first) & (at <= last)
        value[within] = sigma((at[within] - last - 1) / width) / sigma(np.array(-1.0))
        inside[within] = index
        value[at > last] = sigma((at[at > last] - last) / max(width - 1, 1))
    return value, inside


def probation(records: int) -> int:
    """How many records at a series' start do not count."""
    return int(PROBATION * min(records, PROBATION_RECORDS))


def score_at(
    series: Sequence[LabelledSeries], scores: Mapping[str, Floats], threshold: float, profile: Profile
) -> Result:
    """The score of one threshold for all series.

    Args:
        scores: by the series' names, (records,).
    """
    total, found, windows, false = 0.0, 0, 0, 0
    for one in series:
        value, inside = worth(len(one.counts), one.windows)
        said = np.flatnonzero(scores[one.name] >= threshold)
        said = said[said >= probation(len(one.counts))]
        wrong = said[inside[said] < 0]
        total += profile.false_positive * float(value[wrong].sum())
        false += len(wrong)
        right = said[inside[said] >= 0]
        seen, first = np.unique(inside[right], return_index=True)
        total += profile.true_positive * float(value[right[first]].sum())
        total -= profile.false_negative * (len(one.windows) - len(seen))
        found += len(seen)
        windows += len(one.windows)
    least, most = -profile.false_negative * windows, profile.true_positive * windows
    return Result(100 * (total - least) / (most - least), threshold, found, windows, false)


def best(series: Sequence[LabelledSeries], scores: Mapping[str, Floats], profile: Profile) -> Result:
    """The score at the threshold that is best for the profile, one for all series."""
    values = np.unique(np.concatenate([scores[one.name] for one in series]))
    candidates = values[values > 0]
    # Few of the least scores can be best, and every one of them is a threshold: look closely at the upper ones only.
    candidates = candidates[-4_000:]
    results = [score_at(series, scores, float(threshold), profile) for threshold in [*candidates, np.inf]]
    return max(results, key=lambda result: result.score)
