"""Buckets by the promotion that their items were scored under, and what promotions do to the counts of each series.

What was stored before is of no promotion that is known, 0; the promotions until now change nothing of it.

Revision: 0009, after 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_KEY = ("start", "dimension", "name", "stream", "partition")
_COUNTS = ("items", "negatives", "score", "late", "late_negatives", "stories", "negative_stories")


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _copy_buckets()
    else:
        op.add_column("buckets", sa.Column("promotion", sa.Integer, nullable=False, server_default="0"))
        op.drop_constraint("pk_buckets", "buckets")
        op.create_primary_key("pk_buckets", "buckets", [*_KEY, "promotion"])
    op.create_table(
        "rebases",
        sa.Column("promotion", sa.Integer, nullable=False),
        sa.Column("dimension", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("ratio", sa.Double, nullable=False),
        sa.Column("kept", sa.Double, nullable=False),
        sa.Column("gained", sa.Double, nullable=False),
        sa.Column("items", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("promotion", "dimension", "name", name="pk_rebases"),
        sa.ForeignKeyConstraint(["promotion"], ["promotions.number"], name="fk_rebases_promotion_promotions"),
    )


def _copy_buckets() -> None:
    """SQLite cannot change a key in place."""
    op.rename_table("buckets", "buckets_before")
    op.create_table(
        "buckets",
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("dimension", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("promotion", sa.Integer, nullable=False),
        *(sa.Column(name, sa.Double if name == "score" else sa.BigInteger, nullable=False) for name in _COUNTS),
        sa.PrimaryKeyConstraint(*_KEY, "promotion", name="pk_buckets"),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO buckets SELECT start, dimension, name, stream, partition, 0, "
        "items, negatives, score, late, late_negatives, stories, negative_stories FROM buckets_before"
    )
    op.drop_table("buckets_before")
