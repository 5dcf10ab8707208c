"""Errors as HTTP answers: problem details (RFC 9457) for programs, a short page for users."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field

from keyturn.application.answers import AnswerRefused, NoWorkerAnswers
from keyturn.application.connection import TemporalRefused, TemporalUnreachable
from keyturn.application.following import NoSuchWorkflow
from keyturn.bulk.errors import UnknownRun
from keyturn.drafts.errors import DraftError, UnknownDraft
from keyturn.errors import InvalidRequest, JobStoreRefused, JobStoreUnavailable, KeyturnError, ValueRefused
from keyturn.inventory.errors import InventoryError
from keyturn.jobs.errors import UnknownJob
from keyturn.payload_errors import PayloadError
from keyturn.policy.errors import PolicyError

_STATUS: Mapping[type[KeyturnError], int] = {
    NoSuchWorkflow: 404,
    UnknownDraft: 404,
    UnknownJob: 404,
    AnswerRefused: 409,
    DraftError: 409,
    InvalidRequest: 422,
    PolicyError: 422,
    InventoryError: 422,
    UnknownRun: 422,
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
