"""Errors as HTTP answers: problem details (RFC 9457) for programs, a short page for users."""

import traceback
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from temporalio.service import RPCError

from keyturn.application.answers import AnswerRefused, NoWorkerAnswers
from keyturn.application.connection import TemporalRefused, TemporalUnreachable, map_rpc_error
from keyturn.application.following import NoSuchWorkflow
from keyturn.bulk.errors import UnknownRun
from keyturn.drafts.errors import DraftError, UnknownDraft
from keyturn.errors import InvalidRequest, JobStoreRefused, JobStoreUnavailable, KeyturnError, ValueRefused
from keyturn.exposures.errors import NoExposureLine, PublicKeysUnavailable, ReportForged, UnknownKey
from keyturn.faults import reason_of
from keyturn.inventory.errors import InventoryError
from keyturn.jobs.errors import AnotherNewKey, JobClosed, StaleClaim, StateRefused, UnknownConsumer, UnknownJob
from keyturn.payload_errors import PayloadError
from keyturn.policy.errors import PolicyError
from keyturn.waivers.errors import UnknownWaiver, WaiverRefused

_log = structlog.get_logger("keyturn.http")
PROBLEM_TYPE = "application/problem+json"
_STATUS: Mapping[type[KeyturnError], int] = {
    NoSuchWorkflow: 404,
    UnknownDraft: 404,
    UnknownJob: 404,
    UnknownWaiver: 404,
    UnknownRun: 404,
    UnknownKey: 404,
    ReportForged: 401,
    AnswerRefused: 409,
    DraftError: 409,
    JobClosed: 409,
    StaleClaim: 409,
    StateRefused: 409,
    AnotherNewKey: 409,
    UnknownConsumer: 422,
    InvalidRequest: 422,
    PolicyError: 422,
    InventoryError: 422,
    WaiverRefused: 422,
    NoExposureLine: 422,
    PublicKeysUnavailable: 503,
    JobStoreRefused: 500,
    ValueRefused: 500,
    JobStoreUnavailable: 503,
    NoWorkerAnswers: 503,
    TemporalUnreachable: 503,
    TemporalRefused: 503,
    PayloadError: 503,
}


class Problem(BaseModel):
    """A problem detail of RFC 9457. `kind` is its name, `hint` what to do now."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = Field(description="What happened, and to which resource.")
    kind: str
    hint: str = ""


class Refused(Exception):
    """A request that is not executed."""

    def __init__(
        self, status: int, kind: str, detail: str, *, hint: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.hint = hint
        self.headers = dict(headers or {})

    @classmethod
    def of(cls, error: KeyturnError) -> "Refused":
        """Return what a caller is answered for an error of the program. It repeats nothing private."""
        status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
        waits = {"Retry-After": "5"} if status == 503 else {}
        return cls(status, error.kind, str(error), hint=error.hint, headers=waits)


TITLES = {
    400: "Bad request",
    401: "Sign in first",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    409: "Conflict",
    413: "Too large",
    415: "Unsupported content type",
    421: "Wrong host",
    422: "Invalid request",
    429: "Too many requests",
    500: "Something went wrong",
    503: "Not available now",
}


def problem_of(refused: Refused) -> dict[str, Any]:
    """Return the body of a refusal."""
    title = TITLES.get(refused.status, "Refused")
    problem = Problem(title=title, status=refused.status, detail=str(refused), kind=refused.kind, hint=refused.hint)
    return problem.model_dump()


def describe_problems(meanings: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """Return refusals by status, with what each means, as OpenAPI describes responses."""
    # By reference: a generator of clients makes one class of it, and not one for each route and status.
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": meaning, "content": content} for status, meaning in meanings.items()}


Refuse = Callable[[Request, Refused], Response]


def refuse_with_problem(request: Request, refused: Refused) -> Response:
    """Return the answer to a request that is refused, and log it without its content."""
    remote = request.client.host if request.client else ""
    _log.warning("request_refused", status=refused.status, kind=refused.kind, route=_route(request), remote=remote)
    return problem_response(refused)


def problem_response(refused: Refused) -> Response:
    """Return a refusal as problem details."""
    return JSONResponse(problem_of(refused), refused.status, refused.headers, PROBLEM_TYPE)


def exception_handlers(refuse: Refuse) -> dict[Any, Callable[..., Any]]:
    """Return what a Starlette application answers to each kind of exception, made by `refuse`."""

    async def respond_refused(request: Request, refused: Refused) -> Response:
        return refuse(request, refused)

    async def respond_known_error(request: Request, error: KeyturnError) -> Response:
        return refuse(request, Refused.of(error))

    async def respond_temporal_error(request: Request, error: RPCError) -> Response:
        return refuse(request, Refused.of(map_rpc_error(error)))

    async def respond_unfit(request: Request, error: ValidationError) -> Response:
        return refuse(request, refused_field(error.errors(include_input=False, include_url=False)[0]))

    async def respond_unforeseen(request: Request, error: Exception) -> Response:
        # The message may contain a user's text.
        _log.error("request_failed", route=_route(request), error=type(error).__name__, where=where(error))
        hint = "The server's log of this time says why."
        return refuse(request, Refused(500, "unforeseen", "the server failed", hint=hint))

    async def respond_http(request: Request, error: HTTPException) -> Response:
        phrase = HTTPStatus(error.status_code).phrase
        kind = phrase.lower().replace(" ", "_")
        return refuse(request, Refused(error.status_code, kind, phrase, headers=error.headers))

    return {
        Refused: respond_refused,
        KeyturnError: respond_known_error,
        RPCError: respond_temporal_error,
        ValidationError: respond_unfit,
        HTTPException: respond_http,
        Exception: respond_unforeseen,
    }


def _route(request: Request) -> str:
    """Return the route's template, if one was found: the path itself names accounts, or is a stranger's text."""
    return getattr(request.scope.get("route"), "path", "")


def refused_field(fault: ErrorDetails) -> Refused:
    """Return what is wrong with a request: the place and the rule, but not the value, which may be private."""
    place = ".".join(str(part)[:64] for part in fault["loc"] if part not in {"body", "query"}) or "the body"
    if fault["type"] == "json_invalid":
        return Refused(400, "invalid", f"{place}: is no JSON", hint="See /openapi.json.")
    return Refused(422, "invalid", f"{place}: {reason_of(fault)[:200]}", hint="See /openapi.json.")


def where(error: BaseException) -> str | None:
    """Return file and line of an unforeseen failure: its message may quote what is private."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else None
