"""The call record as a log event: every model call ends in exactly one."""

import hashlib
import hmac
from collections.abc import Callable

import structlog

from keyturn.calls import CallRecord

_log = structlog.get_logger("keyturn.calls")


def log_call(call: CallRecord) -> None:
    """Write one `model_call` event with every field of `call`; a call without an answer is a warning."""
    fields = call.model_dump(mode="json", exclude={"status"})
    event = _log.info if call.status == "ok" else _log.warning
    event("model_call", status=call.status, **fields)


def keyed_fingerprint(key: bytes) -> Callable[[str], str]:
    """Return a function from a text to its HMAC-SHA256 under `key`, in hex.

    Equal inputs can be found by it; without the key an attacker cannot guess the input, as with a plain hash.
    """

    def fingerprint(text: str) -> str:
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()

    return fingerprint
