"""The desk as pages: forms and links that work by themselves, and a script that updates them."""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import FastAPI, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.staticfiles import StaticFiles

from keyturn.application.outcomes import days_in_words
from keyturn.application.stories import last_request
from keyturn.desk.api import begin_draft
from keyturn.desk.desk import Desk
from keyturn.desk.idempotency import Idempotency
from keyturn.desk.people import ACTING_AS, SESSION, Person, SignIn
from keyturn.desk.roles import AnyPerson, Asker, Decider, Operator, expect_decider
from keyturn.desk.schemas import in_path, plain
from keyturn.desk.settings import ROLES, DeskSettings
from keyturn.errors import KeyturnError
from keyturn.moments import in_utc
from keyturn.web.problems import TITLES, Refused
from keyturn.web.sessions import SESSION_SECONDS

_FOLDER = Path(__file__).parent
_KNOWN = {"yes": True, "no": False}
Text = Annotated[str, Form()]
Flag = Annotated[str, Form(pattern="^(yes|no|)$")]


class Pages:
    """The pages, on `desk`."""

    def __init__(self, desk: Desk, settings: DeskSettings, sign_in: SignIn, idempotency: Idempotency) -> None:
        self._desk = desk
        self._settings = settings
        self._sign_in = sign_in
        self._idempotency = idempotency
        self._templates = Environment(
            loader=PackageLoader("keyturn.desk"),
            autoescape=select_autoescape(),
            undefined=StrictUndefined,
            trim_blocks=True,
        )
        self._templates.filters |= {"id_in_path": in_path, "moment": _moment, "days": days_in_words}

    def add_to(self, app: FastAPI) -> None:
        """Add the pages to an application."""
        app.mount("/static", StaticFiles(directory=_FOLDER / "static"))
        routes: dict[str, tuple[str, Any]] = {
            "/": ("GET", self._home),
            "/ask": ("POST", self._ask),
            "/rotations/{workflow_id:path}/state": ("GET", self._rotation_state),
            "/rotations/{workflow_id:path}/resume": ("POST", self._resume),
            "/rotations/{workflow_id:path}/abandon": ("POST", self._abandon),
            "/rotations/{workflow_id:path}/approve": ("POST", self._approve),
            "/rotations/{workflow_id:path}/deny": ("POST", self._deny),
            "/rotations/{workflow_id:path}": ("GET", self._rotation),
            "/drafts": ("POST", self._draft),
            "/drafts/{draft_id}": ("GET", self._show_draft),
            "/drafts/{draft_id}/stop": ("POST", self._stop),
            "/jobs/{job_id}": ("GET", self._job),
            "/sign-in": ("GET", self._sign_in_page),
            "/session": ("POST", self._start_session),
            "/sign-out": ("POST", self._end_session),
            "/act-as": ("POST", self._act_as),
        }
        for path, (method, handler) in routes.items():
            app.add_api_route(path, handler, methods=[method], include_in_schema=False, response_model=None)

    def refusal_page(self, request: Request, refused: Refused) -> Response:
        """Return the page of a refusal; a caller who is not signed in is asked to sign in."""
        if refused.status == 401 and self._sign_in.by_token and request.method == "GET":
            return RedirectResponse("/sign-in", status_code=303)
        title = TITLES.get(refused.status, "Refused")
        fields = {"title": title, "detail": str(refused), "hint": refused.hint}
        page = self._page(request, "refused.html", **fields)
        page.status_code = refused.status
        page.headers.update(refused.headers)
        return page

    # -- asking and looking -------------------------------------------------------------------------------------------

    async def _home(self, request: Request, person: AnyPerson) -> Response:
        return await self._home_with(request, {}, None)

    async def _home_with(self, request: Request, given: Mapping[str, Any], fault: str | None) -> Response:
        """The page with what was typed into its form, and what is wrong with it."""
        return self._page(
            request,
            "home.html",
            given=given,
            fault=fault,
            lines=list(self._desk.catalogue),
            key=str(uuid.uuid4()),
            waiting=await self._desk.waiting(),
            recent=await self._desk.recent(),
            jobs=[plain(row) for row in await self._desk.jobs(limit=10)],
            costs=await self._desk.costs_today(),
        )

    async def _ask(
        self,
        request: Request,
        person: Asker,
        account_id: Text,
        key_id: Text,
        policy_lines: Annotated[list[str], Form()],
        question: Text,
        key: Text,
        kind: Text = "service_account_key",
        stale: Flag = "",
        compromised: Flag = "",
        age_days: Annotated[str, Form(pattern=r"^\d{0,5}$")] = "",
    ) -> Response:
        given: dict[str, Any] = {"account_id": account_id.strip(), "key_id": key_id.strip(), "question": question}
        given |= {"policy_lines": policy_lines, "kind": kind, "stale": _KNOWN.get(stale)}
        given |= {"compromised": _KNOWN.get(compromised), "age_days": int(age_days) if age_days else None}
        asked = {name: value for name, value in given.items() if value is not None}

        async def do(_digest: str) -> tuple[int, dict[str, Any]]:
            wait = self._settings.wait_seconds
            fields = await self._desk.ask(person.name, asked, wait_seconds=wait, proved_by=person.by)
            return 303, {"workflow_id": fields["workflow_id"]}

        whose = (self._settings.tenant, person.name, "page:ask")
        try:
            _, answer = await self._idempotency.once(key, whose=whose, request=asked, do=do)
        except KeyturnError as error:  # nothing that was typed is lost by it
            refused = Refused.of(error)
            page = await self._home_with(request, given | {"stale": stale, "compromised": compromised}, str(refused))
            page.status_code = refused.status
            return page
        return RedirectResponse(f"/rotations/{in_path(answer['workflow_id'])}", status_code=303)

    async def _rotation(self, request: Request, person: AnyPerson, workflow_id: str) -> Response:
        steps = await self._desk.story(workflow_id)
        asked = last_request(steps)
        fields = await self._state_of(workflow_id)
        ui = self._settings.temporal_ui
        link = (
            None
            if ui is None
            else f"{ui}/namespaces/{self._desk.client.namespace}/workflows/{quote(workflow_id, safe='')}"
        )
        return self._page(
            request, "rotation.html", asked=asked, steps=steps, link=link, key=str(uuid.uuid4()), **fields
        )

    async def _rotation_state(self, request: Request, person: AnyPerson, workflow_id: str) -> Response:
        """The part of a rotation's page that changes, for the script."""
        return self._page(request, "_state.html", **await self._state_of(workflow_id))

    async def _state_of(self, workflow_id: str) -> dict[str, Any]:
        fields = await self._desk.rotation(workflow_id)
        lines = self._desk.lines_of(fields.get("policy_lines", []))
        settled = fields["status"] not in {"running", "rate_limited", "parked", "awaiting_approval", "disagreement"}
        return {"rotation": fields, "lines": lines, "settled": settled, "workflow_id": fields["workflow_id"]}

    async def _resume(self, person: Operator, workflow_id: str) -> Response:
        await self._desk.resume(person.name, workflow_id)
        return _back_to(workflow_id)

    async def _abandon(self, person: Operator, workflow_id: str, reason: Text) -> Response:
        await self._desk.abandon(person.name, workflow_id, reason)
        return _back_to(workflow_id)

    async def _approve(self, person: Decider, workflow_id: str, digest: Text) -> Response:
        await expect_decider(self._desk, person, workflow_id)
        await self._desk.approve(person.name, workflow_id, digest, proved_by=person.by)
        return _back_to(workflow_id)

    async def _deny(self, person: Decider, workflow_id: str, digest: Text, reason: Text) -> Response:
        await expect_decider(self._desk, person, workflow_id)
        await self._desk.deny(person.name, workflow_id, digest, reason, proved_by=person.by)
        return _back_to(workflow_id)

    # -- drafts and jobs ----------------------------------------------------------------------------------------------

    async def _draft(self, person: Asker, workflow_id: Text, key: Text) -> Response:
        async def do(digest: str) -> tuple[int, dict[str, Any]]:
            return 303, {"draft_id": await begin_draft(self._desk, person, digest, {"workflow_id": workflow_id})}

        whose = (self._settings.tenant, person.name, "page:draft")
        _, answer = await self._idempotency.once(key, whose=whose, request=workflow_id, do=do)
        back = f"?rotation={quote(workflow_id, safe='')}"
        return RedirectResponse(f"/drafts/{in_path(answer['draft_id'])}{back}", status_code=303)

    async def _show_draft(self, request: Request, person: AnyPerson, draft_id: str, rotation: str = "") -> Response:
        draft = await self._desk.find_draft(draft_id)
        trail = [plain(row) for row in await self._desk.draft_trail(draft_id)]
        return self._page(request, "draft.html", draft=draft, trail=trail, rotation=rotation[:1_000])

    async def _stop(self, person: Asker, draft_id: str, rotation: Text = "") -> Response:
        await self._desk.stop(draft_id)
        back = f"?rotation={quote(rotation, safe='')}" if rotation else ""
        return RedirectResponse(f"/drafts/{in_path(draft_id)}{back}", status_code=303)

    async def _job(self, request: Request, person: AnyPerson, job_id: str) -> Response:
        job, trail = await self._desk.job(job_id)
        return self._page(request, "job.html", job=plain(job), trail=[plain(row) for row in trail])

    # -- who is there -------------------------------------------------------------------------------------------------

    async def _sign_in_page(self, request: Request) -> Response:
        return self._page(request, "sign_in.html", refused=False)

    async def _start_session(self, request: Request, token: Text) -> Response:
        cookie = self._sign_in.session_for(token.strip())
        if cookie is None:
            page = self._page(request, "sign_in.html", refused=True)
            page.status_code = 403
            return page
        leaving = RedirectResponse("/", status_code=303)
        # Behind a proxy that speaks TLS it may serve on loopback too.
        secure = self._settings.environment == "production" or not self._settings.on_loopback
        leaving.set_cookie(
            SESSION, cookie, max_age=SESSION_SECONDS, httponly=True, samesite="strict", secure=secure, path="/"
        )
        return leaving

    async def _end_session(self, request: Request, person: AnyPerson) -> Response:
        await self._sign_in.end_session(request)
        leaving = RedirectResponse("/sign-in", status_code=303)
        leaving.delete_cookie(SESSION, path="/")
        return leaving

    async def _act_as(self, person: AnyPerson, name: Text) -> Response:
        if person.by != "development":
            raise Refused(403, "not_in_development", "only where nobody signs in")
        leaving = RedirectResponse("/", status_code=303)
        leaving.set_cookie(ACTING_AS, quote(name[:128], safe="@._-+="), httponly=True, samesite="strict", path="/")
        return leaving

    def _page(self, request: Request, template: str, **values: Any) -> HTMLResponse:
        person: Person | None = getattr(request.state, "person", None)
        common = {"person": person, "roles": ROLES, "now": datetime.now(UTC), "by_token": self._sign_in.by_token}
        return HTMLResponse(self._templates.get_template(template).render(**common, **values))


def _back_to(workflow_id: str) -> Response:
    return RedirectResponse(f"/rotations/{in_path(workflow_id)}", status_code=303)


def _moment(value: Any) -> str:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return in_utc(moment)
