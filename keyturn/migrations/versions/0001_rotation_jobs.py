"""Rotation jobs, their audit and the outbox."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_row_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_moment = sa.DateTime(timezone=True)
_open = sa.text("status = 'open'")


def upgrade() -> None:
    op.create_table(
        "rotation_jobs",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("idempotency_key", sa.String(1000), nullable=False),
        sa.Column("fingerprint", sa.String(70), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("account_id", sa.String(256)),
        sa.Column("key_id", sa.String(256)),
        sa.Column("credential_kind", sa.String(32)),
        sa.Column("policy_lines", sa.JSON()),
        sa.Column("rotation_window_days", sa.Integer()),
        sa.Column("decision_digest", sa.String(70)),
        sa.Column("requested_by", sa.String(256)),
        sa.Column("trace_id", sa.String(64)),
        sa.Column("created_at", _moment, nullable=False),
        sa.Column("rotate_by", _moment),
        sa.PrimaryKeyConstraint("job_id", name="pk_rotation_jobs"),
        sa.UniqueConstraint("tenant_id", "idempotency_key", name="uq_rotation_jobs_idempotency_key"),
    )
    op.create_index(
        "uq_rotation_jobs_open_credential",
        "rotation_jobs",
        ["tenant_id", "account_id", "key_id"],
        unique=True,
        sqlite_where=_open,
        postgresql_where=_open,
    )
    op.create_table(
        "job_audit",
        sa.Column("audit_id", _row_id, autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("at", _moment, nullable=False),
        sa.Column("event", sa.String(32), nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("audit_id", name="pk_job_audit"),
        sa.ForeignKeyConstraint(["job_id"], ["rotation_jobs.job_id"], name="fk_job_audit_job_id"),
    )
    op.create_index("ix_job_audit_job_id", "job_audit", ["job_id"])
    op.create_table(
        "outbox",
        sa.Column("outbox_id", _row_id, autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("topic", sa.String(64), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("created_at", _moment, nullable=False),
        sa.Column("delivered_at", _moment),
        sa.PrimaryKeyConstraint("outbox_id", name="pk_outbox"),
        sa.ForeignKeyConstraint(["job_id"], ["rotation_jobs.job_id"], name="fk_outbox_job_id"),
    )
    op.create_index("ix_outbox_job_id", "outbox", ["job_id"])


def downgrade() -> None:
    op.drop_table("outbox")
    op.drop_table("job_audit")
    op.drop_table("rotation_jobs")
