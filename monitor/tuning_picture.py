"""The picture of a sweep: false alarms against recall, and against delay."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from monitor.figures import BLUE, GREY, ORANGE, OTHERS, png, svg
from monitor.output import Misuse, written_bytes
from monitor.tuning import Row, Sweep

# Colour, marker, and where labels stand from their points, so that those of several lines do not cover each other.
_STYLES: Final = (
    (BLUE, "o", (5, 5)),
    (ORANGE, "s", (5, -10)),
    (GREY, "^", (-12, 7)),
    (OTHERS[0], "D", (-12, -12)),
)
_FORMATS: Final = {".svg": svg, ".png": png}


def check(path: Path) -> None:
    """Whether a picture can be drawn of this name.

    Raises:
        Misuse: it does not end in .svg or .png, or its folder is not there.
    """
    if path.suffix.lower() not in _FORMATS:
        raise Misuse(f"--picture: {path} ends in {path.suffix!r}, expected .svg or .png; give another name")
    if not path.resolve().parent.is_dir():
        raise Misuse(f"--picture: {path} cannot be written, there is no folder {path.parent}; give another path")


def write(found: Sweep, path: Path) -> None:
    """Draw a sweep into the file of this name, which appears whole."""
    written_bytes(path, _FORMATS[path.suffix.lower()](draw(found)))


def draw(found: Sweep) -> Figure:
    """A line for each set of windows, a point for each threshold."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    recall, delay = figure.subplots(1, 2)
    windows = list(dict.fromkeys(row.choice.windows_minutes for row in found.rows))
    for minutes, (colour, marker, place) in zip(windows, _STYLES, strict=False):
        rows = [row for row in found.rows if row.choice.windows_minutes == minutes]
        alarms = [_or_nan(row.scores.false_alarms_per_week) for row in rows]
        recalls = [math.nan if (r := row.recall_scores.recall) is None else r.value for row in rows]
        delays = [_or_nan(row.recall_scores.median_delay_minutes) for row in rows]
        name = f"windows of {', '.join(map(str, minutes))} min"
        for axes, values in ((recall, recalls), (delay, delays)):
            axes.plot(alarms, values, f"{marker}-", color=colour, markersize=5, label=name)
            for (x, y), there in _by_place(rows, alarms, values).items():
                label = ", ".join(f"{row.choice.threshold[2]:g}" for row in there)
                axes.annotate(label, (x, y), place, textcoords="offset points", fontsize=7, color=colour)
                if any(row.choice.current for row in there):
                    axes.plot([x], [y], "o", markersize=13, markerfacecolor="none", markeredgecolor="black")
    for axes in (recall, delay):
        # Linear up to one in ten weeks, so that none at all has a place too.
        axes.set_xscale("symlog", linthresh=0.1)
        axes.margins(0.12)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("false alarms a week")
    recall.set_ylim(-0.02, 1.05)
    recall.set_ylabel("share found of " + ("labelled events" if found.plants is None else "planted spikes"))
    delay.set_ylim(bottom=0)
    delay.set_ylabel("median delay of those found, minutes")
    recall.legend(fontsize=8, frameon=False)
    threshold = ".".join(found.rows[0].choice.threshold[:2])
    figure.suptitle(f"Each point: {threshold}; circle: the settings as they are", fontsize=10)
    return figure


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _by_place(
    rows: Sequence[Row], alarms: Sequence[float], values: Sequence[float]
) -> dict[tuple[float, float], list[Row]]:
    """The rows that are drawn at one place, by that place."""
    places: dict[tuple[float, float], list[Row]] = {}
    for row, x, y in zip(rows, alarms, values, strict=True):
        if not math.isnan(y):
            places.setdefault((x, y), []).append(row)
    return places
