"""The table of exposed keys."""

from sqlalchemy import Column, String, Table

from keyturn.database import account_name, metadata
from keyturn.database_moments import Moment

exposures = Table(
    "exposures",
    metadata,
    Column("tenant_id", String(64), primary_key=True),
    Column("account_id", account_name, primary_key=True),  # empty where no one knows whose the key is
    Column("key_id", String(256), primary_key=True),
    Column("source", String(64), nullable=False),
    Column("reported_by", String(256), nullable=False),
    Column("reported_at", Moment, nullable=False),
    Column("place", String(1000)),
)
