"""Account ids as long as an ARN with the longest path that IAM allows."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_TABLES = {"rotation_jobs": True, "bulk_items": True, "drafts": False}


def upgrade() -> None:
    _change(640)


def downgrade() -> None:
    _change(256)


def _change(length: int) -> None:
    if op.get_bind().dialect.name == "sqlite":
        return  # it stores texts of any length
    for table, nullable in _TABLES.items():
        op.alter_column(table, "account_id", type_=sa.String(length), existing_nullable=nullable)
