"""Alembic's entry: applies the steps on the connection that `workers.schema` hands over."""

from alembic import context

import keyturn.bulk.tables
import keyturn.cache.tables
import keyturn.drafts.tables
import keyturn.freezes.tables
import keyturn.jobs.tables
import keyturn.key_use
import keyturn.labels.tables
import keyturn.ledger.tables  # noqa: F401 - each describes its own tables on the one metadata
from keyturn.database import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
