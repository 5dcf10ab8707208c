"""Who sends a request: by a proxy's header, a bearer token or the session that a token began; and what they may do."""

import ipaddress
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request

from desk.problems import Refused
from desk.settings import ROLES, DeskSettings, Role, parse_networks, parse_roles
from keyturn.console import signed_in_user
from keyturn.contracts import Identifier
from keyturn.errors import PayloadError
from keyturn.keyring import Keyring, SealedTexts
from workers.tokens import Tokens, parse_tokens

SESSION = "keyturn_desk"
ACTING_AS = "keyturn_desk_acting_as"  # in development, where nobody signs in
SESSION_SECONDS = 12 * 3600  # a working day: the next one begins with the token again
_NAME: TypeAdapter[str] = TypeAdapter(Identifier)


@dataclass(frozen=True)
class Person:
    """Who sends a request. `by` is how that is known."""

    name: str
    roles: frozenset[Role]
    by: Literal["proxy", "token", "session", "development"]

    def expect(self, role: Role) -> None:
        """Refuse whoever has not this role."""
        if role not in self.roles:
            raise Refused(
                403, "role_missing", f"this is for the role {role}", mend="Ask whoever sets the desk's roles."
            )


class SignIn:
    """Tells who sends a request, by `settings`; sessions are sealed by `keyring`."""

    def __init__(self, settings: DeskSettings, keyring: Keyring) -> None:
        self._settings = settings
        self._tokens = None if settings.tokens is None else Tokens(parse_tokens(settings.tokens.get_secret_value()))
        self._proxies = parse_networks(settings.proxies)
        self._roles: Mapping[str, frozenset[Role]] = parse_roles(settings.roles_text)
        self._sessions = SealedTexts(keyring, "keyturn-desk-session-v1")

    @property
    def by_token(self) -> bool:
        """Whether there is a page to sign in."""
        return self._tokens is not None

    def person(self, request: Request) -> Person | None:
        """Return who sends a request; None if nobody is signed in."""
        if self._settings.open_to_all:
            name = _name(unquote(request.cookies.get(ACTING_AS, ""))) or signed_in_user()
            return Person(name, frozenset(ROLES), "development")
        header = self._settings.identity_header
        told = _name(request.headers.get(header, "")) if header is not None and self._is_proxy(request) else None
        if told is not None:
            return Person(told, self._roles_of(told), "proxy")
        if self._tokens is None:
            return None
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            caller = self._tokens.named_by(token.strip())
            return None if caller is None else Person(caller, self._roles_of(caller), "token")
        known = self._in_session(request.cookies.get(SESSION, ""))
        return None if known is None else Person(known, self._roles_of(known), "session")

    def session_for(self, token: str) -> str | None:
        """Return the cookie of a session that a token begins; None if nobody has this token."""
        name = None if self._tokens is None else self._tokens.named_by(token)
        return None if name is None else self._sessions.seal("session", f"{int(time.time()) + SESSION_SECONDS} {name}")

    def _in_session(self, cookie: str) -> str | None:
        try:
            until, _, name = self._sessions.unseal("session", cookie).partition(" ")
            # Whose token was taken away is signed out.
            return name if int(until) > time.time() and self._tokens is not None and self._tokens[name] else None
        except (PayloadError, ValueError):
            return None

    def _is_proxy(self, request: Request) -> bool:
        try:
            peer = ipaddress.ip_address(request.client.host if request.client else "")
        except ValueError:
            return False
        return any(peer in network for network in self._proxies)

    def _roles_of(self, name: str) -> frozenset[Role]:
        return self._roles.get(name, self._roles.get("*", frozenset()))


def _name(value: str) -> str | None:
    try:
        return _NAME.validate_python(value)
    except ValidationError:
        return None
