"""The tables of the database, and the rows that its values become. Only `monitor.store` and what is beneath it import
this module."""

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    RowMapping,
    Table,
    Text,
    TypeDecorator,
)

from monitor.records import Alert, Entry, Evidence, NewsItem, Scored, Series, Severity

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Moment(TypeDecorator[datetime]):
    """A moment as whole microseconds since 1970 in UTC: exact for all years that datetime knows, and in order
    under every database's comparison. Aware datetimes go in, in whatever zone; they come out in UTC."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        if value is None:
            return None
        if value.utcoffset() is None:
            raise ValueError(f"{value!r} has no time zone, expected an aware datetime")
        return (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(microseconds=value)


METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

# `stream` is the source that was read, `publisher` the source that the news names.
ITEMS = Table(
    "items",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("stream", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("title", Text, nullable=False),
    Column("body", Text),
    Column("publisher", Text),
    Column("url", Text),
    Column("language", Text),
    Column("published_at", Moment, nullable=False),
    Column("event_at", Moment, nullable=False),
    Column("stored_at", Moment, nullable=False),
    Column("story", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("sentiment", Text, nullable=False),
    Column("sentiment_score", Double, nullable=False),
    Column("topic_probs", JSON, nullable=False),
    Column("sentiment_probs", JSON, nullable=False),
    Column("model", Text, nullable=False),
    Column("late", Boolean, nullable=False),
    Column("copy", Boolean, nullable=False),
    Column("negative", Boolean, nullable=False),
    Index(None, "event_at"),
    Index(None, "topic", "event_at"),
)

ITEM_ENTITIES = Table(
    "item_entities",
    METADATA,
    Column("item_id", Text, ForeignKey("items.id", ondelete="CASCADE"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("event_at", Moment, nullable=False),  # the item's own, here so that one index finds a window
    Index(None, "name", "event_at"),
    sqlite_with_rowid=False,
)

# The key begins with the time, for reading a range of it, and names the stream's partition: partitions belong to one
# worker at a time, so no two workers write one row. The promotion is the one that the items were scored under, 0 for
# none, so that a bucket in which the model changed holds the counts of both.
BUCKETS = Table(
    "buckets",
    METADATA,
    Column("start", Moment, primary_key=True),
    Column("dimension", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("stream", Text, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("promotion", Integer, primary_key=True),
    Column("items", BigInteger, nullable=False),
    Column("negatives", BigInteger, nullable=False),
    Column("score", Double, nullable=False),
    Column("late", BigInteger, nullable=False),
    Column("late_negatives", BigInteger, nullable=False),
    Column("stories", BigInteger, nullable=False),
    Column("negative_stories", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

POSITIONS = Table(
    "positions",
    METADATA,
    Column("stream", Text, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("next_offset", BigInteger),  # null: nothing was stored of this partition yet
    Column("newest_event_at", Moment),
    Column("active_at", Moment, nullable=False),
)

EVALUATIONS = Table(
    "evaluations",
    METADATA,
    Column("stream", Text, primary_key=True),
    Column("through", Moment, nullable=False),
)

ALERTS = Table(
    "alerts",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("dimension", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("window", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("opened_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("escalated_at", Moment),
    Column("resolved_at", Moment),
    Column("observed", BigInteger, nullable=False),
    Column("items", BigInteger, nullable=False),
    Column("expected", Double, nullable=False),
    Column("band", JSON, nullable=False),
    Column("p_value", Double, nullable=False),
    Column("late", BigInteger, nullable=False),
    Column("evidence", JSON, nullable=False),
    Column("models", JSON, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("counting", Text, nullable=False),
    Column("copies", BigInteger, nullable=False),
    Column("publishers", BigInteger),
    Column("words", JSON, nullable=False),
    Column("entities", JSON, nullable=False),
    Column("in_all", JSON),
    Column("silenced", Text),
    Column("notes", JSON, nullable=False),
    Column("follows", Text),  # null: it leads its group
    Column("part_of", JSON),
    Column("explained_by", JSON),
    Column("also", JSON, nullable=False),
    Column("left_group", Text),
    Column("left_at", Moment),
    Column("apart_from", JSON),
    Index(None, "opened_at"),
)

DELIVERIES = Table(
    "deliveries",
    METADATA,
    Column("channel", Text, primary_key=True),
    Column("alert_id", Text, ForeignKey("alerts.id", ondelete="CASCADE"), primary_key=True),
    Column("revision", BigInteger, nullable=False),  # the newest that the channel acknowledged; 0: none
    Column("failures", Integer, nullable=False),  # since it last acknowledged one
    Column("attempted_at", Moment, nullable=False),
    Column("next_attempt_at", Moment),  # null: at once
    Column("held_until", Moment),  # by a silence; null: by none
    Column("error", Text),
    Column("severity", Text),  # as the channel last acknowledged it, null: it did not
    Column("follows", Text),
    Index(None, "alert_id"),
)

# What was labelled is kept here as it was when the first label came, with what the model had said, rather than
# spared in `items`: labels must outlive `store.keep_days`, as training needs the text, while what that setting says
# of items stays true of every one. Nor can a label and the pruning of its item get in each other's way.
LABELLED_ITEMS = Table(
    "labelled_items",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("title", Text, nullable=False),
    Column("body", Text),
    Column("publisher", Text),
    Column("url", Text),
    Column("language", Text),
    Column("published_at", Moment, nullable=False),
    Column("event_at", Moment, nullable=False),
    Column("story", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("sentiment", Text, nullable=False),
    Column("topic_probs", JSON, nullable=False),
    Column("sentiment_probs", JSON, nullable=False),
    Column("model", Text, nullable=False),
    Index(None, "story"),
)

# Every label that anyone ever gave; of one person's for an item and task the newest counts. `turn` is a label's place
# among those that were stored with it, so that of two given at one time it is the one that came later.
LABELS = Table(
    "labels",
    METADATA,
    Column("item", Text, ForeignKey("labelled_items.id"), primary_key=True),
    Column("task", Text, primary_key=True),
    Column("who", Text, primary_key=True),
    Column("at", Moment, primary_key=True),
    Column("label", Text, primary_key=True),
    Column("stored_at", Moment, nullable=False),
    Column("turn", Integer, nullable=False),
)

MODELS = Table(
    "models",
    METADATA,
    Column("version", Text, primary_key=True),
    Column("folder", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("files", JSON, nullable=False),  # name -> SHA-256, so that a changed one can be named
    Column("parent", Text, ForeignKey("models.version")),
    Column("added_at", Moment, nullable=False),
    Column("note", Text),
)

# Rows are only ever added, and their numbers have no gaps: the newest names the champion.
PROMOTIONS = Table(
    "promotions",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("version", Text, ForeignKey("models.version"), nullable=False),
    Column("promoted_at", Moment, nullable=False),
    Column("previous", Text),
    Column("back_to", Integer),  # number of the promotion that a rollback of this one repeats; null: none
    Column("reason", Text),
    Column("by", Text, nullable=False),
)

# What a promotion does to the counts of each series, see `monitor.rebase`.
REBASES = Table(
    "rebases",
    METADATA,
    Column("promotion", Integer, ForeignKey("promotions.number"), primary_key=True),
    Column("dimension", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("ratio", Double, nullable=False),
    Column("kept", Double, nullable=False),
    Column("gained", Double, nullable=False),
    Column("items", BigInteger, nullable=False),
)

RETRAININGS = Table(
    "retrainings",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("trigger", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("seen_at", Moment, nullable=False),
    Column("step", Text, nullable=False),
    Column("champion", Text, ForeignKey("models.version"), nullable=False),
    Column("challenger", Text, ForeignKey("models.version")),
    Column("folder", Text, nullable=False),
    Column("snapshot", Text),
    Column("promotion", Integer, ForeignKey("promotions.number")),
    Column("found", JSON, nullable=False),
    Column("outcome", Text),  # null: it goes on
    Column("reason", Text),
    Column("ended_at", Moment),
)

# What the models before and after a promotion say of the same item. Kept without a tie to `items`, which are pruned.
COMPARISONS = Table(
    "comparisons",
    METADATA,
    Column("retraining", Integer, ForeignKey("retrainings.number"), primary_key=True),
    Column("phase", Text, primary_key=True),
    Column("item", Text, primary_key=True),
    Column("event_at", Moment, nullable=False),
    Column("stored_at", Moment, nullable=False),
    Column("before_topic", Text, nullable=False),
    Column("after_topic", Text, nullable=False),
    Column("before_sentiment", Text, nullable=False),
    Column("after_sentiment", Text, nullable=False),
    Column("before_negative", Boolean, nullable=False),
    Column("after_negative", Boolean, nullable=False),
    Column("before_confidence", Double, nullable=False),
    Column("after_confidence", Double, nullable=False),
)

# Kept without a tie to `items` or `models`: what days were must outlive the items, and any model may score.
DRIFT_DAYS = Table(
    "drift_days",
    METADATA,
    Column("model", Text, primary_key=True),
    Column("day", Date, primary_key=True),
    Column("items", BigInteger, nullable=False),
    Column("reference", Boolean, nullable=False),
    Column("found", JSON, nullable=False),
)

DRIFT = Table(
    "drift",
    METADATA,
    Column("model", Text, primary_key=True),
    Column("day", Date, primary_key=True),
    Column("measure", Text, primary_key=True),
    Column("items", BigInteger, nullable=False),
    Column("value", Double),
    Column("expected", Double),
    Column("z", Double),
    Column("statistic", Double),
    Column("threshold", Double),
    Column("note", Text),
    Column("verdict", Text, nullable=False),
)


_SERIES = ("part_of", "explained_by", "apart_from")


def item_row(source: str, entry: Entry, now: datetime) -> dict[str, Any]:
    scored = entry.scored
    return {
        "id": scored.item.id,
        "stream": source,
        "partition": entry.partition,
        "offset": entry.offset,
        "title": scored.item.title,
        "body": scored.item.body,
        "publisher": scored.item.source,
        "url": scored.item.url,
        "language": scored.item.language,
        "published_at": scored.item.published_at,
        "event_at": entry.event_at,
        "stored_at": now,
        "story": entry.story,
        "topic": scored.topic,
        "sentiment": scored.sentiment,
        "sentiment_score": scored.sentiment_score,
        "topic_probs": dict(scored.topic_probs),
        "sentiment_probs": dict(scored.sentiment_probs),
        "model": scored.model,
        "late": entry.late,
        "copy": entry.copy,
        "negative": entry.negative,
    }


def entity_rows(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    return [
        {"item_id": entry.scored.item.id, "name": name, "event_at": entry.event_at}
        for entry in entries
        for name in dict.fromkeys(entry.entities)
    ]


def alert_row(alert: Alert) -> dict[str, Any]:
    row = {field.name: getattr(alert, field.name) for field in fields(Alert) if field.name != "series"}
    evidence = [asdict(one) | {"published_at": one.published_at.isoformat()} for one in alert.evidence]
    row |= {name: None if row[name] is None else list(row[name]) for name in _SERIES}
    row |= {"also": list(map(list, alert.also))}
    return row | alert.series._asdict() | {"id": alert.id, "evidence": evidence}


def alert_of(row: RowMapping) -> Alert:
    values = {field.name: row[field.name] for field in fields(Alert) if field.name != "series"}
    evidence = (one | {"published_at": datetime.fromisoformat(one["published_at"])} for one in row["evidence"])
    told = (one | {"publishers": tuple(one.get("publishers", ()))} for one in evidence)
    values |= {"evidence": tuple(Evidence(**one) for one in told)}
    values |= {name: tuple(row[name]) for name in ("band", "models", "words", "entities", "notes")}
    values |= {"in_all": None if row["in_all"] is None else tuple(row["in_all"])}
    values |= {name: None if row[name] is None else Series(*row[name]) for name in _SERIES}
    values |= {"also": tuple(Series(*series) for series in row["also"])}
    return Alert(series=Series(row["dimension"], row["name"]), **values)


def relabelled(alert: Alert, severity: Severity | None, follows: str | None) -> Alert:
    """The alert under the labels of a row of `deliveries`; as it is where that has none."""
    if severity is not None and severity != alert.severity:
        alert = replace(alert, severity=severity, escalated_at=None)
    return alert if severity is None or follows == alert.follows else replace(alert, follows=follows, left_at=None)


def scored_of(row: RowMapping) -> Scored:
    """An item with what the model said of it, of a row of `items` or `labelled_items`."""
    item = NewsItem(
        id=row["id"],
        title=row["title"],
        published_at=row["published_at"],
        body=row["body"],
        source=row["publisher"],
        url=row["url"],
        language=row["language"],
    )
    probs = row["topic_probs"], row["sentiment_probs"]
    return Scored(item, row["topic"], row["sentiment"], *probs, row["model"])
