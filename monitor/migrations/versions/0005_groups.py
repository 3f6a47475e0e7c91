"""Alerts that tell one story are a group: one leads it, the others follow.

Alerts of before lead groups of their own. Deliveries say under which labels an alert was told.

Revision: 0005, after 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("follows", "left_group"):
        op.add_column("alerts", sa.Column(name, sa.Text))
    for name in ("part_of", "explained_by", "apart_from"):
        op.add_column("alerts", sa.Column(name, sa.JSON))
    op.add_column("alerts", sa.Column("also", sa.JSON, nullable=False, server_default="[]"))
    op.add_column("alerts", sa.Column("left_at", sa.BigInteger))
    for name in ("severity", "follows"):
        op.add_column("deliveries", sa.Column(name, sa.Text))
