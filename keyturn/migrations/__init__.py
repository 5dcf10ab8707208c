"""The database's schema, step by step (Alembic)."""

# The newest revision in versions/. A worker compares it with the database's without importing Alembic.
HEAD = "0024"
