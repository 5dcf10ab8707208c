"""What our small servers share: callers known by tokens, and refusals that have a name."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping

import structlog
from aiohttp import web
from pydantic import SecretStr

_log = structlog.get_logger("keyturn.http")
MIN_TOKEN_LETTERS = 32  # as many random letters as nobody guesses over HTTP
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refused(Exception):
    """A request that is not answered: its HTTP status, its name, and a sentence for whoever sent it."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class Tokens:
    """Callers by name, each with a token."""

    def __init__(self, tokens: Mapping[str, SecretStr]) -> None:
        self._tokens = {name: token.get_secret_value().encode() for name, token in tokens.items()}

    def __getitem__(self, name: str) -> bytes:
        """Return the token of `name`; empty if there is no such caller."""
        return self._tokens.get(name, b"")

    def named_by(self, token: str) -> str | None:
        """Return whose token this is. Every token is compared, and in constant time."""
        found = None
        for name, known in self._tokens.items():
            if hmac.compare_digest(hashlib.sha256(known).digest(), hashlib.sha256(token.encode()).digest()):
                found = name
        return found

    def bearer(self, request: web.Request) -> str | None:
        """Return who sent the request, by its Authorization header."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        return self.named_by(token.strip()) if scheme.lower() == "bearer" else None


def parse_tokens(value: str) -> Mapping[str, SecretStr]:
    """Return tokens by name from `NAME:TOKEN, NAME:TOKEN`; raises ValueError, which repeats none."""
    tokens: dict[str, SecretStr] = {}
    for entry in filter(None, (entry.strip() for entry in value.split(","))):
        name, colon, token = entry.partition(":")
        if (
            not colon
            or not name
            or len(name) > 128
            or not (name.isascii() and all(c.isalnum() or c in "_@+=/-" for c in name))
        ):
            raise ValueError("is not NAME:TOKEN, NAME:TOKEN, a name of letters, digits and _ @ + = / -")
        if len(token) < MIN_TOKEN_LETTERS:
            raise ValueError(f"the token of {name} has fewer than {MIN_TOKEN_LETTERS} letters")
        if name in tokens:
            raise ValueError(f"{name} is there twice")
        tokens[name] = SecretStr(token)
    if not tokens:
        raise ValueError("names nobody")
    return tokens


def refusal(status: int, kind: str, message: str) -> web.Response:
    """Return the answer to a request that is refused."""
    return web.json_response({"error": kind, "message": message}, status=status)


async def answered(request: web.Request, handler: Handler, *, max_bytes: int) -> web.StreamResponse:
    """Return what `handler` answers, or the refusal; a refused request is logged, without its content."""
    try:
        response = await handler(request)
    except Refused as refused:
        response = refusal(refused.status, refused.kind, str(refused))
    except web.HTTPRequestEntityTooLarge:
        response = refusal(413, "too_large", f"a request may have {max_bytes:,} bytes")
    except web.HTTPException as other:
        response = refusal(other.status, "not_found" if other.status == 404 else "not_allowed", other.reason)
    if response.status >= 400:
        _log.warning("request_refused", status=response.status, path=request.path[:64], remote=request.remote)
    response.headers.update({"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})
    return response
