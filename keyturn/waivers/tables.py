"""The table of waivers."""

from sqlalchemy import Boolean, Column, Index, String, Table, false, text

from keyturn.database import metadata
from keyturn.database_moments import Moment

waivers = Table(
    "waivers",
    metadata,
    Column("waiver_id", String(64), primary_key=True),
    Column("tenant_id", String(64), nullable=False),
    Column("account", String(640)),
    Column("key_id", String(256)),
    Column("owner", String(64)),
    Column("line", String(64)),
    Column("reason", String(500), nullable=False),
    Column("granted_by", String(256), nullable=False),
    Column("granted_at", Moment, nullable=False),
    Column("until", Moment, nullable=False),
    Column("covers_compromised", Boolean, nullable=False, server_default=false()),
    Column("ended_by", String(256)),
    Column("ended_at", Moment),
)
Index(
    "ix_waivers_open",
    waivers.c.tenant_id,
    waivers.c.until,
    sqlite_where=text("ended_at IS NULL"),
    postgresql_where=text("ended_at IS NULL"),
)
