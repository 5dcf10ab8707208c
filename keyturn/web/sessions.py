"""Sessions of people who signed in with a token: a cookie that is bound to a server, a person and that token."""

import hashlib
import hmac
import secrets
import time
from typing import NamedTuple

from keyturn.keyring import EncryptedTexts, Keyring
from keyturn.payload_errors import PayloadError
from keyturn.tokens import Tokens

SESSION_SECONDS = 12 * 3600  # a working day: the next one starts with the token again


class Session(NamedTuple):
    """Who is signed in, until when (seconds since 1970); `id` names this session alone."""

    until: int
    id: str
    token_mark: str
    name: str


class Sessions:
    """Makes and reads the cookies of one server.

    Args:
        keyring: what encrypts them.
        tokens: who may sign in.
        purpose: the kind of server.
        place: which server of its kind; the cookies of another one do not open.
    """

    def __init__(self, keyring: Keyring, tokens: Tokens, *, purpose: str, place: str) -> None:
        self._encryption = EncryptedTexts(keyring, purpose)
        self._tokens = tokens
        self._place = place

    def start(self, token: str) -> str | None:
        """Return the cookie of a new session; None if no one has this token."""
        name = self._tokens.owner_of(token)
        if name is None:
            return None
        until = int(time.time()) + SESSION_SECONDS
        content = f"{until} {secrets.token_hex(16)} {_mark(token.encode())} {name}"
        return self._encryption.encrypt(self._place, content)

    def read(self, cookie: str) -> Session | None:
        """Return the session of a cookie; None if it is not this server's, has expired, or its token was replaced."""
        try:
            until, session_id, token_mark, name = self._encryption.decrypt(self._place, cookie).split(" ", 3)
            session = Session(int(until), session_id, token_mark, name)
        except (PayloadError, ValueError):
            return None
        valid = session.until > time.time() and hmac.compare_digest(_mark(self._tokens[name]), token_mark)
        return session if valid else None


def _mark(token: bytes) -> str:
    """Return what distinguishes two tokens, and reveals nothing of either."""
    return hashlib.sha256(b"keyturn-session-token\0" + token).hexdigest()[:32]
