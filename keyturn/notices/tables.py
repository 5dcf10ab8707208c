"""The tables of notices: the events, where each goes, and how far the sources were read."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    String,
    Table,
    UniqueConstraint,
    false,
    text,
)

from keyturn.database import account_name, metadata, row_id
from keyturn.database_moments import Moment

notices = Table(
    "notices",
    metadata,
    Column("notice_id", row_id, primary_key=True, autoincrement=True),
    Column("tenant_id", String(64), nullable=False),
    Column("event_id", String(160), nullable=False),
    Column("topic", String(32), nullable=False),
    Column("owner", String(64)),
    Column("account_id", account_name),
    Column("key_id", String(256)),
    # A Notice, whole.
    Column("content", JSON, nullable=False),
    Column("created_at", Moment, nullable=False),
    # When it was said where it goes; until then it goes nowhere.
    Column("routed_at", Moment),
    UniqueConstraint("tenant_id", "event_id", name="uq_notices_event"),
)
# Which notices are about one key: the order of their messages is looked up by it.
Index("ix_notices_key", notices.c.tenant_id, notices.c.account_id, notices.c.key_id)
_UNROUTED = text("routed_at IS NULL")
Index("ix_notices_unrouted", notices.c.notice_id, sqlite_where=_UNROUTED, postgresql_where=_UNROUTED)

notice_sends = Table(
    "notice_sends",
    metadata,
    Column("send_id", row_id, primary_key=True, autoincrement=True),
    Column("notice_id", BigInteger, ForeignKey("notices.notice_id"), nullable=False),
    Column("destination", String(200), nullable=False),
    # What may share its message: an owner's digest of a window, or the notice alone.
    Column("grouped_by", String(250), nullable=False),
    Column("is_urgent", Boolean, nullable=False, server_default=false()),
    Column("due_at", Moment, nullable=False),
    # The message that it goes with, once it is due.
    Column("message_id", String(64), index=True),
    # When its delivery was started last: one that runs for a day is not started at each look.
    Column("started_at", Moment),
    Column("sent_at", Moment),
    # Abandoned: an operator must look at it. `failure` is the error's kind.
    Column("dead_at", Moment),
    Column("failure", String(64)),
    UniqueConstraint("notice_id", "destination", name="uq_notice_sends_destination"),
)
_PENDING = text("sent_at IS NULL AND dead_at IS NULL")
Index(
    "ix_notice_sends_pending",
    notice_sends.c.due_at,
    notice_sends.c.send_id,
    sqlite_where=_PENDING,
    postgresql_where=_PENDING,
)

# How far a source was read: what lies before has its notices.
notice_cursors = Table(
    "notice_cursors",
    metadata,
    Column("source", String(32), primary_key=True),
    Column("after_id", BigInteger, nullable=False, server_default="0"),
    Column("since", Moment, nullable=False),
)
