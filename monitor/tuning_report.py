"""A sweep for people, with the lines to paste into the settings, and as JSON."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TextIO

from monitor import alert_scores
from monitor.output import print_table
from monitor.records import Series
from monitor.tuning import FACTOR, Choice, Row, Sweep

_SHOWN_SERIES = 8


def tell(found: Sweep, to: TextIO) -> None:
    """The table, what its columns mean here, and the settings of the rows on the front."""
    section = found.rows[0].choice.threshold[0]
    head = ["", "[spikes]", f"[{section}]", "false alarms a week", "found", "recall (95 %)", "delay, min"]
    print_table(to, head, [_cells(row) for row in found.rows])
    to.write("> the settings as they are   * no other row finds more for as few false alarms, or as much for fewer\n")
    scores, recall = found.rows[0].scores, found.rows[0].recall_scores
    to.write(f"False alarms over {scores.weeks:.1f} weeks: {_false(found)}.\n")
    to.write(f"Found: {_meant(found, recall)}; delay: the median of those found.\n")
    if found.plants is not None and found.plants.undetectable:
        to.write(
            f"Not detectable, with too few items for a spike at any place, {_left_out(found.plants.undetectable)}"
        )
    if found.plants is not None and found.plants.quiet:
        to.write(f"Kept from alarming by an override, {_left_out(found.plants.quiet)}")
    front = _different([row for row in found.rows if row.front])
    if not front:
        to.write("No row finds anything, so that none is marked *.\n")
        return
    to.write("\nTo change the settings, put a row's lines under the heads of their columns. The rows marked *,\n")
    to.write("of those that do the same the one that is set or the first:\n")
    for row in front:
        to.write(f"\n# {_rate(row)} false alarms a week, {row.recall_scores.found} found\n{toml(row.choice)}")


def toml(choice: Choice) -> str:
    """The settings of a choice as TOML."""
    section, key, value = choice.threshold
    lines: dict[str, list[str]] = {"spikes": [_windows(choice)]}
    lines.setdefault(section, []).append(f"{key} = {json.dumps(value)}")
    return "".join("\n".join([f"[{name}]", *held, ""]) for name, held in lines.items())


def as_json(found: Sweep) -> dict[str, Any]:
    """A sweep for a report; what is not defined is null."""
    plants = found.plants
    return {
        "measured_on": "events" if plants is None else "planted spikes",
        "planted": None if plants is None else len(plants.spikes),
        "not_detectable": None if plants is None else [list(series) for series in plants.undetectable],
        "kept_from_alarming": None if plants is None else [list(series) for series in plants.quiet],
        "rows": [
            {
                "windows_minutes": list(row.choice.windows_minutes),
                ".".join(row.choice.threshold[:2]): row.choice.threshold[2],
                "current": row.choice.current,
                "front": row.front,
                "alerts": len(row.scores.alerts),
                "false_alarms_per_week": row.scores.false_alarms_per_week,
                **{
                    key: value
                    for key, value in alert_scores.as_json(row.recall_scores).items()
                    if key in ("events", "found", "recall", "median_delay_minutes", "median_delay_buckets")
                },
                "toml": toml(row.choice),
            }
            for row in found.rows
        ],
    }


def _different(rows: list[Row]) -> list[Row]:
    """Of rows that do the same the one that is set already, or else the first."""
    kept: dict[tuple[int, int, float | None], Row] = {}
    for row in sorted(rows, key=lambda row: not row.choice.current):
        does = (len(row.scores.false_alarms), row.recall_scores.found, row.recall_scores.median_delay_minutes)
        kept.setdefault(does, row)
    return [row for row in rows if row in kept.values()]


def _cells(row: Row) -> list[str]:
    _, key, value = row.choice.threshold
    scores, recall = row.recall_scores, row.recall_scores.recall
    delay = scores.median_delay_minutes
    return [
        ">" * row.choice.current + "*" * row.front,
        _windows(row.choice),
        f"{key} = {json.dumps(value)}",
        _rate(row),
        f"{scores.found} of {len(scores.outcomes)}",
        "n/a" if recall is None else f"{recall.value:.2f} ({recall.low:.2f} to {recall.high:.2f})",
        "n/a" if delay is None else f"{delay:.0f}",
    ]


def _windows(choice: Choice) -> str:
    return f"windows_minutes = {list(choice.windows_minutes)}"


def _rate(row: Row) -> str:
    rate = row.scores.false_alarms_per_week
    return "n/a" if rate is None else f"{rate:.2f}"


def _false(found: Sweep) -> str:
    if found.plants is None:
        return "alerts that match no labelled event"
    return "every alert on the history as it was, since no events are labelled (--events); true ones count too"


def _meant(found: Sweep, recall: alert_scores.AlertScores) -> str:
    if found.plants is None:
        minutes = recall.grace / timedelta(minutes=1)
        return f"labelled events, {len(recall.outcomes)} in all, until {minutes:.0f} min after their end"
    lengths = Counter((event.ends_at - event.starts_at) // timedelta(hours=1) for event in found.plants.spikes)
    kinds = ", ".join(f"{count} of {hours} h" for hours, count in sorted(lengths.items())) or "none"
    return f"planted spikes ({kinds}), the usual share of negatives times {FACTOR:g}, before they end"


def _left_out(series: Sequence[Series]) -> str:
    names = [one.name for one in series]
    more = f" and {len(names) - _SHOWN_SERIES} more" if len(names) > _SHOWN_SERIES else ""
    return f"and not counted: {len(names)} series ({', '.join(names[:_SHOWN_SERIES])}{more}).\n"
