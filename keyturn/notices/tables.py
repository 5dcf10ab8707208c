"""The tables of notices: the events, where each goes, the issues in trackers, and how far the sources were read."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
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

# What a tracker has: an issue for each job, or whatever else notices are about.
notice_issues = Table(
    "notice_issues",
    metadata,
    Column("row_id", row_id, primary_key=True, autoincrement=True),
    Column("tenant_id", String(64), nullable=False),
    Column("destination", String(200), nullable=False),
    # What the tracker finds the issue by: its label or correlation ID.
    Column("about", String(100), nullable=False),
    # The job, if it is about one: its row is kept as long as the job is open.
    Column("job_id", String(64)),
    # When its creation was last begun, before the request; NULL once it is known that no request may have created it.
    Column("intended_at", Moment),
    # The tracker's own ID of it; NULL as long as no answer has named it.
    Column("issue_id", String(64)),
    # Requests that write which were begun: an answer is recorded by whoever began the last one.
    Column("attempts", Integer, nullable=False),
    # By the event of each notice, and by `close`: when its request was begun, or null once the issue has it.
    Column("written", JSON, nullable=False),
    Column("changed_at", Moment, nullable=False),
    UniqueConstraint("tenant_id", "destination", "about", name="uq_notice_issues_about"),
)
# Expired rows are found by it.
Index("ix_notice_issues_changed_at", notice_issues.c.changed_at)

# How far a source was read: what lies before has its notices.
notice_cursors = Table(
    "notice_cursors",
    metadata,
    Column("source", String(32), primary_key=True),
    Column("after_id", BigInteger, nullable=False, server_default="0"),
    Column("since", Moment, nullable=False),
)
