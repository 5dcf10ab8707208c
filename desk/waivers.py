"""Waivers at the desk: the page and the JSON of what is exempt, granted and ended by approvers."""

from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Form, Path, Query, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import AwareDatetime, BaseModel, Field

from keyturn.contracts import Identifier, Owner, Reason, ShortIdentifier
from keyturn.desk.desk import Desk
from keyturn.desk.rendering import Rendering
from keyturn.desk.roles import AnyPerson, Approver
from keyturn.desk.schemas import Body
from keyturn.errors import InvalidRequest, KeyturnError
from keyturn.moments import last_moment
from keyturn.waivers.contracts import AccountPattern, Waiver
from keyturn.waivers.granting import exceptions_of
from keyturn.waivers.jobs import open_jobs_of
from keyturn.web.problems import Refused

NAMED_JOBS = 20  # on the page; the list of jobs has them all
WaiverId = Annotated[str, Path(max_length=64, description="Waiver ID.")]


class WaiverOrder(Body):
    """Whose keys are exempt, until when, and why. At least one of the first four fields is set."""

    account: AccountPattern | None = Field(default=None, description="Pattern of accounts; * stands for anything.")
    key_id: Identifier | None = None
    owner: Owner | None = None
    line: ShortIdentifier | None = Field(default=None, description="Under this policy line alone, by its ID.")
    reason: Reason
    until: AwareDatetime
    covers_compromised: bool = Field(default=False, description="Whether keys that were exposed are exempt, too.")


class WaiverList(BaseModel):
    """The waivers in force, soonest to end first."""

    waivers: list[Waiver]


def add_waivers(router: APIRouter, desk: Desk) -> None:
    """Add the routes of the JSON API."""

    @router.get("/waivers", response_model=WaiverList)
    async def waivers(person: AnyPerson) -> Any:
        """List the waivers that hold now."""
        return {"waivers": await desk.waivers.active(tenant_id=desk.tenant)}

    @router.post("/waivers", status_code=201, response_model=Waiver)
    async def grant_waiver(person: Approver, body: WaiverOrder) -> Any:
        """Exempt keys from rotation until a date. An approver cannot exempt keys of their own."""
        return await desk.grant_waiver(person.name, **body.model_dump())

    @router.post("/waivers/{waiver_id}/end", status_code=204)
    async def end_waiver(person: Approver, waiver_id: WaiverId) -> None:
        """End a waiver before its date: its keys are due again."""
        await desk.waivers.end(waiver_id, tenant_id=desk.tenant, by=person.name)


class WaiverPages:
    """The pages, on `desk`."""

    def __init__(self, desk: Desk, rendering: Rendering) -> None:
        self._desk = desk
        self._render = rendering.page

    def add_to(self, app: FastAPI) -> None:
        """Add the pages to an application."""
        app.add_api_route("/waivers", self._list, include_in_schema=False, response_model=None)
        posts: dict[str, Any] = {"/waivers": self._grant, "/waivers/end": self._end}
        for path, handler in posts.items():
            app.add_api_route(path, handler, methods=["POST"], include_in_schema=False, response_model=None)

    async def _list(
        self, request: Request, person: AnyPerson, granted: Annotated[str, Query(max_length=64)] = ""
    ) -> Response:
        return await self._page(request, {}, [], granted=granted)

    async def _page(
        self,
        request: Request,
        typed: dict[str, Any],
        faults: list[tuple[str, str]],
        *,
        status: int = 200,
        granted: str = "",
    ) -> Response:
        rows = await self._desk.waivers.active(tenant_id=self._desk.tenant)
        new = next((row for row in rows if row.waiver_id == granted), None)
        return self._render(
            request,
            "waivers.html",
            status=status,
            rows=rows,
            granted=new,
            exceptions=exceptions_of(new, self._desk.catalogue, self._desk.owners) if new else (),
            jobs=await open_jobs_of(new, self._desk.engine, self._desk.owners) if new else (),
            NAMED=NAMED_JOBS,
            typed=typed,
            faults=dict(faults),
            lines=[line.id for line in self._desk.catalogue],
        )

    async def _grant(
        self,
        request: Request,
        person: Approver,
        until: Annotated[str, Form(max_length=40)] = "",
        reason: Annotated[str, Form(max_length=500)] = "",
        account: Annotated[str, Form(max_length=640)] = "",
        key_id: Annotated[str, Form(max_length=256)] = "",
        owner: Annotated[str, Form(max_length=64)] = "",
        line: Annotated[str, Form(max_length=64)] = "",
        covers_compromised: Annotated[bool, Form()] = False,
    ) -> Response:
        typed = {"account": account, "key_id": key_id, "owner": owner, "line": line, "reason": reason, "until": until}
        asked = {name: value.strip() or None for name, value in typed.items()} | {"reason": reason.strip()}
        typed["covers_compromised"] = "yes" if covers_compromised else ""
        try:
            try:
                ends = last_moment(until)
            except ValueError as error:
                raise InvalidRequest(faults=[("until", str(error))]) from None
            fields = asked | {"until": ends, "covers_compromised": covers_compromised}
            waiver = await self._desk.grant_waiver(person.name, **fields)
        except KeyturnError as error:  # nothing that was typed is lost by it
            faults = error.faults if isinstance(error, InvalidRequest) and error.faults else [("", str(error))]
            return await self._page(request, typed, list(faults), status=Refused.of(error).status)
        return RedirectResponse(f"/waivers?granted={waiver.waiver_id}", status_code=303)

    async def _end(
        self, request: Request, person: Approver, waiver_id: Annotated[str, Form(max_length=64)]
    ) -> Response:
        await self._desk.waivers.end(waiver_id, tenant_id=self._desk.tenant, by=person.name)
        return RedirectResponse("/waivers", status_code=303)
