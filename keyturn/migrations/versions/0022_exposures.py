"""Exposed keys: found where they should not be."""

import sqlalchemy as sa
from alembic import op

from keyturn.database import account_name
from keyturn.database_moments import Moment

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "exposures",
        sa.Column("tenant_id", sa.String(64), primary_key=True),
        sa.Column("account_id", account_name, primary_key=True),
        sa.Column("key_id", sa.String(256), primary_key=True),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("reported_by", sa.String(256), nullable=False),
        sa.Column("reported_at", Moment, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("exposures")
