"""Labels that people give, and what they labelled, with what the model had said of it.

Revision: 0006, after 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "labelled_items",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("body", sa.Text),
        sa.Column("publisher", sa.Text),
        sa.Column("url", sa.Text),
        sa.Column("language", sa.Text),
        sa.Column("published_at", sa.BigInteger, nullable=False),
        sa.Column("event_at", sa.BigInteger, nullable=False),
        sa.Column("story", sa.Text, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("sentiment", sa.Text, nullable=False),
        sa.Column("topic_probs", sa.JSON, nullable=False),
        sa.Column("sentiment_probs", sa.JSON, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_labelled_items"),
    )
    op.create_index("ix_labelled_items_story", "labelled_items", ["story"])
    op.create_table(
        "labels",
        sa.Column("item", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("stored_at", sa.BigInteger, nullable=False),
        sa.Column("turn", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("item", "task", "who", "at", "label", name="pk_labels"),
        sa.ForeignKeyConstraint(["item"], ["labelled_items.id"], name="fk_labels_item_labelled_items"),
    )
