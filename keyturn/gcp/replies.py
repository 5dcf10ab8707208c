"""Answers of Google's APIs, and what their errors mean. No text of an error is repeated, only its code words."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from keyturn.execution.errors import CloudRefused, CloudUnavailable
from keyturn.foreign_json import read_json

# Faults that pass by themselves: timeouts, a change by another caller (ABORTED), throttling.
_PASSING_STATUS = {408, 409, 429}
# Older quotas are refused with 403 and this reason.
_PASSING_REASONS = {"RATE_LIMIT_EXCEEDED", "rateLimitExceeded", "userRateLimitExceeded"}
_CODE_WORD = re.compile(r"[A-Za-z][A-Za-z_]{0,63}")
# As organization policies name them: constraints/iam.disableServiceAccountKeyCreation.
_CONSTRAINT = re.compile(r"(?:constraints/)?(iam\.[A-Za-z.]{1,60})")


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        status: the HTTP status.
        body: the JSON object, empty for an error; it may hold a secret, so that it is in no repr.
        code: an error's status word, such as NOT_FOUND or invalid_grant; empty if there is none.
        reason: what ErrorInfo says, more exact than the code, such as SERVICE_DISABLED; empty if there is none.
        constraint: the constraint of an organization policy that refused the call; empty if none did.
        retry_after: the wait of its Retry-After; None if there is none.
    """

    status: int
    body: Mapping[str, Any] = field(repr=False)
    code: str = ""
    reason: str = ""
    constraint: str = ""
    retry_after: timedelta | None = None

    def text(self, name: str) -> str:
        """Return a field of the body; raises CloudUnavailable if it is missing."""
        value = self.body.get(name)
        if not isinstance(value, str) or not value:
            raise CloudUnavailable(f"the answer has no {name}")
        return value

    def entries(self, name: str) -> list[Mapping[str, Any]]:
        """Return a list of objects of the body: the JSON of an empty list is left out."""
        value = self.body.get(name)
        return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []

    def in_words(self, call: str) -> str:
        """Return which call was answered so, for an error."""
        words = [str(self.status), self.code, self.reason, self.constraint]
        return f"{call}: {' '.join(word for word in words if word)}"


def read_reply(call: str, status: int, content: bytes, retry_after: timedelta | None = None) -> Reply:
    """Return an answer by its parts; raises CloudUnavailable if one without an error is no JSON object."""
    try:
        body = read_json(content) if content.strip() else {}
    except ValueError:
        body = None
    if status < 300:
        if not isinstance(body, dict):
            raise CloudUnavailable(f"{call}: the answer is no JSON object")
        return Reply(status, body)
    # google.rpc.Status of the APIs (https://google.aip.dev/193), a word of the token endpoint (RFC 6749, 5.2). What
    # is neither is a proxy's page: its status says enough.
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return Reply(status, {}, _code_word(error), retry_after=retry_after)
    reason, constraint = _details_of(error)
    return Reply(status, {}, _code_word(error.get("status")), reason, constraint, retry_after)


def expect_success(call: str, reply: Reply, expected: frozenset[int]) -> Reply:
    """Return an answer that is no error, or an error of the `expected` statuses that does not pass by itself.

    Raises:
        CloudUnavailable: a fault that passes by itself.
        CloudRefused: a right is missing, the credentials are wrong, or the request is.
    """
    throttled = reply.status >= 300 and reply.reason in _PASSING_REASONS
    if not throttled and (reply.status < 300 or reply.status in expected):
        return reply
    if throttled or reply.status >= 500 or reply.status in _PASSING_STATUS:
        raise CloudUnavailable(reply.in_words(call), retry_after=reply.retry_after)
    raise CloudRefused(reply.in_words(call))


def _details_of(error: Mapping[str, Any]) -> tuple[str, str]:
    """Return the reason of ErrorInfo, and the constraint of PreconditionFailure."""
    reason = constraint = ""
    for detail in _dicts(error.get("details")):
        reason = reason or _code_word(detail.get("reason"))
        for violation in _dicts(detail.get("violations")):
            named = _CONSTRAINT.fullmatch(str(violation.get("type")))
            constraint = constraint or (named[1] if named else "")
    return reason, constraint


def _dicts(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _code_word(value: object) -> str:
    return value if isinstance(value, str) and _CODE_WORD.fullmatch(value) else ""
