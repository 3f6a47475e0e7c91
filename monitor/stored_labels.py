"""Labels in the database: every one that was given, and the items that they were given to."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, cast

import sqlalchemy as sa

from monitor.database import Database
from monitor.labels import TASKS, Label, Labelled, LabelledItem, Task, unknown_label
from monitor.positions import Positions
from monitor.records import PositionUpdate, RecordError, Scored
from monitor.rows import scored_of
from monitor.schema import ITEMS, LABELLED_ITEMS, LABELS
from monitor.wire import shown

_IDS: Final = 500  # in one statement, well below every database's limit of parameters
_ROWS: Final = 2_000  # held in memory of a long reading
_MICROSECOND: Final = timedelta(microseconds=1)
_Probs = Mapping[Task, Mapping[str, float]]
_Place = tuple[str, Task, str]
"""Item, task and person: what one label at a time stands for."""


class OpenItem(NamedTuple):
    """An item that nobody has labelled yet, nor any copy of it, and the model's probabilities in each task."""

    id: str
    topic_probs: Mapping[str, float]
    sentiment_probs: Mapping[str, float]


class StoredLabels:
    """The labels in `database`; raises as `Store` does."""

    def __init__(self, database: Database, positions: Positions) -> None:
        self._database = database
        self._positions = positions
        columns = LABELLED_ITEMS.c.keys()
        self._copied = sa.select(*(ITEMS.c[name] for name in columns))
        self._keep: Any = database.insert(LABELLED_ITEMS)
        self._insert: Any = database.insert(LABELS).on_conflict_do_nothing().returning(*LABELS.primary_key)

    def problems(self, labels: Sequence[Label]) -> list[RecordError | None]:
        """What is wrong with each of these labels, for what is stored; None where it could be added."""
        with self._database.read("look up what was labelled") as connection:
            probs = self._probs(connection, {label.item for label in labels}, ITEMS, LABELLED_ITEMS)
        return [_problem(label, probs) for label in labels]

    def add(
        self, labels: Sequence[Label], now: datetime, source: str = "", positions: Sequence[PositionUpdate] = ()
    ) -> tuple[list[Label], list[Label]]:
        """Store labels, and with them where the stream `source` stands, all of it or nothing.

        A label is a repeat where it was stored before: the same person's, of the same item and task, at the same
        time; or, if it came without a time, where it is what that person says already. Without a time it counts as
        said at `now`, and after all that its person had said.

        Returns:
            Those that were new, with their times, and the repeats.

        Raises:
            RecordError: an item is not known, or a label is none of its task. See `problems`.
            PositionConflict: a partition is not at the offset that its update expects.
        """
        items = sorted({label.item for label in labels})
        with self._database.write("store labels") as connection:
            for update in sorted(positions, key=lambda update: update.partition):
                self._positions.advance(connection, source, update, None, now)
            for ids in _chunks(items):
                copied = self._copied.where(ITEMS.c.id.in_(ids)).order_by(ITEMS.c.id)
                kept = self._keep.from_select(LABELLED_ITEMS.c.keys(), copied)
                connection.execute(kept.on_conflict_do_nothing())
            # Only now, of what is kept: an item that was found before could be pruned in between.
            probs = self._probs(connection, items, LABELLED_ITEMS)
            for label in labels:
                if (problem := _problem(label, probs)) is not None:
                    raise problem
            said = self._said(connection, {label.item for label in labels if label.at is None})
            rows, repeated = _rows(labels, said, now)
            # Workers that store the same labels at once must do so in one order, or they could lock each other out.
            ordered = sorted(rows, key=lambda row: [row[column.name] for column in LABELS.primary_key])
            new = {tuple(key) for key in connection.execute(self._insert, ordered)} if ordered else set()
        stored: list[Label] = []
        for row in rows:
            label = Label(**{name: row[name] for name in Label.__dataclass_fields__})
            key = tuple(row[column.name] for column in LABELS.primary_key)
            (stored if key in new else repeated).append(label)
            new.discard(key)
        return stored, repeated

    def standing(self) -> list[Label]:
        """The newest label of each person for each item and task."""
        with self._database.read("read labels") as connection:
            return _newest(connection.execute(_BY_AGE))

    def amounts(self) -> dict[Task, Labelled]:
        """How much was labelled, by task. The database adds up, so that this can be asked for every minute."""
        several: dict[Task, dict[str, list[str]]] = {task: {} for task in TASKS}
        with self._database.read("count what was labelled") as connection:
            items: dict[Task, int] = dict(map(tuple, connection.execute(_ITEMS_OF_TASKS)))
            for task, item, label in connection.execute(_BY_SEVERAL):
                several[task].setdefault(item, []).append(label)
        return {task: Labelled(items.get(task, 0), tuple(map(tuple, several[task].values()))) for task in TASKS}

    def labelled(self) -> list[LabelledItem]:
        """Every item that was labelled, with what stands of its labels, by id."""
        with self._database.read("read what was labelled") as connection:
            # The items first: other workers may label more meanwhile, and no item is without a label.
            items = connection.execute(sa.select(LABELLED_ITEMS).order_by(LABELLED_ITEMS.c.id)).mappings().all()
            labels: dict[str, list[Label]] = {}
            for label in _newest(connection.execute(_BY_AGE)):
                labels.setdefault(label.item, []).append(label)
            return [LabelledItem(scored_of(item), item["story"], tuple(labels[item["id"]])) for item in items]

    def count_since(self, since: datetime) -> dict[Task, int]:
        """By task, how many items got a label after a moment; tasks without any are left out."""
        items = sa.func.count(LABELS.c.item.distinct()).label("n")
        query = sa.select(LABELS.c.task, items).where(LABELS.c.stored_at > since).group_by(LABELS.c.task)
        with self._database.read("count labels") as connection:
            return {row.task: row.n for row in connection.execute(query)}

    def newest_item_at(self) -> datetime | None:
        """The event time of the newest item; None: there is none."""
        with self._database.read("read the newest event time") as connection:
            newest: datetime | None = connection.scalar(sa.select(sa.func.max(ITEMS.c.event_at)))
        return newest

    def count_open(self, since: datetime) -> int:
        """How many items `open_items` gives."""
        with self._database.read("count items to label") as connection:
            return connection.scalar(sa.select(sa.func.count()).where(_open(since))) or 0

    def open_items(self, since: datetime) -> Iterator[OpenItem]:
        """The items with an event time from `since` on that first told their story, where nobody labelled that."""
        query = sa.select(ITEMS.c.id, ITEMS.c.topic_probs, ITEMS.c.sentiment_probs).where(_open(since))
        with self._database.read("read items to label") as connection:
            rows = connection.execution_options(yield_per=_ROWS).execute(query)
            for row in rows:
                yield OpenItem(*row)

    def scored(self, item_ids: Collection[str]) -> list[tuple[str, Scored]]:
        """(story, item with what the model said of it), of those of these items that are stored, by id."""
        found: list[tuple[str, Scored]] = []
        with self._database.read("read items") as connection:
            for ids in _chunks(sorted(item_ids)):
                rows = connection.execute(sa.select(ITEMS).where(ITEMS.c.id.in_(ids)).order_by(ITEMS.c.id)).mappings()
                found += [(row["story"], scored_of(row)) for row in rows]
        return found

    def _probs(self, connection: sa.Connection, item_ids: Iterable[str], *tables: sa.Table) -> dict[str, _Probs]:
        """What the model said of these items, as far as the tables hold them; the last table's where several do."""
        found: dict[str, _Probs] = {}
        for table in tables:
            for ids in _chunks(sorted(item_ids)):
                query = sa.select(table.c.id, table.c.topic_probs, table.c.sentiment_probs).where(table.c.id.in_(ids))
                for item, topic, sentiment in connection.execute(query):
                    found[item] = {"topic": topic, "sentiment": sentiment}
        return found

    def _said(self, connection: sa.Connection, item_ids: Iterable[str]) -> dict[_Place, tuple[datetime, str]]:
        """Since when each person says what of these items."""
        return {
            _place(label): (cast(datetime, label.at), label.label)
            for ids in _chunks(sorted(item_ids))
            for label in _newest(connection.execute(_BY_AGE.where(LABELS.c.item.in_(ids))))
        }


_BY_AGE: Final = sa.select(*(LABELS.c[name] for name in Label.__dataclass_fields__)).order_by(
    LABELS.c.at, LABELS.c.stored_at, LABELS.c.turn
)
_ITEMS_OF_TASKS: Final = sa.select(LABELS.c.task, sa.func.count(LABELS.c.item.distinct())).group_by(LABELS.c.task)


def _by_several() -> sa.Select[Any]:
    """Task, item and label of what stands of each person's labels, where several people labelled the item."""
    place, age = (LABELS.c.item, LABELS.c.task), (LABELS.c.at, LABELS.c.stored_at, LABELS.c.turn)
    shared = sa.select(*place).group_by(*place).having(sa.func.count(LABELS.c.who.distinct()) > 1)
    newest = sa.func.row_number().over(
        partition_by=(*place, LABELS.c.who), order_by=[column.desc() for column in age]
    )
    ranked = sa.select(*place, LABELS.c.label, newest.label("rank")).where(sa.tuple_(*place).in_(shared)).subquery()
    return sa.select(ranked.c.task, ranked.c.item, ranked.c.label).where(ranked.c.rank == 1)


_BY_SEVERAL: Final = _by_several()


def _rows(
    labels: Sequence[Label], said: dict[_Place, tuple[datetime, str]], now: datetime
) -> tuple[list[dict[str, Any]], list[Label]]:
    """The labels as rows, less those without a time that say again what their person says; and these."""
    rows: list[dict[str, Any]] = []
    repeated: list[Label] = []
    for turn, label in enumerate(labels):
        at, place = label.at, _place(label)
        since, before = said.get(place, (None, None))
        if at is None:
            if before == label.label:
                repeated.append(label)
                continue
            at = now + turn * _MICROSECOND  # one after the other, so that A, B, A ends with A
            if since is not None and since >= at:  # by a clock that is ahead of this one, see `labels.AHEAD`
                at = since + _MICROSECOND
        if since is None or at >= since:
            said[place] = at, label.label
        rows.append(
            {
                "item": label.item,
                "task": label.task,
                "who": label.who,
                "at": at,
                "label": label.label,
                "stored_at": now,
                "turn": turn,
            }
        )
    return rows, repeated


def _problem(label: Label, probs: Mapping[str, _Probs]) -> RecordError | None:
    known = probs.get(label.item)
    if known is None:
        return RecordError(
            "unknown_item",
            f"id: {shown(label.item)} is no item of this database; give an id that `label --queue` or an alert shows",
        )
    return None if label.label in known[label.task] else unknown_label(label.task, label.label, known[label.task])


def _newest(rows: Iterable[sa.Row[Any]]) -> list[Label]:
    """The last of each person's labels for each item and task, of rows by age."""
    labels = (Label(**row._mapping) for row in rows)
    return list({_place(label): label for label in labels}.values())


def _place(label: Label) -> _Place:
    return label.item, label.task, label.who


def _open(since: datetime) -> sa.ColumnElement[bool]:
    # Not by NOT IN: of more stories than its memory holds, PostgreSQL would look through all of them for each item.
    labelled = sa.exists().where(LABELLED_ITEMS.c.story == ITEMS.c.story)
    return sa.and_(ITEMS.c.event_at >= since, ~ITEMS.c.copy, ~labelled)


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _IDS):
        yield ids[start : start + _IDS]
