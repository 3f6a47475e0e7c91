"""The pictures of the report on alerts, drawn from its figures alone."""

from collections.abc import Mapping
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from monitor.figures import BLUE, GREY, ORANGE, svg

RECALL: Final = "recall.svg"
FALSE_ALARMS: Final = "false-alarms.svg"
THRESHOLD: Final = "threshold.svg"
_SCENARIOS: Final = {"A": (BLUE, "o"), "B": (ORANGE, "s"), "R": (GREY, "^")}
_KINDS: Final = {"share": "share x3", "volume": "volume x5", "negatives": "negatives x5"}


def draw(found: Mapping[str, Any]) -> dict[str, bytes]:
    """Every picture of the report by the name of its file."""
    return {
        FALSE_ALARMS: svg(_false_alarms(found["scenarios"])),
        RECALL: svg(_recall(found["scenarios"])),
        THRESHOLD: svg(_threshold(found["calibration"])),
    }


def _false_alarms(scenarios: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(9, 4), layout="constrained")
    alarms, p_values = figure.subplots(1, 2)
    for offset, (name, scenario) in enumerate(scenarios.items()):
        colour, marker = _SCENARIOS[name]
        bands = scenario["quiet"]["false_alarms_by_rate"]
        values = [band["value"] for band in bands.values()]
        spread = [
            [band["value"] - band["low"] for band in bands.values()],
            [band["high"] - band["value"] for band in bands.values()],
        ]
        places = [index + 0.15 * (offset - 1) for index in range(len(bands))]
        alarms.errorbar(places, values, spread, fmt=marker, color=colour, capsize=3, label=f"scenario {name}")
        alarms.set_xticks(range(len(bands)), list(bands))
        ratios = scenario["quiet"]["observed_to_nominal"]
        p_values.plot([float(p) for p in ratios], list(ratios.values()), f"{marker}-", color=colour)
    alarms.set_xlabel("items a bucket")
    alarms.set_ylabel("false alarms a topic and week, at p <= 1e-4")
    alarms.set_ylim(bottom=0)
    alarms.legend(fontsize=8, frameon=False)
    p_values.axhline(1, color="black", linewidth=1, linestyle="--")
    p_values.set_xscale("log")
    p_values.set_ylim(bottom=0)
    p_values.set_xlabel("p-value")
    p_values.set_ylabel("observed to nominal")
    return figure


def _recall(scenarios: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    panels = figure.subplots(1, len(_KINDS), sharey=True)
    for axes, (kind, title) in zip(panels, _KINDS.items(), strict=True):
        for name, scenario in scenarios.items():
            colour, marker = _SCENARIOS[name]
            bands = scenario["spikes"]["kinds"][kind]["by_rate"]
            for hours, line in (("1", "--"), ("3", "-")):
                values = [(band[hours]["recall"] or {}).get("value", float("nan")) for band in bands.values()]
                axes.plot(range(len(bands)), values, f"{marker}{line}", color=colour, label=f"{name}, {hours} h")
        axes.set_xticks(range(len(bands)), list(bands), fontsize=8)
        axes.set_xlabel("items a bucket")
        axes.set_ylim(0, 1.02)
        axes.set_title(title, fontsize=10)
    panels[0].set_ylabel("spikes found")
    panels[0].legend(fontsize=7, frameon=False)
    return figure


def _threshold(calibration: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    rows = calibration["rows"]
    rates = sorted({row["rate"] for row in rows})
    for index, rate in enumerate(rates):
        own = [row for row in rows if row["rate"] == rate]
        colour = mpl.colormaps["cividis"](index / max(len(rates) - 1, 1) * 0.9)
        axes.plot([row["p"] for row in own], [row["fitted"] for row in own], "-", color=colour)
        counted = [row for row in own if row["counted"] > 0]
        axes.plot(
            [row["p"] for row in counted],
            [row["counted"] for row in counted],
            "o",
            color=colour,
            label=f"{rate:.2g} items a bucket",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("p-value at which alerts open")
    axes.set_ylabel("false alarms a series and week")
    axes.legend(fontsize=7, frameon=False)
    return figure
