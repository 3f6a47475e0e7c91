"""A news day of invented companies through the real model and engine, watched in the terminal."""

import io
import re
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from rich import box
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from monitor import config, history
from monitor.alerting import sentence
from monitor.engine import Engine
from monitor.metrics import Metrics
from monitor.model.scorer import open_scorer
from monitor.records import EVERYTHING, Alert, Counts, RawRecord, RecordError, Series
from monitor.store import Store
from monitor.web.app import WebServer, create_app

SCENARIO: Final = Path(__file__).with_name("scenario") / "newsday.jsonl"
PLANTED: Final = Series("topic", "Financials")
PLANTED_AT: Final = datetime(2026, 3, 12, 14, 20, tzinfo=UTC)
_FOUND_WITHIN: Final = timedelta(hours=1)
_PLAYED_IN_S: Final = 45.0
_SPARKS: Final = "▁▂▃▄▅▆▇█"
_SPARK_BUCKETS: Final = 6  # half an hour a mark
_SPARK_MARKS: Final = 24


@dataclass
class Seen:
    """What the demo saw so far."""

    items: int = 0
    started_s: float = field(default_factory=time.perf_counter)
    sentiments: Counter[str] = field(default_factory=Counter)
    topics: Counter[str] = field(default_factory=Counter)
    alerts: dict[str, Alert] = field(default_factory=dict)
    latest: deque[tuple[datetime, str, str, str]] = field(default_factory=lambda: deque(maxlen=5))

    def take(self, step: history.Step) -> None:
        """Add what one step did."""
        self.items += len(step.entries)
        for entry in step.entries:
            self.sentiments[entry.scored.sentiment] += 1
            self.topics[entry.scored.topic] += 1
            self.latest.append((entry.event_at, entry.scored.topic, entry.scored.sentiment, entry.scored.item.title))
        self.alerts |= {alert.id: alert for alert in step.alerts}

    @property
    def items_a_second(self) -> float:
        """Since the first item, the pauses of the playback included."""
        return self.items / max(time.perf_counter() - self.started_s, 1e-9)

    def verdict(self) -> str | None:
        """What the demo should have done and did not; None if it did."""
        found = sorted(alert.opened_at for alert in self.alerts.values() if alert.series == PLANTED)
        others = sorted({alert.series.name for alert in self.alerts.values()} - {PLANTED.name, EVERYTHING.name})
        if not found or found[0] > PLANTED_AT + _FOUND_WITHIN:
            return f"the bank run on {PLANTED.name} at {PLANTED_AT:%H:%M} did not alert within an hour"
        if found[0] < PLANTED_AT:
            return f"{PLANTED.name} alerted at {found[0]:%H:%M}, before the bank run at {PLANTED_AT:%H:%M}"
        if others:
            return f"alerts that nothing was planted for: {', '.join(others)}"
        return None


def run(console: Console, *, stay: bool, picture: Path | None = None) -> bool:
    """Play the news day; gives whether it alerted on what was planted, and on nothing else.

    Args:
        console: where it is shown: live on a terminal, as lines of text elsewhere.
        stay: play at a pace that can be watched, and serve the metrics until Ctrl-C.
        picture: write the screen at the height of the planted event to this SVG file.
    """
    settings = config.defaults()
    with ExitStack() as life:
        metrics = Metrics()
        server = life.enter_context(
            WebServer(create_app(metrics.exposition, lambda: {}, lambda: {}), settings.http.host, port=0)
        )
        store = life.enter_context(Store("sqlite://"))
        with console.status("opening the model (the first time it is prepared for this machine, about a minute)"):
            scorer = open_scorer(settings.model)
        console.print(f"model {scorer.version} on {scorer.backend}; metrics at {server.url}/metrics", soft_wrap=True)
        engine = Engine(settings, store, scorer, metrics, source="demo", reject=_refuse)
        day = history.read_history(SCENARIO, {}, _refuse)
        seen = _play(console, engine, day, paced=stay and console.is_terminal, picture=picture)
        wrong = seen.verdict()
        _summarise(console, seen, wrong)
        if stay and console.is_terminal:
            console.print(f"\nThe metrics stay at [link]{server.url}/metrics[/link] until you press Ctrl-C.")
            try:
                while True:
                    time.sleep(3600)
            except KeyboardInterrupt:
                pass
    return wrong is None


def _play(console: Console, engine: Engine, day: list[history.Dated], *, paced: bool, picture: Path | None) -> Seen:
    seen = Seen()
    first, last = day[0].item.published_at, day[-1].item.published_at
    with ExitStack() as life:
        live = life.enter_context(Live(console=console, auto_refresh=False)) if console.is_terminal else None
        for part, step in _steps(engine, day):
            seen.take(step)
            now = part[-1].item.published_at if part else last
            if live is None:
                _tell(console, step)
            else:
                live.update(_screen(engine, seen, now, len(day)), refresh=True)
            if picture is not None and now >= PLANTED_AT + timedelta(hours=2):
                _draw(_screen(engine, seen, now, len(day)), picture)
                picture = None
            if paced:
                due_s = seen.started_s + _PLAYED_IN_S * ((now - first) / (last - first))
                time.sleep(max(0.0, due_s - time.perf_counter()))
    return seen


def _steps(engine: Engine, day: list[history.Dated]) -> Iterator[tuple[tuple[history.Dated, ...], history.Step]]:
    parts = [tuple(part) for part in history.by_bucket(day)]
    yield from zip([*parts, ()], history.run(engine, parts), strict=True)


def _refuse(record: RawRecord, error: RecordError) -> None:
    raise RecordError(error.reason, f"{SCENARIO.name}, line {record.offset + 1}: {error}") from error


def _tell(console: Console, step: history.Step) -> None:
    """One line for each alert that changed, where there is no terminal to draw on."""
    for alert in step.alerts:
        if alert.resolved_at is not None:
            console.print(f"{alert.resolved_at:%H:%M}  resolved  {alert.series.name}", highlight=False)
            continue
        verb = "opened  " if alert.revision == 1 else "updated "
        console.print(
            f"{alert.updated_at:%H:%M}  {verb}  {alert.severity}: {sentence(alert)} (p = {alert.p_value:.1g})",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
        for story in alert.evidence[:3]:
            console.print(f"         - {story.title} ({story.source})", highlight=False, soft_wrap=True)


def _screen(engine: Engine, seen: Seen, now: datetime, total: int) -> Group:
    return Group(
        Text.assemble(
            (f" {now:%H:%M} ", "bold reverse"),
            f"  {seen.items} of {total} items, {seen.items_a_second:.0f} a second   ",
            ("negative ", "red"), f"{seen.sentiments['negative']}  ",
            ("neutral ", "dim"), f"{seen.sentiments['neutral']}  ",
            ("positive ", "green"), f"{seen.sentiments['positive']}",
        ),
        _topics_table(engine),
        _alerts_panel(seen),
        _latest_table(seen),
    )  # fmt: skip


def _topics_table(engine: Engine) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("topic", no_wrap=True)
    table.add_column("24 h", justify="right")
    table.add_column("last 3 h", justify="right")
    table.add_column("negative", justify="right")
    table.add_column("expected", justify="right")
    table.add_column("sentiment", justify="right")
    table.add_column("half hours", no_wrap=True)
    alerting = {alert.series for alert in engine.open_alerts}
    for series in [EVERYTHING, *(Series("topic", topic) for topic in engine.scorer.topics)]:
        recent = engine.trends.window(series, 180)
        table.add_row(
            series.name,
            str(engine.trends.window(series, 1440).items),
            str(recent.items),
            str(recent.negatives),
            f"{engine.detector.expected(series, 180):.1f}",
            _mood(recent),
            _sparkline(engine.trends.history(series, _SPARK_BUCKETS * _SPARK_MARKS)),
            style="bold red" if series in alerting else "",
        )
    return table


def _mood(counts: Counts) -> Text:
    if not counts.items:
        return Text("-", style="dim")
    mean = counts.score / counts.items
    return Text(f"{mean:+.2f}", style="red" if mean < -0.25 else "green" if mean > 0.25 else "")


def _sparkline(buckets: list[Counts]) -> Text:
    """Mean sentiment of each half hour, from all negative (low) to all positive (high); blank without items."""
    marks = Text()
    for start in range(0, len(buckets), _SPARK_BUCKETS):
        total = sum(buckets[start : start + _SPARK_BUCKETS], Counts())
        if not total.items:
            marks.append(" ")
            continue
        mean = total.score / total.items
        level = min(len(_SPARKS) - 1, int((mean + 1) / 2 * len(_SPARKS)))
        marks.append(_SPARKS[level], style="red" if mean < -0.25 else "green" if mean > 0.25 else "dim")
    return marks


def _alerts_panel(seen: Seen) -> Panel:
    lines = Text()
    for alert in list(seen.alerts.values())[-3:]:
        if alert.resolved_at is None:
            lines.append(f"{alert.opened_at:%H:%M} {alert.severity}  ", style="bold red")
        else:
            lines.append(f"{alert.opened_at:%H:%M} resolved {alert.resolved_at:%H:%M}  ", style="green")
        lines.append(f"{sentence(alert)} (p = {alert.p_value:.1g})\n")
        for story in alert.evidence[:3]:
            copies = f", {story.copies} copies" if story.copies > 1 else ""
            lines.append(f"      {story.title} ({story.source}{copies})\n", style="dim")
    return Panel(lines or Text("no alert yet", style="dim"), title="alerts", border_style="dim")


def _latest_table(seen: Seen) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    colours = {"negative": "red", "neutral": "dim", "positive": "green"}
    for at, topic, sentiment, title in seen.latest:
        table.add_row(
            f"{at:%H:%M}", Text(sentiment, style=colours[sentiment]), topic, Text(title, overflow="ellipsis")
        )
    return table


def _draw(screen: Group, picture: Path) -> None:
    console = Console(record=True, width=118, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(screen)
    # rich's template names web fonts; a picture in a README must not load anything.
    template = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    picture.write_text(console.export_svg(title="sentiment-monitor demo", code_format=template), encoding="utf-8")


def _summarise(console: Console, seen: Seen, wrong: str | None) -> None:
    negative = seen.sentiments["negative"]
    console.print(
        f"\n[bold]{seen.items} items[/bold] of one invented day: {negative} negative, {seen.sentiments['neutral']} "
        f"neutral, {seen.sentiments['positive']} positive, on {len(seen.topics)} topics "
        f"({seen.items_a_second:.0f} items a second).",
        soft_wrap=True,
    )
    for alert in seen.alerts.values():
        until = f"to {alert.resolved_at:%H:%M}" if alert.resolved_at else "still open"
        console.print(
            f"[bold]{alert.severity}[/bold] {alert.series.name}, {alert.opened_at:%H:%M} {until}: {sentence(alert)}.",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    if wrong is None:
        delay = min(alert.opened_at for alert in seen.alerts.values() if alert.series == PLANTED) - PLANTED_AT
        minutes = delay // timedelta(minutes=1)
        console.print(
            f"The bank run planted at {PLANTED_AT:%H:%M} was found after {minutes} minutes; apart from "
            f"{EVERYTHING.name}, which follows all items, nothing else alerted.",
            soft_wrap=True,
        )
    else:
        console.print(f"[bold red]Not as planned:[/bold red] {wrong}")
    console.print(
        "\nNext: [bold]sentiment-monitor score FILE[/bold] for news of your own, "
        "[bold]sentiment-monitor backtest FILE[/bold] for a history of it, "
        "[bold]sentiment-monitor run --config deploy/monitor.toml[/bold] for a Kafka topic.",
        soft_wrap=True,
    )
