"""Does learning the tasks together pay? Runs of both ways, told from a file, brought together over their seeds."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field, JsonValue, TypeAdapter, ValidationError
from scipy import stats

from monitor.estimates import CONFIDENCE
from monitor.model.scorer import SENTIMENT
from pipelines.calibration import Bin

Share = Annotated[float, Field(gt=0, le=1)]
Score = Annotated[float, Field(ge=0, le=1)]
FIGURES: Final = {"accuracy": "accuracy", "macro_f1": "macro-F1"}
ERRORS: Final = ("before", "after")


class ComparisonError(ValueError):
    """A file of runs is absent or wrong; the message names the file, the key, the value and what was expected."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure with the ends of its 95 % interval by bootstrap."""

    value: Score
    low: Score
    high: Score


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How right a run's model was on so many rows."""

    accuracy: Interval
    macro_f1: Interval
    rows: Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far a run's probabilities can be believed: the expected calibration error, and the bins that it sums up."""

    error: Score
    bins: Annotated[list[Bin], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class Metrics(Scores):
    """How right and how sure of itself a run's model was on a task's validation rows.

    Attributes:
        calibration: `before`, as the model came out of training, and `after`, with a temperature fitted to the
            development rows.
        f1: by label.
        confusion: (right, given) counts of rows.
    """

    calibration: dict[Literal["before", "after"], Calibration]
    f1: Annotated[dict[str, Score], Field(min_length=2)]
    confusion: list[list[Annotated[int, Field(ge=0)]]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One model trained and measured.

    Attributes:
        name: `joint` learned every task at once, `single` one task alone.
        share: of the sentiment labels that it learned from.
        weighting, sharing: how the joint loss weighs the tasks, and what the tasks share.
        headlines: how right it was on SEntFiN's headlines, where it learned from none of them; else None.
        seconds: that the training took.
    """

    name: Literal["joint", "single"]
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    seed: int
    share: Share
    weighting: str
    sharing: str
    metrics: dict[str, Metrics]
    headlines: Scores | None = None
    seconds: Annotated[float, Field(ge=0)]

    @property
    def way(self) -> str:
        """What sets it apart from other runs, but for seed and share."""
        return f"joint, {self.weighting}, {self.sharing}" if self.name == "joint" else "single"


@dataclass(frozen=True, kw_only=True)
class _File:
    settings: dict[str, JsonValue]
    runs: Annotated[list[Run], Field(min_length=1)]


_FILE = TypeAdapter(_File)


def read_comparison(path: Path) -> dict[str, Any]:
    """The runs in a JSON file as figures for the report: each way over its seeds, and joint against single.

    Raises:
        ComparisonError: the file cannot be read or is not as expected, or has no runs to compare.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ComparisonError(f"{path}: cannot be read ({error.strerror}); give the file of the runs") from error
    try:
        file = _FILE.validate_python(json.loads(content))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise ComparisonError(f"{path}: {key}: {first['msg']}, found {first['input']!r:.80}") from error
    except ValueError as error:
        raise ComparisonError(f"{path}: not JSON: {error}") from error
    _check(path, file.runs)
    return {"settings": file.settings, **compare(file.runs)}


def _check(path: Path, runs: Sequence[Run]) -> None:
    seen: dict[tuple[object, ...], int] = {}
    for number, run in enumerate(runs):
        where = f"{path}: runs.{number}"
        if set(run.metrics) != set(run.tasks):
            raise ComparisonError(
                f"{where}.metrics: has {', '.join(run.metrics) or 'none'}, expected those of its tasks, "
                f"{', '.join(run.tasks)}"
            )
        if (run.name == "single") != (len(run.tasks) == 1):
            raise ComparisonError(
                f"{where}.tasks: {', '.join(run.tasks)} for a run named {run.name!r}; `single` has one task, "
                "`joint` more"
            )
        same = (run.way, run.tasks, run.share, run.seed, run.headlines is None)
        if same in seen:
            raise ComparisonError(f"{where}: the same way, tasks, share and seed as runs.{seen[same]}; leave one out")
        seen[same] = number
    for name in ("joint", "single"):
        if not any(run.name == name and run.headlines is None for run in runs):
            raise ComparisonError(f"{path}: runs: none is named {name!r}, so there is nothing to compare")


def compare(runs: Sequence[Run]) -> dict[str, Any]:
    """Figures by task, way and share of the sentiment labels, and every joint way against single-task learning.

    `difference` is joint less single, with a 95 % interval of Welch's t (doi:10.1093/biomet/34.1-2.28) over the
    seeds; `beyond_spread` says whether it excludes 0, and is None where a side has fewer than two seeds.
    """
    learned_all = [run for run in runs if run.headlines is None]
    tasks = list(dict.fromkeys(task for run in learned_all for task in run.tasks))
    groups, differences = [], []
    for task in tasks:
        about = [run for run in learned_all if task in run.tasks]
        # Only the sentiment labels were thinned out, so only there does a smaller share say something.
        shares = sorted({run.share for run in about}) if task == SENTIMENT else [1.0]
        for share in shares:
            by_way: dict[str, list[Run]] = {}
            for run in about:
                if run.share == share:
                    by_way.setdefault(run.way, []).append(run)
            for way, found in sorted(by_way.items(), key=lambda group: group[0] != "single"):
                scores: dict[str, Any] = {figure: _mean(_values(found, task, figure)) for figure in FIGURES}
                scores |= {
                    when: _mean([run.metrics[task].calibration[when].error for run in found]) for when in ERRORS
                }
                labels = found[0].metrics[task].f1
                scores["f1"] = {label: _mean([run.metrics[task].f1[label] for run in found]) for label in labels}
                rows = max(run.metrics[task].rows for run in found)
                seconds = float(np.mean([run.seconds for run in found]))
                groups.append({"task": task, "share": share, "way": way, "rows": rows, "seconds": seconds, **scores})
                if way != "single" and "single" in by_way:
                    for figure in FIGURES:
                        pair = (_values(found, task, figure), _values(by_way["single"], task, figure))
                        differences.append(
                            {"task": task, "share": share, "way": way, "figure": figure, **_difference(*pair)}
                        )
    return {
        "groups": groups,
        "differences": differences,
        "baselines": _baselines(learned_all),
        "headlines": _on_headlines(runs),
    }


def _values(runs: Sequence[Run], task: str, figure: str) -> list[float]:
    return [getattr(run.metrics[task], figure).value for run in runs]


def _baselines(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Every model that learned one task alone from all its labels, by task and seed."""
    single = [run for run in runs if run.name == "single" and run.share == 1.0]
    return [
        {"task": run.tasks[0], "seed": run.seed, **asdict(run.metrics[run.tasks[0]])}
        for run in sorted(single, key=lambda run: (run.tasks, run.seed))
    ]


def _on_headlines(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Every model that learned without headlines, and how right it was on them."""
    return [
        {"way": run.way, "seed": run.seed, "validation": asdict(run.metrics[SENTIMENT]), **asdict(run.headlines)}
        for run in sorted(runs, key=lambda run: (run.way, run.seed))
        if run.headlines is not None
    ]


def _mean(values: Sequence[float]) -> Mapping[str, float | int | None]:
    """Mean and, of two or more, standard deviation of the sample."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "deviation": deviation, "seeds": len(values)}


def _difference(joint: Sequence[float], single: Sequence[float]) -> dict[str, float | bool | None]:
    difference = float(np.mean(joint) - np.mean(single))
    if min(len(joint), len(single)) < 2:
        return {"difference": difference, "low": None, "high": None, "beyond_spread": None}
    parts = [float(np.var(values, ddof=1)) / len(values) for values in (joint, single)]
    reach = 0.0
    if variance := sum(parts):
        freedom = variance**2 / sum(
            part**2 / (len(values) - 1) for part, values in zip(parts, (joint, single), strict=True)
        )
        reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(variance)
    return {
        "difference": difference,
        "low": difference - reach,
        "high": difference + reach,
        "beyond_spread": abs(difference) > reach,
    }


def efficiency(comparison: Mapping[str, Any] | None) -> dict[str, list[Mapping[str, Any]]]:
    """By way of learning, its figures on sentiment at each share of the labels; nothing where there is one share."""
    groups = [group for group in (comparison or {}).get("groups", ()) if group["task"] == SENTIMENT]
    if len({group["share"] for group in groups}) < 2:
        return {}
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for group in groups:
        curves.setdefault(group["way"], []).append(group)
    return curves


def first_seeds(baselines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of each task, the single-task model of the first seed."""
    first: dict[str, Mapping[str, Any]] = {}
    for row in baselines:
        first.setdefault(row["task"], row)
    return list(first.values())
