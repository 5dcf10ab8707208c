"""Owners of keys: of an inventory's rows, and of jobs when they were created."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("bulk_items", sa.Column("owner", sa.String(64)))
    op.add_column("rotation_jobs", sa.Column("owner", sa.String(64)))
    op.add_column("rotation_jobs", sa.Column("recorded_owner", sa.String(64)))
    named = sa.text("owner IS NOT NULL")
    op.create_index(
        "ix_bulk_items_owned", "bulk_items", ["account_id", "key_id"], sqlite_where=named, postgresql_where=named
    )


def downgrade() -> None:
    op.drop_index("ix_bulk_items_owned", "bulk_items")
    op.drop_column("rotation_jobs", "recorded_owner")
    op.drop_column("rotation_jobs", "owner")
    op.drop_column("bulk_items", "owner")
