"""Alerts say what they count, how many publishers told it, which words stand out, and how much it was in all.

Alerts of before counted items.

Revision: 0003, after 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("alerts", sa.Column("counting", sa.Text, nullable=False, server_default="items"))
    op.add_column("alerts", sa.Column("copies", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("alerts", sa.Column("publishers", sa.BigInteger))
    for name in ("words", "entities"):
        op.add_column("alerts", sa.Column(name, sa.JSON, nullable=False, server_default="[]"))
    op.add_column("alerts", sa.Column("in_all", sa.JSON))
