"""Exposed keys at the desk: which were reported, and a form that reports one, whose rotation starts at once."""

from typing import Annotated, Any, get_args

from fastapi import APIRouter, FastAPI, Form, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from keyturn.contracts import AccountId, CredentialKind, Identifier, Owner, ShortIdentifier
from keyturn.desk.desk import Desk
from keyturn.desk.rendering import Rendering
from keyturn.desk.roles import AnyPerson, Asker
from keyturn.desk.schemas import ExposedKey, ExposedKeys, in_path
from keyturn.errors import InvalidRequest, KeyturnError
from keyturn.faults import faults_of
from keyturn.web.problems import Refused

# As many as a person reads; `keyturn compromised` lists a thousand.
LISTED = 200
_FIELDS = frozenset({"key_id", "account_id", "kind", "source"})


class ReportedExposure(BaseModel):
    """A key that was reported as exposed: from then on it counts as compromised."""

    account_id: AccountId | None = Field(description="Whose it is; null if no inventory and no job knew that.")
    key_id: Identifier
    source: ShortIdentifier = Field(description="What found it.")
    reported_by: Identifier
    reported_at: AwareDatetime
    place: str | None = Field(default=None, description="Where it was found; null if the report does not say so.")
    owner: Owner | None = Field(default=None, description="Who owns the key; null if no one is known to.")


class ExposureList(BaseModel):
    """The keys that were reported last, newest first."""

    exposed: list[ReportedExposure]


async def report(desk: Desk, reported_by: str, key: ExposedKey) -> list[Any]:
    """Mark the keys of a report and begin their rotations; returns these."""
    found = await desk.exposed.keys_of(key.key_id, key.account_id, key.kind)
    return [(await desk.exposed.report(one, source=key.source, reported_by=reported_by))[0] for one in found]


async def listed(desk: Desk) -> list[dict[str, Any]]:
    """Return the keys that were reported last, each with its owner."""
    rows = await desk.exposed.exposures.listed(tenant_id=desk.tenant, limit=LISTED)
    return [{**row, "owner": desk.owners.owner_of(row["account_id"] or "", row["key_id"], None)} for row in rows]


def add_exposures(router: APIRouter, desk: Desk) -> None:
    """Add the routes of the JSON API."""

    @router.post("/compromised", status_code=202, response_model=ExposedKeys)
    async def compromised(person: Asker, body: ExposedKey) -> Any:
        """Report that a key was exposed: its rotation starts at once. Reporting it again starts nothing more."""
        return {"rotations": await report(desk, person.name, body)}

    @router.get("/compromised", response_model=ExposureList)
    async def exposed_keys(person: AnyPerson) -> Any:
        """List the keys that were reported last, 200 at most, newest first."""
        return {"exposed": await listed(desk)}


class ExposurePages:
    """The pages, on `desk`."""

    def __init__(self, desk: Desk, rendering: Rendering) -> None:
        self._desk = desk
        self._render = rendering.page

    def add_to(self, app: FastAPI) -> None:
        """Add the pages to an application."""
        app.add_api_route("/exposed", self._list, include_in_schema=False, response_model=None)
        app.add_api_route("/exposed", self._report, methods=["POST"], include_in_schema=False, response_model=None)

    async def _list(self, request: Request, person: AnyPerson) -> Response:
        return await self._page(request, {}, [])

    async def _page(
        self, request: Request, typed: dict[str, str], faults: list[tuple[str, str]], *, status: int = 200
    ) -> Response:
        return self._render(
            request,
            "exposed.html",
            status=status,
            rows=await listed(self._desk),
            most=LISTED,
            typed=typed,
            faults={name: said for name, said in faults if name in _FIELDS},
            others=[f"{name}: {said}" if name else said for name, said in faults if name not in _FIELDS],
            kinds=get_args(CredentialKind),
        )

    async def _report(
        self,
        request: Request,
        person: Asker,
        key_id: Annotated[str, Form(max_length=256)] = "",
        account_id: Annotated[str, Form(max_length=640)] = "",
        kind: Annotated[str, Form(max_length=64)] = "",
        source: Annotated[str, Form(max_length=128)] = "",
    ) -> Response:
        typed = {"key_id": key_id, "account_id": account_id, "kind": kind, "source": source}
        asked = {name: value.strip() for name, value in typed.items() if value.strip()}
        try:
            try:
                key = ExposedKey.model_validate(asked)
            except ValidationError as error:
                raise InvalidRequest(faults=faults_of(error)) from None
            rotations = await report(self._desk, person.name, key)
        except KeyturnError as error:  # nothing that was typed is lost by it
            faults = error.faults if isinstance(error, InvalidRequest) and error.faults else [("", str(error))]
            named = [(name.rpartition(".")[2], said) for name, said in faults]  # the rotation's are within `credential`
            return await self._page(request, typed, named, status=Refused.of(error).status)
        if len(rotations) == 1:
            return RedirectResponse(f"/rotations/{in_path(rotations[0].workflow_id)}", status_code=303)
        return RedirectResponse("/exposed", status_code=303)
