"""Who sends a request, by a proxy's header, a bearer token or the session that it started; and what they may do."""

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple
from urllib.parse import unquote

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request

from keyturn.console import signed_in_user
from keyturn.contracts import Identifier
from keyturn.desk.problems import Refused
from keyturn.desk.sessions import SessionRevocations
from keyturn.desk.settings import ROLES, DeskSettings, Role, parse_networks, parse_roles
from keyturn.keyring import EncryptedTexts, Keyring
from keyturn.payload_errors import PayloadError
from keyturn.people import same_form
from keyturn.tokens import Tokens, parse_tokens

SESSION = "keyturn_desk"
ACTING_AS = "keyturn_desk_acting_as"  # in development, where no one signs in
SESSION_SECONDS = 12 * 3600  # a working day: the next one starts with the token again
_NAME: TypeAdapter[str] = TypeAdapter(Identifier)


@dataclass(frozen=True)
class Person:
    """Who sends a request. `by` is how that is known."""

    name: str
    roles: frozenset[Role]
    by: Literal["proxy", "token", "session", "development"]

    def expect(self, role: Role) -> None:
        """Refuse a person without this role."""
        if role not in self.roles:
            raise Refused(
                403, "role_missing", f"this needs the role {role}", hint="Ask the administrator of the desk's roles."
            )


class SignIn:
    """Finds who sends a request, by `settings`; sessions are encrypted by `keyring`.

    A session is bound to its tenant, its person and the token that it was made with. It ends after twelve hours, when
    that token is replaced, and on sign-out, which `ended` remembers for every desk of the tenant.
    """

    def __init__(self, settings: DeskSettings, keyring: Keyring, ended: SessionRevocations) -> None:
        self._settings = settings
        self._tokens = None if settings.tokens is None else Tokens(parse_tokens(settings.tokens.get_secret_value()))
        self._proxies = parse_networks(settings.proxies)
        self._roles: Mapping[str, frozenset[Role]] = {
            same_form(name): roles for name, roles in parse_roles(settings.roles_text).items()
        }
        self._sessions = EncryptedTexts(keyring, "keyturn-desk-session-v2")
        self._ended = ended

    @property
    def by_token(self) -> bool:
        """Whether there is a page to sign in."""
        return self._tokens is not None

    async def person(self, request: Request) -> Person | None:
        """Return who sends a request; None if no one is signed in.

        Raises:
            Refused: the identity header came more than once: the client's own would count.
            JobStoreUnavailable: whether a session has ended cannot be looked up.
        """
        if self._settings.open_to_all:
            name = _name(unquote(request.cookies.get(ACTING_AS, ""))) or signed_in_user()
            return Person(name, frozenset(ROLES), "development")
        by_proxy = self._name_by_proxy(request)
        if by_proxy is not None:
            return Person(by_proxy, self._roles_of(by_proxy), "proxy")
        if self._tokens is None:
            return None
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            caller = self._tokens.owner_of(token.strip())
            return None if caller is None else Person(caller, self._roles_of(caller), "token")
        known = await self._in_session(request.cookies.get(SESSION, ""))
        return None if known is None else Person(known, self._roles_of(known), "session")

    def session_for(self, token: str) -> str | None:
        """Return the cookie of a session that a token starts; None if the token is unknown."""
        name = None if self._tokens is None else self._tokens.owner_of(token)
        if name is None:
            return None
        content = f"{int(time.time()) + SESSION_SECONDS} {secrets.token_hex(16)} {_mark(token.encode())} {name}"
        return self._sessions.encrypt(self._place, content)

    async def end_session(self, request: Request) -> None:
        """End the session of a request everywhere: a copy of its cookie is worth nothing from now on."""
        session = self._read(request.cookies.get(SESSION, ""))
        if session is not None:
            await self._ended.end(session.id)

    async def _in_session(self, cookie: str) -> str | None:
        session = self._read(cookie)
        if session is None or session.until <= time.time() or self._tokens is None:
            return None
        # Whose token was replaced, or taken away, is signed out.
        if not hmac.compare_digest(_mark(self._tokens[session.name]), session.token_mark):
            return None
        return None if await self._ended.has_ended(session.id) else session.name

    def _read(self, cookie: str) -> "_Session | None":
        try:
            until, session_id, token_mark, name = self._sessions.decrypt(self._place, cookie).split(" ", 3)
            return _Session(int(until), session_id, token_mark, name)
        except (PayloadError, ValueError):
            return None

    @property
    def _place(self) -> str:
        """What a session is bound to: another tenant's desk cannot open it."""
        return f"session\0{self._settings.tenant}"

    def _name_by_proxy(self, request: Request) -> str | None:
        header = self._settings.identity_header
        if header is None or not self._is_proxy(request):
            return None
        values = request.headers.getlist(header)
        if len(values) > 1 or any("," in value for value in values):
            detail = "the identity header came more than once: one of the names is not the proxy's"
            hint = "Configure the proxy to remove the header from incoming requests before it sets its own."
            raise Refused(400, "identity_ambiguous", detail, hint=hint)
        return _name(values[0]) if values else None

    def _is_proxy(self, request: Request) -> bool:
        try:
            peer = ipaddress.ip_address(request.client.host if request.client else "")
        except ValueError:
            return False
        return any(peer in network for network in self._proxies)

    def _roles_of(self, name: str) -> frozenset[Role]:
        return self._roles.get(same_form(name), self._roles.get("*", frozenset()))


class _Session(NamedTuple):
    until: int
    id: str
    token_mark: str
    name: str


def _mark(token: bytes) -> str:
    """Return what distinguishes two tokens, and reveals nothing of either."""
    return hashlib.sha256(b"keyturn-desk-token\0" + token).hexdigest()[:32]


def _name(value: str) -> str | None:
    try:
        return _NAME.validate_python(value)
    except ValidationError:
        return None
