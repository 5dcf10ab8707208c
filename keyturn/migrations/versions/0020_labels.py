"""Labelled cases: what people decided about rotations, encrypted."""

import sqlalchemy as sa
from alembic import op

from keyturn.database import row_id
from keyturn.database_moments import Moment

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "labelled_cases",
        sa.Column("case_id", row_id, primary_key=True, autoincrement=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("workflow_id", sa.String(1000), nullable=False),
        sa.Column("event_id", sa.String(160), nullable=False),
        sa.Column("label", sa.String(16), nullable=False),
        sa.Column("source", sa.String(16)),
        sa.Column("policy_lines", sa.Text),
        sa.Column("content", sa.Text),
        sa.Column("labelled_at", Moment, nullable=False),
        sa.Column("collected_at", Moment, nullable=False),
        sa.UniqueConstraint("tenant_id", "event_id", name="uq_labelled_cases_event"),
    )
    op.create_index("ix_labelled_cases_at", "labelled_cases", ["tenant_id", "labelled_at"])
    failed = sa.text("event = 'failed'")
    op.create_index("ix_job_audit_failed", "job_audit", ["at"], sqlite_where=failed, postgresql_where=failed)


def downgrade() -> None:
    op.drop_index("ix_job_audit_failed", "job_audit")
    op.drop_table("labelled_cases")
