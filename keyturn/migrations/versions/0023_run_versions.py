"""What a run was carried out with: prompt and program."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("bulk_runs", sa.Column("prompt_version", sa.String(64)))
    op.add_column("bulk_runs", sa.Column("code_version", sa.String(64)))


def downgrade() -> None:
    op.drop_column("bulk_runs", "code_version")
    op.drop_column("bulk_runs", "prompt_version")
