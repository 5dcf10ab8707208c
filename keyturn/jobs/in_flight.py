"""The jobs that an executor's limits count."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.contracts import CredentialKind
from keyturn.database import transaction
from keyturn.jobs.states import OPEN
from keyturn.jobs.tables import URGENT, rotation_jobs

# A canary of last week still shows that an owner's consumers follow; one of last year does not.
CLOSED_SINCE = timedelta(days=30)


class JobRow(NamedTuple):
    """A job as the limits see it."""

    job_id: str
    account_id: str
    key_id: str
    state: str
    closed_at: datetime | None
    is_urgent: bool
    policy_lines: tuple[str, ...] = ()
    recorded_owner: str | None = None


def as_row(job: Mapping[str, Any]) -> JobRow:
    """Return a job's whole row in this short form."""
    return JobRow(
        job["job_id"],
        job["account_id"],
        job["key_id"],
        job["status"],
        job["closed_at"],
        job["priority"] == URGENT,
        tuple(job["policy_lines"] or ()),
        job["recorded_owner"],
    )


async def recent_jobs(engine: AsyncEngine, *, tenant_id: str, kind: CredentialKind) -> Sequence[JobRow]:
    """Return a tenant's open jobs of a kind, and those closed within a month; raises JobStoreUnavailable."""
    jobs = rotation_jobs.c
    lately = or_(jobs.status.in_(OPEN), jobs.closed_at > datetime.now(UTC) - CLOSED_SINCE)
    query = select(
        *(jobs.job_id, jobs.account_id, jobs.key_id, jobs.status, jobs.closed_at),
        *(jobs.priority == URGENT, jobs.policy_lines, jobs.recorded_owner),
    ).where(jobs.tenant_id == tenant_id, jobs.credential_kind == kind, lately)
    async with transaction(engine) as connection:
        rows = await connection.execute(query)
        return [JobRow._make((*row[:5], bool(row[5]), tuple(row[6] or ()), row[7])) for row in rows]
