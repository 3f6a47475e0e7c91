"""Alerts say by which silence they were silenced and what was known to bring news; deliveries, what a silence holds.

Revision: 0004, after 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("alerts", sa.Column("silenced", sa.Text))
    op.add_column("alerts", sa.Column("notes", sa.JSON, nullable=False, server_default="[]"))
    op.add_column("deliveries", sa.Column("held_until", sa.BigInteger))
