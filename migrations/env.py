"""Alembic's entry: applies the steps on the connection that `workers.schema` hands over."""

from alembic import context

from keyturn.jobs.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
