"""The registry of models: which there are, and which of them is the champion, since when and by whom.

Promotions are only ever added. The newest names the champion; a promotion and a rollback are one row each, so that
there is an old champion or a new one at any moment, whatever stops the process that promotes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from monitor.database import Database, StoreError
from monitor.rebase import Rebase, Scale, Shift
from monitor.records import Series
from monitor.schema import MODELS, PROMOTIONS, REBASES
from monitor.tables import closest


class UnknownModel(StoreError):
    """The registry has no model of this version."""


class OtherFiles(StoreError):
    """The registry has a model of this version whose files are others."""


class PromotionConflict(StoreError):
    """Another promotion came first; nothing was changed."""


class NoChampionBefore(StoreError):
    """There is no champion to go back to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model in the registry.

    Attributes:
        folder: absolute path of its checkpoint.
        files: SHA-256 of each of the checkpoint's files when it was added, by name.
        parent: version of the model that it was trained from.
    """

    version: str
    folder: Path
    files: Mapping[str, str]
    added_at: datetime
    parent: str | None = None
    note: str | None = None

    @property
    def fingerprint(self) -> str:
        """See `fingerprint`."""
        return fingerprint(self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """What made a model the champion.

    Attributes:
        number: 1 for the first, and so on without a gap.
        previous: version of the champion until then.
        back_to: number of the promotion that a rollback of this one repeats; None where there was no champion before.
        by: who promoted it.
    """

    number: int
    version: str
    promoted_at: datetime
    previous: str | None
    back_to: int | None
    reason: str | None
    by: str


def fingerprint(files: Mapping[str, str]) -> str:
    """One hash over the hashes of a model's files: equal only where all are."""
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()


class Models:
    """The registry in `database`; see `Store` for what is raised."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[Model]:
        """Every model, the one that was added first at the start."""
        with self._database.read("read the registry of models") as connection:
            rows = connection.execute(sa.select(MODELS).order_by(MODELS.c.added_at, MODELS.c.version))
            return [_model(row) for row in rows.mappings()]

    def get(self, version: str) -> Model:
        """The model of this version; raises UnknownModel where there is none."""
        with self._database.read("read a model") as connection:
            row = connection.execute(sa.select(MODELS).filter_by(version=version)).mappings().one_or_none()
        if row is None:
            known = [model.version for model in self.all()]
            listed = f"expected one of {', '.join(known)}" if known else "it is empty"
            raise UnknownModel(
                f"model {version!r} is not in the registry of {self._database.shown_url}, {listed}"
                f"{closest(version, known)}; add one with sentiment-monitor models add FOLDER"
            )
        return _model(row)

    def add(self, model: Model) -> Model:
        """Add a model, or say where the files of one that was added are by now; gives what stands there then.

        A parent or note that is None leaves what was said before.

        Raises:
            UnknownModel: there is no model of the parent's version.
            OtherFiles: there is a model of this version with other files.
        """
        if model.parent is not None:
            self.get(model.parent)
        row = asdict(model) | {"folder": str(model.folder), "fingerprint": model.fingerprint}
        insert = self._database.insert(MODELS)
        upsert: Any = insert.on_conflict_do_update(
            index_elements=[MODELS.c.version],
            set_={
                "folder": insert.excluded.folder,
                "parent": sa.func.coalesce(insert.excluded.parent, MODELS.c.parent),
                "note": sa.func.coalesce(insert.excluded.note, MODELS.c.note),
            },
            where=MODELS.c.fingerprint == insert.excluded.fingerprint,
        )
        with self._database.write("add a model") as connection:
            added = connection.scalar(upsert.values(row).returning(MODELS.c.version))
        stored = self.get(model.version)
        if added is None:
            names = sorted(name for name, _ in stored.files.items() ^ model.files.items())
            raise OtherFiles(
                f"model {model.version!r} is in the registry since {stored.added_at:%Y-%m-%d %H:%M} UTC with other "
                f"files than {model.folder} has ({', '.join(dict.fromkeys(names))}); a version is added once, give "
                f"the folder as it was then, or a model with a version of its own"
            )
        return stored

    def champion(self) -> Promotion | None:
        """What made the champion the champion; None where no model was promoted yet."""
        with self._database.read("read who is champion") as connection:
            newest = sa.select(PROMOTIONS).order_by(PROMOTIONS.c.number.desc()).limit(1)
            row = connection.execute(newest).mappings().one_or_none()
        return None if row is None else Promotion(**row)

    def promotions(self) -> list[Promotion]:
        """Every promotion, the first at the start."""
        with self._database.read("read promotions") as connection:
            rows = connection.execute(sa.select(PROMOTIONS).order_by(PROMOTIONS.c.number))
            return [Promotion(**row) for row in rows.mappings()]

    def before(self, promotion: Promotion | None) -> Promotion:
        """What a rollback of this promotion goes back to; raises NoChampionBefore where there is nothing."""
        number = None if promotion is None else promotion.back_to
        with self._database.read("read who was champion") as connection:
            query = sa.select(PROMOTIONS).where(PROMOTIONS.c.number == number)
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            what = "no model was promoted yet" if promotion is None else f"{promotion.version} was the first"
            raise NoChampionBefore(
                f"there is no champion to go back to in the registry of {self._database.shown_url}: {what}; promote "
                f"another with sentiment-monitor models promote VERSION (models add default adds the shipped one)"
            )
        return Promotion(**row)

    def scale(self, promotion: int) -> Scale:
        """What brings counts to those of this promotion; 0: of none."""
        with self._database.read("read what promotions do to counts") as connection:
            versions = {row.number: row.version for row in connection.execute(sa.select(PROMOTIONS))}
            shifts: dict[int, dict[Series, Shift]] = {}
            for row in connection.execute(sa.select(REBASES)):
                shift = Shift(row.ratio, row.kept, row.gained)
                shifts.setdefault(row.promotion, {})[Series(row.dimension, row.name)] = shift
        return Scale(promotion, versions, shifts)

    def promote(
        self,
        version: str,
        *,
        seen: Promotion | None,
        at: datetime,
        by: str,
        reason: str | None = None,
        rebases: Sequence[Rebase] = (),
    ) -> Promotion:
        """Make a model the champion.

        Args:
            seen: the promotion that was the newest when it was decided to promote.
            rebases: what that does to counts, see `monitor.rebase.rebases`; without, what is usual changes only as
                items come in.

        Raises:
            UnknownModel: there is no such model.
            PromotionConflict: there is a newer promotion by now; nothing was changed.
        """
        self.get(version)
        back_to = None if seen is None else seen.number
        after = _after(seen, version=version, promoted_at=at, back_to=back_to, reason=reason, by=by)
        return self._append(after, rebases)

    def roll_back(
        self,
        *,
        seen: Promotion | None,
        at: datetime,
        by: str,
        reason: str | None = None,
        rebases: Sequence[Rebase] = (),
    ) -> Promotion:
        """Make the champion before the one that was `seen` the champion again.

        A second rollback goes one champion further back, not forth again.

        Args:
            seen, rebases: as in `promote`. Counts from before the promotion that is rolled back need no rebases.

        Raises:
            NoChampionBefore: there is none.
            PromotionConflict: there is a newer promotion by now; nothing was changed.
        """
        target = self.before(seen)
        version, back_to = target.version, target.back_to
        after = _after(seen, version=version, promoted_at=at, back_to=back_to, reason=reason, by=by)
        return self._append(after, rebases)

    def _append(self, promotion: Promotion, rebases: Sequence[Rebase]) -> Promotion:
        """Add a promotion; of two that come after the same one, the number admits only the first."""
        rows = [
            {"promotion": promotion.number, **one.series._asdict(), **one.shift._asdict(), "items": one.items}
            for one in rebases
        ]
        insert: Any = self._database.insert(PROMOTIONS).values(asdict(promotion))
        with self._database.write("promote a model") as connection:
            added = connection.scalar(insert.on_conflict_do_nothing().returning(PROMOTIONS.c.number))
            if added is not None and rows:
                connection.execute(sa.insert(REBASES), rows)
        if added is None and (newest := self.champion()) is not None:
            raise PromotionConflict(
                f"model {promotion.version!r} was not promoted: {newest.by} promoted {newest.version} meanwhile, at "
                f"{newest.promoted_at:%Y-%m-%d %H:%M:%S} UTC; look at sentiment-monitor models list, and promote "
                f"again if it is still right"
            )
        return promotion


def _after(seen: Promotion | None, **values: Any) -> Promotion:
    if seen is None:
        return Promotion(number=1, previous=None, **values)
    return Promotion(number=seen.number + 1, previous=seen.version, **values)


def _model(row: Mapping[Any, Any]) -> Model:
    values = {name: value for name, value in row.items() if name != "fingerprint"}
    return Model(**values | {"folder": Path(row["folder"])})
