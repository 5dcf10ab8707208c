"""An example of a team's own worker: it claims rotation jobs one after the other and carries each out.

KEYTURN_JOBS_URL=http://127.0.0.1:8403 KEYTURN_JOBS_TOKEN=... python examples/worker.py
"""

import asyncio
import os

from pydantic import SecretStr

from keyturn.client import JobsClient
from keyturn.contracts import CredentialKind
from keyturn.errors import JobStoreUnavailable
from keyturn.jobs.contracts import ClaimedJob
from keyturn.jobs.errors import JobClosed, StaleClaim

LEASE_SECONDS = 60  # a rotation here takes seconds; if this process dies, another one takes over after a minute
IDLE_SECONDS = float(os.environ.get("IDLE_SECONDS", "5"))


# What this worker can rotate. It claims nothing else: a job that nobody can execute stays for whoever can.
KIND: CredentialKind = "service_account_key"


class CannotRotate(Exception):
    """This worker does not know how to rotate the credential; the reason closes the job, and a person sees it."""


async def rotate(job: ClaimedJob) -> dict[str, str]:
    """Rotate the credential: put your own system's call here. It may be called again, so begin by looking.

    Raises:
        CannotRotate: it is no credential of ours.
    """
    if job.credential_kind != KIND:
        raise CannotRotate(f"this worker rotates a {KIND} and no {job.credential_kind}")
    await asyncio.sleep(0)
    return {"rotated_key": job.key_id, "by": "examples/worker.py"}


async def carry_out(jobs: JobsClient, job: ClaimedJob) -> None:
    """Say what is done as it is done; stop at once when somebody else has the job."""
    try:
        job = await jobs.heartbeat(job, lease_seconds=LEASE_SECONDS, state="rotating")
        evidence = await rotate(job)
        await jobs.complete(job, evidence=evidence)
        print(f"done {job.job_id}", flush=True)
    except CannotRotate as refused:
        await jobs.fail(job, reason=str(refused))
        print(f"refused {job.job_id}: {refused}", flush=True)
    except (StaleClaim, JobClosed) as over:
        print(f"left {job.job_id}: {over}", flush=True)


async def main() -> None:
    """Work until the process is stopped."""
    token = SecretStr(os.environ["KEYTURN_JOBS_TOKEN"])
    async with JobsClient(os.environ.get("KEYTURN_JOBS_URL", "http://127.0.0.1:8403"), token) as jobs:
        while True:
            try:
                job = await jobs.claim(lease_seconds=LEASE_SECONDS, kind=KIND)
                if job is not None:
                    await carry_out(jobs, job)
                    continue
            except JobStoreUnavailable as away:
                print(f"waiting: {away}", flush=True)
            await asyncio.sleep(IDLE_SECONDS)


if __name__ == "__main__":
    asyncio.run(main())
