"""What happened to rotations and jobs, read from the database as one sequence, for an export."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import String, cast, literal, or_, select, union_all
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.database import transaction
from keyturn.jobs.tables import job_audit, rotation_events, rotation_jobs

PAGE = 1_000  # rows a query: some ten milliseconds each


async def job_events(
    engine: AsyncEngine, *, tenant_id: str, since: datetime | None, until: datetime
) -> AsyncIterator[dict[str, Any]]:
    """Yield what happened to a tenant's rotations and jobs, oldest first; raises JobStoreUnavailable.

    Args:
        engine: the database.
        tenant_id: whose.
        since: from then on; None from the first on.
        until: before then.
    """
    on_the_way = select(
        rotation_events.c.at,
        rotation_events.c.event_id.label("event_id"),
        literal("rotation").label("of"),
        rotation_events.c.workflow_id.label("id"),
        rotation_events.c.event,
        rotation_events.c.actor,
        rotation_events.c.detail,
    ).where(rotation_events.c.tenant_id == tenant_id)
    of_jobs = (
        select(
            job_audit.c.at,
            cast(job_audit.c.audit_id, String).label("event_id"),
            literal("job").label("of"),
            job_audit.c.job_id.label("id"),
            job_audit.c.event,
            job_audit.c.actor,
            job_audit.c.detail,
        )
        .join(rotation_jobs, rotation_jobs.c.job_id == job_audit.c.job_id)
        .where(rotation_jobs.c.tenant_id == tenant_id)
    )
    both = union_all(on_the_way, of_jobs).subquery()
    query = select(both).where(both.c.at < until).order_by(both.c.at, both.c.of, both.c.event_id).limit(PAGE)
    if since is not None:
        query = query.where(both.c.at >= since)
    last: Mapping[str, Any] | None = None
    while True:
        following = query
        if last is not None:
            same = both.c.at == last["at"]
            later_id = (both.c.of == last["of"]) & (both.c.event_id > last["event_id"])
            following = query.where(or_(both.c.at > last["at"], same & ((both.c.of > last["of"]) | later_id)))
        async with transaction(engine) as connection:
            rows = [dict(row) for row in (await connection.execute(following)).mappings()]
        for row in rows:
            yield row
        if len(rows) < PAGE:
            return
        last = rows[-1]
