"""The tables of bulk runs. `keyturn/migrations/` creates them; a test compares both."""

from sqlalchemy import JSON, BigInteger, Boolean, Column, ForeignKey, Index, Integer, String, Table, Text, false, text

from keyturn.database import account_name, metadata
from keyturn.database_moments import Moment

bulk_runs = Table(
    "bulk_runs",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("tenant_id", String(64), nullable=False),
    Column("task", String(64), nullable=False),
    Column("source", String(512), nullable=False),
    Column("source_digest", String(80), nullable=False),
    Column("policy_lines", JSON, nullable=False),
    Column("question", Text),  # encrypted
    Column("requested_by", String(256), nullable=False),
    Column("decide_by", String(16), nullable=False, server_default="rule_and_model"),
    Column("policy_digest", String(70)),
    Column("prompt_version", String(64)),
    Column("code_version", String(64)),
    # Whether keys whose job failed or was cancelled get another one.
    Column("again", Boolean, nullable=False, server_default=false()),
    Column("workflow_id", String(1000), nullable=False),
    Column("created_at", Moment, nullable=False),
    # When every row was written: from then on it may be judged.
    Column("loaded_at", Moment),
    Column("asks", Integer),
    Column("ended_at", Moment),
    Column("ended", String(16)),
    # A RunProgress, as it was at the end.
    Column("figures", JSON),
)
Index("ix_bulk_runs_tenant", bulk_runs.c.tenant_id, bulk_runs.c.created_at)

bulk_items = Table(
    "bulk_items",
    metadata,
    Column("run_id", String(64), ForeignKey("bulk_runs.run_id"), primary_key=True),
    Column("ordinal", Integer, primary_key=True, autoincrement=False),
    # Its place among those that a model is asked about, without gaps: pages are cut by it.
    Column("ask", Integer),
    Column("line", Integer, nullable=False),
    Column("account_id", account_name),
    Column("key_id", String(256)),
    Column("owner", String(64)),  # by the inventory
    Column("facts", JSON),
    Column("content", Text),  # what a task beside rotations is asked about; encrypted
    Column("decided_by", String(16)),
    Column("outcome", String(32)),
    Column("reason", String(64)),
    Column("explanation", String(1000)),
    Column("policy_lines", JSON),
    Column("window_days", Integer),
    Column("rotate_by", Moment),
    Column("workflow_id", String(1000)),
    Column("job_id", String(64)),
    Column("model", String(128)),
    Column("cost_picodollars", BigInteger),
    Column("judged_at", Moment),
)
Index("ix_bulk_items_ask", bulk_items.c.run_id, bulk_items.c.ask)
# Whose a key is, by the inventories that said so.
_OWNED = text("owner IS NOT NULL")
Index(
    "ix_bulk_items_owned",
    bulk_items.c.account_id,
    bulk_items.c.key_id,
    sqlite_where=_OWNED,
    postgresql_where=_OWNED,
)
_STARTED = text("outcome = 'started'")
Index(
    "ix_bulk_items_started",
    bulk_items.c.run_id,
    bulk_items.c.ordinal,
    sqlite_where=_STARTED,
    postgresql_where=_STARTED,
)

# What was handed to a provider's batch endpoint. The row is there before the submit: one without an id was cut off.
bulk_batches = Table(
    "bulk_batches",
    metadata,
    Column("run_id", String(64), ForeignKey("bulk_runs.run_id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("provider", String(64), nullable=False),
    Column("model", String(128), nullable=False),
    Column("requests", Integer, nullable=False),
    Column("intended_at", Moment, nullable=False),
    Column("batch_id", String(128)),
    Column("ended_at", Moment),
    Column("answered", Integer),
)
