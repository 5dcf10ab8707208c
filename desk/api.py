"""The desk as JSON: `/api/v1`, described by `/openapi.json`.

A caller is signed in by a proxy's header or a bearer token. What begins something takes an `Idempotency-Key`. Refusals
are problem details (RFC 9457).
"""

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from desk.desk import Desk, DraftSeen
from desk.idempotency import Idempotency
from desk.people import Person
from desk.problems import Problem, Refused
from desk.settings import DeskSettings
from keyturn.contracts import (
    MAX_QUESTION_CHARACTERS,
    CredentialKind,
    Digest,
    DraftState,
    Identifier,
    Reason,
    ShortIdentifier,
)
from keyturn.drafts.store import Draft

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": what, "content": {"application/problem+json": {"schema": Problem.model_json_schema()}}}
    for status, what in {
        400: "no usable Idempotency-Key, or a body that is not JSON",
        401: "nobody is signed in",
        403: "another role is needed, or a page of another site asked",
        404: "there is no such thing of this tenant",
        405: "another method is needed",
        409: "it does not take this now",
        413: "the request is too large",
        422: "it cannot be done as it is asked",
        429: "too many requests, or too many streams",
        503: "the server, the database or a worker does not answer now",
    }.items()
}
# One person has some pages open; a script that follows more is no person's page.
STREAMS_A_PERSON = 300
COMMENT_SECONDS = 15.0  # a proxy closes what is silent for a minute; a reader that has gone is noticed by it

Once = Callable[[Person, str, str | None, BaseModel, Any], Awaitable[JSONResponse]]
WorkflowId = Annotated[str, Path(max_length=1_000, description="Of a rotation, as an answer had it.")]
DraftId = Annotated[str, Path(max_length=256)]
Key = Annotated[
    str | None,
    Header(alias="Idempotency-Key", description="A new UUID for each new request; needed.", max_length=1_000),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Ask(_Body):
    """May this key be rotated under these policy lines? What is not known of it is left out."""

    account_id: Identifier
    key_id: Identifier
    policy_lines: list[ShortIdentifier] = Field(min_length=1, max_length=20)
    question: str = Field(min_length=1, max_length=MAX_QUESTION_CHARACTERS)
    kind: CredentialKind = "service_account_key"
    stale: bool | None = None
    compromised: bool | None = None
    age_days: int | None = Field(default=None, ge=0, le=36_500)
    last_rotated_at: AwareDatetime | None = None
    last_used_at: AwareDatetime | None = None
    never_used: bool | None = None
    observed_at: AwareDatetime | None = Field(default=None, description="The evidence's own time; now if left out.")
    source: Identifier | None = None


class Decided(_Body):
    """The digest of the decision that was seen."""

    digest: Digest


class Denied(Decided):
    """The same, with why."""

    reason: Reason


class Why(_Body):
    """A line for the audit trail."""

    reason: Reason


class AskDraft(_Body):
    """A draft of a reply: to a rotation's asker, or to any question about an account."""

    workflow_id: str | None = Field(default=None, min_length=1, max_length=1_000)
    account_id: Identifier | None = None
    question: str | None = Field(default=None, min_length=1, max_length=MAX_QUESTION_CHARACTERS)
    policy_lines: list[ShortIdentifier] = Field(default_factory=list, max_length=20)


class Rotation(BaseModel):
    """How a rotation stands: `status` is an outcome, or what it waits for; `running` goes on by itself."""

    model_config = ConfigDict(extra="allow")

    workflow_id: str
    status: Literal[
        "job_created", "not_eligible", "not_specified", "rejected", "failed", "timeout", "running", "rate_limited",
        "parked", "awaiting_approval",
    ]  # fmt: skip


class DraftTold(BaseModel):
    """A draft as it stands. Only an approved one may be sent, by a person."""

    draft_id: str
    state: DraftState
    generation: int
    text: str
    approved: bool | None
    reason: str | None
    explanation: str | None


class Line(BaseModel):
    """A policy line."""

    id: str
    version: int
    wording: str
    applies_to: list[str]
    window_days: int | None


def api(desk: Desk, settings: DeskSettings, idempotency: Idempotency) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/api/v1", responses=PROBLEMS, default_response_class=JSONResponse)

    async def once(person: Person, operation: str, key: str | None, body: BaseModel, do: Any) -> JSONResponse:
        asked = body.model_dump(mode="json")
        whose = (settings.tenant, person.name, operation)
        status, answer = await idempotency.once(key, whose=whose, request=asked, do=do)
        location = {"Location": answer.pop("location")}
        return JSONResponse(answer, status_code=status, headers=location)

    _add_rotations(router, desk, settings, once)
    _add_drafts(router, desk, once)
    _add_records(router, desk)
    return router


def _add_rotations(router: APIRouter, desk: Desk, settings: DeskSettings, once: Once) -> None:
    @router.post("/rotations", status_code=202, response_model=Rotation)
    async def ask(person: Asker, body: Ask, key: Key = None) -> JSONResponse:
        """Ask whether a key may be rotated; its one job follows if so. Waits some seconds for the outcome."""

        async def do(_digest: str) -> tuple[int, dict[str, Any]]:
            told = await desk.ask(person.name, body.model_dump(exclude_none=True), wait_seconds=settings.wait_seconds)
            told["status"] = "running" if told["status"] == "timeout" else told["status"]
            return 202, told | {"location": f"/api/v1/rotations/{in_path(told['workflow_id'])}"}

        return await once(person, "ask", key, body, do)

    @router.get("/rotations", response_model=dict[str, list[dict[str, str]]])
    async def rotations(
        person: Anybody, waiting: Annotated[bool, Query(description="Only those that wait for a person.")] = False
    ) -> Any:
        """List rotations, newest first; or those that wait for a person, oldest first."""
        return {"rotations": await (desk.waiting() if waiting else desk.recent())}

    @router.post("/rotations/{workflow_id:path}/resume", status_code=204)
    async def resume(person: Operator, workflow_id: WorkflowId) -> None:
        """Let a parked rotation try again."""
        await desk.resume(person.name, workflow_id)

    @router.post("/rotations/{workflow_id:path}/abandon", status_code=204)
    async def abandon(person: Operator, workflow_id: WorkflowId, body: Why) -> None:
        """End a parked rotation."""
        await desk.abandon(person.name, workflow_id, body.reason)

    @router.post("/rotations/{workflow_id:path}/approve", status_code=204)
    async def approve(person: Approver, workflow_id: WorkflowId, body: Decided) -> None:
        """Approve the decision that waits: its job follows. Not for whoever asked for it."""
        await desk.approve(person.name, workflow_id, body.digest)

    @router.post("/rotations/{workflow_id:path}/deny", status_code=204)
    async def deny(person: Approver, workflow_id: WorkflowId, body: Denied) -> None:
        """Deny the decision that waits."""
        await desk.deny(person.name, workflow_id, body.digest, body.reason)

    @router.get("/rotations/{workflow_id:path}", response_model=Rotation)
    async def rotation(person: Anybody, workflow_id: WorkflowId) -> Any:
        """Tell how a rotation stands."""
        return await desk.rotation(workflow_id)


def _add_drafts(router: APIRouter, desk: Desk, once: Once) -> None:
    streams: Counter[str] = Counter()

    @router.post("/drafts", status_code=202, response_model=DraftTold)
    async def draft(person: Asker, body: AskDraft, key: Key = None) -> JSONResponse:
        """Begin a draft; `/drafts/{draft_id}/events` tells it as it is written."""

        async def do(digest: str) -> tuple[int, dict[str, Any]]:
            draft_id = await begin_draft(desk, person, digest, body.model_dump(exclude_none=True))
            told = _told(await desk.find_draft(draft_id)).model_dump(mode="json")
            return 202, told | {"location": f"/api/v1/drafts/{in_path(draft_id)}"}

        return await once(person, "draft", key, body, do)

    @router.get("/drafts/{draft_id}", response_model=DraftTold)
    async def find_draft(person: Anybody, draft_id: DraftId) -> Any:
        """Tell a draft as it stands."""
        return _told(await desk.find_draft(draft_id))

    @router.post("/drafts/{draft_id}/stop", status_code=204)
    async def stop(person: Asker, draft_id: DraftId) -> None:
        """Stop a draft: the provider's connection is closed. Nothing happens to one that has ended."""
        await desk.stop(draft_id)

    @router.get(
        "/drafts/{draft_id}/events",
        response_class=StreamingResponse,
        responses={200: {"description": "server-sent events: text, reset, end", "content": {"text/event-stream": {}}}},
    )
    async def events(
        person: Anybody,
        draft_id: DraftId,
        last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=64)] = None,
    ) -> StreamingResponse:
        """Tell a draft as it is written: `text` adds to it, `reset` begins it anew, `end` says how it ended.

        Who comes back with `Last-Event-ID` is told what they have not seen.
        """
        await desk.find_draft(draft_id)
        if streams[person.name] >= STREAMS_A_PERSON:
            raise Refused(429, "too_many_streams", f"{person.name} follows {STREAMS_A_PERSON} drafts already")
        generation, length = _place(last_event_id)

        async def told() -> AsyncIterator[str]:
            streams[person.name] += 1
            try:
                async with aclosing(desk.follow(draft_id, generation=generation, length=length)) as changes:
                    async for chunk in _with_comments(changes):
                        yield chunk
            finally:
                streams[person.name] -= 1

        return StreamingResponse(told(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _add_records(router: APIRouter, desk: Desk) -> None:
    @router.get("/jobs", response_model=dict[str, list[dict[str, Any]]])
    async def jobs(person: Anybody, limit: Annotated[int, Query(ge=1, le=200)] = 25) -> Any:
        """List rotation jobs, newest first."""
        return {"jobs": [plain(row) for row in await desk.jobs(limit=limit)]}

    @router.get("/jobs/{job_id}", response_model=dict[str, Any])
    async def job(person: Anybody, job_id: Annotated[str, Path(max_length=64)]) -> Any:
        """Tell a job's story."""
        row, trail = await desk.job(job_id)
        return {"job": plain(row), "audit": [plain(one) for one in trail]}

    @router.get("/costs", response_model=dict[str, list[dict[str, Any]]])
    async def costs(person: Anybody) -> Any:
        """Tell what model calls have cost since midnight (UTC), by task."""
        return {"costs": [plain(row) for row in await desk.costs_today()]}

    @router.get("/policy-lines", response_model=dict[str, list[Line]])
    async def lines(person: Anybody) -> Any:
        """List the policy lines."""
        return {"policy_lines": [line.model_dump(include=set(Line.model_fields)) for line in desk.catalogue]}


def in_path(identifier: str) -> str:
    """Return an id as it stands in a path: a name in it may hold a slash, written as %2F."""
    return quote(identifier, safe=":@")


def signed_in(request: Request) -> Person:
    """Return who sends a request; refuses whoever is not signed in."""
    person: Person | None = request.state.person
    if person is None:
        scheme = {"WWW-Authenticate": "Bearer"}
        raise Refused(401, "not_signed_in", "nobody is signed in", mend="Send a bearer token.", headers=scheme)
    return person


def _with_role(role: Literal["asker", "approver", "operator"]) -> Any:
    def expected(person: Annotated[Person, Depends(signed_in)]) -> Person:
        person.expect(role)
        return person

    return expected


Anybody = Annotated[Person, Depends(signed_in)]
Asker = Annotated[Person, Depends(_with_role("asker"))]
Approver = Annotated[Person, Depends(_with_role("approver"))]
Operator = Annotated[Person, Depends(_with_role("operator"))]


async def begin_draft(desk: Desk, person: Person, digest: str, asked: Mapping[str, Any]) -> str:
    """Begin the draft that belongs to a request's digest; returns its id. Sent again, it is the same draft."""
    missing = [name for name in ("account_id", "question", "policy_lines") if not asked.get(name)]
    if missing and not asked.get("workflow_id"):
        raise Refused(422, "invalid", f"{missing[0]}: is needed, or workflow_id", mend="Say what to write about.")
    draft_id = f"draft:{desk.tenant}:{digest[:32]}"
    await desk.draft(person.name, draft_id, dict(asked) | {"trace_id": f"trace_{uuid.uuid4().hex}"})
    return draft_id


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as JSON has it."""
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value


def _told(draft: Draft) -> DraftTold:
    return DraftTold(**{name: getattr(draft, name) for name in DraftTold.model_fields})


def _place(last_event_id: str | None) -> tuple[int, int]:
    """Where a reader is, by the id of the last event that they had: GENERATION.LENGTH; the beginning, if it is none."""
    generation, _, length = (last_event_id or "").partition(".")
    known = generation.isdecimal() and length.isdecimal() and len(generation) < 10 and len(length) < 10
    return (int(generation), int(length)) if known and generation.isascii() and length.isascii() else (0, 0)


async def _with_comments(changes: AsyncIterator[DraftSeen]) -> AsyncIterator[str]:
    """The events of a stream, and a comment where there was none for a while."""
    coming = asyncio.ensure_future(anext(changes, None))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=COMMENT_SECONDS)
            if not done:
                yield ": still here\n\n"
                continue
            seen = coming.result()
            if seen is None:
                return
            yield _events(seen)
            coming = asyncio.ensure_future(anext(changes, None))
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


def _events(seen: DraftSeen) -> str:
    draft = seen.draft
    place = f"id: {draft.generation}.{len(draft.text)}\n"
    told = f"{place}event: reset\ndata: {{}}\n\n" if seen.begins_anew else ""
    if seen.more:
        told += f"{place}event: text\ndata: {json.dumps({'text': seen.more})}\n\n"
    if draft.ended:
        end = {name: getattr(draft, name) for name in ("state", "approved", "reason", "explanation")}
        told += f"{place}event: end\ndata: {json.dumps(end)}\n\n"
    return told or ": begun\n\n"
