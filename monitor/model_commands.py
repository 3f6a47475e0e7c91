"""The commands on the registry of models: `sentiment-monitor models ...`."""

import getpass
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monitor import config
from monitor.inputs import ConfigOption
from monitor.output import Misuse, note, print_table

if TYPE_CHECKING:
    from monitor.drift import Drift
    from monitor.models import Model, Promotion
    from monitor.rebase import Rebase
    from monitor.store import Store

app = typer.Typer(
    name="models", help='The registry of models: what `model.path = "champion"` follows.', no_args_is_help=True
)

VersionArgument = Annotated[str, typer.Argument(help="Version of a model, as `models list` shows it.")]
OverlapOption = Annotated[
    int,
    typer.Option(
        min=0,
        help="How many of the newest stored items it scores, to know how it compares with the champion; 0: none.",
    ),
]
ReasonOption = Annotated[str | None, typer.Option(help="Why, for the record.")]


@app.command("list")
def list_models(
    retraining: Annotated[
        int | None,
        typer.Option(min=1, help="Number of a retraining: show that one, with all that the gate measured."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: all that is known, as JSON.")] = False,
    config_path: ConfigOption = None,
) -> None:
    """Every model: its data, when it was champion, whether its files are as they were; then the retrainings."""
    from monitor import model_listing as listing
    from monitor.store import Store

    with Store(config.load(config_path).store.url) as store:
        if retraining is not None:
            _show_retraining(store, retraining, as_json)
            return
        retrainings = store.retrainings.newest()
        models = listing.listed(store, retrainings)
    if as_json:
        _write_json(listing.as_json(models, retrainings))
        return
    print_table(sys.stdout, listing.MODEL_HEAD, [listing.model_row(one) for one in models])
    if retrainings:
        shown = listing.shown(retrainings)
        sys.stdout.write("\n")
        print_table(sys.stdout, listing.RETRAINING_HEAD, [listing.retraining_row(one) for one in shown])
        if len(shown) < len(retrainings):
            note(f"and {len(retrainings) - len(shown)} retrainings before; --json lists them")
    for one in models:
        if one.terms and one.terms[-1].until is None:
            term = one.terms[-1]
            note(f"{one.model.version} was promoted by {term.by}: {term.reason or 'no reason given'}")


@app.command()
def abandon(reason: ReasonOption = None, config_path: ConfigOption = None) -> None:
    """End the retraining that goes on, as failed; its process stops by itself within half a minute."""
    from monitor.store import Store

    with Store(config.load(config_path).store.url) as store:
        why = f"abandoned by {_person()}" + (f": {reason}" if reason else "")
        ended = store.retrainings.abandon(why, datetime.now(UTC))
    if ended is None:
        raise Misuse("no retraining goes on; see sentiment-monitor models list")
    sys.stdout.write(f"retraining {ended.number} is abandoned at step {ended.step}\n")
    if ended.step == "watch":
        note(f"model {ended.challenger} stays champion; sentiment-monitor models rollback takes that back")


@app.command()
def add(
    folder: Annotated[Path, typer.Argument(help="Folder of a trained model, or `default`; nothing is copied.")],
    parent: Annotated[str | None, typer.Option(help="Version of the model that it was trained from.")] = None,
    text: Annotated[str | None, typer.Option("--note", help="What is worth knowing of it.")] = None,
    config_path: ConfigOption = None,
) -> None:
    """Add a model that this monitor can run; it is opened, and prepared for this machine, to see that it can."""
    from monitor.champion import describe
    from monitor.store import Store

    settings = config.load(config_path)
    with Store(settings.store.url) as store:
        if parent is not None:
            _known(store, parent)
        described = describe(folder, settings, datetime.now(UTC), note)
        model = store.models.add(replace(described, parent=parent, note=text))
    sys.stdout.write(f"model {model.version} in {model.folder} is in the registry\n")


@app.command()
def promote(
    version: VersionArgument,
    reason: ReasonOption = None,
    overlap: OverlapOption = 2_000,
    config_path: ConfigOption = None,
) -> None:
    """Make a model the champion, and what is usual what it would have been under it."""
    from monitor.champion import check_fit, compare
    from monitor.store import Store

    settings = config.load(config_path)
    with Store(settings.store.url) as store:
        model, seen = _known(store, version), store.models.champion()
        if seen is not None and seen.version == version:
            raise Misuse(f"model {version!r} is the champion since {_at(seen.promoted_at)}; give another")
        check_fit(model, settings)
        known = compare(store, model, seen, settings, items=overlap, notify=note)
        at, by = datetime.now(UTC), _person()
        _tell(store.models.promote(version, seen=seen, at=at, by=by, reason=reason, rebases=known), known, settings)


@app.command()
def rollback(reason: ReasonOption = None, overlap: OverlapOption = 2_000, config_path: ConfigOption = None) -> None:
    """Make the champion before this one the champion again."""
    from monitor.champion import check_fit, compare
    from monitor.store import Store

    settings = config.load(config_path)
    with Store(settings.store.url) as store:
        seen = store.models.champion()
        model = store.models.get(store.models.before(seen).version)
        check_fit(model, settings)
        known = compare(store, model, seen, settings, items=overlap, notify=note)
        at, by = datetime.now(UTC), _person()
        _tell(store.models.roll_back(seen=seen, at=at, by=by, reason=reason, rebases=known), known, settings)


@app.command()
def drift(
    days: Annotated[int, typer.Option(min=1, help="Newest days that were looked at.")] = 30,
    config_path: ConfigOption = None,
) -> None:
    """How the news of recent days differs from the days that its model began with: values, and * where it alarms."""
    from monitor.drift import MEASURES, sentence, shown
    from monitor.store import Store

    with Store(config.load(config_path).store.url) as store:
        last = store.drift.last_day()
        found = [] if last is None else store.drift.rows(last - timedelta(days=days - 1))
    by_day: dict[tuple[date, str], dict[str, Drift]] = {}
    for row in found:
        by_day.setdefault((row.day, row.model), {})[row.measure] = row
    rows = []
    for (day, model), measures in by_day.items():
        cells = [
            shown(measure, measures[measure].value) + " *" * measures[measure].alarm if measure in measures else ""
            for measure in MEASURES
        ]
        verdicts = {row.verdict for row in measures.values()}
        standing = next((one for one in ("alarm", "quiet", "no like days", "learning") if one in verdicts), "too few")
        rows.append((str(day), model, f"{next(iter(measures.values())).items:,}", standing, *cells))
    print_table(sys.stdout, ("day", "model", "items", "verdict", *MEASURES), rows)
    for row in found:
        if row.alarm:
            sys.stdout.write(sentence(row) + "\n")
    if not found:
        note("no day was looked at yet; run python -m pipelines.drift once a day of news is complete")


def _show_retraining(store: "Store", number: int, as_json: bool) -> None:
    from monitor import model_listing as listing

    one = store.retrainings.get(number)
    if as_json:
        _write_json(listing.retraining_json(one))
        return
    facts = listing.facts(one)
    width = max(len(name) for name, _ in facts)
    for name, text in facts:
        sys.stdout.write(f"{name.ljust(width)}  {text}\n")
    if (table := listing.gate_text(one)) is not None:
        sys.stdout.write(f"\n{table}")


def _write_json(value: object) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, default=_plain)
    sys.stdout.write("\n")


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _known(store: "Store", version: str) -> "Model":
    from monitor.models import UnknownModel

    try:
        return store.models.get(version)
    except UnknownModel as error:
        raise Misuse(str(error)) from error


def _tell(promotion: "Promotion", known: "Sequence[Rebase]", settings: config.Settings) -> None:
    before = f"in place of {promotion.previous}" if promotion.previous else "the first"
    sys.stdout.write(f"model {promotion.version} is the champion, {before}\n")
    if known:
        note(f"what is usual becomes what it is by {known[0].items:,} items that both models have scored")
    else:
        note("nothing is known of how it compares, so what is usual changes as items come in")
    note(f'daemons with model.path = "champion" take it up within about {settings.model.check_s:g} seconds')


def _person() -> str:
    """Who runs this, and where."""
    try:
        user = getpass.getuser()
    except (ImportError, KeyError, OSError):  # an account without a name, as in containers
        user = f"uid {os.getuid()}"
    return f"{user}@{platform.node()}"


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
