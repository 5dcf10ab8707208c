"""What PostgreSQL stores of a password, computed here: the server never sees the password, and cannot log it."""

import base64
import hashlib
import hmac
import secrets

SALT_BYTES = 16  # PostgreSQL's own (SCRAM_DEFAULT_SALT_LEN)


def scram_verifier(password: str, iterations: int, *, salt: bytes | None = None) -> str:
    """Return the SCRAM-SHA-256 verifier of a password, as `ALTER ROLE ... PASSWORD` takes it.

    The form is that of https://www.postgresql.org/docs/current/catalog-pg-authid.html, the keys are those of RFC 5802,
    section 3, with the hash of RFC 7677.

    Args:
        password: ASCII, so that SASLprep (RFC 4013) leaves it as it is.
        iterations: 4,096 or more, by the server's setting `scram_iterations`.
        salt: 16 random bytes if None.
    """
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, iterations)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    return f"SCRAM-SHA-256${iterations}:{_text(salt)}${_text(stored_key)}:{_text(server_key)}"


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")
