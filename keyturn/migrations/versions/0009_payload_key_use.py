"""How often each payload key has encrypted; and sessions of the desk that were ended."""

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
    op.create_table(
        "desk_ended_sessions",
        sa.Column("session_digest", sa.String(64), primary_key=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("desk_ended_sessions")
    op.drop_table("payload_key_use")
