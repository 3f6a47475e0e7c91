"""Count stories beside items, and keep which items were copies and counted as negative.

What was stored before tells neither: each of its items counts as a story of its own, and is negative where that was
the likeliest sentiment.

Revision: 0002, after 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("copy", "negative"):
        op.add_column("items", sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false()))
    for name in ("stories", "negative_stories"):
        op.add_column("buckets", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    op.execute("UPDATE items SET negative = (sentiment = 'negative')")
    op.execute("UPDATE buckets SET stories = items - late, negative_stories = negatives - late_negatives")
