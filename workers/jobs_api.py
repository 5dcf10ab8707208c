"""The jobs' HTTP interface for executors: claim, heartbeat, close.

POST /jobs/claim            {"lease_seconds": 300}                                  200 a job, or 204: none is free
POST /jobs/{id}/heartbeat   {"token": 7, "lease_seconds": 300, "state": "rotating", "evidence": {...}}
POST /jobs/{id}/complete    {"token": 7, "evidence": {...}}
POST /jobs/{id}/fail        {"token": 7, "reason": "..."}
POST /jobs/{id}/consumers/{name}  {"key_id": "AKIA..."}                             204
GET  /openapi.json, /healthz

A caller is TENANT/NAME with its own bearer token; it sees its tenant's jobs only. Refusals are problem details
(RFC 9457), with a `kind`: 404 unknown_job, 409 stale_claim, job_closed, state_refused
or another_new_key, 422 invalid or unknown_consumer, and others.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends, Path, Response
from fastapi.security import HTTPBearer
from pydantic import Field, SecretStr
from starlette.requests import Request
from starlette.types import ASGIApp

from keyturn.contracts import AccountId, Contract, CredentialKind, Identifier, Reason, ShortIdentifier
from keyturn.jobs.consumers import report_moved
from keyturn.jobs.contracts import ClaimedJob, Evidence
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.states import ProgressState
from keyturn.tokens import Tokens
from keyturn.web.applications import described_application, unstored
from keyturn.web.guard import Guard
from keyturn.web.problems import Refused, describe_problems, refuse_with_problem

MAX_BODY_BYTES = 64 * 1024  # evidence of 16 entries has some kB
MAX_EVIDENCE = 16
DESCRIPTION = "/openapi.json"
PROBLEMS = describe_problems(
    {
        400: "The body is not JSON.",
        401: "No caller has this token.",
        403: "A consumer reports for itself alone, and with its own token.",
        404: "This tenant has no such job.",
        409: "The claim has expired, the job is closed, or the states' order does not allow this one.",
        413: "The body is too large.",
        422: "The body is not valid.",
        503: "The database does not answer.",
    }
)
# Five minutes outlast a slow step of a rotation; an executor that needs longer asks for it, or sends heartbeats.
Lease = Annotated[float, Field(ge=1, le=86_400, description="For how many seconds the claim lasts, from now.")]
ClaimToken = Annotated[int, Field(ge=0, description="The `token` of the claim, as the claimed job has it.")]
JobEvidence = Annotated[
    Evidence, Field(max_length=MAX_EVIDENCE, description="Names and figures for the audit trail; never a secret.")
]


class Claim(Contract):
    """A request for the most urgent job that is free; of a kind and an account, if they are named."""

    lease_seconds: Lease = 300
    kind: Annotated[CredentialKind | None, Field(description="Only a job for this kind of credential.")] = None
    account_id: Annotated[AccountId | None, Field(description="Only a job of this account.")] = None


class Heartbeat(Contract):
    """A sign that the job is being worked on: it prolongs the claim."""

    token: ClaimToken
    lease_seconds: Lease = 300
    state: Annotated[ProgressState | None, Field(description="How far the job is; states come in their order.")] = None
    evidence: JobEvidence = Field(default_factory=dict)


class Completion(Contract):
    """The end of a job that is done."""

    token: ClaimToken
    evidence: JobEvidence = Field(default_factory=dict)


class Failure(Contract):
    """The end of a job that failed."""

    token: ClaimToken
    reason: Annotated[Reason, Field(description="One line for the audit trail.")]


class Moved(Contract):
    """A consumer's report that it uses a job's new key."""

    key_id: Annotated[Identifier, Field(description="The ID of the key that the consumer uses now; never its secret.")]


class Caller(NamedTuple):
    """Who asks: a tenant's worker, or a consumer of keys, which reports for itself alone."""

    tenant: str
    owner: str
    is_consumer: bool = False


def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


def _worker(request: Request) -> Caller:
    caller = _caller(request)
    if caller.is_consumer:
        raise _reports_for_itself(caller)
    return caller


def _reports_for_itself(caller: Caller) -> Refused:
    if not caller.is_consumer:
        hint = "Send the consumer's own token (KEYTURN_CONSUMER_TOKENS), or report it by `keyturn jobs moved`."
        return Refused(403, "reports_for_itself_alone", "this token claims jobs, and is no consumer's", hint=hint)
    hint = "Claim and close jobs with one of KEYTURN_JOBS_TOKENS."
    return Refused(403, "reports_for_itself_alone", f"this token reports for the consumer {caller.owner}", hint=hint)


_Caller = Annotated[Caller, Depends(_caller)]
_Worker = Annotated[Caller, Depends(_worker)]
_JobId = Annotated[str, Path(description="The id of a claimed job.")]


def jobs_application(
    claims: JobLeases, tokens: Mapping[str, SecretStr], consumers: Mapping[str, SecretStr] | None = None
) -> ASGIApp:
    """Return the application that serves `claims`; `tokens` are of workers and `consumers` of keys, as TENANT/NAME."""
    known, reporters = Tokens(tokens), Tokens(consumers or {})

    async def check(request: Request) -> None:
        # It takes JSON alone, which `curl -d` calls a form.
        others = [(name, value) for name, value in request.scope["headers"] if name != b"content-type"]
        request.scope["headers"] = [*others, (b"content-type", b"application/json")]
        if request.url.path == DESCRIPTION:
            return
        worker, consumer = known.bearer(request.headers), reporters.bearer(request.headers)
        name = worker or consumer
        if name is None:
            hint, scheme = "Send one of KEYTURN_JOBS_TOKENS.", {"WWW-Authenticate": "Bearer"}
            raise Refused(401, "not_signed_in", "no caller has this token", hint=hint, headers=scheme)
        tenant, own = name.split("/", 1)
        request.state.caller = Caller(tenant, own, is_consumer=worker is None)

    app = described_application("Keyturn's jobs", "Claim rotation jobs, report on them, close them.")
    app.include_router(jobs_router(claims))
    return Guard(app, check=check, refuse=refuse_with_problem, headers=unstored, max_body_bytes=MAX_BODY_BYTES)


def jobs_router(claims: JobLeases) -> APIRouter:
    """Return the routes."""
    # For the description alone: `check` has found the caller by then.
    bearer = HTTPBearer(auto_error=False, description="A token of KEYTURN_JOBS_TOKENS.")
    router = APIRouter(
        prefix="/jobs",
        responses=PROBLEMS,
        dependencies=[Depends(bearer)],
        generate_unique_id_function=lambda route: route.name,
    )

    @router.post("/claim", response_model=ClaimedJob, responses={204: {"description": "No job is free."}})
    async def claim(caller: _Worker, body: Claim | None = None) -> Any:
        """Claim the most urgent job that is free."""
        wanted = body or Claim()
        job = await claims.claim_next(
            tenant_id=caller.tenant,
            owner=caller.owner,
            lease=timedelta(seconds=wanted.lease_seconds),
            kind=wanted.kind,
            account_id=wanted.account_id,
        )
        return Response(status_code=204) if job is None else job

    @router.post("/{job_id}/heartbeat")
    async def heartbeat(caller: _Worker, job_id: _JobId, body: Heartbeat) -> ClaimedJob:
        """Prolong the claim, and say how far the job is."""
        return await claims.heartbeat(
            job_id,
            tenant_id=caller.tenant,
            token=body.token,
            owner=caller.owner,
            lease=timedelta(seconds=body.lease_seconds),
            state=body.state,
            evidence=body.evidence,
        )

    @router.post("/{job_id}/complete")
    async def complete(caller: _Worker, job_id: _JobId, body: Completion) -> ClaimedJob:
        """Close the job as done. The same claim may do so again."""
        claim: dict[str, Any] = {"tenant_id": caller.tenant, "token": body.token, "owner": caller.owner}
        return await claims.complete(job_id, **claim, evidence=body.evidence)

    @router.post("/{job_id}/consumers/{consumer}", status_code=204)
    async def report_consumer(caller: _Caller, job_id: _JobId, consumer: ShortIdentifier, body: Moved) -> None:
        """Report that a consumer uses the job's new key. The old key may go once all declared consumers have."""
        if not caller.is_consumer or consumer != caller.owner:  # an executor's token, too, would speak for all
            raise _reports_for_itself(caller)
        reported = {"tenant_id": caller.tenant, "consumer": consumer, "key_id": body.key_id, "by": caller.owner}
        await report_moved(claims.engine, job_id, **reported)

    @router.post("/{job_id}/fail")
    async def fail(caller: _Worker, job_id: _JobId, body: Failure) -> ClaimedJob:
        """Close the job as failed. The same claim may do so again."""
        claim: dict[str, Any] = {"tenant_id": caller.tenant, "token": body.token, "owner": caller.owner}
        return await claims.fail(job_id, **claim, reason=body.reason)

    return router
