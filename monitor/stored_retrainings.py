"""Retrainings in the database, and what a challenger and the champion say of the same items."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from monitor.database import Database, StoreError
from monitor.retraining import LIVE, SILENT_AFTER, Comparison, Outcome, Phase, Retraining, Trigger
from monitor.schema import COMPARISONS, RETRAININGS

_RUNNING: Final = sa.select(RETRAININGS).where(RETRAININGS.c.outcome.is_(None)).order_by(RETRAININGS.c.number)
_COMPARED: Final = tuple(field.name for field in fields(Comparison))


class RetrainingRuns(StoreError):
    """Another retraining goes on; the message says which, and what to do."""


class LostRetraining(StoreError):
    """The retraining is no longer this process's, or has ended; nothing was written."""


class StoredRetrainings:
    """The retrainings in `database`; see `Store` for what else is raised.

    One goes on at a time. Who works on it says so with `beat`; one that fell silent can be claimed by another
    process, and the one that was silent then cannot write any more, should it wake.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, trigger: Trigger, *, by: str, champion: str, folder: Path, now: datetime) -> Retraining:
        """Begin one; its folder is the one given, with its number.

        Raises:
            RetrainingRuns: another goes on.
        """
        with self._database.write("begin a retraining") as connection:
            newest = connection.scalar(sa.select(sa.func.max(RETRAININGS.c.number))) or 0
            begun = Retraining(
                number=newest + 1,
                trigger=trigger,
                by=by,
                started_at=now,
                seen_at=now,
                step="snapshot",
                champion=champion,
                folder=folder / str(newest + 1),
                found={},
            )
            insert: Any = self._database.insert(RETRAININGS).values(_row(begun))
            # Of two that begin at once, the number admits the first.
            added = connection.scalar(_RUNNING) is None and connection.scalar(
                insert.on_conflict_do_nothing().returning(RETRAININGS.c.number)
            )
        if not added:
            raise RetrainingRuns(self._refusal(self.running() or self.get(begun.number), now))
        return begun

    def claim(self, retraining: Retraining, *, by: str, now: datetime, gone: bool = False) -> Retraining:
        """Go on with one whose process is silent, or which is `by`'s own.

        Args:
            gone: whether its process is known to have ended, so that its silence need not be waited for.

        Raises:
            RetrainingRuns: its process was heard of within `SILENT_AFTER`.
            LostRetraining: it has ended, or another process claimed it meanwhile.
        """
        if not gone and retraining.by != by and now - retraining.seen_at < SILENT_AFTER:
            raise RetrainingRuns(self._refusal(retraining, now))
        self._update(retraining, by=by, seen_at=now)
        return replace(retraining, by=by, seen_at=now)

    def beat(self, retraining: Retraining, now: datetime) -> None:
        """Say that its process is at work; raises LostRetraining where it is no longer this one's."""
        self._update(retraining, seen_at=now)

    def advance(self, retraining: Retraining, now: datetime, **changes: Any) -> Retraining:
        """Store what changed: `step`, `challenger`, `snapshot`, `promotion`, or `found`, which is added to what was.

        Raises:
            LostRetraining: it has ended, is at another step by now, or is another process's.
        """
        if "found" in changes:
            changes["found"] = {**retraining.found, **changes["found"]}
        self._update(retraining, seen_at=now, **changes)
        return replace(retraining, seen_at=now, **changes)

    def end(self, retraining: Retraining, outcome: Outcome, reason: str, now: datetime) -> Retraining:
        """End it; raises LostRetraining where it has ended, is at another step by now, or is another process's."""
        changes: dict[str, Any] = {"outcome": outcome, "reason": reason, "ended_at": now}
        self._update(retraining, seen_at=now, **changes)
        return replace(retraining, seen_at=now, **changes)

    def abandon(self, reason: str, now: datetime) -> Retraining | None:
        """End the one that goes on as failed, whoever works on it; None where none does.

        Its process hears of it at its next `beat`.
        """
        changes: dict[str, Any] = {"outcome": "failed", "reason": reason, "ended_at": now}
        goes_on = RETRAININGS.c.outcome.is_(None)
        with self._database.write("abandon a retraining") as connection:
            update = sa.update(RETRAININGS).where(goes_on).values(**changes).returning(RETRAININGS.c.number)
            number = connection.scalar(update)
        return None if number is None else self.get(number)

    def running(self) -> Retraining | None:
        """The one that goes on."""
        with self._database.read("read which retraining goes on") as connection:
            row = connection.execute(_RUNNING).mappings().first()
        return None if row is None else _retraining(row)

    def get(self, number: int) -> Retraining:
        """The one of this number; raises StoreError where there is none."""
        with self._database.read("read a retraining") as connection:
            row = connection.execute(sa.select(RETRAININGS).filter_by(number=number)).mappings().one_or_none()
        if row is None:
            raise StoreError(f"database {self._database.shown_url}: there is no retraining {number}")
        return _retraining(row)

    def newest(self, limit: int = 1000) -> list[Retraining]:
        """The newest of them, the newest first."""
        with self._database.read("read retrainings") as connection:
            rows = connection.execute(sa.select(RETRAININGS).order_by(RETRAININGS.c.number.desc()).limit(limit))
            return [_retraining(row) for row in rows.mappings()]

    def add_comparisons(
        self, retraining: Retraining, phase: Phase, compared: Sequence[Comparison], now: datetime
    ) -> None:
        """Keep what two models say of the same items; an item counts once in each phase."""
        rows = [
            {"retraining": retraining.number, "phase": phase, "stored_at": now} | asdict(one)
            for one in sorted(compared, key=lambda one: one.item)
        ]
        if rows:
            with self._database.write("keep what two models say") as connection:
                connection.execute(self._database.insert(COMPARISONS).on_conflict_do_nothing(), rows)

    def count_comparisons(self, retraining: Retraining, phase: Phase) -> int:
        """How many items both models have scored in this phase."""
        query = sa.select(sa.func.count()).where(*_of(retraining, [phase]))
        with self._database.read("count what two models said") as connection:
            return connection.scalar(query) or 0

    def comparisons(self, retraining: Retraining, phases: Collection[Phase]) -> list[Comparison]:
        """What both models said in these phases, by event time."""
        query = sa.select(*(COMPARISONS.c[name] for name in _COMPARED)).where(*_of(retraining, phases))
        with self._database.read("read what two models said") as connection:
            rows = connection.execute(query.order_by(COMPARISONS.c.event_at, COMPARISONS.c.item)).mappings()
            return [Comparison(**row) for row in rows]

    def _update(self, retraining: Retraining, **changes: Any) -> None:
        """Change the row if it is as `retraining` says: at work, at its step, and by its process."""
        same = [
            RETRAININGS.c.number == retraining.number,
            RETRAININGS.c.outcome.is_(None),
            RETRAININGS.c.step == retraining.step,
        ]
        if retraining.step not in LIVE:  # what is live is any worker's
            same.append(RETRAININGS.c.by == retraining.by)
        with self._database.write("note how a retraining stands") as connection:
            changed = connection.execute(sa.update(RETRAININGS).where(*same).values(**changes)).rowcount
        if not changed:
            now = self.get(retraining.number)
            stands = f"ended, {now.outcome}" if now.outcome else f"is at step {now.step!r}, by {now.by}"
            raise LostRetraining(
                f"retraining {retraining.number} is no longer at step {retraining.step!r} by {retraining.by}: it "
                f"{stands}; nothing was written"
            )

    def _refusal(self, running: Retraining, now: datetime) -> str:
        silent_s = (now - running.seen_at).total_seconds()
        if running.step in LIVE:
            hint = "it ends by itself once the daemon has scored enough items with both models; to end it now,"
        elif now - running.seen_at < SILENT_AFTER:
            hint = "wait for it; if its process is gone, it can be taken over in a few minutes; to end it for good,"
        else:
            hint = "its process seems to be gone; go on with it by python -m pipelines.retrain; to end it for good,"
        return (
            f"retraining {running.number} goes on since {running.started_at:%Y-%m-%d %H:%M} UTC: at step "
            f"{running.step!r}, by {running.by}, last heard of {silent_s:.0f} s ago; {hint} "
            f"sentiment-monitor models abandon"
        )


def _of(retraining: Retraining, phases: Collection[Phase]) -> tuple[sa.ColumnElement[bool], ...]:
    return COMPARISONS.c.retraining == retraining.number, COMPARISONS.c.phase.in_(sorted(phases))


def _row(retraining: Retraining) -> dict[str, Any]:
    row = {field.name: getattr(retraining, field.name) for field in fields(Retraining)}
    return row | {"folder": str(retraining.folder), "found": dict(retraining.found)}


def _retraining(row: Mapping[Any, Any]) -> Retraining:
    return Retraining(**dict(row) | {"folder": Path(row["folder"])})
