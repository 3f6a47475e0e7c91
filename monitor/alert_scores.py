"""Alerts against labelled events: what was found, how soon, and what was raised for nothing.

::

    event                |starts_at ------ ends_at|.. grace ..|
    alert A          |---------|                                 matches, but was open before: it found nothing
    alert B                 |-------|                            matches, and finds the event
    alert C                                           |-----|    the same, within the grace
    alert D   |--|                                               matches no event: a false alarm

An alert matches an event on its series if it was open at any time from the event's start to its end and `grace`
beyond, in which a window still holds what happened. It finds the event if it also opened after the event's start; of
several, the first does.
"""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

from pydantic import dataclasses as pydantic_dataclasses
from pydantic import model_validator

from monitor.desk_settings import Dimension, Moment, check_order
from monitor.estimates import Estimate, share
from monitor.records import BUCKET, Alert, MonitorError, Series, bucket_start
from monitor.spike_settings import STRICT
from monitor.tables import closest, read_table

GRACE: Final = timedelta(minutes=60)
"""How long after an event's end an alert may still find it, unless asked for otherwise."""

_WEEK: Final = timedelta(days=7)
_MINUTE: Final = timedelta(minutes=1)


class EventsError(MonitorError):
    """A file of events is wrong; the message names the file, the line, the column, its value and what is expected."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that should alert, on the series that are named so; without a name or dimension, on any."""

    starts_at: datetime
    ends_at: datetime
    name: str | None = None
    dimension: Dimension | None = None
    label: str | None = None

    def concerns(self, series: Series) -> bool:
        """Whether it should alert on this series."""
        return self.name in (None, series.name) and self.dimension in (None, series.dimension)


@dataclass(frozen=True, slots=True)
class Outcome:
    """An event, and the alert that found it; None: it was missed."""

    event: Event
    alert: Alert | None

    @property
    def delay(self) -> timedelta | None:
        """From the event's start to the alert's opening."""
        return None if self.alert is None else self.alert.opened_at - self.event.starts_at

    @property
    def delay_buckets(self) -> int | None:
        """Buckets that closed from the event's start to the alert's opening; an alert opens as one closes."""
        return None if self.alert is None else (self.alert.opened_at - bucket_start(self.event.starts_at)) // BUCKET


@dataclass(frozen=True, slots=True)
class AlertScores:
    """How good alerts are. What is not defined, such as a recall without events, is None.

    Attributes:
        outcomes: of each event that the history covers, in the order of the events.
        outside: the events that it does not cover, which are not counted.
        alerts: all that were raised, false ones included.
        false_alarms: leaders of groups of which no alert matches an event: people hear of each once, for nothing, if
            no silence keeps them from it, which is not asked here.
        weeks: of the history.
        grace: beyond an event's end.
    """

    outcomes: tuple[Outcome, ...]
    outside: tuple[Event, ...]
    alerts: tuple[Alert, ...]
    false_alarms: tuple[Alert, ...]
    weeks: float
    grace: timedelta

    @property
    def found(self) -> int:
        """How many events were."""
        return sum(outcome.alert is not None for outcome in self.outcomes)

    @property
    def recall(self) -> Estimate | None:
        """The share of events that were found, with Wilson's interval."""
        return share(self.found, len(self.outcomes)) if self.outcomes else None

    @property
    def median_delay_minutes(self) -> float | None:
        """Of the events that were found."""
        delays = [outcome.delay / _MINUTE for outcome in self.outcomes if outcome.delay is not None]
        return statistics.median(delays) if delays else None

    @property
    def median_delay_buckets(self) -> float | None:
        """Of the events that were found."""
        delays = [outcome.delay_buckets for outcome in self.outcomes if outcome.delay_buckets is not None]
        return statistics.median(delays) if delays else None

    @property
    def false_alarms_per_week(self) -> float | None:
        """Over all series."""
        return self.weekly(len(self.false_alarms))

    def weekly(self, alarms: int) -> float | None:
        """So many alarms as a rate."""
        return alarms / self.weeks if self.weeks else None


@pydantic_dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class _Row:
    """A row of a file of events."""

    name: str = ""
    dimension: Dimension | None = None
    starts_at: Moment
    ends_at: Moment
    label: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        check_order(self.starts_at, self.ends_at)
        return self


def read_events(path: Path, known: Sequence[Series]) -> tuple[Event, ...]:
    """The events of a CSV file; see `read_table`.

    Columns are `name` (of a series; empty: any), `dimension` (empty: either), `starts_at` and `ends_at` (RFC 3339
    with an offset) and `label`; the times must be there. A file of column names alone says that nothing happened.

    Args:
        known: the series that there are.

    Raises:
        EventsError: the file cannot be read, or something in it is wrong.
    """
    try:
        rows = read_table(path, _Row, setting="--events")
    except ValueError as error:
        raise EventsError(str(error)) from error
    events = []
    for number, row in rows:
        names = list(dict.fromkeys(one.name for one in known if row.dimension in (None, one.dimension)))
        if row.name and row.name not in names:
            kind = row.dimension or "topic or watched entity"
            raise EventsError(
                f"{path}, row {number}, column name: {row.name!r}: there is no {kind} of this name, expected one of "
                f"the model's topics, Everything, a name on the watchlist, or an empty cell for any"
                f"{closest(row.name, names)}"
            )
        events.append(Event(row.starts_at, row.ends_at, row.name or None, row.dimension, row.label or None))
    return tuple(events)


def score(
    alerts: Iterable[Alert], events: Sequence[Event], start: datetime, end: datetime, grace: timedelta = GRACE
) -> AlertScores:
    """Hold the alerts of a history against the events in it.

    Args:
        start, end: of the history; an event that lies wholly outside is not counted.
    """
    raised = tuple(sorted(alerts, key=lambda alert: (alert.opened_at, alert.series, alert.kind)))
    covered = [event for event in events if event.ends_at >= start and event.starts_at <= end]
    true = {alert.group for alert in raised if any(matches(alert, event, grace) for event in covered)}
    return AlertScores(
        outcomes=tuple(Outcome(event, _finding(event, raised, grace)) for event in covered),
        outside=tuple(event for event in events if event not in covered),
        alerts=raised,
        false_alarms=tuple(leader for leader in raised if leader.role == "leads" and leader.group not in true),
        weeks=(end - start) / _WEEK,
        grace=grace,
    )


def matches(alert: Alert, event: Event, grace: timedelta) -> bool:
    """Whether an alert was open on the event's series from its start to `grace` beyond its end."""
    over = alert.resolved_at is not None and alert.resolved_at <= event.starts_at
    return event.concerns(alert.series) and not over and alert.opened_at <= event.ends_at + grace


def _finding(event: Event, alerts: Sequence[Alert], grace: timedelta) -> Alert | None:
    """The first of the alerts, which are in the order of their opening, that finds the event."""
    return next((a for a in alerts if a.opened_at > event.starts_at and matches(a, event, grace)), None)


def as_json(scores: AlertScores) -> dict[str, Any]:
    """Scores for a report; what is not defined is null."""
    raised = Counter(alert.series for alert in scores.alerts)
    false = Counter(alert.series for alert in scores.false_alarms)
    recall = scores.recall
    return {
        "events": len(scores.outcomes),
        "found": scores.found,
        "recall": None if recall is None else {"value": recall.value, "low": recall.low, "high": recall.high},
        "median_delay_minutes": scores.median_delay_minutes,
        "median_delay_buckets": scores.median_delay_buckets,
        "alerts": len(scores.alerts),
        "false_alarms": len(scores.false_alarms),
        "false_alarms_per_week": scores.false_alarms_per_week,
        "weeks": scores.weeks,
        "grace_minutes": scores.grace / _MINUTE,
        "by_series": [
            {
                "dimension": series.dimension,
                "name": series.name,
                "alerts": count,
                "false_alarms": false[series],
                "false_alarms_per_week": scores.weekly(false[series]),
            }
            for series, count in sorted(raised.items())
        ],
        "by_event": [_outcome_json(outcome) for outcome in scores.outcomes],
        "outside": [_event_json(event) for event in scores.outside],
    }


def _event_json(event: Event) -> dict[str, Any]:
    return {
        "label": event.label,
        "dimension": event.dimension,
        "name": event.name,
        "starts_at": event.starts_at.isoformat(),
        "ends_at": event.ends_at.isoformat(),
    }


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    alert, delay = outcome.alert, outcome.delay
    return _event_json(outcome.event) | {
        "found": alert is not None,
        "alert": None
        if alert is None
        else {
            "dimension": alert.series.dimension,
            "name": alert.series.name,
            "kind": alert.kind,
            "opened_at": alert.opened_at.isoformat(),
            "severity": alert.severity,
            "fingerprint": alert.fingerprint,
        },
        "delay_minutes": None if delay is None else delay / _MINUTE,
        "delay_buckets": outcome.delay_buckets,
    }
