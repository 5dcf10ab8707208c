"""Applications whose every error is answered by problem details (RFC 9457)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from keyturn.web.guard import HEALTH, Guard
from keyturn.web.problems import Problem, Refuse, Refused, exception_handlers, refuse_with_problem, refused_field

if TYPE_CHECKING:
    from fastapi import FastAPI
    from fastapi.exceptions import RequestValidationError


async def healthz(_request: Request) -> Response:
    """Answer a probe: the process serves."""
    return JSONResponse({"status": "ok"})


def plain_application(routes: Sequence[BaseRoute]) -> Starlette:
    """Return an application of `routes` and the health check."""
    return Starlette(
        routes=[*routes, Route(HEALTH, healthz)], exception_handlers=exception_handlers(refuse_with_problem)
    )


def described_application(title: str, summary: str, refuse: Refuse = refuse_with_problem) -> "FastAPI":
    """Return an application that describes itself as `/openapi.json`, with the health check."""
    # FastAPI takes a third of a second to import; a worker that serves figures alone has no use for it.
    from fastapi import FastAPI
    from fastapi.exceptions import RequestValidationError

    async def respond_unreadable(request: Request, error: HTTPException) -> Response:
        # What JSON's parser refuses by anything but its own error: nesting without end, a number of 5,000 digits.
        return refuse(request, Refused(400, "invalid", "the body is no JSON", hint="See /openapi.json."))

    async def respond_invalid(request: Request, error: "RequestValidationError") -> Response:
        return refuse(request, refused_field(error.errors()[0]))

    app = FastAPI(
        title=title,
        version="1",
        summary=summary,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        exception_handlers=exception_handlers(refuse)
        | {RequestValidationError: respond_invalid, 400: respond_unreadable},
    )
    app.add_route(HEALTH, healthz, include_in_schema=False)
    describe = app.openapi

    def description() -> dict[str, Any]:
        described = describe()
        described["components"]["schemas"].setdefault("Problem", Problem.model_json_schema())
        return described

    app.openapi = description  # type: ignore[method-assign]
    return app


async def _nothing_to_check(_request: Request) -> None:
    """Let every request pass."""


def unstored(_request: Request) -> Mapping[str, str]:
    """Return the headers of answers that no one may store."""
    return {"Cache-Control": "no-store"}


def open_server(routes: Sequence[BaseRoute]) -> ASGIApp:
    """Return the guarded application of `routes` that anyone may ask who reaches it; it takes no bodies."""
    app = plain_application(routes)
    return Guard(app, check=_nothing_to_check, refuse=refuse_with_problem, headers=unstored, max_body_bytes=0)
