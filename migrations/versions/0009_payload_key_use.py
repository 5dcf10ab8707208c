"""How often each payload key has encrypted."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "payload_key_use",
        sa.Column("key_id", sa.String(32), primary_key=True),
        sa.Column("encryptions", sa.BigInteger(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("payload_key_use")
