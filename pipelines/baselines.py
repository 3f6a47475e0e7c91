"""Does learning the tasks together pay? Runs of both ways, told from a file, brought together over their seeds."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field, JsonValue, TypeAdapter, ValidationError
from scipy import stats

from monitor.model.scorer import SENTIMENT
from pipelines.markdown import points, spread, table
from pipelines.scores import CONFIDENCE

Share = Annotated[float, Field(gt=0, le=1)]
Score = Annotated[float, Field(ge=0, le=1)]
FIGURES: Final = {"accuracy": "accuracy", "macro_f1": "macro-F1"}
_ERRORS: Final = ("calibration_error", "calibration_error_scaled")
EFFICIENCY_PICTURE: Final = "data-efficiency.svg"


class ComparisonError(ValueError):
    """A file of runs is absent or wrong; the message names the file, the key, the value and what was expected."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """How right a run's model was on a task's validation rows.

    Attributes:
        calibration_error: expected calibration error as the model came out of training.
        calibration_error_scaled: the same with a temperature fitted to the development rows.
        f1: by label.
    """

    accuracy: Score
    macro_f1: Score
    rows: Annotated[int, Field(ge=1)]
    calibration_error: Score
    calibration_error_scaled: Score
    f1: Annotated[dict[str, Score], Field(min_length=2)]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One model trained and measured.

    Attributes:
        name: `joint` learned every task at once, `single` one task alone.
        share: of the sentiment labels that it learned from.
        weighting, sharing: how the joint loss weighs the tasks, and what the tasks share.
        seconds: that the training took.
    """

    name: Literal["joint", "single"]
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    seed: int
    share: Share
    weighting: str
    sharing: str
    metrics: dict[str, Metrics]
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
        same = (run.way, run.tasks, run.share, run.seed)
        if same in seen:
            raise ComparisonError(f"{where}: the same way, tasks, share and seed as runs.{seen[same]}; leave one out")
        seen[same] = number
    for name in ("joint", "single"):
        if not any(run.name == name for run in runs):
            raise ComparisonError(f"{path}: runs: none is named {name!r}, so there is nothing to compare")


def compare(runs: Sequence[Run]) -> dict[str, Any]:
    """Figures by task, way and share of the sentiment labels, and every joint way against single-task learning.

    `difference` is joint less single, with a 95 % interval of Welch's t (doi:10.1093/biomet/34.1-2.28) over the
    seeds; `beyond_spread` says whether it excludes 0, and is None where a side has fewer than two seeds.
    """
    tasks = list(dict.fromkeys(task for run in runs for task in run.tasks))
    groups, differences = [], []
    for task in tasks:
        about = [run for run in runs if task in run.tasks]
        # Only the sentiment labels were thinned out, so only there does a smaller share say something.
        shares = sorted({run.share for run in about}) if task == SENTIMENT else [1.0]
        for share in shares:
            by_way: dict[str, list[Run]] = {}
            for run in about:
                if run.share == share:
                    by_way.setdefault(run.way, []).append(run)
            for way, found in sorted(by_way.items(), key=lambda group: group[0] != "single"):
                scores: dict[str, Any] = {
                    figure: _mean(_values(found, task, figure)) for figure in (*FIGURES, *_ERRORS)
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
    return {"groups": groups, "differences": differences}


def _values(runs: Sequence[Run], task: str, figure: str) -> list[float]:
    return [getattr(run.metrics[task], figure) for run in runs]


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


def document(comparison: Mapping[str, Any] | None) -> Iterable[str]:
    """The report's section on the figures of `read_comparison`; None where there are none."""
    yield "## Joint against single-task learning"
    if comparison is None:
        yield "Not measured here: no file of runs was given."
        return
    groups, differences = comparison["groups"], comparison["differences"]
    yield (
        "Models trained with the same budget, as many passes over their own rows: joint ones learn every task at "
        "once, single ones a task alone. All without teachers, measured in fp32. Mean and standard deviation over "
        "seeds. ECE: expected calibration error as trained, and with a temperature fitted to the development rows. "
        "The difference is joint less single in points, with a 95 % interval of Welch's t over the seeds; it is "
        "beyond the seeds' spread where that interval leaves out 0."
    )
    if comparison["settings"]:
        yield "Settings: " + ", ".join(f"{key} {value}" for key, value in comparison["settings"].items()) + "."
    whole = [group for group in groups if group["share"] == 1.0]
    yield table(
        ("task", "way", "seeds", "accuracy", "macro-F1", "ECE", "ECE, scaled", "rows", "seconds of training"),
        (
            (
                group["task"],
                group["way"],
                f"{group['accuracy']['seeds']}",
                *(spread(group[figure]) for figure in (*FIGURES, *_ERRORS)),
                f"{group['rows']:,}",
                f"{group['seconds']:,.0f}",
            )
            for group in whole
        ),
    )
    yield _differences([row for row in differences if row["share"] == 1.0])
    yield _verdict([row for row in differences if row["share"] == 1.0])
    yield "F1 by label, mean and standard deviation over seeds:"
    yield from _by_label(whole)
    curves = efficiency(comparison)
    if not curves:
        return
    yield "### With fewer sentiment labels"
    yield "All topic labels are kept; the sentiment labels learned from are thinned out to the share given."
    yield table(
        ("share of labels", "way", "seeds", "accuracy", "macro-F1"),
        (
            (
                f"{group['share']:.0%}",
                way,
                f"{group['accuracy']['seeds']}",
                *(spread(group[figure]) for figure in FIGURES),
            )
            for way, found in curves.items()
            for group in found
        ),
    )
    thinned = [row for row in differences if row["task"] == SENTIMENT and row["share"] < 1.0]
    yield _differences(thinned)
    yield _verdict(thinned)
    yield f"![Data efficiency]({EFFICIENCY_PICTURE})"


def _by_label(groups: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    for task in dict.fromkeys(group["task"] for group in groups):
        ways = [group for group in groups if group["task"] == task]
        labels = [label for label in ways[0]["f1"] if all(label in group["f1"] for group in ways)]
        yield table(
            (task, *(group["way"] for group in ways)),
            ((label, *(spread(group["f1"][label]) for group in ways)) for label in labels),
        )


def _differences(rows: Sequence[Mapping[str, Any]]) -> str:
    said = {True: "yes", False: "no", None: "one seed cannot tell"}
    return table(
        ("task", "share of sentiment labels", "way", "figure", "difference", "95 % interval", "beyond the spread"),
        (
            (
                row["task"],
                f"{row['share']:.0%}",
                row["way"],
                FIGURES[row["figure"]],
                points(row["difference"]),
                "" if row["low"] is None else f"{points(row['low'])} to {points(row['high'])}",
                said[row["beyond_spread"]],
            )
            for row in rows
        ),
    )


def _verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    def named(row: Mapping[str, Any]) -> str:
        share = "" if row["share"] == 1.0 else f" at {row['share']:.0%} of the sentiment labels"
        beyond = {True: "beyond the seeds' spread", False: "within the seeds' spread", None: "one seed"}
        return (
            f"{row['task']} {FIGURES[row['figure']]}{share} ({row['way']}: {points(row['difference'])} points, "
            f"{beyond[row['beyond_spread']]})"
        )

    if not rows:
        return ""
    lost, won = ([named(row) for row in rows if row["difference"] * sign > 0] for sign in (-1, 1))
    return (
        f"**Joint learning loses** on {'; '.join(lost) if lost else 'nothing measured here'}. "
        f"It gains on {'; '.join(won) if won else 'nothing measured here'}."
    )
