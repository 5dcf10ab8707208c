"""From a provider's error response to what is done about it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn.backoff import retry_delay
from keyturn.llm.classify import COMMON, error_for, error_in, retry_after
from keyturn.llm.errors import (
    AuthenticationFailed,
    PromptFiltered,
    ProviderError,
    ProviderOverloaded,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
    UnexpectedStatus,
)
from tests.support.boundaries import WIRES


def body(code: str | None = None, kind: str | None = None) -> dict[str, Any]:
    return {"error": {"message": "a secret sentence", "type": kind, "param": None, "code": code}}


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (429, body("rate_limit_exceeded"), RateLimited),
        (429, body("slow_down"), ProviderOverloaded),
        (503, body("slow_down"), ProviderOverloaded),
        (529, None, ProviderOverloaded),
        (429, None, RateLimited),
        (429, "not json", RateLimited),
        *[(429, body(code), QuotaExhausted) for code in sorted(COMMON[0].codes)],
        (429, body(None, "insufficient_quota"), QuotaExhausted),
        (402, body(), QuotaExhausted),
        (401, body("invalid_api_key"), AuthenticationFailed),
        (403, body(), AuthenticationFailed),
        (400, body("insufficient_quota"), QuotaExhausted),
        (400, body("invalid_parameter"), RequestRefused),
        (404, body("model_not_found"), RequestRefused),
        (413, body(), RequestRefused),
        (422, body(), RequestRefused),
        (302, None, UnexpectedStatus),
        (408, None, ProviderTimeout),
        *[(status, None, ProviderUnavailable) for status in (500, 502, 503, 504, 520)],
    ],
)
def test_status_and_code_decide_together(status: int, answer: Any, expected: type[ProviderError]) -> None:
    """A 429 may be a passing limit or an exhausted quota; only the code distinguishes them."""
    assert type(error_for(status, answer, {})) is expected


QUOTA_DAY = {"@type": "t/google.rpc.QuotaFailure", "violations": [{"quotaId": "GenerateRequestsPerDayPerProject"}]}
QUOTA_MINUTE = {
    "@type": "t/google.rpc.QuotaFailure",
    "violations": [{"quotaId": "GenerateRequestsPerMinutePerProject"}],
}
BAD_KEY = {"@type": "t/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}


def anthropic(kind: str, **details: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": "m", "details": details or None}}


def google(name: str, *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": 0, "status": name, "message": "m", "details": list(details)}}


@pytest.mark.parametrize(
    ("wire", "status", "answer", "expected"),
    [
        ("anthropic", 429, anthropic("rate_limit_error"), RateLimited),
        ("anthropic", 429, anthropic("rate_limit_error", error_code="ramp_limit_exceeded"), RateLimited),
        ("anthropic", 429, anthropic("rate_limit_error", error_code="enforced_spend_limit_reached"), QuotaExhausted),
        ("anthropic", 402, anthropic("billing_error"), QuotaExhausted),
        ("anthropic", 529, anthropic("overloaded_error"), ProviderOverloaded),
        ("anthropic", 500, anthropic("overloaded_error"), ProviderOverloaded),
        ("anthropic", 504, anthropic("timeout_error"), ProviderUnavailable),
        ("anthropic", 401, anthropic("authentication_error"), AuthenticationFailed),
        ("anthropic", 403, anthropic("permission_error"), AuthenticationFailed),
        ("anthropic", 404, anthropic("not_found_error"), RequestRefused),
        ("anthropic", 413, anthropic("request_too_large"), RequestRefused),
        ("gemini", 429, google("RESOURCE_EXHAUSTED"), RateLimited),
        ("gemini", 429, google("RESOURCE_EXHAUSTED", QUOTA_MINUTE), RateLimited),
        ("gemini", 429, google("RESOURCE_EXHAUSTED", QUOTA_DAY), QuotaExhausted),
        ("gemini", 429, [google("RESOURCE_EXHAUSTED", QUOTA_DAY)], QuotaExhausted),
        ("gemini", 400, google("INVALID_ARGUMENT", BAD_KEY), AuthenticationFailed),
        ("gemini", 400, google("INVALID_ARGUMENT"), RequestRefused),
        ("gemini", 503, google("UNAVAILABLE"), ProviderOverloaded),
        ("gemini", 504, google("DEADLINE_EXCEEDED"), ProviderUnavailable),
        (
            "compatible",
            503,
            {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
            ProviderUnavailable,
        ),
    ],
)
def test_each_provider_has_a_table_of_its_own(
    wire: str, status: int, answer: Any, expected: type[ProviderError]
) -> None:
    """The same status means different things to different providers."""
    form = WIRES[wire]
    assert type(error_for(status, answer, {}, table=form.errors, codes_of=form.codes_of)) is expected


@pytest.mark.parametrize("wire", sorted(WIRES))
def test_what_is_retried_is_the_same_for_every_provider(wire: str) -> None:
    """What passes by itself, and a server's own failures; everything else waits for a person, and says for what."""
    form = WIRES[wire]
    for status in range(300, 600):
        error = error_for(status, None, {}, table=form.errors, codes_of=form.codes_of)
        passes = status in {408, 409, 424, 425, 429, 498, 499} or (status >= 500 and status not in {501, 505})
        assert error.retryable == passes, status
        if status in {400, 401, 403, 404, 413, 422, 446}:
            assert error.next_step == "fail_and_fix_request", status
        elif status in {402, 412}:
            assert error.next_step == "fail_and_fix_quota", status
        elif not error.retryable:
            assert error.next_step == "fail_and_inspect", status


QUOTA_SENTENCE = "You exceeded your current quota, please check your plan and billing details."
RETRY_INFO = {"@type": "t/google.rpc.RetryInfo", "retryDelay": "23s"}


def in_words(text: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": text, **more}}


def google_in_words(text: str, *details: dict[str, Any]) -> dict[str, Any]:
    return in_words(text, code=429, status="RESOURCE_EXHAUSTED", details=list(details))


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        # Google says of a minute's quota what OpenAI says of an empty account.
        (429, google_in_words(QUOTA_SENTENCE, QUOTA_MINUTE, RETRY_INFO), RateLimited),
        (429, [google_in_words(QUOTA_SENTENCE, QUOTA_MINUTE)], RateLimited),
        (
            429,
            google_in_words(f"{QUOTA_SENTENCE}\n* Quota exceeded for metric: x\nPlease retry in 23.4s."),
            RateLimited,
        ),
        (429, google_in_words(f"{QUOTA_SENTENCE} Please retry in 23.4s.", QUOTA_DAY, RETRY_INFO), QuotaExhausted),
        (429, in_words(QUOTA_SENTENCE), QuotaExhausted),
        # Credit and budgets, as gateways and providers word them.
        (400, in_words("You have reached your specified API usage limits. You will regain access on"), QuotaExhausted),
        (403, in_words("Key limit exceeded (total limit). Manage it using"), QuotaExhausted),
        (403, in_words("Your newly created team doesn't have any credits or licenses yet."), QuotaExhausted),
        (400, in_words("Budget has been exceeded! Current cost: 1.2", type="budget_exceeded"), QuotaExhausted),
        (400, in_words("ExceededBudget: User=u over budget. Spend=1, Budget=1"), QuotaExhausted),
        (412, None, QuotaExhausted),  # Portkey
        # Filters and guardrails.
        (400, in_words("Output blocked by content filtering policy", type="invalid_request_error"), PromptFiltered),
        (200, in_words("Output blocked by content filtering policy", type="invalid_request_error"), PromptFiltered),
        (403, in_words("Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO"), PromptFiltered),
        (446, None, PromptFiltered),
        (
            400,
            {"error": [{"code": 2016, "message": "Prompt blocked due to security configurations"}], "success": False},
            PromptFiltered,
        ),
        # A request that is larger than a minute's limit never fits.
        (413, in_words("Request too large for model", type="tokens", code="rate_limit_exceeded"), RequestRefused),
        (429, in_words("Request too large for gpt-4o on tokens per min (TPM): Limit 1, Requested 2."), RequestRefused),
        (429, in_words("Rate limit reached", type="tokens", code="rate_limit_exceeded"), RateLimited),
        # A success with an error in it, whatever success.
        (246, in_words("Too many requests"), RateLimited),
    ],
)
@pytest.mark.parametrize("wire", sorted(WIRES))
def test_what_vendors_and_gateways_say_in_words_decides_where_their_codes_do_not(
    wire: str, status: int, answer: Any, expected: type[ProviderError]
) -> None:
    form = WIRES[wire]
    assert type(error_for(status, answer, {}, table=form.errors, codes_of=form.codes_of)) is expected


@pytest.mark.parametrize(("wish", "retryable"), [("false", False), ("true", True), ("", True)])
def test_a_provider_may_ask_not_to_be_asked_again(wish: str, retryable: bool) -> None:
    """`x-should-retry: false` ends it; `true` never opens what is for a person to fix."""
    assert error_for(503, None, {"x-should-retry": wish}).retryable is retryable
    assert not error_for(401, None, {"x-should-retry": wish}).retryable


def test_only_passing_failures_are_worth_a_retry() -> None:
    """The three that pass are retryable; the three that a person must fix are not."""
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
    """Seconds, milliseconds and dates; an unreadable Retry-After is none, and an absurd one is cut."""
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert retry_after(headers, now=NOW) == expected


@pytest.mark.parametrize(
    ("delay", "seconds"), [("58s", 58), ("3.5s", 3.5), ("52758s", 52_758), ("soon", None), (7, None)]
)
def test_googles_wait_stands_in_the_body(delay: Any, seconds: float | None) -> None:
    """RetryInfo, where there is no header."""
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert retry_after({}, {"details": [{"retryDelay": delay}]}, now=NOW) == expected


@given(
    st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "x-should-retry"]), st.text(max_size=40)),
    st.integers(1, 12),
    st.floats(-10, 10_000),
)
def test_no_wait_is_negative_or_past_the_deadline(headers: dict[str, str], attempt: int, left: float) -> None:
    """Whatever a provider sends, the delay lies between nothing and what the deadline leaves."""
    remaining = timedelta(seconds=left)
    delay = retry_delay(attempt, retry_after=retry_after(headers, now=NOW), remaining=remaining)
    assert timedelta(0) <= delay <= max(remaining, timedelta(0))


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [], "error": {"message": None, "code": None}},
        {"choices": [], "detail": "high"},
        {"content": [], "detail": {"tokens": 3}},
        {"choices": [], "error": None},
    ],
)
def test_an_empty_error_and_a_member_called_detail_are_no_failure(body: dict[str, object]) -> None:
    """Gateways write every member of their schema, and some answers have a detail of their own."""
    assert error_in(body) is None


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("Please retry in 23.4s.", 23.4),
        ("Please try again in 1m12.5s. Visit", 72.5),
        ("Please try again in 350ms.", 0.35),
        ("Please retry in 2h3m5s.", 7_385),
        ("try again in 6m", 360),
        ("Please retry in a moment", None),
        ("try again in ", None),
    ],
)
def test_a_wait_that_stands_in_the_message_alone_is_read(said: str, seconds: float | None) -> None:
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert retry_after({}, {"message": f"Rate limit reached.\n{said}"}) == expected
