"""The call record as a log event: every model call ends in exactly one."""

import structlog

from keyturn.contracts import CallRecord

_log = structlog.get_logger("keyturn.calls")


def log_call(call: CallRecord) -> None:
    """Write one `model_call` event with every field of `call`; a call without an answer is a warning."""
    fields = call.model_dump(mode="json", exclude={"status"})
    event = _log.info if call.status == "ok" else _log.warning
    event("model_call", status=call.status, **fields)
