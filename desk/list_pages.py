"""The pages that list and count: the overview, approvals, rotations, jobs, runs and calls."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Form, Query, Request
from fastapi.responses import Response

from keyturn.application.rotation_lists import STATES, TO_DECIDE
from keyturn.desk.decisions import Choice, decide_together, resume_together
from keyturn.desk.desk import Desk
from keyturn.desk.filters import (
    CallQuery,
    ItemQuery,
    JobQuery,
    RotationQuery,
    RunId,
    RunQuery,
    as_text,
    more_of,
    query_of,
)
from keyturn.desk.lists import LISTED
from keyturn.desk.people import Person
from keyturn.desk.rendering import Rendering
from keyturn.desk.roles import AnyPerson, Decider, Operator
from keyturn.jobs.states import CLOSED, OPEN
from keyturn.people import is_among

# The outcomes of items that are due by the gate.
RUN_DUE = ("job_created", "started", "eligible", "waiting", "disagreement", "job_exists", "job_failed")


class ListPages:
    """The pages, on `desk`."""

    def __init__(self, desk: Desk, rendering: Rendering) -> None:
        self._desk = desk
        self._render = rendering.page

    def add_to(self, app: FastAPI) -> None:
        """Add the pages to an application."""
        routes: dict[str, tuple[str, Any]] = {
            "/": ("GET", self._overview),
            "/approvals": ("GET", self._approvals),
            "/approvals/decide": ("POST", self._decide),
            "/rotations": ("GET", self._rotations),
            "/rotations/resume": ("POST", self._resume),
            "/jobs": ("GET", self._jobs),
            "/runs": ("GET", self._runs),
            "/runs/{run_id}": ("GET", self._run),
            "/calls": ("GET", self._calls),
        }
        for path, (method, handler) in routes.items():
            app.add_api_route(path, handler, methods=[method], include_in_schema=False, response_model=None)

    async def _overview(self, request: Request, person: AnyPerson) -> Response:
        overview = await self._desk.lists.overview()
        chart = [_share_due(row) for row in reversed(overview.runs) if row["ended_at"] is not None]
        return self._render(request, "overview.html", overview=overview, open_states=OPEN, chart=chart)

    async def _approvals(
        self, request: Request, person: AnyPerson, query: Annotated[RotationQuery, Query()]
    ) -> Response:
        return await self._approvals_page(request, person, query)

    async def _approvals_page(
        self,
        request: Request,
        person: Person,
        query: RotationQuery,
        *,
        problem: str = "",
        chosen: Sequence[str] = (),
        reason: str = "",
    ) -> Response:
        page = await self._desk.lists.approvals(query.chosen(), after=query.after)
        rows = [{**row, "own": _is_own(row, person.name), "may_decide": _may_decide(row, person)} for row in page.rows]
        return self._render(
            request,
            "approvals.html",
            rows=rows,
            query=query,
            states=TO_DECIDE,
            lines=[str(line.ref) for line in self._desk.catalogue],
            more=more_of(query, page.after),
            filter=as_text(query),
            problem=problem,
            chosen=chosen,
            reason=reason,
            status=422 if problem else 200,
        )

    async def _decide(
        self,
        request: Request,
        person: Decider,
        decision: Annotated[Literal["approve", "deny"], Form()],
        choice: Annotated[list[str], Form(max_length=LISTED)] = [],  # noqa: B006 - FastAPI copies it
        reason: Annotated[str, Form(max_length=500)] = "",
        filter: Annotated[str, Form(max_length=4_000)] = "",  # noqa: A002 - the field's own name
    ) -> Response:
        pairs = [one.partition(" ") for one in choice]
        choices = [Choice(workflow_id=workflow_id, digest=digest) for digest, _, workflow_id in pairs]
        problem = "" if choice else "No rotation is selected."
        problem = "State the reason of the denial." if decision == "deny" and not reason.strip() else problem
        if problem:
            kept: dict[str, Any] = {"chosen": choice, "reason": reason}
            return await self._approvals_page(request, person, query_of(filter), problem=problem, **kept)
        results = await decide_together(self._desk, person, choices, decision=decision, reason=reason.strip())
        taken = sum(one.problem is None for one in results)
        back = as_text(query_of(filter))
        return self._render(request, "decided.html", decision=decision, results=results, taken=taken, filter=back)

    async def _resume(
        self,
        request: Request,
        person: Operator,
        choice: Annotated[list[str], Form(max_length=LISTED)] = [],  # noqa: B006 - FastAPI copies it
        filter: Annotated[str, Form(max_length=4_000)] = "",  # noqa: A002 - the field's own name
    ) -> Response:
        if not choice:
            return await self._rotations_page(request, query_of(filter), problem="No rotation is selected.")
        results = await resume_together(self._desk, person, choice)
        taken = sum(one.problem is None for one in results)
        back = as_text(query_of(filter))
        return self._render(request, "decided.html", decision="resume", results=results, taken=taken, filter=back)

    async def _rotations(
        self, request: Request, person: AnyPerson, query: Annotated[RotationQuery, Query()]
    ) -> Response:
        return await self._rotations_page(request, query)

    async def _rotations_page(self, request: Request, query: RotationQuery, *, problem: str = "") -> Response:
        page = await self._desk.lists.rotations(query.chosen(), after=query.after)
        return self._render(
            request,
            "rotations.html",
            filter=as_text(query),
            problem=problem,
            status=422 if problem else 200,
            rows=page.rows,
            query=query,
            states=list(STATES),
            lines=[str(line.ref) for line in self._desk.catalogue],
            more=more_of(query, page.after),
        )

    async def _jobs(self, request: Request, person: AnyPerson, query: Annotated[JobQuery, Query()]) -> Response:
        page = await self._desk.lists.jobs(query.chosen(), order_by=query.order_by, after=query.after)
        states = ["open", "closed", *OPEN[1:], *CLOSED]
        lines = [str(line.ref) for line in self._desk.catalogue]
        more = more_of(query, page.after)
        return self._render(request, "jobs.html", rows=page.rows, query=query, states=states, lines=lines, more=more)

    async def _runs(self, request: Request, person: AnyPerson, query: Annotated[RunQuery, Query()]) -> Response:
        page = await self._desk.lists.runs(after=query.after)
        return self._render(request, "runs.html", rows=page.rows, query=query, more=more_of(query, page.after))

    async def _run(
        self, request: Request, person: AnyPerson, run_id: RunId, query: Annotated[ItemQuery, Query()]
    ) -> Response:
        run = await self._desk.lists.run(run_id)
        page = await self._desk.lists.items(
            run_id, outcome=query.outcome, account_id=query.account_id, after=query.after
        )
        outcomes = sorted(run["progress"].outcomes.items(), key=lambda one: -one[1])
        more = more_of(query, page.after)
        return self._render(request, "run.html", run=run, rows=page.rows, query=query, outcomes=outcomes, more=more)

    async def _calls(self, request: Request, person: AnyPerson, query: Annotated[CallQuery, Query()]) -> Response:
        page = await self._desk.lists.calls(
            status=query.status, task=query.task, trace_id=query.trace_id, after=query.after
        )
        costs = await self._desk.lists.costs_today()
        more = more_of(query, page.after)
        return self._render(request, "calls.html", rows=page.rows, query=query, costs=costs, more=more)


def _is_own(row: Mapping[str, Any], name: str) -> bool:
    return is_among(name, row["asked_by"])


def _may_decide(row: Mapping[str, Any], person: Person) -> bool:
    """Whether this person's decision is taken; the workflow has the last word."""
    if row["digest"] is None or _is_own(row, person.name):
        return False
    if row["any_operator"]:
        return bool({"operator", "approver"} & person.roles)
    return "approver" in person.roles and is_among(person.name, row["approvers"])


def _share_due(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's bar: how many of its items were due, of all."""
    due = sum(row["progress"].outcomes.get(name, 0) for name in RUN_DUE)
    return {"run_id": row["run_id"], "at": row["created_at"], "due": due, "total": row["progress"].total}
