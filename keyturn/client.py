"""A client of the jobs' HTTP interface, for a program that executes rotations. It knows no database and no Temporal.

async with JobsClient("http://127.0.0.1:8403", token) as jobs:
    job = await jobs.claim(lease_seconds=300)
    if job is not None:
        await jobs.heartbeat(job, state="rotating")
        ...
        await jobs.complete(job, evidence={"new_key_id": "AKIA..."})
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import SecretStr

from keyturn.authorities import public_authorities
from keyturn.contracts import CredentialKind
from keyturn.errors import InvalidRequest, JobError, JobStoreUnavailable
from keyturn.jobs.contracts import ClaimedJob
from keyturn.jobs.errors import JobClosed, StaleClaim, StateRefused, UnknownJob

# The server answers within its own transaction's 8 s; or in 13 that it could not, if it has lost its database.
TIMEOUT_SECONDS = 15.0
_BY_KIND: Mapping[str, type[JobError]] = {
    error.kind: error for error in (UnknownJob, StaleClaim, JobClosed, StateRefused, JobStoreUnavailable)
}


class JobsClient:
    """The jobs at `url`, for the caller whose `token` this is.

    Every call raises JobStoreUnavailable where it got no answer: say it again, nothing is done twice. A word that comes
    too late raises StaleClaim or JobClosed: then stop working on the job.
    """

    def __init__(self, url: str, token: SecretStr, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        headers = {"Authorization": f"Bearer {token.get_secret_value()}"}
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=TIMEOUT_SECONDS,
            transport=transport,
            verify=public_authorities(),
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def claim(
        self, *, lease_seconds: float = 300, kind: CredentialKind | None = None, account_id: str | None = None
    ) -> ClaimedJob | None:
        """Claim the most urgent job for so long, from a second to a day; None if none is free.

        Args:
            lease_seconds: how long, unless a heartbeat prolongs it.
            kind: only a job for this kind of credential; None for any.
            account_id: only a job of this account; None for any.
        """
        return await self._post("/jobs/claim", {"lease_seconds": lease_seconds, "kind": kind, "account_id": account_id})

    async def heartbeat(
        self,
        job: ClaimedJob,
        *,
        lease_seconds: float = 300,
        state: str | None = None,
        evidence: Mapping[str, str] | None = None,
    ) -> ClaimedJob:
        """Prolong the claim on the job from now; `state` (rotating, verifying, grace) says how far it is."""
        said = {"token": job.token, "lease_seconds": lease_seconds, "state": state, "evidence": dict(evidence or {})}
        return await self._say(job, "heartbeat", said)

    async def complete(self, job: ClaimedJob, *, evidence: Mapping[str, str] | None = None) -> ClaimedJob:
        """Close the job as done. `evidence` is names and figures for the audit trail, never a secret."""
        return await self._say(job, "complete", {"token": job.token, "evidence": dict(evidence or {})})

    async def fail(self, job: ClaimedJob, *, reason: str) -> ClaimedJob:
        """Close the job as failed; `reason` is a line for the audit trail."""
        return await self._say(job, "fail", {"token": job.token, "reason": reason})

    async def _say(self, job: ClaimedJob, what: str, said: Mapping[str, Any]) -> ClaimedJob:
        answer = await self._post(f"/jobs/{job.job_id}/{what}", said)
        if answer is None:
            raise JobStoreUnavailable("the jobs server answered without a job")
        return answer

    async def _post(self, path: str, body: Mapping[str, Any]) -> ClaimedJob | None:
        try:
            answer = await self._http.post(path, json=body)
        except httpx.HTTPError as error:
            raise JobStoreUnavailable(f"the jobs server did not answer: {type(error).__name__}") from None
        if answer.status_code == 204:
            return None
        if answer.status_code == 200:
            return ClaimedJob.model_validate_json(answer.content)
        kind, message = _refusal_of(answer)
        if answer.status_code >= 500:
            raise JobStoreUnavailable(message)
        raise _BY_KIND.get(kind, InvalidRequest)(message)


def _refusal_of(answer: httpx.Response) -> tuple[str, str]:
    try:
        problem = answer.json()
        return str(problem["kind"]), str(problem["detail"])[:300]
    except (ValueError, KeyError, TypeError):
        return "unforeseen", f"the jobs server answered {answer.status_code}"
