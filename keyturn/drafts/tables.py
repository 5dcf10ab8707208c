"""The tables of drafts. `keyturn/migrations/` creates them; a test compares both."""

from datetime import datetime

from sqlalchemy import Boolean, Column, ColumnElement, ForeignKey, Index, Integer, String, Table, Text

from keyturn.database import account_name, metadata, row_id
from keyturn.database_moments import Moment

drafts = Table(
    "drafts",
    metadata,
    Column("draft_id", String(256), primary_key=True),  # of its workflow
    Column("tenant_id", String(64), nullable=False),
    Column("account_id", account_name, nullable=False),
    Column("requested_by", String(256), nullable=False),
    Column("state", String(16), nullable=False),
    # Which attempt of which run writes it: an earlier one that wakes up may not.
    Column("run_id", String(64), nullable=False),
    Column("attempt", Integer, nullable=False),
    # Grows whenever the text starts over: a reader's place in it counts within one generation.
    Column("generation", Integer, nullable=False),
    # Grows with every change: a reader that has seen it need not read the text again.
    Column("revision", Integer, nullable=False),
    Column("text", Text),  # encrypted
    Column("approved", Boolean),
    Column("reason", String(64)),
    Column("explanation", String(500)),
    Column("created_at", Moment, nullable=False),
    Column("ended_at", Moment),
)
Index("ix_drafts_mine", drafts.c.tenant_id, drafts.c.requested_by, drafts.c.created_at)
Index("ix_drafts_ended", drafts.c.ended_at)

draft_states = Table(
    "draft_states",
    metadata,
    Column("id", row_id, primary_key=True),
    Column("draft_id", String(256), ForeignKey("drafts.draft_id", ondelete="CASCADE"), nullable=False, index=True),
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("at", Moment, nullable=False),
)


def is_expired(before: datetime | ColumnElement[datetime]) -> ColumnElement[bool]:
    """Return the condition of drafts that ended before then, or began before then and whose workflow was terminated.

    No draft takes a day: what has no end by then gets none.
    """
    of = drafts.c
    return (of.ended_at < before) | (of.ended_at.is_(None) & (of.created_at < before))
