"""Retrainings, and what the models before and after a promotion say of the same items.

Revision: 0008, after 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "retrainings",
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("trigger", sa.Text, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("champion", sa.Text, nullable=False),
        sa.Column("challenger", sa.Text),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("snapshot", sa.Text),
        sa.Column("promotion", sa.Integer),
        sa.Column("found", sa.JSON, nullable=False),
        sa.Column("outcome", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("ended_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("number", name="pk_retrainings"),
        sa.ForeignKeyConstraint(["champion"], ["models.version"], name="fk_retrainings_champion_models"),
        sa.ForeignKeyConstraint(["challenger"], ["models.version"], name="fk_retrainings_challenger_models"),
        sa.ForeignKeyConstraint(["promotion"], ["promotions.number"], name="fk_retrainings_promotion_promotions"),
    )
    op.create_table(
        "comparisons",
        sa.Column("retraining", sa.Integer, nullable=False),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("item", sa.Text, nullable=False),
        sa.Column("event_at", sa.BigInteger, nullable=False),
        sa.Column("stored_at", sa.BigInteger, nullable=False),
        sa.Column("before_topic", sa.Text, nullable=False),
        sa.Column("after_topic", sa.Text, nullable=False),
        sa.Column("before_sentiment", sa.Text, nullable=False),
        sa.Column("after_sentiment", sa.Text, nullable=False),
        sa.Column("before_negative", sa.Boolean, nullable=False),
        sa.Column("after_negative", sa.Boolean, nullable=False),
        sa.Column("before_confidence", sa.Double, nullable=False),
        sa.Column("after_confidence", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("retraining", "phase", "item", name="pk_comparisons"),
        sa.ForeignKeyConstraint(["retraining"], ["retrainings.number"], name="fk_comparisons_retraining_retrainings"),
    )
