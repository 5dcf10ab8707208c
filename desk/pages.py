"""The desk as pages: forms and links that work by themselves, and a script that updates them."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, get_args
from urllib.parse import quote, urlsplit

from fastapi import FastAPI, Form, Request
from fastapi.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from keyturn.application.next_steps import execution_status, next_for_job, next_for_rotation
from keyturn.application.stories import last_request
from keyturn.contracts import CredentialKind
from keyturn.desk.desk import Desk
from keyturn.desk.drafts_api import begin_draft
from keyturn.desk.idempotency import Idempotency
from keyturn.desk.people import ACTING_AS, SESSION, SignIn
from keyturn.desk.rendering import STATIC, Rendering
from keyturn.desk.roles import AnyPerson, Asker, Decider, Operator, expect_decider
from keyturn.desk.schemas import in_path, plain
from keyturn.desk.settings import DeskSettings
from keyturn.errors import InvalidRequest, KeyturnError
from keyturn.web.problems import TITLES, Refused
from keyturn.web.sessions import SESSION_SECONDS

_KNOWN = {"yes": True, "no": False, "": None}
_YES_OR_NO = ("stale", "compromised", "never_used")
_DAYS = ("last_rotated_at", "last_used_at")
# The fields of the form; what is wrong with anything else stands above it.
_FIELDS = frozenset(
    {
        "account_id",
        "key_id",
        "kind",
        "policy_lines",
        "question",
        "age_days",
        "last_rotated_at",
        "last_used_at",
        *_YES_OR_NO,
    }
)
Text = Annotated[str, Form()]
Day = Annotated[str, Form(pattern=r"^(\d{4}-\d{2}-\d{2})?$")]
Flag = Annotated[str, Form(pattern="^(yes|no|)$")]


class Pages:
    """The pages, on `desk`."""

    def __init__(
        self, desk: Desk, settings: DeskSettings, sign_in: SignIn, idempotency: Idempotency, rendering: Rendering
    ) -> None:
        self._desk = desk
        self._settings = settings
        self._sign_in = sign_in
        self._idempotency = idempotency
        self._render = rendering.page

    def add_to(self, app: FastAPI) -> None:
        """Add the pages to an application."""
        app.mount("/static", StaticFiles(directory=STATIC))
        routes: dict[str, tuple[str, Any]] = {
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
        app.add_api_route("/ask", self._ask_page, methods=["GET"], include_in_schema=False, response_model=None)
        app.add_api_route("/ask", self._ask, methods=["POST"], include_in_schema=False, response_model=None)
        for path, (method, handler) in routes.items():
            app.add_api_route(path, handler, methods=[method], include_in_schema=False, response_model=None)

    def refusal_page(self, request: Request, refused: Refused) -> Response:
        """Return the page of a refusal; a caller who is not signed in is asked to sign in."""
        if refused.status == 401 and self._sign_in.by_token and request.method == "GET":
            here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            back = "" if here == "/" else f"?next={quote(here, safe='')}"
            return RedirectResponse(f"/sign-in{back}", status_code=303)
        title = TITLES.get(refused.status, "Refused")
        fields = {"title": title, "detail": str(refused), "hint": refused.hint}
        page = self._render(request, "refused.html", status=refused.status, **fields)
        page.headers.update(refused.headers)
        return page

    # -- asking and looking -------------------------------------------------------------------------------------------

    async def _ask_page(self, request: Request, person: AnyPerson) -> Response:
        return self._ask_page_with(request, {}, ())

    def _ask_page_with(
        self, request: Request, given: Mapping[str, Any], faults: Sequence[tuple[str, str]], status: int = 200
    ) -> Response:
        """The page with what was typed into its form, and what is wrong with which field."""
        faults = [(_field_of(name, reason), reason) for name, reason in faults]
        fields = {name for name, _ in faults} & _FIELDS
        return self._render(
            request,
            "ask.html",
            status=status,
            given=given,
            faults={name: reason for name, reason in faults if name in fields},
            others=[f"{name}: {reason}" if name else reason for name, reason in faults if name not in fields],
            lines=list(self._desk.catalogue),
            kinds=get_args(CredentialKind),
            key=str(uuid.uuid4()),
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
        never_used: Flag = "",
        age_days: Annotated[str, Form(pattern=r"^\d{0,5}$")] = "",
        last_rotated_at: Day = "",
        last_used_at: Day = "",
        again: Flag = "",
    ) -> Response:
        typed: dict[str, Any] = {"account_id": account_id.strip(), "key_id": key_id.strip(), "question": question}
        typed |= {"policy_lines": policy_lines, "kind": kind, "age_days": age_days}
        typed |= {"stale": stale, "compromised": compromised, "never_used": never_used}
        typed |= {"last_rotated_at": last_rotated_at, "last_used_at": last_used_at, "again": again}
        asked = typed | {name: _KNOWN[typed[name]] for name in _YES_OR_NO}
        asked |= {name: f"{typed[name]}T00:00:00Z" for name in _DAYS if typed[name]}
        asked["again"] = again == "yes"
        asked = {name: value for name, value in asked.items() if value is not None and value != ""}

        async def do(_digest: str) -> tuple[int, dict[str, Any]]:
            wait = self._settings.wait_seconds
            fields = await self._desk.ask(person.name, asked, wait_seconds=wait, proved_by=person.by)
            return 303, {"workflow_id": fields["workflow_id"]}

        whose = (self._settings.tenant, person.name, "page:ask")
        try:
            _, answer = await self._idempotency.once(key, whose=whose, request=asked, do=do)
        except KeyturnError as error:  # nothing that was typed is lost by it
            faults = error.faults if isinstance(error, InvalidRequest) and error.faults else [("", str(error))]
            return self._ask_page_with(request, typed, faults, Refused.of(error).status)
        return RedirectResponse(f"/rotations/{in_path(answer['workflow_id'])}", status_code=303)

    async def _rotation(self, request: Request, person: AnyPerson, workflow_id: str) -> Response:
        steps = await self._desk.story(workflow_id)
        asked = last_request(steps)
        fields = await self._state_of(workflow_id)
        ui = self._settings.temporal_ui
        path = f"/namespaces/{self._desk.client.namespace}/workflows/{quote(workflow_id, safe='')}"
        return self._render(
            request,
            "rotation.html",
            asked=asked,
            evidence=evidence_rows(asked["credential"]) if asked else [],
            supplied=self._desk.lines_of([f"{one['id']}@{one['version']}" for one in asked["policy_lines"]])
            if asked
            else [],
            steps=steps,
            owner=self._owner_of(asked["account_id"], asked["credential"]["key_id"], asked["owner"]) if asked else None,
            audit=[plain(row) for row in await self._desk.audit(workflow_id)],
            link=None if ui is None else ui + path,
            run=await self._run_of(asked) if asked else None,
            key=str(uuid.uuid4()),
            **fields,
        )

    async def _run_of(self, asked: Mapping[str, Any]) -> str | None:
        key_id = asked["credential"]["key_id"]
        return await self._desk.lists.run_of(asked["trace_id"], account_id=asked["account_id"], key_id=key_id)

    async def _rotation_state(self, request: Request, person: AnyPerson, workflow_id: str) -> Response:
        """The part of a rotation's page that changes, for the script."""
        return self._render(request, "_state.html", **await self._state_of(workflow_id))

    async def _state_of(self, workflow_id: str) -> dict[str, Any]:
        fields = await self._desk.rotation(workflow_id)
        lines = self._desk.lines_of(fields.get("policy_lines", []))
        settled = fields["status"] not in {"running", "rate_limited", "parked", "awaiting_approval", "disagreement"}
        job = None
        if fields.get("job_id"):
            job, _ = await self._desk.job(fields["job_id"])
        then = next_for_rotation(fields) if job is None else await self._next_for(job)
        return {
            "rotation": fields,
            "lines": lines,
            "settled": settled,
            "workflow_id": fields["workflow_id"],
            "job": None if job is None else plain(job),
            "then": then,
        }

    async def _next_for(self, job: Mapping[str, Any]) -> str:
        if (waived := await self._desk.held_back(job)) is not None:
            return f"Nothing until the waiver ends: {waived}."
        ours = job["status"] in {"claimed", "rotating", "verifying", "grace"}
        return next_for_job(job, await execution_status(self._desk.client, job["job_id"]) if ours else None)

    async def _resume(self, person: Operator, workflow_id: str) -> Response:
        await self._desk.resume(person.name, workflow_id)
        return _back_to(workflow_id)

    async def _abandon(self, person: Operator, workflow_id: str, reason: Text) -> Response:
        await self._desk.abandon(person.name, workflow_id, reason)
        return _back_to(workflow_id)

    async def _approve(self, person: Decider, workflow_id: str, digest: Text, reason: Text = "") -> Response:
        await expect_decider(self._desk, person, workflow_id)
        await self._desk.approve(person.name, workflow_id, digest, reason.strip(), proved_by=person.by)
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
        return self._render(request, "draft.html", draft=draft, trail=trail, rotation=rotation[:1_000])

    async def _stop(self, person: Asker, draft_id: str, rotation: Text = "") -> Response:
        await self._desk.stop(draft_id)
        back = f"?rotation={quote(rotation, safe='')}" if rotation else ""
        return RedirectResponse(f"/drafts/{in_path(draft_id)}{back}", status_code=303)

    async def _job(self, request: Request, person: AnyPerson, job_id: str) -> Response:
        job, trail = await self._desk.job(job_id)
        return self._render(
            request,
            "job.html",
            job=plain(job),
            owner=self._owner_of(job["account_id"], job["key_id"], job["recorded_owner"]),
            lines=self._desk.lines_of(job["policy_lines"] or []),
            trail=[plain(row) for row in trail],
            then=await self._next_for(job),
        )

    def _owner_of(self, account_id: str | None, key_id: str | None, recorded: str | None) -> str | None:
        """Of a purged job nothing is stored any more by which its owner would be known."""
        return self._desk.owners.owner_of(account_id, key_id, recorded) if account_id and key_id else None

    # -- who is there -------------------------------------------------------------------------------------------------

    async def _sign_in_page(self, request: Request, next: str = "") -> Response:  # noqa: A002 - the query's own name
        return self._render(request, "sign_in.html", refused=False, back=_path_here(next))

    async def _start_session(
        self,
        request: Request,
        token: Text,
        next: Text = "",  # noqa: A002 - the field's own name
    ) -> Response:
        cookie = self._sign_in.session_for(token.strip())
        if cookie is None:
            return self._render(request, "sign_in.html", status=403, refused=True, back=_path_here(next))
        leaving = RedirectResponse(_path_here(next) or "/", status_code=303)
        # Behind a proxy that speaks TLS it may serve on loopback too.
        secure = self._settings.environment == "production" or not self._settings.on_loopback
        # Lax: a link in a message leads to its page without another sign-in. What changes anything is a POST, which no
        # other site's page may send (checks.py).
        leaving.set_cookie(
            SESSION, cookie, max_age=SESSION_SECONDS, httponly=True, samesite="lax", secure=secure, path="/"
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


def _back_to(workflow_id: str) -> Response:
    return RedirectResponse(f"/rotations/{in_path(workflow_id)}", status_code=303)


def _path_here(address: str) -> str:
    """Return an address if it is a path of this desk, and nothing otherwise: it may come from anyone."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    is_path = (
        address.startswith("/") and not address.startswith(("//", "/\\")) and not parts.scheme and not parts.netloc
    )
    return address if is_path and address.isprintable() and "\\" not in address and len(address) <= 2_000 else ""


def evidence_rows(credential: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return what is known of a key, name by name, for a table; `key_id` is the page's title."""
    known = {name: value for name, value in credential.items() if value is not None and name != "key_id"}
    return [(name, "yes" if value is True else "no" if value is False else value) for name, value in known.items()]


def _field_of(name: str, reason: str) -> str:
    """Return the form's field that a fault is about; the name as it is where there is none."""
    field = name.rpartition(".")[2]
    beginning = reason.partition(" ")[0]  # of a fault of several fields, such as `last_used_at is later than ...`
    return field if field in _FIELDS else beginning if beginning in _FIELDS else name
