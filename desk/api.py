"""The desk as JSON: `/api/v1`, described by `/openapi.json`.

A caller is signed in by a proxy's header or a bearer token. What starts something takes an `Idempotency-Key`. Refusals
are problem details (RFC 9457).
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Path, Query
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel

from keyturn.desk.decisions import Choice, decide_together
from keyturn.desk.desk import Desk
from keyturn.desk.drafts_api import add_drafts
from keyturn.desk.exposures import add_exposures
from keyturn.desk.filters import CallQuery, ItemQuery, JobQuery, RotationQuery, RunId, RunQuery
from keyturn.desk.idempotency import Idempotency, Key, Once
from keyturn.desk.list_schemas import (
    CallList,
    CostList,
    ItemList,
    JobList,
    JobWithAudit,
    RotationList,
    RunList,
    RunRow,
)
from keyturn.desk.people import Person
from keyturn.desk.roles import AnyPerson, Asker, Decider, Operator, expect_decider
from keyturn.desk.schemas import (
    ApprovalReason,
    Ask,
    DecisionList,
    Decisions,
    DenialReason,
    Line,
    LineList,
    Rotation,
    Why,
    in_path,
)
from keyturn.desk.settings import DeskSettings
from keyturn.desk.waivers import add_waivers
from keyturn.web.problems import describe_problems

PROBLEMS = describe_problems(
    {
        400: "The Idempotency-Key is missing or invalid, or the body is not JSON.",
        401: "The caller is not signed in.",
        403: "The user lacks the role, or a page of another site sent the request.",
        404: "This tenant has no such resource.",
        405: "The resource does not support the method.",
        409: "The resource is in another state than the request needs.",
        413: "The request is too large.",
        422: "The request is not valid.",
        429: "Too many requests, or too many streams.",
        503: "Temporal, the database or a worker does not answer.",
    }
)
# For the description alone: who sends a request was found before, by a token, a session or a proxy's header.
BEARER = HTTPBearer(auto_error=False, description="A token of KEYTURN_DESK_TOKENS; behind a proxy, the proxy's header.")

WorkflowId = Annotated[str, Path(max_length=1_000, description="Workflow ID of the rotation.")]


def api(desk: Desk, settings: DeskSettings, idempotency: Idempotency) -> APIRouter:
    """Return the routes."""
    router = APIRouter(
        prefix="/api/v1",
        responses=PROBLEMS,
        default_response_class=JSONResponse,
        dependencies=[Depends(BEARER)],
        generate_unique_id_function=lambda route: route.name,  # what a generated client calls it
    )

    async def once(person: Person, operation: str, key: str | None, body: BaseModel, do: Any) -> JSONResponse:
        asked = body.model_dump(mode="json")
        whose = (settings.tenant, person.name, operation)
        status, answer = await idempotency.once(key, whose=whose, request=asked, do=do)
        location = {"Location": answer.pop("location")}
        return JSONResponse(answer, status_code=status, headers=location)

    _add_rotations(router, desk, settings, once)
    add_drafts(router, desk, once)
    add_waivers(router, desk)
    add_exposures(router, desk)
    _add_records(router, desk)
    return router


def _add_rotations(router: APIRouter, desk: Desk, settings: DeskSettings, once: Once) -> None:
    @router.post("/rotations", status_code=202, response_model=Rotation, response_model_exclude_unset=True)
    async def ask(person: Asker, body: Ask, key: Key = None) -> JSONResponse:
        """Ask whether a key may be rotated; if so, its one job follows. Waits some seconds for the outcome."""

        async def do(_digest: str) -> tuple[int, dict[str, Any]]:
            reply = await desk.ask(
                person.name, body.model_dump(exclude_none=True), wait_seconds=settings.wait_seconds, proved_by=person.by
            )
            reply["status"] = "running" if reply["status"] == "timeout" else reply["status"]
            return 202, reply | {"location": f"/api/v1/rotations/{in_path(reply['workflow_id'])}"}

        return await once(person, "ask", key, body, do)

    @router.get("/rotations", response_model=RotationList)
    async def rotations(person: AnyPerson, query: Annotated[RotationQuery, Query()]) -> Any:
        """List rotations, 50 a page: open ones first, then those that closed last."""
        page = await desk.lists.rotations(query.chosen(), after=query.after)
        return {"rotations": page.rows, "after": page.after}

    @router.post("/decisions", response_model=DecisionList)
    async def decisions(person: Decider, body: Decisions) -> Any:
        """Approve or deny up to 50 pending decisions. Each has its own result; what refuses one leaves the others."""
        choices = [Choice(one.workflow_id, one.digest) for one in body.choices]
        results = await decide_together(desk, person, choices, decision=body.decision, reason=body.reason or "")
        return {"results": [{"workflow_id": one.workflow_id, "problem": one.problem} for one in results]}

    @router.post("/rotations/{workflow_id:path}/resume", status_code=204)
    async def resume(person: Operator, workflow_id: WorkflowId) -> None:
        """Resume a parked rotation."""
        await desk.resume(person.name, workflow_id)

    @router.post("/rotations/{workflow_id:path}/abandon", status_code=204)
    async def abandon(person: Operator, workflow_id: WorkflowId, body: Why) -> None:
        """Abandon a parked rotation: it is closed as failed."""
        await desk.abandon(person.name, workflow_id, body.reason)

    @router.post("/rotations/{workflow_id:path}/approve", status_code=204)
    async def approve(person: Decider, workflow_id: WorkflowId, body: ApprovalReason) -> None:
        """Approve the pending decision: its job follows. An asker cannot approve their own rotation."""
        await expect_decider(desk, person, workflow_id)
        await desk.approve(person.name, workflow_id, body.digest, body.reason, proved_by=person.by)

    @router.post("/rotations/{workflow_id:path}/deny", status_code=204)
    async def deny(person: Decider, workflow_id: WorkflowId, body: DenialReason) -> None:
        """Deny the pending decision."""
        await expect_decider(desk, person, workflow_id)
        await desk.deny(person.name, workflow_id, body.digest, body.reason, proved_by=person.by)

    @router.get("/rotations/{workflow_id:path}", response_model=Rotation, response_model_exclude_unset=True)
    async def rotation(person: AnyPerson, workflow_id: WorkflowId) -> Any:
        """Return the status of a rotation."""
        return await desk.rotation(workflow_id)


def _add_records(router: APIRouter, desk: Desk) -> None:
    @router.get("/jobs", response_model=JobList)
    async def jobs(person: AnyPerson, query: Annotated[JobQuery, Query()]) -> Any:
        """List rotation jobs, 50 a page."""
        page = await desk.lists.jobs(query.chosen(), order_by=query.order_by, after=query.after)
        return {"jobs": page.rows, "after": page.after}

    @router.get("/jobs/{job_id}", response_model=JobWithAudit)
    async def job(person: AnyPerson, job_id: Annotated[str, Path(max_length=64)]) -> Any:
        """Return a job and its audit trail."""
        row, trail = await desk.job(job_id)
        return {"job": row, "audit": trail}

    @router.get("/runs", response_model=RunList)
    async def runs(person: AnyPerson, query: Annotated[RunQuery, Query()]) -> Any:
        """List bulk runs, newest first, 50 a page."""
        page = await desk.lists.runs(after=query.after)
        return {"runs": page.rows, "after": page.after}

    @router.get("/runs/{run_id}", response_model=RunRow)
    async def run(person: AnyPerson, run_id: RunId) -> Any:
        """Return a bulk run, with its progress."""
        return await desk.lists.run(run_id)

    @router.get("/runs/{run_id}/items", response_model=ItemList)
    async def run_items(person: AnyPerson, run_id: RunId, query: Annotated[ItemQuery, Query()]) -> Any:
        """List the items of a bulk run in the inventory's order, 50 a page."""
        chosen = {"outcome": query.outcome, "account_id": query.account_id}
        page = await desk.lists.items(run_id, after=query.after, **chosen)
        return {"items": page.rows, "after": page.after}

    @router.get("/calls", response_model=CallList)
    async def calls(person: AnyPerson, query: Annotated[CallQuery, Query()]) -> Any:
        """List model calls, newest first, 50 a page."""
        page = await desk.lists.calls(status=query.status, task=query.task, trace_id=query.trace_id, after=query.after)
        return {"calls": page.rows, "after": page.after}

    @router.get("/costs", response_model=CostList)
    async def costs(person: AnyPerson) -> Any:
        """Return the cost of model calls since midnight (UTC), by task."""
        return {"costs": await desk.lists.costs_today()}

    @router.get("/policy-lines", response_model=LineList)
    async def lines(person: AnyPerson) -> Any:
        """List the policy lines."""
        return {"policy_lines": [line.model_dump(include=set(Line.model_fields)) for line in desk.catalogue]}


def describe_keys_as_required(app: FastAPI) -> None:
    """Have the description say that an `Idempotency-Key` is required: its absence is refused by us, and by name."""
    describe = app.openapi

    def description() -> dict[str, Any]:
        described = describe()
        for methods in described["paths"].values():
            for operation in methods.values():
                for parameter in operation.get("parameters", ()):
                    if parameter["name"] == "Idempotency-Key":
                        parameter |= {"required": True, "schema": {"type": "string", "maxLength": 1_000}}
        return described

    app.openapi = description  # type: ignore[method-assign]
