"""The desk's tables: requests that may be sent again, ended sessions; a test compares `keyturn/migrations/`."""

from sqlalchemy import Column, Index, Integer, String, Table, Text

from keyturn.database import metadata
from keyturn.database_moments import Moment

desk_requests = Table(
    "desk_requests",
    metadata,
    Column("key_digest", String(64), primary_key=True),  # of tenant, person, operation and key: a key may be anything
    Column("fingerprint", String(64), nullable=False),
    Column("began_at", Moment, nullable=False),
    Column("status", Integer),
    Column("answer", Text),  # encrypted
)
Index("ix_desk_requests_began_at", desk_requests.c.began_at)

desk_ended_sessions = Table(
    "desk_ended_sessions",
    metadata,
    Column("session_digest", String(64), primary_key=True),
    Column("ended_at", Moment, nullable=False),
)
