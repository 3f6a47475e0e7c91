"""A registry of models, and who promoted which of them when: the newest promotion names the champion.

Revision: 0007, after 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "models",
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("files", sa.JSON, nullable=False),
        sa.Column("parent", sa.Text),
        sa.Column("added_at", sa.BigInteger, nullable=False),
        sa.Column("note", sa.Text),
        sa.PrimaryKeyConstraint("version", name="pk_models"),
        sa.ForeignKeyConstraint(["parent"], ["models.version"], name="fk_models_parent_models"),
    )
    op.create_table(
        "promotions",
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("promoted_at", sa.BigInteger, nullable=False),
        sa.Column("previous", sa.Text),
        sa.Column("back_to", sa.Integer),
        sa.Column("reason", sa.Text),
        sa.Column("by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_promotions"),
        sa.ForeignKeyConstraint(["version"], ["models.version"], name="fk_promotions_version_models"),
    )
