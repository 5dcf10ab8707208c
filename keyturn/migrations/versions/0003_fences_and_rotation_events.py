"""The fence of a claim that was taken back, and what happens to a rotation on its way to a job."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rotation_jobs", sa.Column("fence", sa.BigInteger()))
    op.create_table(
        "rotation_events",
        sa.Column("event_id", sa.String(128), nullable=False),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("workflow_id", sa.String(1000), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event", sa.String(64), nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name="pk_rotation_events"),
    )
    op.create_index("ix_rotation_events_workflow", "rotation_events", ["tenant_id", "workflow_id", "at"])


def downgrade() -> None:
    op.drop_table("rotation_events")
    op.drop_column("rotation_jobs", "fence")
