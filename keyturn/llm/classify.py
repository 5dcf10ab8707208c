"""From a provider's error response to the one error class that says whether to try again. Pure."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from keyturn.errors import (
    AuthenticationFailed,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
)

# A 429 of these kinds means that money or quota is used up: OpenAI API reference, error codes (2026-11).
QUOTA_CODES = frozenset(
    {
        "insufficient_quota",
        "billing_hard_limit_reached",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
    }
)
_SAFE_CODE = re.compile(r"^[a-z0-9_]{1,64}$")  # a code is shown and logged, so it must not be able to carry text
_LONGEST_WAIT = timedelta(days=1)  # any longer wish is a mistake or an attack; the caller's deadline cuts it further


def error_for(status: int, body: Any, headers: Mapping[str, str], *, now: datetime | None = None) -> ProviderError:
    """Return the error that a response of `status` (not 2xx) stands for.

    Args:
        status: the HTTP status.
        body: the decoded JSON body, or anything else if it was not JSON.
        headers: the response's headers, looked up by lower-case name.
        now: the time that an HTTP date in Retry-After is counted from.
    """
    codes = _codes(body)
    shown = f"{status} {codes[0]}" if codes else str(status)
    message = f"the provider answered {shown}"
    wait = retry_after(headers, now=now)
    if status == 402 or (status == 429 and QUOTA_CODES.intersection(codes)):
        return QuotaExhausted(message)
    if status in {401, 403}:
        return AuthenticationFailed(message)
    if status == 429:
        return RateLimited(message, retry_after=wait)
    if status == 408:
        return ProviderTimeout(message, retry_after=wait)
    if status >= 500:
        return ProviderUnavailable(message, retry_after=wait)
    return RequestRefused(message)


def retry_after(headers: Mapping[str, str], *, now: datetime | None = None) -> timedelta | None:
    """Return the wait that the provider asks for, in milliseconds, seconds or as a date; None if none is readable."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _clamped(milliseconds / 1000)
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None:
        return _clamped(seconds)
    if value is None:
        return None
    try:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return _clamped((moment - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, OverflowError):
        return None


def _number(value: str | None) -> float | None:
    # Only plain decimals: float() would also take "nan", "inf" and "1_000".
    return float(value) if value is not None and re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,9})?", value.strip()) else None


def _clamped(seconds: float) -> timedelta:
    return timedelta(seconds=min(max(seconds, 0.0), _LONGEST_WAIT.total_seconds()))


def _codes(body: Any) -> list[str]:
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return []
    found = (error.get("code"), error.get("type"))
    return [code for code in found if isinstance(code, str) and _SAFE_CODE.fullmatch(code)]
