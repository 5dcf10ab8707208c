"""Leases on jobs, and one job a credential until it is closed, whatever state it is in on the way."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_OPEN = "status IN ('open', 'delivered', 'claimed', 'rotating', 'verifying', 'grace')"
_INDEX = "uq_rotation_jobs_open_credential"


def upgrade() -> None:
    op.add_column("rotation_jobs", sa.Column("lease_token", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("rotation_jobs", sa.Column("lease_owner", sa.String(256)))
    op.add_column("rotation_jobs", sa.Column("lease_until", sa.DateTime(timezone=True)))
    op.add_column("rotation_jobs", sa.Column("closed_at", sa.DateTime(timezone=True)))
    _unique_while(_OPEN)
    op.create_index(
        "ix_rotation_jobs_claimable",
        "rotation_jobs",
        ["tenant_id", "rotate_by", "created_at"],
        sqlite_where=sa.text(_OPEN),
        postgresql_where=sa.text(_OPEN),
    )


def downgrade() -> None:
    op.drop_index("ix_rotation_jobs_claimable", "rotation_jobs")
    _unique_while("status = 'open'")
    for name in ("closed_at", "lease_until", "lease_owner", "lease_token"):
        op.drop_column("rotation_jobs", name)


def _unique_while(condition: str) -> None:
    op.drop_index(_INDEX, "rotation_jobs")
    op.create_index(
        _INDEX,
        "rotation_jobs",
        ["tenant_id", "account_id", "key_id"],
        unique=True,
        sqlite_where=sa.text(condition),
        postgresql_where=sa.text(condition),
    )
