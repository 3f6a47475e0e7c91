"""A history through the engine in event time: the alerts that it would have raised, and how good they are."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from monitor import alert_scores, history
from monitor.alert_scores import AlertScores, Event, EventsError
from monitor.alerting import as_json, sentence
from monitor.champion import named_model
from monitor.config import Settings
from monitor.engine import Engine
from monitor.history import Dated
from monitor.metrics import Metrics
from monitor.model.scorer import open_scorer
from monitor.output import Misuse, named, note, print_table, progress_bar, rejections, written
from monitor.records import Alert, MonitorError, Series
from monitor.store import Store

_ITEMS: Final = 256


@dataclass(frozen=True, slots=True)
class Options:
    """What a backtest is asked for beside the alerts.

    Attributes:
        output: file for the alerts; None: standard output.
        events: file of labelled events to hold them against.
        grace: how long after an event's end an alert may find it.
        report: file for figures, as JSON.
        sweep: whether to try other thresholds and windows too.
        picture: file for a picture of that.
    """

    output: Path | None = None
    events: Path | None = None
    grace: timedelta = alert_scores.GRACE
    report: Path | None = None
    sweep: bool = False
    picture: Path | None = None


def run(engine: Engine, items: Sequence[Dated], advance: Callable[[int], object] = lambda items: None) -> list[Alert]:
    """The alerts that an engine on an empty store raises on a history, in their order, each as it was at last.

    Args:
        advance: is told of so many items more.
    """
    alerts: dict[str, Alert] = {}
    for step in history.run(engine, history.by_count(items, _ITEMS)):
        alerts |= {alert.id: alert for alert in step.alerts}
        advance(len(step.entries))
    return list(alerts.values())


def command(file: Path, settings: Settings, columns: Mapping[str, str], options: Options) -> dict[str, Any]:
    """`sentiment-monitor backtest`: alerts as JSON Lines, then for people what was raised, found and missed.

    With `sweep` the alerts are written only where `output` names a file, and the table of the sweep goes to standard
    output.

    Returns:
        The figures, as `report` gets them.

    Raises:
        Misuse: a file that was named cannot be used.
        MonitorError: the history holds nothing that can be used, or too little for a sweep.
    """
    _check_apart(file, options)
    if options.picture is not None:
        from monitor import tuning_picture

        if not options.sweep:
            raise Misuse("--picture: shows a sweep; add --sweep")
        tuning_picture.check(options.picture)
    with ExitStack() as life:
        to_file = options.output is not None or not options.sweep
        out = life.enter_context(written(options.output, str(file))) if to_file else None
        report = life.enter_context(written(options.report, str(file), "--report")) if options.report else None
        store = life.enter_context(Store("sqlite://"))
        played = _play(file, settings, columns, options, store)
        scores = None
        if played.events is not None:
            scores = alert_scores.score(played.alerts, played.events, played.start, played.end, options.grace)
        if out is not None:
            for alert in played.alerts:
                out.write(json.dumps(as_json(alert) | _matched(alert, scores), ensure_ascii=False) + "\n")
            out.flush()
        _tell(played)
        if scores is not None:
            _tell_scores(scores)
        figures = _figures(file, played, scores)
        if options.sweep:
            from monitor import tuning, tuning_report

            past = tuning.Past(store, played.series, played.start, played.end)
            with progress_bar("buckets") as bar:
                found = tuning.sweep(settings, past, played.events, options.grace, bar)
            tuning_report.tell(found, sys.stdout)
            figures["sweep"] = tuning_report.as_json(found)
            if options.picture is not None:
                tuning_picture.write(found, options.picture)
        if report is not None:
            report.write(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    return figures


def _check_apart(file: Path, options: Options) -> None:
    """No two options may name one file; a device may be named twice."""
    given = {"FILE": file, "--events": options.events, "--output": options.output}
    given |= {"--report": options.report, "--picture": options.picture}
    by_path: dict[Path, str] = {}
    for option, path in given.items():
        if path is None or (path.exists() and not path.is_file()):
            continue
        if (other := by_path.setdefault(path.resolve(), option)) != option:
            raise Misuse(
                f"{option}: {path} is what {other} names too; give another name, or one of them would be lost"
            )


@dataclass(frozen=True, slots=True)
class _Played:
    """A history that was played; `events` is None where none were asked for."""

    items: int
    start: datetime
    end: datetime
    series: Sequence[Series]
    alerts: Sequence[Alert]
    events: Sequence[Event] | None


def _play(file: Path, settings: Settings, columns: Mapping[str, str], options: Options, store: Store) -> _Played:
    """Check all that was named, then play the history into the store."""
    scorer = open_scorer(named_model(settings, note), note)
    with progress_bar("items") as progress:
        reject = rejections(str(file), progress.console)
        engine = Engine(settings, store, scorer, Metrics(), source=f"file:{file}", reject=reject)
        events = None if options.events is None else _events(options.events, engine.series)
        task = progress.add_task("reading", total=None)
        items = named(lambda: history.read_history(file, columns, reject))
        if not items:
            raise MonitorError(f"{file}: holds no record that can be used; each needs title and published_at")
        start, end = items[0].item.published_at, items[-1].item.published_at
        if options.sweep:
            from monitor import tuning

            tuning.check(settings, end - start, str(file))
        if options.events is not None and events is not None:
            _check_covered(options.events, events, f"{file} goes from {_at(start)} to {_at(end)} UTC", start, end)
        progress.update(task, description="backtest", total=len(items))
        alerts = run(engine, items, lambda count: progress.advance(task, count))
    return _Played(len(items), start, end, engine.series, alerts, events)


def _figures(file: Path, played: _Played, scores: AlertScores | None) -> dict[str, Any]:
    return {
        "history": {
            "file": str(file),
            "items": played.items,
            "from": played.start.isoformat(),
            "to": played.end.isoformat(),
            "alerts": len(played.alerts),
        },
        "scores": None if scores is None else alert_scores.as_json(scores),
    }


def _events(path: Path, known: Sequence[Series]) -> tuple[Event, ...]:
    try:
        return alert_scores.read_events(path, known)
    except EventsError as error:
        raise Misuse(str(error)) from error


def _check_covered(path: Path, events: Sequence[Event], span: str, start: datetime, end: datetime) -> None:
    """Tell of events that the history does not cover; that it covers none of several is a misuse."""
    if not events:
        note(f"{path}: holds no event, so every alarm counts as false")
        return
    outside = [event for event in events if event.ends_at < start or event.starts_at > end]
    if len(outside) == len(events):
        raise Misuse(f"{path}: none of its events lies in the history, {span}; give events of that time")
    for event in outside:
        what = event.label or event.name or "an event"
        note(f"{path}: {what}, {_at(event.starts_at)}, lies outside of the history and is not counted; {span}")


def _matched(alert: Alert, scores: AlertScores | None) -> dict[str, Any]:
    """The labels, or else the starts, of the events that an alert matches, where there are events."""
    if scores is None:
        return {}
    events = (outcome.event for outcome in scores.outcomes)
    found = [event for event in events if alert_scores.matches(alert, event, scores.grace)]
    return {"events": [event.label or event.starts_at.isoformat() for event in found]}


def _tell(played: _Played) -> None:
    days = (played.end - played.start) / timedelta(days=1)
    note(f"{len(played.alerts)} alerts in {played.items:,} items over {days:.1f} days")
    for alert in played.alerts:
        until = _at(alert.resolved_at) if alert.resolved_at else "still open"
        note(f"  {_at(alert.opened_at)} to {until}  {alert.severity}  {sentence(alert)}")


def _tell_scores(scores: AlertScores) -> None:
    rows = []
    for outcome in scores.outcomes:
        event, alert = outcome.event, outcome.alert
        by = "missed" if alert is None else f"{_at(alert.opened_at)} {alert.severity} on {alert.series.name}"
        minutes = "n/a" if outcome.delay is None else f"{outcome.delay / timedelta(minutes=1):.0f}"
        buckets = "n/a" if outcome.delay_buckets is None else str(outcome.delay_buckets)
        rows.append([event.label or "", event.name or "any", _at(event.starts_at), by, minutes, buckets])
    if rows:
        print_table(sys.stderr, ["event", "series", "starts", "found by", "delay, min", "buckets"], rows)
    recall = scores.recall
    shown = "n/a" if recall is None else f"{recall.value:.2f} (95 % interval {recall.low:.2f} to {recall.high:.2f})"
    delay = "n/a"
    if scores.median_delay_minutes is not None:
        delay = f"{scores.median_delay_minutes:.0f} min ({scores.median_delay_buckets:g} buckets)"
    note(f"{scores.found} of {len(scores.outcomes)} events found, recall {shown}, median delay {delay}")
    false, rate = len(scores.false_alarms), _rate(scores.false_alarms_per_week)
    note(f"{false} false alarms among {len(scores.alerts)} alerts: {rate} a week over {scores.weeks:.1f} weeks")
    if false:
        rows = [
            [row["name"], row["dimension"], str(row["alerts"]), _rate(row["false_alarms_per_week"])]
            for row in alert_scores.as_json(scores)["by_series"]
        ]
        print_table(sys.stderr, ["series", "dimension", "alerts", "false alarms a week"], rows)


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def _rate(rate: float | None) -> str:
    return "n/a" if rate is None else f"{rate:.2f}"
