"""Bulk runs and their items."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_STARTED = sa.text("outcome = 'started'")


def upgrade() -> None:
    op.create_table(
        "bulk_runs",
        sa.Column("run_id", sa.String(64), primary_key=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("task", sa.String(64), nullable=False),
        sa.Column("source", sa.String(512), nullable=False),
        sa.Column("source_digest", sa.String(80), nullable=False),
        sa.Column("policy_lines", sa.JSON, nullable=False),
        sa.Column("question", sa.Text),
        sa.Column("requested_by", sa.String(256), nullable=False),
        sa.Column("workflow_id", sa.String(1000), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("loaded_at", sa.DateTime(timezone=True)),
        sa.Column("asks", sa.Integer),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("ended", sa.String(16)),
    )
    op.create_index("ix_bulk_runs_tenant", "bulk_runs", ["tenant_id", "created_at"])
    op.create_table(
        "bulk_items",
        sa.Column("run_id", sa.String(64), sa.ForeignKey("bulk_runs.run_id"), primary_key=True),
        sa.Column("ordinal", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("ask", sa.Integer),
        sa.Column("line", sa.Integer, nullable=False),
        sa.Column("account_id", sa.String(256)),
        sa.Column("key_id", sa.String(256)),
        sa.Column("facts", sa.JSON),
        sa.Column("content", sa.Text),
        sa.Column("decided_by", sa.String(16)),
        sa.Column("outcome", sa.String(32)),
        sa.Column("reason", sa.String(64)),
        sa.Column("explanation", sa.String(1000)),
        sa.Column("policy_lines", sa.JSON),
        sa.Column("window_days", sa.Integer),
        sa.Column("rotate_by", sa.DateTime(timezone=True)),
        sa.Column("workflow_id", sa.String(1000)),
        sa.Column("job_id", sa.String(64)),
        sa.Column("model", sa.String(128)),
        sa.Column("cost_picodollars", sa.BigInteger),
        sa.Column("judged_at", sa.DateTime(timezone=True)),
    )
    op.create_index("ix_bulk_items_ask", "bulk_items", ["run_id", "ask"])
    op.create_index(
        "ix_bulk_items_started",
        "bulk_items",
        ["run_id", "ordinal"],
        sqlite_where=_STARTED,
        postgresql_where=_STARTED,
    )
    op.create_table(
        "bulk_batches",
        sa.Column("run_id", sa.String(64), sa.ForeignKey("bulk_runs.run_id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("provider", sa.String(64), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("requests", sa.Integer, nullable=False),
        sa.Column("intended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("batch_id", sa.String(128)),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("answered", sa.Integer),
    )


def downgrade() -> None:
    op.drop_table("bulk_batches")
    op.drop_table("bulk_items")
    op.drop_table("bulk_runs")
