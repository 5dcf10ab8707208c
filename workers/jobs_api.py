"""The jobs' HTTP interface for executors: claim, heartbeat, close.

POST /jobs/claim            {"lease_seconds": 300}                                  200 a job, or 204: none is free
POST /jobs/{id}/heartbeat   {"token": 7, "lease_seconds": 300, "state": "rotating", "evidence": {...}}
POST /jobs/{id}/complete    {"token": 7, "evidence": {...}}
POST /jobs/{id}/fail        {"token": 7, "reason": "..."}
GET  /healthz

A caller is TENANT/NAME with its own bearer token; it sees its tenant's jobs only. A refusal has "error" and
"message": 404 unknown_job, 409 stale_claim, job_closed or state_refused, 422 invalid, 503 job_store_unavailable.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, TypeVar

from aiohttp import web
from pydantic import Field, SecretStr, ValidationError

from keyturn.contracts import Contract, Reason
from keyturn.errors import JobError, JobStoreUnavailable
from keyturn.jobs.contracts import ClaimedJob, Evidence
from keyturn.jobs.errors import JobClosed, StaleClaim, StateRefused, UnknownJob
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.states import ProgressState
from keyturn.tokens import Tokens
from keyturn.workers.http import Handler, Refused, answer_request

MAX_BODY_BYTES = 64 * 1024  # evidence of 16 entries has some kB
MAX_EVIDENCE = 16
_STATUS: Mapping[type[JobError], int] = {
    UnknownJob: 404,
    StaleClaim: 409,
    JobClosed: 409,
    StateRefused: 409,
    JobStoreUnavailable: 503,
}
# Five minutes outlast a slow step of a rotation; an executor that needs longer asks for it, or sends heartbeats.
_Lease = Annotated[float, Field(ge=1, le=86_400)]
_Evidence = Annotated[Evidence, Field(max_length=MAX_EVIDENCE)]


class _Claim(Contract):
    lease_seconds: _Lease = 300


class _Heartbeat(Contract):
    token: int = Field(ge=0)
    lease_seconds: _Lease = 300
    state: ProgressState | None = None
    evidence: _Evidence = Field(default_factory=dict)


class _Complete(Contract):
    token: int = Field(ge=0)
    evidence: _Evidence = Field(default_factory=dict)


class _Fail(Contract):
    token: int = Field(ge=0)
    reason: Reason


B = TypeVar("B", bound=Contract)


class JobsApi:
    """The handlers, on `claims`; `tokens` are of callers named TENANT/NAME."""

    def __init__(self, claims: JobLeases, tokens: Mapping[str, SecretStr]) -> None:
        self._claims = claims
        self._tokens = Tokens(tokens)

    def application(self) -> web.Application:
        """Return the aiohttp application that serves them."""
        application = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._answer])
        application.router.add_post("/jobs/claim", self._claim)
        application.router.add_post("/jobs/{job_id}/heartbeat", self._heartbeat)
        application.router.add_post("/jobs/{job_id}/complete", self._complete)
        application.router.add_post("/jobs/{job_id}/fail", self._fail)
        application.router.add_get("/healthz", self._healthz)
        return application

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        async def map_job_errors(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except JobError as error:
                raise Refused(_STATUS.get(type(error), 500), error.kind, str(error)) from None

        return await answer_request(request, map_job_errors, max_bytes=MAX_BODY_BYTES)

    async def _claim(self, request: web.Request) -> web.Response:
        tenant, owner = self._caller(request)
        body = await _body(request, _Claim)
        lease = timedelta(seconds=body.lease_seconds)
        job = await self._claims.claim_next(tenant_id=tenant, owner=owner, lease=lease)
        return web.Response(status=204) if job is None else _job_response(job)

    async def _heartbeat(self, request: web.Request) -> web.Response:
        tenant, _ = self._caller(request)
        said = await _body(request, _Heartbeat)
        return _job_response(
            await self._claims.heartbeat(
                request.match_info["job_id"],
                tenant_id=tenant,
                token=said.token,
                lease=timedelta(seconds=said.lease_seconds),
                state=said.state,
                evidence=said.evidence,
            )
        )

    async def _complete(self, request: web.Request) -> web.Response:
        tenant, _ = self._caller(request)
        said = await _body(request, _Complete)
        job_id = request.match_info["job_id"]
        return _job_response(
            await self._claims.complete(job_id, tenant_id=tenant, token=said.token, evidence=said.evidence)
        )

    async def _fail(self, request: web.Request) -> web.Response:
        tenant, _ = self._caller(request)
        said = await _body(request, _Fail)
        job_id = request.match_info["job_id"]
        return _job_response(await self._claims.fail(job_id, tenant_id=tenant, token=said.token, reason=said.reason))

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    def _caller(self, request: web.Request) -> tuple[str, str]:
        name = self._tokens.bearer(request.headers)
        if name is None:
            raise Refused(401, "not_signed_in", "send a bearer token that KEYTURN_JOBS_TOKENS names")
        tenant, _, owner = name.partition("/")
        return tenant, owner


async def _body(request: web.Request, kind: type[B]) -> B:
    try:
        return kind.model_validate_json(await request.read() or b"{}")
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part)[:64] for part in fault["loc"]) or "the body"
        raise Refused(422, "invalid", f"{where}: {fault['msg'][:200]}") from None


def _job_response(job: ClaimedJob) -> web.Response:
    body: Any = job.model_dump_json()
    return web.Response(text=body, content_type="application/json")
