"""Consumers of a key that report that they use its new secret: an audit row of the job each."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.database import transaction
from keyturn.jobs.errors import AnotherNewKey, JobClosed, UnknownConsumer
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.states import CLOSED
from keyturn.jobs.tables import job_audit

MOVED = "consumer_moved"
CONSUMER = "consumer_"  # starts the names of an audit row's fields, in which the executor writes the declared consumers


async def report_moved(
    engine: AsyncEngine, job_id: str, *, tenant_id: str, consumer: str, key_id: str, by: str
) -> None:
    """Write down that a consumer uses the new key; again, nothing changes.

    Args:
        engine: the database.
        job_id: the job of the key.
        tenant_id: whose job.
        consumer: its name in the key map.
        key_id: the ID of the key that it uses now.
        by: who reports it.

    Raises:
        UnknownJob, JobClosed: there is nothing to wait for.
        AnotherNewKey: the job has no new key yet, or another one.
        UnknownConsumer: the job does not wait for a consumer of this name.
    """
    job, trail = await JobLeases(engine).show(job_id, tenant_id=tenant_id)
    if job["status"] in CLOSED:
        raise JobClosed(f"{job_id} is {job['status']} already")
    if key_id not in {row["detail"].get("new_key_id") for row in trail if row["actor"] == f"execute:{job_id}"}:
        raise AnotherNewKey(f"{job_id}: its rotation has not created the key that {consumer} reports")
    declared = {value for row in trail for name, value in row["detail"].items() if name.startswith(CONSUMER)}
    if consumer not in declared:
        others = f"waits for {', '.join(map(str, sorted(declared)))}" if declared else "waits for no consumer"
        raise UnknownConsumer(f"{job_id} {others}, and not for {consumer}"[:500])
    if consumer in consumers_moved(trail, key_id):
        return
    row = {"job_id": job_id, "at": datetime.now(UTC), "event": MOVED, "actor": by}
    async with transaction(engine) as connection:
        await connection.execute(insert(job_audit).inline(), row | {"detail": {"consumer": consumer, "key_id": key_id}})


def consumers_moved(trail: Iterable[Mapping[str, Any]], key_id: str) -> set[str]:
    """Return the consumers that have reported a key, by a job's audit trail."""
    return {
        str(row["detail"]["consumer"])
        for row in trail
        if row["event"] == MOVED and row["detail"].get("key_id") == key_id
    }
