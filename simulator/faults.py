"""The ways in which the simulator can be told to fail, and which request each one meets."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FAULTS: Mapping[str, str] = {
    "slow": "answer after `seconds` (default 30)",
    "rate_limit": "429 rate_limit_exceeded, with Retry-After: `seconds` if given",
    "quota": "429 insufficient_quota",
    "server_error": "500",
    "unavailable": "503",
    "unauthorized": "401",
    "bad_request": "400",
    "wrong_window": "an eligible answer with a window of `days` (default 90)",
    "unknown_source": "an eligible answer that cites the policy line P-999",
    "malformed_json": "text that is not JSON",
    "truncated_json": "an answer cut off at the token limit",
    "refusal": "a refusal",
    "content_filter": "held by the content filter",
    "not_a_completion": "200 with a page of HTML",
    "half_body": "the connection drops in the middle of the body",
    "drop": "the connection drops before any answer",
}


class UnknownFault(ValueError):
    """A fault was asked for that does not exist, or with arguments that it does not take."""


@dataclass
class Fault:
    """One fault: for the next `times` requests (None: until reset), only for `account` if one is given."""

    name: str
    times: int | None = 1
    account: str | None = None
    seconds: float | None = None
    days: int = 90

    @classmethod
    def from_json(cls, raw: Any) -> "Fault":
        """Return the fault that a control request describes; raises UnknownFault, saying what may be asked for."""
        if not isinstance(raw, dict) or raw.get("name") not in FAULTS:
            raise UnknownFault(f"name one of: {', '.join(FAULTS)}")
        try:
            return cls(**raw)
        except TypeError:
            raise UnknownFault("a fault takes: name, times, account, seconds, days") from None

    def meets(self, account: str | None) -> bool:
        """Return True, and count, if this fault is for a request about `account`."""
        if self.times == 0 or (self.account is not None and self.account != account):
            return False
        if self.times is not None:
            self.times -= 1
        return True


def error_response(fault: Fault) -> tuple[int, dict[str, Any], dict[str, str]] | None:
    """Return status, body and headers if `fault` is an HTTP error, in OpenAI's form; else None."""
    table = {
        "rate_limit": (429, "rate_limit_exceeded", "requests"),
        "quota": (429, "insufficient_quota", "insufficient_quota"),
        "server_error": (500, None, "server_error"),
        "unavailable": (503, None, "server_error"),
        "unauthorized": (401, "invalid_api_key", "invalid_request_error"),
        "bad_request": (400, "invalid_value", "invalid_request_error"),
    }
    if fault.name not in table:
        return None
    status, code, kind = table[fault.name]
    body = {"error": {"message": f"simulated {fault.name}", "type": kind, "param": None, "code": code}}
    waits = fault.name == "rate_limit" and fault.seconds is not None
    return status, body, {"retry-after": f"{fault.seconds:g}"} if waits else {}


def bend(fault: Fault, answer: dict[str, Any]) -> tuple[str | None, str, str | None]:
    """Return content, finish reason and refusal of an answer under `fault`."""
    sources = answer["source_line_ids"] or ["P-7"]
    table: dict[str, tuple[str | None, str, str | None]] = {
        "wrong_window": (_eligible(fault.days, sources), "stop", None),
        "unknown_source": (_eligible(30, ["P-999"]), "stop", None),
        "malformed_json": ("Certainly! The key is eligible.", "stop", None),
        "truncated_json": (json.dumps(answer)[:17], "length", None),
        "refusal": (None, "stop", "I cannot help with that."),
        "content_filter": (None, "content_filter", None),
    }
    return table.get(fault.name, (json.dumps(answer), "stop", None))


def _eligible(window: int, sources: list[str]) -> str:
    return json.dumps({"decision": "eligible", "rotation_window_days": window, "source_line_ids": sources})
