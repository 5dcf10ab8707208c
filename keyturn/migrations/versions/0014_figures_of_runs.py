"""What became of a run is written beside it when it ends: a list of runs does not count their items."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("bulk_runs", sa.Column("figures", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("bulk_runs", "figures")
