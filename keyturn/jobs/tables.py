"""The tables of rotation jobs. `keyturn/migrations/` creates them; a test compares both."""

from sqlalchemy import (
    CTE,
    JSON,
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    UniqueConstraint,
    bindparam,
    insert,
    select,
    text,
)

from keyturn.database import account_name, metadata, row_id
from keyturn.database_moments import Moment
from keyturn.jobs.states import IS_OPEN

URGENT, NORMAL = 1, 3

rotation_jobs = Table(
    "rotation_jobs",
    metadata,
    Column("job_id", String(64), primary_key=True),
    Column("tenant_id", String(64), nullable=False),
    Column("idempotency_key", String(1000), nullable=False),
    Column("fingerprint", String(70), nullable=False),
    Column("status", String(16), nullable=False),
    # Purging empties the columns from here on; those above stay for ever, as the tombstone of the key.
    Column("account_id", account_name),
    Column("key_id", String(256)),
    # What an access key is called where an export has no key ids (CredentialFacts.name_by_creation).
    Column("name_by_creation", String(64)),
    Column("credential_kind", String(32)),
    Column("owner", String(64)),  # when the job was created
    Column("recorded_owner", String(64)),  # by the inventory, if that said so
    Column("policy_lines", JSON),
    Column("rotation_window_days", Integer),
    Column("decision_digest", String(70)),
    Column("requested_by", String(256)),
    Column("trace_id", String(64)),
    Column("created_at", Moment, nullable=False),
    Column("rotate_by", Moment),
    # Which is executed first: 1 before 3, as Temporal counts. A compromised key is 1.
    Column("priority", Integer, nullable=False, server_default=str(NORMAL)),
    # Of a claim whose decision tightened another job instead: that job. Of a withdrawn one: the job that it replaces.
    Column("merged_into", String(64)),
    # Of a withdrawn claim: an attempt that started no later than this may not write any more. Of a job: when the
    # attempt that created it was scheduled. Both in microseconds, by the Temporal server's clock.
    Column("fence", BigInteger),
    # Who executes it, until when, and the fencing token that grows with each claim: an older one is refused.
    Column("lease_token", BigInteger, nullable=False, server_default="0"),
    Column("lease_owner", String(256)),
    Column("lease_until", Moment),
    Column("closed_at", Moment),
    UniqueConstraint("tenant_id", "idempotency_key", name="uq_rotation_jobs_idempotency_key"),
)
# One job a credential until it is closed, whatever key, policy line or workflow asked for it.
Index(
    "uq_rotation_jobs_open_credential",
    rotation_jobs.c.tenant_id,
    rotation_jobs.c.account_id,
    rotation_jobs.c.key_id,
    unique=True,
    sqlite_where=text(IS_OPEN),
    postgresql_where=text(IS_OPEN),
)
# The same key under its other name: an inventory without ids and one with them create one job.
Index(
    "uq_rotation_jobs_open_creation",
    rotation_jobs.c.tenant_id,
    rotation_jobs.c.account_id,
    rotation_jobs.c.name_by_creation,
    unique=True,
    sqlite_where=text(IS_OPEN),
    postgresql_where=text(IS_OPEN),
)
Index(
    "ix_rotation_jobs_claimable",
    rotation_jobs.c.tenant_id,
    rotation_jobs.c.priority,
    rotation_jobs.c.rotate_by,
    rotation_jobs.c.created_at,
    sqlite_where=text(IS_OPEN),
    postgresql_where=text(IS_OPEN),
)

job_audit = Table(
    "job_audit",
    metadata,
    Column("audit_id", row_id, primary_key=True, autoincrement=True),
    Column("job_id", String(64), ForeignKey("rotation_jobs.job_id"), nullable=False, index=True),
    Column("at", Moment, nullable=False),
    Column("event", String(32), nullable=False),
    Column("actor", String(256), nullable=False),
    Column("detail", JSON, nullable=False),
)
# Few: what is looked for among them, such as rollbacks, is found without reading the whole trail.
Index(
    "ix_job_audit_failed",
    job_audit.c.at,
    sqlite_where=text("event = 'failed'"),
    postgresql_where=text("event = 'failed'"),
)


def audit_of(changed: CTE) -> CTE:
    """PostgreSQL: the audit row of whatever `changed` returns by its `job_id`, for the same statement.

    Its values are the parameters `audit_at`, `audit_event`, `audit_actor` and `audit_detail`.
    """
    names = ("at", "event", "actor", "detail")
    values = [bindparam(f"audit_{name}", type_=job_audit.c[name].type) for name in names]
    return insert(job_audit).from_select(["job_id", *names], select(changed.c.job_id, *values)).cte("audit")


outbox = Table(
    "outbox",
    metadata,
    Column("outbox_id", row_id, primary_key=True, autoincrement=True),
    Column("job_id", String(64), ForeignKey("rotation_jobs.job_id"), nullable=False, index=True),
    Column("topic", String(64), nullable=False),
    Column("payload", JSON, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("delivered_at", Moment),
    # Answers by channel, of a message that has come through some of several.
    Column("delivered_by", JSON),
    # Abandoned: an operator must look at it. `failure` is the error's kind.
    Column("dead_at", Moment),
    Column("failure", String(64)),
)
Index(
    "ix_outbox_waiting",
    outbox.c.outbox_id,
    sqlite_where=text("delivered_at IS NULL AND dead_at IS NULL"),
    postgresql_where=text("delivered_at IS NULL AND dead_at IS NULL"),
)

# What happens to a rotation before there is a job, or without one: parked, resumed, approved, denied, and by whom.
rotation_events = Table(
    "rotation_events",
    metadata,
    Column("event_id", String(128), primary_key=True),
    Column("tenant_id", String(64), nullable=False),
    Column("workflow_id", String(1000), nullable=False),
    Column("at", Moment, nullable=False),
    Column("event", String(64), nullable=False),
    Column("actor", String(256), nullable=False),
    Column("detail", JSON, nullable=False),
    Column("account_id", account_name),
    Column("key_id", String(256)),
    Column("owner", String(64)),
    # When it was written, which may be a day after `at`: the database was away.
    Column("recorded_at", Moment),
)
Index("ix_rotation_events_recorded_at", rotation_events.c.recorded_at)
Index("ix_rotation_events_workflow", rotation_events.c.tenant_id, rotation_events.c.workflow_id, rotation_events.c.at)
