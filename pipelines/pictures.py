"""The pictures of the report, drawn from its figures alone: SVG, the same bytes for the same figures."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monitor.estimates import share
from monitor.figures import BLUE, GREY, ORANGE, OTHERS, svg
from pipelines import comparison
from pipelines.baselines import efficiency, first_seeds
from pipelines.comparison import EFFICIENCY_PICTURE

# The scale that goes with the colours of monitor/figures.py.
_SCALE: Final = "cividis"


def confusion_picture(task: str) -> str:
    return f"confusion-{task}.svg"


def reliability_picture(task: str) -> str:
    return f"reliability-{task}.svg"


def draw(found: Mapping[str, Any]) -> dict[str, bytes]:
    """Every picture of the report by the name of its file."""
    made = {}
    for task, section in found["tasks"].items():
        made[confusion_picture(task)] = svg(_confusion(task, section))
        made[reliability_picture(task)] = svg(_reliability(task, section))
    for row in first_seeds((found["comparison"] or {}).get("baselines", ())):
        name = f"{row['task']}, learned alone"
        sides = {
            when: {"bins": part["bins"], "calibration_error": {"value": part["error"]}}
            for when, part in row["calibration"].items()
        }
        section = {"labels": list(row["f1"]), "confusion": row["confusion"], **sides}
        made[comparison.confusion_picture(row["task"])] = svg(_confusion(name, section))
        made[comparison.reliability_picture(row["task"])] = svg(_reliability(name, section))
    if curves := efficiency(found["comparison"]):
        made[EFFICIENCY_PICTURE] = svg(_efficiency(curves))
    return made


def _confusion(task: str, section: Mapping[str, Any]) -> Figure:
    """Rows are the right labels: the colour is the share of the row, the number the count."""
    labels, counts = section["labels"], np.array(section["confusion"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.6 + 0.42 * len(labels) if len(labels) > 6 else 5.0
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap=_SCALE, vmin=0, vmax=1)
    for right, given in zip(*np.nonzero(counts), strict=True):
        dark = shares[right, given] < 0.5
        axes.text(
            given, right, str(counts[right, given]), ha="center", va="center", fontsize=8, color="w" if dark else "k"
        )
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_xlabel("said by the model")
    axes.set_ylabel("right")
    axes.set_title(f"{task}: rows of the validation set")
    figure.colorbar(image, ax=axes, label="share of the right label's rows", shrink=0.8)
    return figure


def _reliability(task: str, section: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, height_ratios=(3, 1), squeeze=False)
    for column, (when, title) in enumerate((("before", "before"), ("after", "after"))):
        figures = section[when]
        upper, lower = grid[0, column], grid[1, column]
        bins = figures["bins"]
        left, width = [part["low"] for part in bins], bins[0]["high"] - bins[0]["low"]
        filled = [part for part in bins if part["texts"]]
        upper.bar(
            [part["low"] for part in filled],
            [part["accuracy"] for part in filled],
            width,
            align="edge",
            color=BLUE,
            edgecolor="white",
            label="share that is right",
        )
        # Whiskers are Wilson's 95 %, so that a bin of five rows is not taken for one of a thousand.
        ends = [share(round(part["accuracy"] * part["texts"]), part["texts"]) for part in filled]
        upper.errorbar(
            [part["confidence"] for part in filled],
            [part["accuracy"] for part in filled],
            [[end.value - end.low for end in ends], [end.high - end.value for end in ends]],
            fmt="o",
            color=ORANGE,
            markersize=4,
            elinewidth=1,
            label="at their mean confidence, 95 % interval",
        )
        upper.plot([0, 1], [0, 1], "--", color="black", linewidth=1, label="calibrated")
        error = figures["calibration_error"]["value"]
        upper.set_title(f"{task}, {title} temperature scaling: error {error:.3f}", fontsize=10)
        upper.set_ylim(0, 1)
        upper.set_ylabel("right")
        lower.bar(left, [part["texts"] for part in bins], width, align="edge", color=GREY, edgecolor="white")
        lower.set_xlim(0, 1)
        lower.set_ylabel("rows")
        lower.set_xlabel("confidence")
    grid[0, 0].legend(loc="upper left", fontsize=8, frameon=False)
    return figure


def _efficiency(curves: Mapping[str, list[Mapping[str, Any]]]) -> Figure:
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    styles = _styles(list(curves))
    for axes, (name, title) in zip(panels, (("accuracy", "accuracy"), ("macro_f1", "macro-F1")), strict=True):
        for way, groups in curves.items():
            colour, marker = styles[way]
            axes.errorbar(
                [group["share"] for group in groups],
                [group[name]["mean"] for group in groups],
                [group[name]["deviation"] or 0.0 for group in groups],
                color=colour,
                marker=marker,
                capsize=3,
                label=way,
            )
        _shares_below(axes, sorted({group["share"] for groups in curves.values() for group in groups}))
        axes.set_ylabel(f"sentiment {title}")
    panels[0].legend(fontsize=8, frameon=False)
    return figure


def _styles(ways: list[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each way; these differ both, for print in black and white."""
    colours = {"single": ORANGE}
    free = iter((BLUE, *OTHERS))
    markers = iter("sD^v<>p*")
    return {
        way: (colours.get(way) or next(free, "black"), "o" if way == "single" else next(markers, "x")) for way in ways
    }


def _shares_below(axes: Axes, shares: list[float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(shares, [f"{share:.0%}" for share in shares])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("share of the sentiment labels learned from")
