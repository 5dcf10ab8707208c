"""The table of cached responses has the name of what it is."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _rename("kept_answers", "response_cache")


def downgrade() -> None:
    _rename("response_cache", "kept_answers")


def _rename(old: str, new: str) -> None:
    op.rename_table(old, new)
    op.drop_index(f"ix_{old}_expires_at", new)
    op.create_index(f"ix_{new}_expires_at", new, ["expires_at"])
    if op.get_bind().dialect.name == "postgresql":  # SQLite knows a primary key by its table alone
        op.execute(f"ALTER INDEX pk_{old} RENAME TO pk_{new}")
