"""The table of cached responses. `keyturn/migrations/` creates it; a test compares both."""

from sqlalchemy import Column, String, Table, Text

from keyturn.database import metadata
from keyturn.database_moments import Moment

response_cache = Table(
    "response_cache",
    metadata,
    Column("digest", String(70), primary_key=True),
    Column("task", String(48), nullable=False),
    Column("prompt_version", String(64), nullable=False),
    Column("catalogue_version", String(70), nullable=False),
    Column("answer", Text, nullable=False),
    Column("expires_at", Moment, nullable=False, index=True),
)
