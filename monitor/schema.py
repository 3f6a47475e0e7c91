"""The tables of the database. Only `monitor.store` and what is beneath it import this module."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    Dialect,
    Double,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    Unicode,
)

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

# Jobs as APScheduler keeps them.
SCHEDULE = Table(
    "schedule",
    METADATA,
    Column("id", Unicode(191), primary_key=True),
    Column("next_run_time", Float(25), index=True),  # seconds since 1970
    Column("job_state", LargeBinary, nullable=False),
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
