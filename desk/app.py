"""The desk's web application: JSON and pages on one `Desk`, behind one `Guard`."""

import traceback
from http import HTTPStatus
from pathlib import Path
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp
from temporalio.service import RPCError

from keyturn.application.connection import map_rpc_error
from keyturn.desk.api import api
from keyturn.desk.desk import Desk
from keyturn.desk.guard import HEALTH, Guard
from keyturn.desk.idempotency import Idempotency
from keyturn.desk.pages import Pages
from keyturn.desk.people import SignIn
from keyturn.desk.problems import Refused, problem_of
from keyturn.desk.sessions import SessionRevocations
from keyturn.desk.settings import DeskSettings
from keyturn.errors import KeyturnError
from keyturn.keyring import Keyring

_log = structlog.get_logger("keyturn.desk")


def desk_application(desk: Desk, engine: AsyncEngine, settings: DeskSettings, keyring: Keyring) -> ASGIApp:
    """Return the ASGI application that serves `desk` to those whom `settings` let in."""
    sign_in = SignIn(settings, keyring, SessionRevocations(engine))
    idempotency = Idempotency(engine, keyring)
    pages = Pages(desk, settings, sign_in, idempotency)
    app = FastAPI(
        title="Keyturn's desk",
        version="1",
        summary="May this key be rotated? Ask, watch the reply being drafted, stop it, approve.",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
    )

    def refuse(request: Request, refused: Refused) -> Response:
        if request.url.path.startswith(("/api/", "/openapi.json")):
            body, media = problem_of(refused), "application/problem+json"
            return JSONResponse(body, status_code=refused.status, media_type=media, headers=refused.headers)
        return pages.refusal_page(request, refused)

    @app.exception_handler(Refused)
    async def _respond_refused(request: Request, refused: Refused) -> Response:
        return refuse(request, refused)

    @app.exception_handler(KeyturnError)
    async def _respond_known_error(request: Request, error: KeyturnError) -> Response:
        return refuse(request, Refused.of(error))

    @app.exception_handler(RPCError)
    async def _respond_temporal_error(request: Request, error: RPCError) -> Response:
        return refuse(request, Refused.of(map_rpc_error(error)))

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        return refuse(request, _fault(error.errors()[0]))

    @app.exception_handler(ValidationError)
    async def _unfit(request: Request, error: ValidationError) -> Response:
        return refuse(request, _fault(error.errors(include_input=False, include_url=False)[0]))

    @app.exception_handler(Exception)
    async def _respond_unforeseen(request: Request, error: Exception) -> Response:
        # Where, and of what kind: its message may contain a user's text.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        route = getattr(request.scope.get("route"), "path", "")  # its template: the path itself names accounts
        _log.error("unforeseen", route=route, error=type(error).__name__, where=where)
        return refuse(
            request, Refused(500, "unforeseen", "the desk failed", hint="The desk's log of this time says why.")
        )

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        phrase = HTTPStatus(error.status_code).phrase
        kind = phrase.lower().replace(" ", "_")
        return refuse(request, Refused(error.status_code, kind, phrase, headers=error.headers))

    @app.get(HEALTH, include_in_schema=False)
    async def healthz() -> Any:
        return {"status": "ok"}

    app.include_router(api(desk, settings, idempotency))
    pages.add_to(app)
    return Guard(app, settings, sign_in, refuse)


def _fault(fault: Any) -> Refused:
    """Return what is wrong with a request: the place and the rule, but not the value, which may be private."""
    where = ".".join(str(part)[:64] for part in fault["loc"] if part != "body") or "the body"
    if fault["type"] == "json_invalid":
        return Refused(400, "invalid", f"{where}: is no JSON", hint="See /openapi.json.")
    message = str(fault["msg"]).removeprefix("Value error, ")[:200]
    return Refused(422, "invalid", f"{where}: {message}", hint="See /openapi.json.")
