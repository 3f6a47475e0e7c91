"""Look for drift: `python -m pipelines.drift --config FILE`, in a process of its own that yields to all others.

Each complete day (UTC) of event time is compared with the first `drift.reference_days` days of the model that scored
it. What is found goes to the database, where `sentiment-monitor models drift` and the daemon's metrics read it. Drift
never changes which model scores: at most it starts a retraining, which has a gate of its own.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from monitor import config
from monitor.config import Settings
from monitor.drift import MEASURES, MIN_ITEMS, Drift, LookedAt, sentence
from monitor.model import checkpoint
from monitor.model.encoder import CheckpointError
from monitor.models import UnknownModel
from monitor.output import Misuse
from monitor.records import MonitorError
from monitor.store import Store
from pipelines.drift_measures import Embed, Embedder, Reference, measured, without_verdict

_BETWEEN_RETRAININGS: Final = timedelta(days=7)


class DayError(MonitorError):
    """A day cannot be looked at; the message says why, and which can."""


class Looker:
    """Looks at days of one model, each in its turn.

    Args:
        tell: is told what is left out.
    """

    def __init__(self, store: Store, settings: Settings, model: str, tell: Callable[[str], None]) -> None:
        self._store = store
        self._settings = settings
        self._model = model
        self._tell = tell

    def look(self, day: date, items: int) -> list[Drift]:
        """Look at a day of so many items, and store what is found in place of what was found of it before."""
        kept = self._store.drift.looked_at(self._model, reference=True)
        others = [one for one in kept if one.day != day]
        wanted = self._settings.drift.reference_days
        is_reference = items >= MIN_ITEMS and (len(others) < len(kept) or len(others) < wanted)
        found = self._measured(day) if items >= MIN_ITEMS else {}
        seen = LookedAt(model=self._model, day=day, items=items, reference=is_reference, found=found)
        rows: Sequence[Drift]
        if items < MIN_ITEMS:
            rows = without_verdict(seen, "too few")
        elif is_reference:
            rows = without_verdict(seen, "learning")
        else:
            reference = Reference(others, self._settings.drift.false_alarm_days)
            last = self._store.drift.last_compared(self._model, day)
            rows, after = reference.compared(seen, last.found["statistics"] if last else {})
            seen = replace(seen, found=reference.compact(seen, after))
        self._store.drift.save(seen, rows)
        return list(rows)

    def _measured(self, day: date) -> dict[str, Any]:
        return measured(self._store.drift.items(self._model, day), self._embed, self._settings.drift.sample)

    @cached_property
    def _embed(self) -> Embed | None:
        """The model's encoder; None, once told, where it cannot be had."""
        try:
            return Embedder(self._checkpoint())
        except (CheckpointError, UnknownModel) as error:
            self._tell(f"embeddings of {self._model} are left out: {error}")
            return None

    def _checkpoint(self) -> checkpoint.Checkpoint:
        path = self._settings.model.path
        if path != "champion":
            set_one = checkpoint.read(path)
            if set_one.info.version == self._model:
                return set_one
        shipped = checkpoint.read("default")
        if shipped.info.version == self._model:
            return shipped
        return checkpoint.read(self._store.models.get(self._model).folder)


def look(store: Store, settings: Settings, day: date | None, tell: Callable[[str], None]) -> list[Drift]:
    """Look at the days that are complete and were not looked at yet, or again at one; gives what was found.

    Args:
        day: the one to look at again, in place of what was found of it. Days after it keep what they have.

    Raises:
        DayError: there is nothing stored, the day is not over, or its items are no longer all kept.
    """
    newest = store.drift.newest_event()
    if newest is None:
        raise DayError(f"database {settings.store.url}: no items are stored, so there is no day to look at")
    over = (newest - timedelta(seconds=settings.trends.lateness_s)).astimezone(UTC).date()
    if day is not None and day >= over:
        raise DayError(
            f"--day {day}: not complete, the newest item is of {newest:%Y-%m-%d %H:%M} UTC; give a day before {over}"
        )
    last = store.drift.last_day()
    since = day or last or date(1970, 1, 1)
    days = store.drift.days(since, min(over, since + timedelta(days=1)) if day else over)
    if day is not None:
        _check_kept(store, day, {model: items for _, model, items in days})
    else:
        done = {(row.day, row.model) for row in store.drift.rows(since)}
        days = [one for one in days if one[:2] not in done]
    lookers: dict[str, Looker] = {}
    rows: list[Drift] = []
    for one, model, items in days:
        looker = lookers.setdefault(model, Looker(store, settings, model, tell))
        rows += looker.look(one, items)
    return rows


def _check_kept(store: Store, day: date, items: dict[str, int]) -> None:
    before = {row.model: row.items for row in store.drift.rows(day) if row.day == day}
    for model, looked_at in before.items():
        if items.get(model, 0) < looked_at:
            raise DayError(
                f"--day {day}: {items.get(model, 0)} items of {model} are stored, {looked_at} were when it was "
                "looked at: older ones are deleted (store.keep_days), so what was found then stands"
            )
    if not items and not before:
        raise DayError(f"--day {day}: no items of that day are stored; give a day that has some")


def retraining_refused(store: Store, settings: Settings, rows: Sequence[Drift], now: datetime) -> str | None:
    """Why what was found starts no retraining, in a sentence; None where it does.

    It does if a measure of the champion alarms on the newest day looked at, no retraining goes on, and drift started
    none within a week.
    """
    if settings.drift.then != "retrain":
        return 'drift.then is "nothing"'
    champion = store.models.champion()
    if champion is None:
        return "no model is champion yet; promote one with sentiment-monitor models promote"
    newest = max((row.day for row in rows), default=None)
    if not any(row.alarm and row.day == newest and row.model == champion.version for row in rows):
        return f"nothing alarms on the newest day of {champion.version}, the champion"
    if (running := store.retrainings.running()) is not None:
        return f"retraining {running.number} goes on, at step {running.step!r}"
    for earlier in store.retrainings.newest():
        if earlier.trigger == "drift" and now - earlier.started_at < _BETWEEN_RETRAININGS:
            return (
                f"drift started retraining {earlier.number} at {earlier.started_at:%Y-%m-%d %H:%M} UTC, within a week"
            )
    return None


def _told(rows: Sequence[Drift]) -> None:
    for day, model in sorted({(row.day, row.model) for row in rows}):
        of_day = [row for row in rows if (row.day, row.model) == (day, model)]
        verdicts = {row.verdict for row in of_day}
        items = f"{day}: {of_day[0].items:,} items of {model}"
        if "too few" in verdicts:
            typer.echo(f"{items}, too few to say anything of the day (at least {MIN_ITEMS})")
        elif "learning" in verdicts:
            typer.echo(f"{items}, one of the days that later ones are compared with")
        elif "alarm" not in verdicts:
            typer.echo(f"{items}, nothing unusual in {sum(row.verdict == 'quiet' for row in of_day)} measures")
        for row in of_day:
            if row.alarm:
                typer.echo(f"drift in {row.measure}, {sentence(row)}")


def main(
    *,
    config_path: Annotated[Path | None, typer.Option("--config", help="settings (TOML)")] = None,
    day: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="look again at this day (UTC)")] = None,
    trial: Annotated[
        bool, typer.Option("--trial", help="measure false alarms and delays on simulated news instead")
    ] = False,
) -> None:
    """Compare the news of complete days with the model's reference days, and store what is found."""
    try:
        settings = config.load(config_path)
        _yield_to_others(settings)
        if trial:
            from pipelines.drift_trial import run

            run(settings, typer.echo)
            return
        with Store(settings.store.url) as store:
            rows = look(store, settings, day.date() if day else None, typer.echo)
            _told(rows)
            if not rows:
                typer.echo(f"no day is complete that was not looked at for all {len(MEASURES)} measures")
            refused = retraining_refused(store, settings, rows, datetime.now(UTC))
    except (Misuse, config.ConfigError, DayError) as error:
        typer.echo(f"drift: {error}", err=True)
        raise typer.Exit(2) from error
    except (MonitorError, OSError) as error:
        typer.echo(f"drift: {error}", err=True)
        raise typer.Exit(1) from error
    if refused is None:
        typer.echo("starting a retraining")
        sys.stdout.flush()
        command = [sys.executable, "-m", "pipelines.retrain", "--trigger", "drift"]
        # In place of this process, so that who started this one can stop it.
        os.execv(sys.executable, [*command, *(["--config", str(config_path)] if config_path else [])])  # noqa: S606
    elif any(row.alarm for row in rows):
        typer.echo(f"no retraining is started: {refused}")


def _yield_to_others(settings: Settings) -> None:
    import torch

    os.nice(settings.retrain.niceness)
    torch.set_num_threads(settings.retrain.max_threads)


if __name__ == "__main__":
    typer.run(main)
