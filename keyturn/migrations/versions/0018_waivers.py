"""Waivers: keys that are exempt from rotation for a time."""

import sqlalchemy as sa
from alembic import op

from keyturn.database_moments import Moment

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "waivers",
        sa.Column("waiver_id", sa.String(64), primary_key=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("account", sa.String(640)),
        sa.Column("key_id", sa.String(256)),
        sa.Column("owner", sa.String(64)),
        sa.Column("line", sa.String(64)),
        sa.Column("reason", sa.String(500), nullable=False),
        sa.Column("granted_by", sa.String(256), nullable=False),
        sa.Column("granted_at", Moment, nullable=False),
        sa.Column("until", Moment, nullable=False),
        sa.Column("covers_compromised", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("ended_by", sa.String(256)),
        sa.Column("ended_at", Moment),
    )
    still = sa.text("ended_at IS NULL")
    op.create_index("ix_waivers_open", "waivers", ["tenant_id", "until"], sqlite_where=still, postgresql_where=still)


def downgrade() -> None:
    op.drop_table("waivers")
