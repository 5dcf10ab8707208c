"""From a provider's error response to what is done about it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keyturn.errors import (
    AuthenticationFailed,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
)
from keyturn.llm.classify import QUOTA_CODES, error_for, retry_after


def body(code: str | None = None, kind: str | None = None) -> dict[str, Any]:
    return {"error": {"message": "a secret sentence", "type": kind, "param": None, "code": code}}


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (429, body("rate_limit_exceeded"), RateLimited),
        (429, body("slow_down"), RateLimited),
        (429, None, RateLimited),
        (429, "not json", RateLimited),
        *[(429, body(code), QuotaExhausted) for code in sorted(QUOTA_CODES)],
        (429, body(None, "insufficient_quota"), QuotaExhausted),
        (402, body(), QuotaExhausted),
        (401, body("invalid_api_key"), AuthenticationFailed),
        (403, body(), AuthenticationFailed),
        (400, body("insufficient_quota"), RequestRefused),
        (404, body("model_not_found"), RequestRefused),
        (413, body(), RequestRefused),
        (422, body(), RequestRefused),
        (302, None, RequestRefused),
        (408, None, ProviderTimeout),
        *[(status, None, ProviderUnavailable) for status in (500, 502, 503, 504, 529)],
    ],
)
def test_status_and_code_decide_together(status: int, answer: Any, expected: type[ProviderError]) -> None:
    """A 429 may be a passing limit or an empty purse; only the code tells."""
    assert type(error_for(status, answer, {})) is expected


def test_only_passing_failures_are_worth_a_retry() -> None:
    """The three that pass are retryable; the three that a person must mend are not."""
    assert all(e.retryable for e in (RateLimited, ProviderTimeout, ProviderUnavailable))
    assert not any(e.retryable for e in (QuotaExhausted, AuthenticationFailed, RequestRefused))
    assert QuotaExhausted.next_step == "fail_and_fix_quota"
    assert AuthenticationFailed.next_step == RequestRefused.next_step == "fail_and_fix_request"


def test_a_providers_message_is_not_repeated() -> None:
    """It may quote the prompt; only a code of letters and digits is shown."""
    assert str(error_for(400, body("invalid_value"), {})) == "the provider answered 400 invalid_value"
    assert "secret" not in str(error_for(400, body("a secret sentence"), {}))


NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 7.5 "}, 7.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
        ({"retry-after": "Sat, 21 Nov 2026 09:00:30 GMT"}, 30),
        ({"retry-after": "Sat, 21 Nov 2026 08:00:00 GMT"}, 0),
        ({"retry-after": "Sat, 21 Nov 2026 09:00:30 -0000"}, 30),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": "Sat, 21 Nov 99999999999 09:00:30 GMT"}, None),
        ({"retry-after": "999999999"}, 86_400),
    ],
)
def test_every_form_of_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, milliseconds and dates; what is unreadable is no wish, and what is absurd is cut."""
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert retry_after(headers, now=NOW) == expected
