"""Messages that could not be delivered, and an index of those that wait."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_WAITING = sa.text("delivered_at IS NULL AND dead_at IS NULL")


def upgrade() -> None:
    op.add_column("outbox", sa.Column("dead_at", sa.DateTime(timezone=True)))
    op.add_column("outbox", sa.Column("failure", sa.String(64)))
    op.create_index("ix_outbox_waiting", "outbox", ["outbox_id"], sqlite_where=_WAITING, postgresql_where=_WAITING)


def downgrade() -> None:
    op.drop_index("ix_outbox_waiting", "outbox")
    op.drop_column("outbox", "failure")
    op.drop_column("outbox", "dead_at")
