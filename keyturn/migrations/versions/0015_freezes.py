"""Freezes: while one holds, no rotation changes anything."""

import sqlalchemy as sa
from alembic import op

from keyturn.database_moments import Moment

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "freezes",
        sa.Column("freeze_id", sa.String(64), primary_key=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("cloud_account", sa.String(128)),
        sa.Column("reason", sa.String(500), nullable=False),
        sa.Column("started_by", sa.String(256), nullable=False),
        sa.Column("started_at", Moment, nullable=False),
        sa.Column("until", Moment),
        sa.Column("ended_by", sa.String(256)),
        sa.Column("ended_at", Moment),
    )
    still = sa.text("ended_at IS NULL")
    op.create_index("ix_freezes_open", "freezes", ["tenant_id"], sqlite_where=still, postgresql_where=still)


def downgrade() -> None:
    op.drop_table("freezes")
