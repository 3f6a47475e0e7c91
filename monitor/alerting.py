"""The life of an alert: it opens, worsens and resolves, and what it says of itself, to people and as JSON."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any, Final

from monitor.config import AlertSettings
from monitor.grouping import Key, Without, disband, settle
from monitor.records import Alert, Reading, Series, Severity, window_minutes, window_name

_WORSE: Final = 10  # an open alert is updated when its p-value falls to a tenth of what was last told

Explain = Callable[[Alert, datetime], Alert]
"""Adds what lies behind an alert to it, given the start of its window."""


class AlertBook:
    """The open alerts, at most one for each series and kind. It keeps them in memory alone; its caller stores what
    changed."""

    def __init__(self, open_alerts: Iterable[Alert] = (), settings: AlertSettings | None = None) -> None:
        self._settings = settings or AlertSettings()
        self._open: dict[Key, Alert] = {(alert.series, alert.kind): alert for alert in open_alerts}

    @property
    def open(self) -> tuple[Alert, ...]:
        """The alerts that are open now."""
        return tuple(self._open.values())

    def step(
        self,
        at: datetime,
        readings: Sequence[Reading],
        explain: Explain,
        conclude: Callable[[Alert], Alert] = lambda alert: alert,
        without: Without = lambda alert, others: {},
    ) -> list[Alert]:
        """Bring the alerts in line with the readings of the bucket that ended at `at`; gives those that changed.

        Args:
            at: event time.
            readings: every series in a spike; an open alert whose series and kind is not among them resolves, unless
                it leads others that do not.
            conclude: adds to a resolved alert how much it was in all.
            without: says what would be left of a spike without other series, by which alerts are grouped.
        """
        told: set[Key] = set()
        before = dict(self._open)
        firing = {(reading.series, reading.kind): reading for reading in readings if reading.firing}
        for key, reading in firing.items():
            alert = self._next(self._open.get(key), reading, at, explain)
            if alert is not None:
                self._open[key] = alert
                told.add(key)
        over = [key for key in self._open if key not in firing]
        if self._settings.group:
            spiking = {key for key, reading in firing.items() if reading.severity is not None}
            grouped, over = settle(self._open, told=told, calm=over, spiking=spiking, at=at, without=without)
        else:
            grouped = disband(self._open, at)
        self._open = {
            key: alert if key in told or alert == self._open[key] else _anew(alert, at)
            for key, alert in grouped.items()
        }
        for key in over:
            self._open[key] = conclude(replace(_anew(self._open[key], at), resolved_at=at))
        changed = [alert for key, alert in self._open.items() if alert != before.get(key)]
        for key in over:
            del self._open[key]
        return changed

    def _next(self, known: Alert | None, reading: Reading, at: datetime, explain: Explain) -> Alert | None:
        """The alert that opens, or as it is told anew; None where there is nothing to tell."""
        start = at - timedelta(minutes=reading.window_minutes)
        if known is None:
            if reading.severity is None:
                return None
            opened = Alert(opened_at=at, series=reading.series, kind=reading.kind, **_told(reading, at))
            return self._supported(explain(opened, start))
        # What is critical but had too few publishers may have them now.
        escalates = known.severity == "warning" and reading.severity == "critical"
        rested = at - known.updated_at >= timedelta(seconds=self._settings.repeat_s)
        worse = rested and reading.p_value <= known.p_value / _WORSE
        if not (escalates or worse):
            return None
        severity: Severity = "critical" if escalates else known.severity
        told = replace(_anew(known, at), **_told(reading, at) | {"severity": severity})
        explained = explain(told, start)
        if known.severity == "critical":
            return explained  # it stays so, whoever tells its news now
        alert = self._supported(explained)
        if alert.severity == "warning":
            return alert if worse else None
        return replace(alert, escalated_at=at)

    def _supported(self, alert: Alert) -> Alert:
        """The alert, critical only if enough publishers tell its news, as far as any is known."""
        few = alert.publishers is not None and alert.publishers < self._settings.min_publishers
        return replace(alert, severity="warning") if few and alert.severity == "critical" else alert


def _anew(alert: Alert, at: datetime) -> Alert:
    return replace(alert, updated_at=at, revision=alert.revision + 1)


def _told(reading: Reading, at: datetime) -> dict[str, Any]:
    return {
        "window": window_name(reading.window_minutes),
        "severity": reading.severity,
        "updated_at": at,
        "observed": reading.observed,
        "items": reading.items,
        "expected": reading.expected,
        "band": reading.band,
        "p_value": reading.p_value,
    }


def sentence(alert: Alert) -> str:
    """What the alert says, for people."""
    minutes = window_minutes(alert.window)
    period = "hour" if minutes == 60 else f"{minutes // 60} hours" if minutes % 60 == 0 else f"{minutes} minutes"
    what, low, high = alert.counting, *alert.band
    usual = f"about {alert.expected:.0f} expected ({low:.0f} to {high:.0f})"
    name = alert.series.name
    if alert.kind == "negative_share":
        share = alert.expected / alert.items if alert.items else 0.0
        found = (
            f"{alert.observed} of {alert.items} {what} on {name} were negative in the last {period}; "
            f"usual share {share:.0%}, so {usual}"
        )
    else:
        negative = "negative " if alert.kind == "negative_volume" else ""
        found = f"{alert.observed} {negative}{what} on {name} in the last {period}; {usual}"
    known = f". Known: {'; '.join(alert.notes)}" if alert.notes else ""
    if alert.resolved_at is not None:
        lasted = (alert.resolved_at - alert.opened_at) // timedelta(minutes=1)
        spell = f"{lasted // 60} h {lasted % 60} min" if lasted >= 60 else f"{lasted} min"
        in_all = "" if alert.in_all is None else f", in all {alert.in_all[0]} of {alert.in_all[1]} {what} negative"
        return f"Over after {spell}{in_all}. At its worst: {found}{_group(alert)}{known}"
    mostly = f'. Mostly: "{alert.evidence[0].title}"' if alert.evidence else ""
    words = f". Words: {', '.join(alert.words)}" if alert.words else ""
    return f"{found}{_group(alert)}{mostly}{words}{known}"


def _group(alert: Alert) -> str:
    """Which other alerts have the same cause."""
    said = []
    if alert.part_of is not None:
        why = ", without which it would be no spike" if alert.part_of == alert.explained_by else ""
        said.append(f"Part of the alert on {alert.part_of.name}{why}")
    if alert.explained_by not in (None, alert.part_of):
        said.append(f"Without {alert.explained_by.name} it would be no spike")
    if alert.apart_from is not None:
        said.append(f"A spike without {alert.apart_from.name} too")
    if others := [series.name for series in alert.also if series != alert.explained_by]:
        said.append(f"Also: {', '.join(others)}")
    return "".join(f". {one}" for one in said)


def as_json(alert: Alert) -> dict[str, Any]:
    """An alert as the README's table of alert records describes it."""
    return {
        "opened_at": alert.opened_at.isoformat(),
        "resolved_at": alert.resolved_at.isoformat() if alert.resolved_at else None,
        "dimension": alert.series.dimension,
        "name": alert.series.name,
        "window": alert.window,
        "observed": alert.observed,
        "items": alert.items,
        "counting": alert.counting,
        "expected": round(alert.expected, 2),
        "band": [round(edge, 2) for edge in alert.band],
        "p_value": alert.p_value,
        "severity": alert.severity,
        "kind": alert.kind,
        "late": alert.late,
        "copies": alert.copies,
        "publishers": alert.publishers,
        "words": list(alert.words),
        "entities": list(alert.entities),
        "in_all": list(alert.in_all) if alert.in_all else None,
        "silenced": alert.silenced,
        "notes": list(alert.notes),
        "models": list(alert.models),
        "fingerprint": alert.fingerprint,
        "group": alert.group,
        "role": alert.role,
        "part_of": _named(alert.part_of),
        "explained_by": _named(alert.explained_by),
        "apart_from": _named(alert.apart_from),
        "also": [_named(series) for series in alert.also],
        "summary": sentence(alert),
        "evidence": [asdict(story) | {"published_at": story.published_at.isoformat()} for story in alert.evidence],
    }


def _named(series: Series | None) -> Mapping[str, str] | None:
    return None if series is None else series._asdict()
