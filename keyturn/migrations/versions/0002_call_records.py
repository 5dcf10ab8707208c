"""The ledger of model calls, and cached responses."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "call_records",
        sa.Column("call_id", sa.String(32), nullable=False),
        sa.Column("called_at", _moment, nullable=False),
        sa.Column("trace_id", sa.String(64), nullable=False),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(256), nullable=False),
        sa.Column("task", sa.String(48), nullable=False),
        sa.Column("provider", sa.String(64), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("asked_model", sa.String(128)),
        sa.Column("prompt_version", sa.String(64), nullable=False),
        sa.Column("catalogue_version", sa.String(70)),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("failure", sa.String(64)),
        sa.Column("latency_ms", sa.Float(), nullable=False),
        sa.Column("first_byte_ms", sa.Float()),
        sa.Column("input_tokens", sa.BigInteger()),
        sa.Column("cached_tokens", sa.BigInteger()),
        sa.Column("output_tokens", sa.BigInteger()),
        sa.Column("finish_reason", sa.String(64)),
        sa.Column("cost_picodollars", sa.BigInteger()),
        sa.Column("cache_hit", sa.Boolean(), nullable=False),
        sa.Column("request_id", sa.String(128)),
        sa.Column("fingerprint", sa.String(64)),
        sa.Column("passed_over", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("call_id", name="pk_call_records"),
    )
    op.create_index("ix_call_records_called_at", "call_records", ["called_at"])
    op.create_index("ix_call_records_trace_id", "call_records", ["trace_id"])
    op.create_index("ix_call_records_user", "call_records", ["tenant_id", "user_id", "called_at"])
    op.create_table(
        "kept_answers",
        sa.Column("digest", sa.String(70), nullable=False),
        sa.Column("task", sa.String(48), nullable=False),
        sa.Column("prompt_version", sa.String(64), nullable=False),
        sa.Column("catalogue_version", sa.String(70), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("expires_at", _moment, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_kept_answers"),
    )
    op.create_index("ix_kept_answers_expires_at", "kept_answers", ["expires_at"])


def downgrade() -> None:
    op.drop_table("kept_answers")
    op.drop_table("call_records")
