"""Who sends a request, by a proxy's header, a bearer token or the session that it started; and what they may do."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request

from keyturn.console import signed_in_user
from keyturn.contracts import Identifier
from keyturn.desk.sessions import SessionRevocations
from keyturn.desk.settings import ROLES, DeskSettings, Role, parse_networks, parse_roles
from keyturn.keyring import Keyring
from keyturn.people import same_form
from keyturn.tokens import Tokens, is_bearer, parse_tokens
from keyturn.web.problems import Refused
from keyturn.web.sessions import Session, Sessions

SESSION = "keyturn_desk"
ACTING_AS = "keyturn_desk_acting_as"  # in development, where no one signs in
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
        # Bound to the tenant: another one's desk cannot open it.
        purpose, place = "keyturn-desk-session-v3", f"session\0{settings.tenant}"
        self._sessions = None if self._tokens is None else Sessions(keyring, self._tokens, purpose=purpose, place=place)
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
        if is_bearer(request.headers):
            caller = self._tokens.bearer(request.headers)
            return None if caller is None else Person(caller, self._roles_of(caller), "token")
        session = self._session(request)
        if session is None or await self._ended.has_ended(session.id):
            return None
        return Person(session.name, self._roles_of(session.name), "session")

    def session_for(self, token: str) -> str | None:
        """Return the cookie of a session that a token starts; None if the token is unknown."""
        return None if self._sessions is None else self._sessions.start(token)

    async def end_session(self, request: Request) -> None:
        """End the session of a request everywhere: a copy of its cookie is worth nothing from now on."""
        session = self._session(request)
        if session is not None:
            await self._ended.end(session.id)

    def _session(self, request: Request) -> Session | None:
        return None if self._sessions is None else self._sessions.read(request.cookies.get(SESSION, ""))

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


def _name(value: str) -> str | None:
    try:
        return _NAME.validate_python(value)
    except ValidationError:
        return None
