"""The webhook for reports of exposed keys.

POST /github-secret-scanning   a JSON array of matches, signed; see `keyturn.exposures.github`
GET  /healthz

Anyone may send it: what counts is the signature over the raw body. A report that is sent again marks the same keys, and
finds the same rotations.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import httpx
import structlog
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from keyturn.application.exposures import ExposedKeys
from keyturn.errors import InvalidRequest
from keyturn.exposures.contracts import KnownKey
from keyturn.exposures.errors import NoExposureLine, PublicKeysUnavailable, ReportForged, UnknownKey
from keyturn.exposures.github import IDENTIFIER, SIGNATURE, Match, read_keys, read_report, verify
from keyturn.snapshots.attempts import all_of
from keyturn.web.applications import plain_application, unstored
from keyturn.web.guard import Guard
from keyturn.web.problems import refuse_with_problem

_log = structlog.get_logger("keyturn.leaks")
PATH = "/github-secret-scanning"
MAX_BODY_BYTES = 4 * 1024 * 1024  # a thousand matches, each of a key file of some 2 KB
REPORTER = "secret-scanning"
# GitHub waits for some ten seconds; twenty starts at once take a thousand matches in that time.
STARTED_AT_ONCE = 20
FETCH_SECONDS = 5.0
# An identifier that is not known is looked up again, but not for each forged report.
LOOKED_UP_EVERY = 60.0
# Keys are changed some times a year: while their list cannot be read, the old ones still say who signed.
KEPT_SECONDS = 86_400.0
MAX_KEYS_BYTES = 1024 * 1024  # GitHub's list has some kilobytes


class PublicKeys:
    """The public keys of a URL or a file, looked up again when they are old or an identifier is not among them.

    Args:
        place: the URL, or the path.
        http: asks the URL.
        known_for: how long they are used without another look.
    """

    def __init__(self, place: str, http: httpx.AsyncClient, *, known_for: timedelta) -> None:
        self._place, self._http = place, http
        self._known_for = known_for.total_seconds()
        self._keys: Mapping[str, EllipticCurvePublicKey] = {}
        self._read_at = self._tried_at = float("-inf")
        self._failure: PublicKeysUnavailable | None = None
        self._looking = asyncio.Lock()

    async def find(self, identifier: str) -> EllipticCurvePublicKey:
        """Return the key of an identifier; raises ReportForged if there is none, PublicKeysUnavailable."""
        known = self._keys.get(identifier)
        if known is not None and self._age() <= self._known_for:
            return known  # without the lock: whoever sends forged reports does not hold up the others
        async with self._looking:
            known, age = self._keys.get(identifier), self._age()
            tried = time.monotonic() - self._tried_at
            if (known is None or age > self._known_for) and (not self._keys or tried > LOOKED_UP_EVERY):
                await self._look()
        known = self._keys.get(identifier)
        if self._failure is not None and (known is None or self._age() > self._known_for + KEPT_SECONDS):
            raise self._failure
        if known is None:
            raise ReportForged("the report is signed by a key that is not known")
        return known

    def _age(self) -> float:
        return time.monotonic() - self._read_at

    async def _look(self) -> None:
        self._tried_at = time.monotonic()
        try:
            self._keys = read_keys(await self._read())
        except PublicKeysUnavailable as error:
            _log.warning("public_keys_not_read", because=str(error), hint=error.hint)
            self._failure = error
        else:
            self._failure, self._read_at = None, time.monotonic()

    async def _read(self) -> bytes:
        if "://" not in self._place:
            try:
                return await asyncio.to_thread(Path(self._place).read_bytes)
            except OSError as error:
                raise PublicKeysUnavailable(f"the file of public keys cannot be read: {error.strerror}") from None
        try:
            async with asyncio.timeout(FETCH_SECONDS), self._http.stream("GET", self._place) as answer:
                if answer.status_code != 200:
                    raise PublicKeysUnavailable(f"the public keys were not read: status {answer.status_code}")
                text = b""
                async for chunk in answer.aiter_bytes():
                    text += chunk
                    if len(text) > MAX_KEYS_BYTES:
                        raise PublicKeysUnavailable("the public keys were not read: the answer is too long")
                return text
        except (httpx.HTTPError, OSError) as error:
            raise PublicKeysUnavailable(f"the public keys were not read: {type(error).__name__}") from None


def leaks_application(reports: ExposedKeys, keys: PublicKeys, *, source: str = "github") -> ASGIApp:
    """Return the application that takes reports and begins the rotations of the keys that they name.

    Args:
        reports: takes them.
        keys: what they are signed by.
        source: what finds the keys, for lists and notices.
    """

    async def take(request: Request) -> Response:
        body = await request.body()
        key = await keys.find(request.headers.get(IDENTIFIER, ""))
        verify(body, request.headers.get(SIGNATURE, ""), key)
        matches = read_report(body)
        turns = asyncio.Semaphore(STARTED_AT_ONCE)

        async def one(match: Match) -> bool:
            async with turns:
                return await _report(reports, match, source)

        known = await all_of(map(one, matches))
        _log.warning("leaks_reported", matches=len(matches), known=sum(known))
        # Of what no inventory and no job knows, nothing is said: it may be a real key all the same, and GitHub would
        # take "false_positive" for the word that it is none.
        return JSONResponse([match.answer("true_positive") for match, it in zip(matches, known, strict=True) if it])

    app = plain_application([Route(PATH, take, methods=["POST"])])
    return Guard(app, check=_open, refuse=refuse_with_problem, headers=unstored, max_body_bytes=MAX_BODY_BYTES)


async def _open(_request: Request) -> None:
    """Let every request in: its signature says whether it is taken."""


async def _report(reports: ExposedKeys, match: Match, source: str) -> bool:
    """Report the keys of a match; returns whether one of them is known. What passes by itself is raised."""
    is_known = False
    for key_id in match.key_ids():
        try:
            found: Sequence[KnownKey] = await reports.keys_of(key_id, None, None)
        except UnknownKey as error:
            try:
                if await reports.note_unknown(key_id, source=source, reported_by=REPORTER, place=match.place):
                    _log.error("leak_of_an_unknown_key", hint=error.hint)
            except InvalidRequest as refused:
                _log.error("leak_not_reported", because=str(refused), hint=refused.hint)
            continue
        is_known = True
        for key in found:
            try:
                # Signatures name no time: a report that is copied brings no job back that an operator has cancelled.
                await reports.report(key, source=source, reported_by=REPORTER, place=match.place, replaces_jobs=False)
            except NoExposureLine as error:  # the mark stays, and the next run counts it
                _log.error("leak_without_policy_line", because=str(error), hint=error.hint)
            except InvalidRequest as error:  # of this key alone: the others must begin
                _log.error("leak_not_reported", because=str(error), hint=error.hint)
    return is_known
