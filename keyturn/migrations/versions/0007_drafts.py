"""Drafts that are read while they are written; and requests to the desk that may be sent again."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "drafts",
        sa.Column("draft_id", sa.String(256), primary_key=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("account_id", sa.String(256), nullable=False),
        sa.Column("requested_by", sa.String(256), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("text", sa.Text),
        sa.Column("approved", sa.Boolean),
        sa.Column("reason", sa.String(64)),
        sa.Column("explanation", sa.String(500)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
    )
    op.create_index("ix_drafts_mine", "drafts", ["tenant_id", "requested_by", "created_at"])
    op.create_index("ix_drafts_ended", "drafts", ["ended_at"])
    op.create_table(
        "draft_states",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column(
            "draft_id",
            sa.String(256),
            sa.ForeignKey("drafts.draft_id", ondelete="CASCADE", name="fk_draft_states_draft_id_drafts"),
            nullable=False,
        ),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_draft_states_draft_id", "draft_states", ["draft_id"])
    op.create_table(
        "desk_requests",
        sa.Column("key_digest", sa.String(64), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("answer", sa.Text),
    )
    op.create_index("ix_desk_requests_began_at", "desk_requests", ["began_at"])


def downgrade() -> None:
    op.drop_table("desk_requests")
    op.drop_table("draft_states")
    op.drop_table("drafts")
