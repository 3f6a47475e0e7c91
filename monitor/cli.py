"""The command line. Each command is thin; heavy libraries are imported by the commands that need them."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from monitor import __version__, config, model_commands
from monitor.inputs import ConfigOption, count_lines, records_of
from monitor.labelling_commands import label
from monitor.output import Misuse, errors, named, note, parsed_columns, progress_bar, rejections, written
from monitor.records import MonitorError, NewsItem, RawRecord, RecordError, Scored
from monitor.wire import parse

if TYPE_CHECKING:
    from monitor.model.explain import Explainer

app = typer.Typer(
    name="sentiment-monitor",
    help="Streaming sentiment of financial news: topics, trends and alerts with their evidence.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(model_commands.app)
_SCORE_ITEMS = 256
_EXPLAIN_ITEMS = 16
_EXPLAIN_WORDS = 8

ColumnsOption = Annotated[
    str | None,
    typer.Option(help="For CSV: record key=column pairs, e.g. title=headline,published_at=published_utc."),
]


app.command()(label)


def main() -> None:
    """Run the command line; a user's mistake ends in one line on standard error."""
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        # A wrong option's message lacks the option's name; its format_message has it.
        described = getattr(error, "format_message", error.__str__)().rstrip(".")
        if not described:  # no command at all: the help was shown
            sys.exit(2)
        _fail(2, f"{described}; see sentiment-monitor --help")
    except (Misuse, config.ConfigError) as error:
        _fail(2, str(error))
    except MonitorError as error:
        _fail(1, str(error))
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read the output has seen enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        _fail(1, f"{error.filename or 'output'}: {error.strerror}")
    sys.exit(code if isinstance(code, int) else 0)


def _fail(code: int, message: str) -> NoReturn:
    sys.stderr.write(f"sentiment-monitor: error: {' '.join(message.split())}\n")
    sys.exit(code)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"sentiment-monitor {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    leave: Annotated[
        bool, typer.Option("--exit", help="For scripts: play without pauses; exit 0 only if all went as planted.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(help="Write the screen during the bank run to this SVG file.")
    ] = None,
) -> None:
    """Play an invented news day through the real model and engine, here, with no server."""
    from monitor import demo as demonstration

    as_planted = demonstration.run(Console(), stay=not leave, picture=picture)
    if leave and not as_planted:
        raise typer.Exit(1)


@app.command()
def run(config_path: ConfigOption = None) -> None:
    """The daemon: read, score, store, evaluate and alert, until SIGTERM or Ctrl-C."""
    from monitor.daemon import Daemon, Stopped
    from monitor.metrics import Metrics, process_registry

    settings = config.load(config_path)
    logging.basicConfig(
        stream=sys.stderr, level=settings.log.level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for chatty in ("apscheduler", "httpx2", "alembic", "onnx_ir", "onnxscript"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))
    # While a broker is away it writes ten lines a second, which say no more than the monitor's own one.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    try:
        metrics = Metrics(process_registry())
        opening = Daemon(settings, metrics, alert_log=sys.stdout, config_path=config_path).run()
    except Stopped as stopped:
        if stopped.at_once:
            raise MonitorError("stopped at once; what was in hand is read again at the next start") from stopped
        sys.stderr.write("stopped while starting; nothing was in hand\n")
    else:
        if opening:  # see Daemon.run
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)


@app.command()
def score(
    file: Annotated[
        str, typer.Argument(help="JSON Lines or CSV of records; - reads JSON Lines from standard input.")
    ] = "-",
    output: Annotated[Path | None, typer.Option(help="Where to write; without it, standard output.")] = None,
    columns: ColumnsOption = None,
    *,
    strict: Annotated[bool, typer.Option(help="Exit with code 1 if a record was rejected.")] = False,
    explain: Annotated[
        bool, typer.Option(help="Add the words that spoke for each decision, or against it; takes far longer.")
    ] = False,
    config_path: ConfigOption = None,
) -> None:
    """Name the topic and sentiment of each record: JSON Lines in, JSON Lines out."""
    from monitor.champion import named_model
    from monitor.model.scorer import open_scorer

    settings = config.load(config_path)
    records = records_of(file, parsed_columns(columns))
    total = count_lines(file)
    read = rejected = 0
    with ExitStack() as life:
        model = named_model(settings, note)
        scorer = open_scorer(model, note)
        explainer = _explainer(model) if explain else None
        out = life.enter_context(written(output, file))
        progress = life.enter_context(progress_bar("records"))
        task = progress.add_task("explaining" if explain else "scoring", total=total)
        for part in _parts(records, _EXPLAIN_ITEMS if explain else _SCORE_ITEMS):
            items: list[NewsItem] = []
            for record in part:
                try:
                    items.append(parse(record.value))
                except RecordError as error:
                    rejected += 1
                    rejections(file, progress.console)(record, error)
            scored = scorer.score(items)
            explanations = _explanations(explainer, scored) if explainer else repeat({})
            for each, explanation in zip(scored, explanations, strict=False):
                out.write(json.dumps(_scored_json(each) | explanation, ensure_ascii=False) + "\n")
            read += len(part)
            progress.update(task, completed=part[-1].offset + 1)
    if rejected:
        were = "was" if rejected == 1 else "were"
        rest = "the rest is scored" if rejected < read else "nothing was scored"
        errors.print(f"{rejected:,} of the {read:,} records {were} rejected; {rest}", highlight=False)
    if strict and rejected:
        raise typer.Exit(1)


@app.command()
def backtest(
    file: Annotated[Path, typer.Argument(help="A history of records: JSON Lines or CSV.")],
    output: Annotated[
        Path | None, typer.Option(help="Where to write the alerts; without it, standard output (but not of a sweep).")
    ] = None,
    columns: ColumnsOption = None,
    config_path: ConfigOption = None,
    *,
    events: Annotated[
        Path | None, typer.Option(help="CSV of what should alert (name, starts_at, ends_at): scores the alerts.")
    ] = None,
    grace_minutes: Annotated[
        int, typer.Option("--grace", min=0, help="Minutes after an event's end in which an alert may find it.")
    ] = 60,
    report: Annotated[Path | None, typer.Option(help="Where to write the figures, as JSON.")] = None,
    sweep: Annotated[
        bool, typer.Option(help="Try thresholds and windows on this history: false alarms, recall, delay of each.")
    ] = False,
    picture: Annotated[Path | None, typer.Option(help="Draw the sweep into this .svg or .png file.")] = None,
) -> None:
    """Run a history through the engine in event time; out come the alerts it would have raised, as JSON Lines."""
    from monitor import backtest as backtesting

    options = backtesting.Options(output, events, timedelta(minutes=grace_minutes), report, sweep, picture)
    backtesting.command(file, config.load(config_path), parsed_columns(columns), options)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="A history of records: JSON Lines or CSV.")],
    to: Annotated[str, typer.Option(help="BOOTSTRAP/TOPIC, e.g. localhost:9092/news.")],
    speed: Annotated[float, typer.Option(help="Event seconds a second; 0 sends without waiting.", min=0)] = 60.0,
    columns: ColumnsOption = None,
    config_path: ConfigOption = None,
) -> None:
    """Send a history to a Kafka topic at the pace it was published, or many times that."""
    from monitor import history
    from monitor.sources.publisher import Publisher

    bootstrap_servers, _, topic = to.partition("/")
    if not bootstrap_servers or not topic:
        raise Misuse(f"--to: {to!r} is not BOOTSTRAP/TOPIC; give for example localhost:9092/news")
    kafka = replace(config.load(config_path).kafka, bootstrap_servers=bootstrap_servers)
    with ExitStack() as life:
        progress = life.enter_context(progress_bar("records"))
        task = progress.add_task("reading", total=None)
        reject = rejections(str(file), progress.console)
        items = named(lambda: history.read_history(file, parsed_columns(columns), reject))
        publisher = life.enter_context(Publisher(kafka, topic))
        progress.update(task, description=f"to {to}", total=len(items))
        pace = speed or float("inf")
        for sent in history.replay(items, pace, publisher.send, time.sleep, time.monotonic):
            progress.update(task, completed=sent)
    errors.print(f"{len(items):,} records sent to {to}", highlight=False)


@app.command()
def check(config_path: ConfigOption = None) -> None:
    """Validate a configuration, load its model, and reach its servers."""
    from monitor.champion import named_model
    from monitor.delivery import AlertmanagerReceiver
    from monitor.following import follow
    from monitor.model.scorer import open_scorer
    from monitor.retraining_schedule import recurring, told
    from monitor.sources import kafka
    from monitor.sources.files import FileSource
    from monitor.store import Store

    def model() -> str:
        told: list[str] = []
        scorer = open_scorer(named_model(settings, told.append), note)
        watched = len(follow(settings, scorer.topics).watchlist.names)
        what = f"{scorer.version} on {scorer.backend}, {len(scorer.topics)} topics, {watched:,} watched entities"
        return "; ".join((what, *told))

    def database() -> str:
        with Store(settings.store.url) as store:
            store.ping()
        return "reached, schema is current"

    def source() -> str:
        if settings.source.kind == "kafka":
            return kafka.check(settings.kafka)
        FileSource(settings.file, lambda partitions: {}).close()
        return f"{settings.file.path} can be read"

    settings = config.load(config_path)
    checks: dict[str, Callable[[], str]] = {
        "settings": lambda: f"{config_path or 'defaults'} are valid",
        "model": model,
        "store": database,
        "source": source,
    }

    def alertmanager(url: str) -> str:
        with closing(AlertmanagerReceiver(url, settings.alerts)) as receiver:
            return receiver.check()

    if recurring(settings):
        checks["schedule"] = lambda: told(settings, datetime.now(UTC))
    if (labels := settings.labels.topic) is not None:
        checks["labels"] = lambda: kafka.check(replace(settings.kafka, topic=labels))
    for url in settings.alerts.alertmanager_urls:
        checks[f"alertmanager {url}"] = partial(alertmanager, url)
    failed = 0
    for name, do in checks.items():
        try:
            sys.stdout.write(f"ok      {name}: {do()}\n")
        except MonitorError as error:
            failed += 1
            sys.stdout.write(f"failed  {name}: {error}\n")
    if failed:
        raise typer.Exit(1)


def _parts(records: Iterator[RawRecord], items: int) -> Iterator[list[RawRecord]]:
    while part := list(islice(records, items)):
        yield part


def _scored_json(scored: Scored) -> dict[str, Any]:
    """One line of `score`, as the README's table describes it."""
    return {
        "id": scored.item.id,
        "topic": scored.topic,
        "sentiment": scored.sentiment,
        "topic_probs": {label: round(prob, 6) for label, prob in scored.topic_probs.items()},
        "sentiment_probs": {label: round(prob, 6) for label, prob in scored.sentiment_probs.items()},
        "sentiment_score": round(scored.sentiment_score, 6),
        "model": scored.model,
    }


def _explainer(settings: config.ModelSettings) -> "Explainer":
    from monitor.model.explain import open_explainer

    return open_explainer(settings)


def _explanations(explainer: "Explainer", scored: Sequence[Scored]) -> Iterator[dict[str, Any]]:
    """Of each item the words that weigh most, as the README describes them."""
    decisions = {"topic": [each.topic for each in scored], "sentiment": [each.sentiment for each in scored]}
    explained = explainer.explain([each.item.text for each in scored], decisions)
    for each, explanations in zip(scored, explained, strict=True):
        if (gap := max(abs(explanation.gap) for explanation in explanations.values())) > explainer.tolerance:
            text = f"{each.item.id}: explained roughly, its words' weights are off by {gap:.2f} in all"
            errors.print(text, highlight=False, markup=False, soft_wrap=True)
        yield {
            "explanation": {
                task: [
                    {"word": word.text, "weight": round(word.weight, 4)}
                    for word in explanation.words[:_EXPLAIN_WORDS]
                ]
                for task, explanation in explanations.items()
            }
        }
