"""Notices: what people hear of, where it goes, and the issues of jobs in trackers."""

import sqlalchemy as sa
from alembic import op

from keyturn.database import account_name, row_id
from keyturn.database_moments import Moment

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("account_id", account_name),
        sa.Column("key_id", sa.String(256)),
        sa.Column("owner", sa.String(64)),
        sa.Column("recorded_at", Moment),
    ):
        op.add_column("rotation_events", column)
    op.create_index("ix_rotation_events_recorded_at", "rotation_events", ["recorded_at"])
    op.create_table(
        "notices",
        sa.Column("notice_id", row_id, primary_key=True, autoincrement=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("event_id", sa.String(160), nullable=False),
        sa.Column("topic", sa.String(32), nullable=False),
        sa.Column("owner", sa.String(64)),
        sa.Column("account_id", account_name),
        sa.Column("key_id", sa.String(256)),
        sa.Column("content", sa.JSON, nullable=False),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("routed_at", Moment),
        sa.UniqueConstraint("tenant_id", "event_id", name="uq_notices_event"),
    )
    op.create_index("ix_notices_key", "notices", ["tenant_id", "account_id", "key_id"])
    unrouted = sa.text("routed_at IS NULL")
    op.create_index("ix_notices_unrouted", "notices", ["notice_id"], sqlite_where=unrouted, postgresql_where=unrouted)
    op.create_table(
        "notice_sends",
        sa.Column("send_id", row_id, primary_key=True, autoincrement=True),
        sa.Column("notice_id", sa.BigInteger, sa.ForeignKey("notices.notice_id"), nullable=False),
        sa.Column("destination", sa.String(200), nullable=False),
        sa.Column("grouped_by", sa.String(250), nullable=False),
        sa.Column("is_urgent", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("due_at", Moment, nullable=False),
        sa.Column("message_id", sa.String(64)),
        sa.Column("started_at", Moment),
        sa.Column("sent_at", Moment),
        sa.Column("dead_at", Moment),
        sa.Column("failure", sa.String(64)),
        sa.UniqueConstraint("notice_id", "destination", name="uq_notice_sends_destination"),
    )
    op.create_index("ix_notice_sends_message_id", "notice_sends", ["message_id"])
    pending = sa.text("sent_at IS NULL AND dead_at IS NULL")
    op.create_index(
        "ix_notice_sends_pending",
        "notice_sends",
        ["due_at", "send_id"],
        sqlite_where=pending,
        postgresql_where=pending,
    )
    op.create_table(
        "notice_cursors",
        sa.Column("source", sa.String(32), primary_key=True),
        sa.Column("after_id", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("since", Moment, nullable=False),
    )


def downgrade() -> None:
    for table in ("notice_cursors", "notice_sends", "notices"):
        op.drop_table(table)
    op.drop_index("ix_rotation_events_recorded_at", "rotation_events")
    for column in ("recorded_at", "owner", "key_id", "account_id"):
        op.drop_column("rotation_events", column)
