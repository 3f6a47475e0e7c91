"""A history through the engine in event time: the alerts that it would have raised."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Final

from monitor import history
from monitor.alerting import as_json, sentence
from monitor.config import Settings
from monitor.engine import Engine
from monitor.metrics import Metrics
from monitor.model.scorer import open_scorer
from monitor.output import named, note, progress_bar, rejections, written
from monitor.records import Alert, MonitorError
from monitor.store import Store

_ITEMS: Final = 256


def command(file: Path, settings: Settings, columns: Mapping[str, str], output: Path | None) -> None:
    """`sentiment-monitor backtest`: the alerts as JSON Lines to `output` or standard output, and a line on each."""
    with ExitStack() as life:
        scorer = open_scorer(settings.model, note)
        out = life.enter_context(written(output, str(file)))
        store = life.enter_context(Store("sqlite://"))
        progress = life.enter_context(progress_bar("items"))
        reject = rejections(str(file), progress.console)
        task = progress.add_task("reading", total=None)
        items = named(lambda: history.read_history(file, columns, reject))
        if not items:
            raise MonitorError(f"{file}: holds no record that can be used; each needs title and published_at")
        progress.update(task, description="backtest", total=len(items))
        engine = Engine(settings, store, scorer, Metrics(), source=f"file:{file}", reject=reject)
        alerts: dict[str, Alert] = {}
        for step in history.run(engine, history.by_count(items, _ITEMS)):
            alerts |= {alert.id: alert for alert in step.alerts}
            progress.advance(task, len(step.entries))
        for alert in alerts.values():
            out.write(json.dumps(as_json(alert), ensure_ascii=False) + "\n")
    days = (items[-1].item.published_at - items[0].item.published_at) / timedelta(days=1)
    note(f"{len(alerts)} alerts in {len(items):,} items over {days:.1f} days")
    for alert in alerts.values():
        until = f"{alert.resolved_at:%Y-%m-%d %H:%M}" if alert.resolved_at else "still open"
        note(f"  {alert.opened_at:%Y-%m-%d %H:%M} to {until}  {alert.severity}  {sentence(alert)}")
