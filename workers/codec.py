"""The codec server: it opens encrypted payloads for Temporal's UI and command line, if an authorised operator asks.

POST /decode    {"payloads": [...]} with X-Namespace; the same form comes back, decrypted.
POST /encode    refused by name: a holder of this server's token must not be able to start or approve anything by it
GET  /          a page to sign in with a token; sets a cookie for the browser whose Temporal UI includes credentials
POST /session   the page's form
GET  /healthz   200 while it serves

The protocol is Temporal's own (https://docs.temporal.io/codec-server). Who decoded how many payloads of which namespace
is logged, with a digest of each ciphertext, by which it is found in a history; what was in it is not.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import structlog
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp
from temporalio.api.common.v1 import Payload, Payloads

from keyturn.application.encryption import ENCODING, KEY_ID, EncryptionCodec
from keyturn.foreign_json import read_json
from keyturn.keyring import Keyring
from keyturn.payload_errors import PayloadError
from keyturn.tokens import Tokens
from keyturn.web.applications import plain_application
from keyturn.web.guard import Guard, host_of
from keyturn.web.problems import Refused, refuse_with_problem
from keyturn.web.sessions import SESSION_SECONDS, Sessions

_log = structlog.get_logger("keyturn.codec")
COOKIE = "keyturn_codec"
# The UI sends the payloads of an event or of a page of history: some kB. 8 MiB are four of the largest payloads.
MAX_BODY_BYTES = 8 * 1024 * 1024
MAX_PAYLOADS = 2_000
_LOGGED_DIGESTS = 50


@dataclass(frozen=True)
class Operator:
    """Who asks, and how they proved it."""

    name: str
    by: str


class CodecServer:
    """The handlers.

    Args:
        keyring: what opens payloads.
        tokens: each operator's token, by name.
        origins: where a browser's page may ask from, such as http://127.0.0.1:8233.
        hosts: the names by which this server is asked, without a port. A page whose own name was pointed here asks by
            another (DNS rebinding).
    """

    def __init__(
        self,
        keyring: Keyring,
        tokens: Mapping[str, SecretStr],
        origins: frozenset[str],
        hosts: frozenset[str] = frozenset({"localhost", "127.0.0.1", "::1"}),
    ) -> None:
        self._keyring = keyring
        self._tokens = Tokens(tokens)
        self._sessions = Sessions(keyring, self._tokens, purpose="keyturn-codec-session-v1", place="codec")
        self._origins = origins
        self._hosts = hosts
        self._secure = all(origin.startswith("https://") for origin in origins) and bool(origins)

    def application(self) -> ASGIApp:
        """Return the application that serves them."""
        app = plain_application(
            [
                Route("/decode", self._decode, methods=["POST"]),
                Route("/decode", self._preflight, methods=["OPTIONS"]),
                Route("/encode", self._encode, methods=["POST"]),
                Route("/", self._page),
                Route("/session", self._sign_in, methods=["POST"]),
            ]
        )
        return Guard(
            app,
            check=self._expect_host,
            refuse=refuse_with_problem,
            headers=self._cors_headers,
            max_body_bytes=MAX_BODY_BYTES,
        )

    async def _expect_host(self, request: Request) -> None:
        if host_of(request).strip("[]") not in self._hosts:
            detail = "this server does not answer under that name: see KEYTURN_CODEC_HOSTS"
            raise Refused(421, "unknown_host", detail)

    def _cors_headers(self, request: Request) -> Mapping[str, str]:
        origin = request.headers.get("Origin")
        if origin is None or origin not in self._origins:
            return {"Cache-Control": "no-store", "Vary": "Origin"}
        return {
            "Cache-Control": "no-store",
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Credentials": "true",
        }

    async def _preflight(self, request: Request) -> Response:
        self._expect_origin(request)
        allowed = {
            "Access-Control-Allow-Methods": "POST",
            "Access-Control-Allow-Headers": "Content-Type, X-Namespace, Authorization, Caller-Type",
            "Access-Control-Max-Age": "600",
        }
        return Response(status_code=204, headers=allowed)

    async def _decode(self, request: Request) -> Response:
        """Answer what was decrypted, or why not.

        Temporal's command line retries after any refusal, until its deadline, and prints that: it is answered, with
        the reason in the place of each payload.
        """
        try:
            return await self._decrypt(request)
        except Refused as refused:
            if not request.headers.get("User-Agent", "").startswith("Go-http-client/"):
                raise
            _log.warning(
                "request_refused", status=refused.status, kind=refused.kind, route="/decode", remote=_remote(request)
            )
            said = Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(f"Not decrypted: {refused}.").encode())
            payloads = (await _payloads_of(request)).payloads
            return JSONResponse(
                MessageToDict(Payloads(payloads=[said if _is_encrypted(one) else one for one in payloads]))
            )

    async def _decrypt(self, request: Request) -> Response:
        operator = self._operator(request)
        namespace = request.headers.get("X-Namespace", "")
        if not namespace or len(namespace) > 1_000:
            raise Refused(400, "no_namespace", "X-Namespace names no namespace: each payload is bound to its namespace")
        payloads = await _payloads_of(request)
        codec = EncryptionCodec(self._keyring, namespace)
        # The UI sends everything in an event: what was never encrypted goes back as it came.
        try:
            opened = [codec.decrypt_payload(one) if _is_encrypted(one) else one for one in payloads.payloads]
        except PayloadError as error:
            raise Refused(422, error.kind, str(error)) from None
        encrypted = [one for one in payloads.payloads if _is_encrypted(one)]
        _log.info(
            "payloads_decoded",
            operator=operator.name,
            by=operator.by,
            namespace=namespace,
            origin=request.headers.get("Origin"),
            remote=_remote(request),
            payloads=len(encrypted),
            key_ids=sorted({one.metadata[KEY_ID].decode("ascii", errors="replace") for one in encrypted}),
            what=[hashlib.sha256(one.data).hexdigest()[:16] for one in encrypted[:_LOGGED_DIGESTS]],
        )
        return JSONResponse(MessageToDict(Payloads(payloads=opened)))

    async def _encode(self, request: Request) -> Response:
        self._operator(request)
        # Temporal's command line sends what it starts, signals, updates or queries with, even if that is nothing.
        if not (await _payloads_of(request)).payloads:
            return JSONResponse({"payloads": []})
        raise Refused(
            403,
            "nothing_is_encrypted_here",
            "this server decrypts payloads and encrypts none: start rotations and send decisions with `keyturn`",
        )

    def _expect_origin(self, request: Request) -> None:
        origin = request.headers.get("Origin")
        if origin is not None and origin not in self._origins:
            raise Refused(403, "origin_not_allowed", "pages of this origin are not allowed: see KEYTURN_CODEC_ORIGINS")

    def _operator(self, request: Request) -> Operator:
        """Return who asks; raises Refused."""
        self._expect_origin(request)
        if name := self._tokens.bearer(request.headers):
            return Operator(name, "bearer")
        # A cookie comes by itself: it counts only from a page of an allowed origin.
        if request.headers.get("Origin") and (session := self._sessions.read(request.cookies.get(COOKIE, ""))):
            return Operator(session.name, "cookie")
        raise Refused(
            401,
            "not_signed_in",
            "no operator has this token: send one (--codec-auth), or sign in on this server's page",
        )

    async def _page(self, _request: Request) -> Response:
        return _html("codec_sign_in.html")

    async def _sign_in(self, request: Request) -> Response:
        if request.headers.get("Sec-Fetch-Site") not in {None, "same-origin", "none"}:
            raise Refused(403, "origin_not_allowed", "sign in on this server's own page")
        given = (await request.form()).get("token", "")
        token = given.strip() if isinstance(given, str) else ""
        cookie = self._sessions.start(token)
        if cookie is None:
            return _html("codec_sign_in.html", status=401, refused=True)
        _log.info("codec_signed_in", operator=self._tokens.owner_of(token), remote=_remote(request))
        response = _html("codec_signed_in.html")
        response.set_cookie(
            COOKIE,
            cookie,
            max_age=SESSION_SECONDS,
            httponly=True,
            secure=self._secure,
            # The UI is another origin of the same site (a port, a subdomain); no other site's page sends it along.
            samesite="strict",
        )
        return response


def _remote(request: Request) -> str:
    return request.client.host if request.client else ""


def _is_encrypted(payload: Payload) -> bool:
    return payload.metadata.get("encoding") == ENCODING


async def _payloads_of(request: Request) -> Payloads:
    try:
        body: Any = read_json(await request.body())
        if not isinstance(body, dict):
            raise TypeError
        # protobuf fails within itself on half a surrogate pair in a name; no UTF-8 has one: this raises a ValueError.
        json.dumps(body, ensure_ascii=False).encode()
        payloads: Payloads = ParseDict(body, Payloads(), ignore_unknown_fields=True)
    except (ValueError, ParseError, TypeError, AttributeError):
        raise Refused(400, "not_payloads", 'the body is not {"payloads": [...]} in JSON') from None
    if len(payloads.payloads) > MAX_PAYLOADS:
        raise Refused(413, "too_many", f"a request may have {MAX_PAYLOADS:,} payloads")
    return payloads


@cache
def _templates() -> Environment:
    return Environment(loader=PackageLoader("keyturn.workers"), autoescape=True, undefined=StrictUndefined)


def _html(template: str, *, status: int = 200, refused: bool = False) -> Response:
    text = _templates().get_template(template).render(refused=refused)
    policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
    return HTMLResponse(text, status, {"Content-Security-Policy": policy})
