"""A backtest as a report in a folder: `python -m pipelines.backtest HISTORY --output DIR`.

It is `sentiment-monitor backtest --sweep` and writes alerts.jsonl, report.json, report.md and sweep.svg.
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from monitor import backtest, config
from monitor.output import Misuse, parsed_columns
from monitor.records import MonitorError
from pipelines import documents
from pipelines.markdown import interval, table

ALERTS: Final = "alerts.jsonl"
REPORT: Final = "report.json"
DOCUMENT: Final = "report.md"
PICTURE: Final = "sweep.svg"


def render(figures: Mapping[str, Any]) -> str:
    """The figures of a backtest with a sweep as Markdown."""
    history, scores, sweep = figures["history"], figures["scores"], figures["sweep"]
    parts = [
        "# Backtest",
        f"{history['items']:,} items of `{history['file']}`, {history['from']} to {history['to']}: "
        f"{history['alerts']} alerts.",
    ]
    if scores is not None:
        parts += [
            "## Labelled events",
            f"{scores['found']} of {scores['events']} found, recall {_interval(scores['recall'])}, median delay "
            f"{_number(scores['median_delay_minutes'], 0)} min; {scores['false_alarms']} of {scores['alerts']} "
            f"alerts match no event, {_number(scores['false_alarms_per_week'], 2)} a week.",
            table(
                ["event", "series", "starts", "found by", "delay, min"],
                (
                    [
                        event["label"] or "",
                        event["name"] or "any",
                        event["starts_at"],
                        f"{event['alert']['name']}, {event['alert']['opened_at']}" if event["found"] else "missed",
                        _number(event["delay_minutes"], 0),
                    ]
                    for event in scores["by_event"]
                ),
            ),
            table(
                ["series", "alerts", "false alarms a week"],
                (
                    [row["name"], str(row["alerts"]), _number(row["false_alarms_per_week"], 2)]
                    for row in scores["by_series"]
                ),
            ),
        ]
    parts += [
        "## Other settings",
        f"Recall and delay are those of {sweep['measured_on']}. `>` is what is set now; no other row finds more than "
        "one with `*` for as few false alarms, or as much for fewer.",
        f"![False alarms against recall and delay]({PICTURE})",
        table(
            ["", "settings", "false alarms a week", "recall", "median delay, min"],
            (
                [
                    ">" * row["current"] + "*" * row["front"],
                    " ".join(f"`{line}`" for line in row["toml"].splitlines()),
                    _number(row["false_alarms_per_week"], 2),
                    _interval(row["recall"]),
                    _number(row["median_delay_minutes"], 0),
                ]
                for row in sweep["rows"]
            ),
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _interval(figure: Mapping[str, float] | None) -> str:
    return "n/a" if figure is None else interval(figure)


def _number(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def main(
    history: Annotated[Path, typer.Argument(help="a history of records: JSON Lines or CSV")],
    *,
    output: Annotated[Path, typer.Option(help="folder for the report")] = Path("backtest"),
    events: Annotated[Path | None, typer.Option(help="CSV of what should alert")] = None,
    columns: Annotated[str | None, typer.Option(help="for CSV: record key=column pairs")] = None,
    config_path: Annotated[Path | None, typer.Option("--config", help="settings (TOML)")] = None,
    grace: Annotated[int, typer.Option(min=0, help="minutes after an event's end in which it may be found")] = 60,
) -> None:
    """Backtest a history, sweep thresholds and windows, and write the figures, a document and a picture."""
    try:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Misuse(f"--output: {output} cannot be a folder ({error.strerror}); give another") from error
        options = backtest.Options(
            output / ALERTS, events, timedelta(minutes=grace), output / REPORT, True, output / PICTURE
        )
        figures = backtest.command(history, config.load(config_path), parsed_columns(columns), options)
        documents.replace(output, {DOCUMENT: render(figures).encode()})
    except (Misuse, config.ConfigError) as error:
        typer.echo(f"backtest: {error}", err=True)
        raise typer.Exit(2) from error
    except (MonitorError, OSError) as error:
        typer.echo(f"backtest: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{DOCUMENT}, {REPORT}, {ALERTS} and {PICTURE} are in {output}")


if __name__ == "__main__":
    typer.run(main)
