"""From a provider's error response to the one error class that says whether to try again: a table a provider. Pure.

Sources: the providers' API references on errors, and the retry rules of their own SDKs (2026-11). Each row is matched
by status and by the codes in the body; the first that fits counts.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from keyturn.errors import (
    AuthenticationFailed,
    ProviderError,
    ProviderOverloaded,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
    UnexpectedStatus,
)

_SAFE_CODE = re.compile(r"^[A-Za-z0-9_.-]{1,64}$")  # a code is shown and logged, so it must not be able to carry text
_LONGEST_WAIT = timedelta(days=1)  # any longer wish is a mistake or an attack; the caller's deadline cuts it further


@dataclass(frozen=True)
class Row:
    """One row of a table: `statuses` and `codes` that it is for (empty: any), and what they mean."""

    error: type[ProviderError]
    statuses: frozenset[int] = frozenset()
    codes: frozenset[str] = frozenset()

    def fits(self, status: int, codes: list[str]) -> bool:
        """Return True if this row speaks of a response of this status with these codes."""
        return (not self.statuses or status in self.statuses) and (not self.codes or not self.codes.isdisjoint(codes))


def _row(error: type[ProviderError], *statuses: int, codes: str = "") -> Row:
    return Row(error, frozenset(statuses), frozenset(codes.split()))


# What HTTP itself says, the same for every provider. 501 and 505 are answers about the request, not about the moment.
_BY_STATUS = (
    _row(QuotaExhausted, 402),
    _row(AuthenticationFailed, 401, 403),
    _row(RateLimited, 429),
    _row(ProviderTimeout, 408),
    _row(ProviderOverloaded, 529),
    _row(RequestRefused, 400, 404, 413, 422),
    _row(ProviderUnavailable, *(status for status in range(500, 600) if status not in {501, 505})),
    _row(UnexpectedStatus),
)
OPENAI = (
    _row(
        QuotaExhausted,
        *(402, 403, 429),
        codes="""insufficient_quota billing_hard_limit_reached credit_balance_exhausted billing_not_active
            organization_spend_limit_exceeded project_spend_limit_exceeded organization_usage_limit_exceeded""",
    ),
    _row(ProviderOverloaded, 429, 503, codes="slow_down"),
    *_BY_STATUS,
)
ANTHROPIC = (
    _row(QuotaExhausted, 429, codes="enforced_spend_limit_reached contract_spend_limit_reached"),
    _row(QuotaExhausted, codes="billing_error"),
    _row(ProviderOverloaded, codes="overloaded_error"),
    *_BY_STATUS,
)
GEMINI = (
    _row(QuotaExhausted, 429, codes="quota_a_day"),
    _row(AuthenticationFailed, 400, codes="API_KEY_INVALID"),
    _row(ProviderOverloaded, 503, codes="UNAVAILABLE"),
    *_BY_STATUS,
)


def openai_codes(error: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the codes of OpenAI's `error` object."""
    yield error.get("code")
    yield error.get("type")


def anthropic_codes(error: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the codes of Anthropic's `error` object, the more exact one first."""
    details = error.get("details")
    if isinstance(details, dict):
        yield details.get("error_code")
    yield error.get("type")


def gemini_codes(error: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the codes of Google's `error` object; a quota that only a new day brings back is `quota_a_day`."""
    for detail in _details(error):
        violations = detail.get("violations")
        for violation in violations if isinstance(violations, list) else []:
            if isinstance(violation, dict) and "PerDay" in str(violation.get("quotaId")):
                yield "quota_a_day"
        yield detail.get("reason")
    yield error.get("status")


def error_for(
    status: int,
    body: Any,
    headers: Mapping[str, str],
    *,
    table: tuple[Row, ...] = OPENAI,
    codes_of: Callable[[Mapping[str, Any]], Iterator[Any]] = openai_codes,
    now: datetime | None = None,
) -> ProviderError:
    """Return the error that a response of `status` (not 200) stands for.

    Args:
        status: the HTTP status.
        body: the decoded JSON body, or anything else if it was not JSON.
        headers: the response's headers, looked up by lower-case name.
        table: the provider's table; its last row fits everything.
        codes_of: how the provider writes its codes.
        now: the time that an HTTP date in Retry-After is counted from.
    """
    # Gemini wraps the object into a list when it streams; some gateways do so too.
    body = body[0] if isinstance(body, list) and body else body
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {}
    codes = [code for code in codes_of(error) if isinstance(code, str) and _SAFE_CODE.fullmatch(code)]
    shown = f"the provider answered {status} {codes[0]}" if codes else f"the provider answered {status}"
    kind = next(row.error for row in table if row.fits(status, codes))
    if kind.retryable and headers.get("x-should-retry", "").strip().lower() == "false":
        return UnexpectedStatus(f"{shown} and asks not to be asked again")
    wait = retry_after(headers, error, now=now) if kind.retryable else None
    return kind(shown, retry_after=wait)


def retry_after(
    headers: Mapping[str, str], error: Mapping[str, Any] | None = None, *, now: datetime | None = None
) -> timedelta | None:
    """Return the wait that the provider asks for: milliseconds, seconds, a date, or Google's RetryInfo in the body.

    None if none is readable. Never negative, and never over a day.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _clamped(milliseconds / 1000)
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None:
        return _clamped(seconds)
    if value is not None:
        try:
            moment = parsedate_to_datetime(value)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            return _clamped((moment - (now or datetime.now(UTC))).total_seconds())
        except (ValueError, OverflowError):
            pass
    for detail in _details(error or {}):
        delay = detail.get("retryDelay")
        seconds = _number(delay.removesuffix("s")) if isinstance(delay, str) and delay.endswith("s") else None
        if seconds is not None:
            return _clamped(seconds)
    return None


def _details(error: Mapping[str, Any]) -> list[dict[str, Any]]:
    details = error.get("details")
    return [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []


def _number(value: str | None) -> float | None:
    # Only plain decimals: float() would also take "nan", "inf" and "1_000".
    return float(value) if value is not None and re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,9})?", value.strip()) else None


def _clamped(seconds: float) -> timedelta:
    return timedelta(seconds=min(max(seconds, 0.0), _LONGEST_WAIT.total_seconds()))
