"""Jobs that a stricter decision tightens, urgent ones first; and runs that are decided by rule."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_OPEN = "status IN ('open', 'delivered', 'claimed', 'rotating', 'verifying', 'grace')"
_INDEX = "ix_rotation_jobs_claimable"


def upgrade() -> None:
    op.add_column("rotation_jobs", sa.Column("priority", sa.Integer(), nullable=False, server_default="3"))
    op.add_column("rotation_jobs", sa.Column("merged_into", sa.String(64)))
    _claimable("tenant_id", "priority", "rotate_by", "created_at")
    op.add_column("bulk_runs", sa.Column("decide_by", sa.String(16), nullable=False, server_default="rule_and_model"))
    op.add_column("bulk_runs", sa.Column("policy_digest", sa.String(70)))


def downgrade() -> None:
    op.drop_column("bulk_runs", "policy_digest")
    op.drop_column("bulk_runs", "decide_by")
    _claimable("tenant_id", "rotate_by", "created_at")
    op.drop_column("rotation_jobs", "merged_into")
    op.drop_column("rotation_jobs", "priority")


def _claimable(*columns: str) -> None:
    op.drop_index(_INDEX, "rotation_jobs")
    op.create_index(
        _INDEX,
        "rotation_jobs",
        list(columns),
        sqlite_where=sa.text(_OPEN),
        postgresql_where=sa.text(_OPEN),
    )
