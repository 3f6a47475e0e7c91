"""What days of news were, and how far they are from those before.

Revision: 0010, after 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "drift_days",
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("items", sa.BigInteger, nullable=False),
        sa.Column("reference", sa.Boolean, nullable=False),
        sa.Column("found", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("model", "day", name="pk_drift_days"),
    )
    op.create_table(
        "drift",
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("measure", sa.Text, nullable=False),
        sa.Column("items", sa.BigInteger, nullable=False),
        sa.Column("value", sa.Double),
        sa.Column("expected", sa.Double),
        sa.Column("z", sa.Double),
        sa.Column("statistic", sa.Double),
        sa.Column("threshold", sa.Double),
        sa.Column("note", sa.Text),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("model", "day", "measure", name="pk_drift"),
    )
