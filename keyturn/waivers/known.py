"""Whether anything names the owner that a waiver is about: a name that is misspelt would exempt nothing, in silence."""

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.bulk.tables import bulk_items, bulk_runs
from keyturn.database import rows_of
from keyturn.jobs.tables import rotation_jobs
from keyturn.owners import Owners
from keyturn.people import is_among
from keyturn.waivers.contracts import Waiver
from keyturn.waivers.errors import WaiverRefused


async def expect_owner_known(waiver: Waiver, engine: AsyncEngine, owners: Owners) -> None:
    """Check that a file, an inventory or a job names the owner of a waiver, if it has one.

    Raises:
        WaiverRefused: nothing does.
        JobStoreUnavailable: the database did not answer.
    """
    if waiver.owner is None or is_among(waiver.owner, owners.names):
        return
    name = waiver.owner.lower()
    jobs = rotation_jobs.c
    of_jobs = (
        select(jobs.job_id)
        .where(jobs.tenant_id == waiver.tenant_id)
        .where(or_(func.lower(jobs.owner) == name, func.lower(jobs.recorded_owner) == name))
    )
    of_items = (
        select(bulk_items.c.run_id)
        .join(bulk_runs, bulk_runs.c.run_id == bulk_items.c.run_id)
        .where(bulk_runs.c.tenant_id == waiver.tenant_id, bulk_items.c.owner.is_not(None))
        .where(func.lower(bulk_items.c.owner) == name)
    )
    for query in (of_jobs, of_items):
        if await rows_of(engine, query.limit(1)):
            return
    known = f"; files name {', '.join(sorted(owners.names)[:10])}" if owners.names else ""
    raise WaiverRefused(f"no file, no inventory and no job names the owner {waiver.owner}{known}")
