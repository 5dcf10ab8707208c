"""Where an exposed key was found."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("exposures", sa.Column("place", sa.String(1000)))


def downgrade() -> None:
    op.drop_column("exposures", "place")
