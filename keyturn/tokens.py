"""Callers of our small servers, known by tokens. Settings are read with it, so no server is imported here."""

import hashlib
import hmac
from collections.abc import Mapping

from pydantic import SecretStr

from keyturn.people import doubles

MIN_TOKEN_LETTERS = 32  # enough random letters that a token cannot be guessed over HTTP


class Tokens:
    """Callers by name, each with a token."""

    def __init__(self, tokens: Mapping[str, SecretStr]) -> None:
        self._tokens = {name: token.get_secret_value().encode() for name, token in tokens.items()}

    def __getitem__(self, name: str) -> bytes:
        """Return the token of `name`; empty if there is no such caller."""
        return self._tokens.get(name, b"")

    def owner_of(self, token: str) -> str | None:
        """Return whose token this is. Every token is compared, and in constant time."""
        found = None
        for name, known in self._tokens.items():
            if hmac.compare_digest(hashlib.sha256(known).digest(), hashlib.sha256(token.encode()).digest()):
                found = name
        return found

    def bearer(self, headers: Mapping[str, str]) -> str | None:
        """Return who sent a request, by its Authorization header."""
        token = headers.get("Authorization", "").partition(" ")[2]
        return self.owner_of(token.strip()) if is_bearer(headers) else None


def is_bearer(headers: Mapping[str, str]) -> bool:
    """Return whether a request brings a bearer token (RFC 6750), known or not."""
    return headers.get("Authorization", "").partition(" ")[0].lower() == "bearer"


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
        if doubles([*tokens, name]):
            raise ValueError(f"{name} is listed twice; case, width and trailing marks make no other user")
        tokens[name] = SecretStr(token)
    if not tokens:
        raise ValueError("names no user")
    return tokens
