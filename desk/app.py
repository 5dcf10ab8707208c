"""The desk's web application: JSON and pages on one `Desk`, behind one guard."""

from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from keyturn.application.answers import UPDATE_TIMEOUT
from keyturn.desk.api import api, describe_keys_as_required
from keyturn.desk.checks import MAX_BODY_BYTES, Checks
from keyturn.desk.desk import Desk
from keyturn.desk.exposures import ExposurePages
from keyturn.desk.idempotency import Idempotency
from keyturn.desk.list_pages import ListPages
from keyturn.desk.pages import Pages
from keyturn.desk.people import SignIn
from keyturn.desk.rendering import Rendering
from keyturn.desk.sessions import SessionRevocations
from keyturn.desk.settings import DeskSettings
from keyturn.desk.waivers import WaiverPages
from keyturn.keyring import Keyring
from keyturn.web.applications import described_application
from keyturn.web.guard import Guard
from keyturn.web.problems import Refused, problem_response


def desk_application(desk: Desk, engine: AsyncEngine, settings: DeskSettings, keyring: Keyring) -> ASGIApp:
    """Return the ASGI application that serves `desk` to those whom `settings` let in."""
    sign_in = SignIn(settings, keyring, SessionRevocations(engine))
    idempotency = Idempotency(engine, keyring)
    rendering = Rendering(sign_in)
    pages = Pages(desk, settings, sign_in, idempotency, rendering)

    def refuse(request: Request, refused: Refused) -> Response:
        if request.url.path.startswith(("/api/", "/openapi.json")):
            return problem_response(refused)
        return pages.refusal_page(request, refused)

    app = described_application(
        "Keyturn's desk", "May this key be rotated? Ask, watch the reply being drafted, stop it, approve.", refuse
    )
    app.include_router(api(desk, settings, idempotency))
    describe_keys_as_required(app)
    ListPages(desk, rendering).add_to(app)
    WaiverPages(desk, rendering).add_to(app)
    ExposurePages(desk, rendering).add_to(app)
    pages.add_to(app)
    checks = Checks(settings, sign_in)
    return Guard(
        app,
        check=checks.check,
        refuse=refuse,
        headers=checks.headers,
        max_body_bytes=MAX_BODY_BYTES,
        # What a question waits for its outcome, or a person's word for a worker; and what the rest takes.
        answer_seconds=max(settings.wait_seconds, UPDATE_TIMEOUT.total_seconds()) + 3,
        late_hint="Send it again: the same Idempotency-Key finds what was started.",
    )
