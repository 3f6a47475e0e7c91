"""The first schema: items, buckets, positions, evaluations, alerts and their deliveries.

Revision: 0001, after none
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("dimension", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("window", sa.Text, nullable=False),
        sa.Column("severity", sa.Text, nullable=False),
        sa.Column("opened_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("escalated_at", sa.BigInteger),
        sa.Column("resolved_at", sa.BigInteger),
        sa.Column("observed", sa.BigInteger, nullable=False),
        sa.Column("items", sa.BigInteger, nullable=False),
        sa.Column("expected", sa.Double, nullable=False),
        sa.Column("band", sa.JSON, nullable=False),
        sa.Column("p_value", sa.Double, nullable=False),
        sa.Column("late", sa.BigInteger, nullable=False),
        sa.Column("evidence", sa.JSON, nullable=False),
        sa.Column("models", sa.JSON, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_alerts"),
    )
    op.create_index("ix_alerts_opened_at", "alerts", ["opened_at"])
    op.create_table(
        "buckets",
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("dimension", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("items", sa.BigInteger, nullable=False),
        sa.Column("negatives", sa.BigInteger, nullable=False),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("late", sa.BigInteger, nullable=False),
        sa.Column("late_negatives", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("start", "dimension", "name", "stream", "partition", name="pk_buckets"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "evaluations",
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("through", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("stream", name="pk_evaluations"),
    )
    op.create_table(
        "items",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("body", sa.Text),
        sa.Column("publisher", sa.Text),
        sa.Column("url", sa.Text),
        sa.Column("language", sa.Text),
        sa.Column("published_at", sa.BigInteger, nullable=False),
        sa.Column("event_at", sa.BigInteger, nullable=False),
        sa.Column("stored_at", sa.BigInteger, nullable=False),
        sa.Column("story", sa.Text, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("sentiment", sa.Text, nullable=False),
        sa.Column("sentiment_score", sa.Double, nullable=False),
        sa.Column("topic_probs", sa.JSON, nullable=False),
        sa.Column("sentiment_probs", sa.JSON, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("late", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_items"),
    )
    op.create_index("ix_items_event_at", "items", ["event_at"])
    op.create_index("ix_items_topic_event_at", "items", ["topic", "event_at"])
    op.create_table(
        "positions",
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("next_offset", sa.BigInteger),
        sa.Column("newest_event_at", sa.BigInteger),
        sa.Column("active_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("stream", "partition", name="pk_positions"),
    )
    op.create_table(
        "deliveries",
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("alert_id", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("attempted_at", sa.BigInteger, nullable=False),
        sa.Column("next_attempt_at", sa.BigInteger),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("channel", "alert_id", name="pk_deliveries"),
        sa.ForeignKeyConstraint(
            ["alert_id"], ["alerts.id"], name="fk_deliveries_alert_id_alerts", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_deliveries_alert_id", "deliveries", ["alert_id"])
    op.create_table(
        "item_entities",
        sa.Column("item_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("event_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("item_id", "name", name="pk_item_entities"),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name="fk_item_entities_item_id_items", ondelete="CASCADE"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_item_entities_name_event_at", "item_entities", ["name", "event_at"])
