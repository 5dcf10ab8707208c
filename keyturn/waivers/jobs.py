"""Jobs of keys that were waived after they were created: no executor starts them, and people learn why."""

import asyncio
from collections.abc import Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.execution.errors import PolicyLineMissing
from keyturn.execution.lines import lines_of_job
from keyturn.jobs.in_flight import JobRow
from keyturn.jobs.listing import JobFilter, JobListing
from keyturn.jobs.tables import URGENT
from keyturn.moments import in_utc
from keyturn.owners import Owners
from keyturn.policy.catalogue import Catalogue
from keyturn.waivers.contracts import AppliedWaiver, Waiver
from keyturn.waivers.rules import covers
from keyturn.waivers.store import WaiverBook, WaiverStore

PAGE = 500  # jobs a query
NOT_STARTED = ("open", "delivered")


class WaivedJobs:
    """Which jobs are waived.

    Args:
        engine: of the database with jobs and waivers.
        owners: who owns which key.
        catalogue: the policy lines.
        tenant_id: whose jobs.
    """

    def __init__(self, engine: AsyncEngine, owners: Owners, catalogue: Catalogue, *, tenant_id: str) -> None:
        self._book = WaiverBook(WaiverStore(engine), owners)
        self._catalogue = catalogue
        self._tenant_id = tenant_id

    async def among(self, rows: Sequence[JobRow]) -> Mapping[str, AppliedWaiver]:
        """Return the waivers of those jobs that have one, by job ID; raises JobStoreUnavailable."""
        if not await self._book.active(self._tenant_id):
            return {}
        found = dict[str, AppliedWaiver]()
        for row in rows:
            await asyncio.sleep(0)  # many jobs and many waivers take seconds, in which others must go on
            if row.closed_at is None and (waiver := await self._waiver_of(row)) is not None:
                found[row.job_id] = waiver
        return found

    async def holds_back(self, row: JobRow) -> str | None:
        """Return why a job that no executor has started is left alone; None if it is not."""
        waived = await self.among([row]) if row.state in NOT_STARTED else {}
        return waived_because(waived[row.job_id]) if row.job_id in waived else None

    async def _waiver_of(self, row: JobRow) -> AppliedWaiver | None:
        try:
            lines = lines_of_job(self._catalogue, row.policy_lines)
        except PolicyLineMissing:  # the job itself waits for that line
            return None
        return await self._book.find(
            lines,
            tenant_id=self._tenant_id,
            account_id=row.account_id,
            key_id=row.key_id,
            recorded_owner=row.recorded_owner,
            compromised=row.is_urgent,
        )


def waived_because(waiver: AppliedWaiver) -> str:
    """Return why a waived job is left alone."""
    return f"{waiver.waiver_id} of {waiver.granted_by} exempts the key until {in_utc(waiver.until)}"


async def open_jobs_of(waiver: Waiver, engine: AsyncEngine, owners: Owners) -> list[str]:
    """Return the IDs of the open jobs of the keys that a waiver is about; raises JobStoreUnavailable."""
    listing, found = JobListing(engine), list[str]()
    after = None
    while True:
        page = await listing.page(
            JobFilter(state="open", line=waiver.line),
            tenant_id=waiver.tenant_id,
            order_by="due",
            limit=PAGE,
            after=after,
        )
        for row in page.rows:
            owner = owners.owner_of(row["account_id"], row["key_id"], row["recorded_owner"])
            about = {"account_id": row["account_id"], "key_id": row["key_id"], "owner": owner}
            if covers(waiver, **about, compromised=row["priority"] == URGENT):
                found.append(row["job_id"])
        after = page.after
        if after is None:
            return found
