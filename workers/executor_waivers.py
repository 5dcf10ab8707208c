"""Jobs that an executor leaves alone, because a waiver was granted for their key after they were created."""

from collections.abc import Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.execution.errors import PolicyLineMissing
from keyturn.jobs.in_flight import JobRow
from keyturn.owners import Owners
from keyturn.policy.catalogue import Catalogue
from keyturn.waivers.contracts import AppliedWaiver
from keyturn.waivers.store import WaiverBook, WaiverStore
from keyturn.workers.executor_accounts import lines_of_job


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
        found = {row.job_id: await self._waiver_of(row) for row in rows if row.closed_at is None}
        return {job_id: waiver for job_id, waiver in found.items() if waiver is not None}

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
