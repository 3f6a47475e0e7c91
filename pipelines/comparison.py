"""The report's section on joint against single-task learning: every figure in it is of `baselines`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from monitor.model.scorer import SENTIMENT
from pipelines.baselines import ERRORS, FIGURES, efficiency, first_seeds
from pipelines.markdown import interval, points, spread, table

EFFICIENCY_PICTURE: Final = "data-efficiency.svg"


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
                *(spread(group[figure]) for figure in (*FIGURES, *ERRORS)),
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
    yield from _each_baseline(comparison["baselines"])
    yield from _unseen_headlines(comparison["headlines"])
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


def _each_baseline(baselines: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    yield "### Each single-task model"
    yield "Percentiles of bootstrap resamples of the texts, 95 %. The pictures are of the first seed."
    yield table(
        ("task", "seed", "accuracy", "macro-F1", "rows"),
        (
            (row["task"], f"{row['seed']}", *(interval(row[figure]) for figure in FIGURES), f"{row['rows']:,}")
            for row in baselines
        ),
    )
    for row in first_seeds(baselines):
        name = f"{row['task']}, learned alone"
        yield f"![Confusion: {name}]({confusion_picture(row['task'])})"
        yield f"![Reliability: {name}]({reliability_picture(row['task'])})"


def confusion_picture(task: str) -> str:
    return f"confusion-{task}-alone.svg"


def reliability_picture(task: str) -> str:
    return f"reliability-{task}-alone.svg"


def _unseen_headlines(rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    if not rows:
        return
    yield "### Headlines, learned from tweets alone"
    yield (
        "Models of the same kind that saw none of SEntFiN's headlines: sentiment on those whose entities agree, "
        "beside the validation rows, which are tweets."
    )
    yield table(
        ("way", "seed", "accuracy", "macro-F1", "headlines", "accuracy on tweets", "macro-F1 on tweets"),
        (
            (
                row["way"],
                f"{row['seed']}",
                *(interval(row[figure]) for figure in FIGURES),
                f"{row['rows']:,}",
                *(interval(row["validation"][figure]) for figure in FIGURES),
            )
            for row in rows
        ),
    )


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
