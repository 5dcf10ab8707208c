"""Issues in trackers: which there are, and which notices each has."""

import sqlalchemy as sa
from alembic import op

from keyturn.database import row_id
from keyturn.database_moments import Moment

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "notice_issues",
        sa.Column("row_id", row_id, primary_key=True, autoincrement=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("destination", sa.String(200), nullable=False),
        sa.Column("about", sa.String(100), nullable=False),
        sa.Column("job_id", sa.String(64)),
        sa.Column("intended_at", Moment),
        sa.Column("issue_id", sa.String(64)),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("written", sa.JSON, nullable=False),
        sa.Column("changed_at", Moment, nullable=False),
        sa.UniqueConstraint("tenant_id", "destination", "about", name="uq_notice_issues_about"),
    )
    op.create_index("ix_notice_issues_changed_at", "notice_issues", ["changed_at"])


def downgrade() -> None:
    op.drop_table("notice_issues")
