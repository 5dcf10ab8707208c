"""Key files of service accounts: read, and used to sign. Pure."""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import google.auth.crypt
import google.auth.jwt
from pydantic import SecretStr

_AUDIENCE = "https://oauth2.googleapis.com/token"  # of the assertion, by whatever address it is sent
_TEST_SCOPE = "https://www.googleapis.com/auth/userinfo.email"  # the token is thrown away: the least that one can be of
_ASSERTION_LIVES = 300  # s: it is used at once, by clocks that agree within five minutes


def decoded(data: str) -> SecretStr | None:
    """Return a key file from its base64; None if it is none."""
    try:
        return SecretStr(base64.b64decode(data, validate=True).decode())
    except ValueError:
        return None


def key_file(secret: SecretStr) -> Mapping[str, Any] | None:
    """Return the fields of a key file; None for a secret that we did not write: it stays as the version before."""
    try:
        file = json.loads(secret.get_secret_value())
    except (ValueError, RecursionError):
        return None
    if not isinstance(file, dict) or file.get("type") != "service_account":
        return None
    texts = (file.get("private_key_id"), file.get("private_key"), file.get("client_email"))
    return file if all(isinstance(text, str) and text for text in texts) else None


def signed_by(file: Mapping[str, Any]) -> str | None:
    """Return an assertion by a key file (https://developers.google.com/identity/protocols/oauth2/service-account)."""
    now = int(datetime.now(UTC).timestamp())
    claims: dict[str, Any] = {"iss": file["client_email"], "scope": _TEST_SCOPE, "aud": _AUDIENCE}
    try:
        signer = google.auth.crypt.RSASigner.from_service_account_info(file)  # type: ignore[no-untyped-call]
        claims |= {"iat": now, "exp": now + _ASSERTION_LIVES}
        signed: bytes = google.auth.jwt.encode(signer, claims)  # type: ignore[no-untyped-call]
    except Exception:  # whatever a foreign text makes of cryptography: its message may repeat it
        return None
    return signed.decode()
