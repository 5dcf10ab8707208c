"""The table of labelled cases. `keyturn/migrations/` creates it; a test compares both."""

from sqlalchemy import Column, Index, String, Table, Text, UniqueConstraint

from keyturn.database import metadata, row_id
from keyturn.database_moments import Moment

labelled_cases = Table(
    "labelled_cases",
    metadata,
    Column("case_id", row_id, primary_key=True, autoincrement=True),
    Column("tenant_id", String(64), nullable=False),
    Column("workflow_id", String(1000), nullable=False),
    Column("event_id", String(160), nullable=False),
    Column("label", String(16), nullable=False),
    Column("source", String(16)),
    Column("policy_lines", Text),  # by their IDs, as figures are grouped
    Column("content", Text),  # encrypted; empty where the rotation's history was gone
    Column("labelled_at", Moment, nullable=False),
    Column("collected_at", Moment, nullable=False),
    UniqueConstraint("tenant_id", "event_id", name="uq_labelled_cases_event"),
)
Index("ix_labelled_cases_at", labelled_cases.c.tenant_id, labelled_cases.c.labelled_at)
