"""An executor for a cloud that is a folder: a key is an empty file in the folder that EXAMPLE_CLOUD names.

Every step looks at what is there first, and proves its claim on the job before it changes anything, so that it may be
repeated and a step that wakes up late is refused (docs/explanation/executor.md says why).
"""

import os
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import SecretStr

from keyturn.execution.contracts import AccessKeyState, ExecutorSteps, KeyRotationOrder, SecretStore
from keyturn.execution.errors import AnotherAccount, KeyNotFound
from keyturn.jobs.contracts import ClaimedJob, Evidence
from keyturn.jobs.executor import Executor
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.states import ProgressState

LEASE = timedelta(hours=24)  # the workflow prolongs it twice as often


class FolderKeys:
    """The steps on the folder `cloud`."""

    def __init__(self, cloud: Path, leases: JobLeases, secrets: SecretStore, secret_name: str) -> None:
        self._cloud = cloud
        self._leases = leases
        self._secrets = secrets
        self._secret_name = secret_name

    async def account(self) -> str:
        """Return the name of the cloud's account: the folder's."""
        return self._cloud.name

    async def expect_own(self, order: KeyRotationOrder) -> None:
        """Look whether the job's key is in this folder."""
        job, _ = await self._leases.show(order.job_id, tenant_id=order.tenant_id)
        if not (self._cloud / str(job["key_id"])).exists():
            raise AnotherAccount("the job's key is not in this folder")

    async def plan(self, order: KeyRotationOrder) -> Sequence[str]:
        """Return what would be done."""
        await self.expect_own(order)
        return ("create a file", "store its name", "delete the old file")

    async def claim(self, order: KeyRotationOrder) -> ClaimedJob:
        """Claim the job."""
        await self.expect_own(order)
        owner = f"execute:{order.job_id}"
        return await self._leases.claim(order.job_id, tenant_id=order.tenant_id, owner=owner, lease=LEASE)

    async def record(self, job: ClaimedJob) -> AccessKeyState:
        """Write down which keys there are."""
        before = tuple(sorted(file.name for file in self._cloud.iterdir()))
        if job.key_id not in before:
            raise KeyNotFound("the job's key is not in the folder")
        return AccessKeyState(
            job_id=job.job_id,
            tenant_id=job.tenant_id,
            token=job.token,
            cloud_account=self._cloud.name,
            user=job.account_id,
            old_key_id=job.key_id,
            keys_before=before,
        )

    async def create(self, rotation: AccessKeyState) -> str:
        """Create the new key and store its secret; one that an earlier attempt created is used."""
        await self._prove(rotation, state="rotating")
        stored = await self._secrets.current(self._name(rotation))
        if stored is not None and stored[0] not in rotation.keys_before:
            return stored[0]
        key_id = f"badge_{uuid.uuid4().hex[:8]}"
        (self._cloud / key_id).touch()
        await self._secrets.put(self._name(rotation), key_id, SecretStr(uuid.uuid4().hex))
        await self._prove(rotation, evidence={"new_key_id": key_id})
        return key_id

    async def verify(self, rotation: AccessKeyState) -> None:
        """Show that the new key is there."""
        if not (self._cloud / str(rotation.new_key_id)).exists():
            raise KeyNotFound("the new key is not in the folder")
        await self._prove(rotation, state="verifying")

    async def prolong(self, rotation: AccessKeyState) -> None:
        """Keep the claim."""
        await self._prove(rotation)

    async def deactivate(self, rotation: AccessKeyState) -> datetime:
        """Say when the old key's grace begins: a file is always active."""
        await self._prove(rotation, state="grace")
        return datetime.now(UTC)

    async def delete(self, rotation: AccessKeyState) -> None:
        """Delete the old key."""
        await self._prove(rotation)
        (self._cloud / rotation.old_key_id).unlink(missing_ok=True)

    async def close(self, rotation: AccessKeyState) -> None:
        """Close the job as done."""
        evidence = {"old_key_id": rotation.old_key_id, "new_key_id": str(rotation.new_key_id)}
        await self._leases.complete(
            rotation.job_id, tenant_id=rotation.tenant_id, token=rotation.token, evidence=evidence
        )

    async def refuse(self, job: ClaimedJob, reason: str) -> None:
        """Close the job as failed."""
        await self._leases.fail(job.job_id, tenant_id=job.tenant_id, token=job.token, reason=reason)

    async def roll_back(self, rotation: AccessKeyState, reason: str) -> None:
        """Delete the new key, and close the job as failed."""
        await self._prove(rotation)
        if rotation.new_key_id is not None:
            await self._secrets.restore(self._name(rotation), instead_of=rotation.new_key_id)
            (self._cloud / rotation.new_key_id).unlink(missing_ok=True)
        await self._leases.fail(rotation.job_id, tenant_id=rotation.tenant_id, token=rotation.token, reason=reason)

    async def _prove(
        self, rotation: AccessKeyState, *, state: ProgressState | None = None, evidence: Evidence | None = None
    ) -> None:
        await self._leases.heartbeat(
            rotation.job_id,
            tenant_id=rotation.tenant_id,
            token=rotation.token,
            lease=LEASE,
            state=state,
            evidence=evidence,
        )

    def _name(self, rotation: AccessKeyState) -> str:
        return self._secret_name.format(user=rotation.user)


def open_steps(leases: JobLeases, secrets: SecretStore, secret_name: str) -> ExecutorSteps:
    """Return the steps on the folder that EXAMPLE_CLOUD names."""
    return FolderKeys(Path(os.environ["EXAMPLE_CLOUD"]), leases, secrets, secret_name)


EXECUTOR = Executor("example", kind="access_key", open=open_steps)
