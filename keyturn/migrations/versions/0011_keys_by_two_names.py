"""Access keys are one key by the name of their creation and by their id."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_OPEN = "status IN ('open', 'delivered', 'claimed', 'rotating', 'verifying', 'grace')"
_INDEX = "uq_rotation_jobs_open_creation"


def upgrade() -> None:
    # Jobs of before have no such name: they are found by their key ids alone.
    op.add_column("rotation_jobs", sa.Column("name_by_creation", sa.String(64)))
    op.create_index(
        _INDEX,
        "rotation_jobs",
        ["tenant_id", "account_id", "name_by_creation"],
        unique=True,
        sqlite_where=sa.text(_OPEN),
        postgresql_where=sa.text(_OPEN),
    )


def downgrade() -> None:
    op.drop_index(_INDEX, "rotation_jobs")
    op.drop_column("rotation_jobs", "name_by_creation")
