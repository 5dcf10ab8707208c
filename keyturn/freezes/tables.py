"""The table of freezes that people started."""

from sqlalchemy import Column, Index, String, Table, text

from keyturn.database import metadata
from keyturn.database_moments import Moment

freezes = Table(
    "freezes",
    metadata,
    Column("freeze_id", String(64), primary_key=True),
    Column("tenant_id", String(64), nullable=False),
    # None: every cloud account of the tenant.
    Column("cloud_account", String(128)),
    Column("reason", String(500), nullable=False),
    Column("started_by", String(256), nullable=False),
    Column("started_at", Moment, nullable=False),
    # None: until an operator thaws it.
    Column("until", Moment),
    Column("ended_by", String(256)),
    Column("ended_at", Moment),
)
Index(
    "ix_freezes_open",
    freezes.c.tenant_id,
    sqlite_where=text("ended_at IS NULL"),
    postgresql_where=text("ended_at IS NULL"),
)
