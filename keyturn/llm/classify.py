"""From whatever a provider says of a failure to the one error class that says whether to try again. Pure.

The same function reads an error response, an error inside a 200, an error event of a stream, a line of a batch, and a
finish reason that says that the provider failed. Sources: the providers' API references on errors, the retry rules of
their own SDKs, and what gateways and local servers answer (named beside each row; 2026-11). A row is matched by status,
by the codes in the body, and in a few places by the message; the first that fits counts.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from keyturn.foreign_json import read_json
from keyturn.llm.errors import (
    AuthenticationFailed,
    GenerationFailed,
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
from keyturn.llm.rate_limits import rate_limits_in, seconds_until

_SAFE_CODE = re.compile(r"^[A-Za-z0-9_.-]{1,64}$")  # a code is shown and logged, so it must not be able to carry text
_MESSAGE_CHARACTERS = 2_000  # of which a few words are looked for; nothing of it is repeated
# Google behind gateways that drop its details; OpenAI's messages say it beside the header.
_RETRY_IN = re.compile(
    r"\b(?:retry|try again) in (?:([0-9]{1,4})h)?(?:([0-9]{1,5})m(?!s))?(?:([0-9]{1,6}(?:\.[0-9]{1,9})?)(ms|s))?\b",
    re.IGNORECASE,
)
# In whole words, or after other ones: Azure; GitHub Models.
_WAIT = re.compile(
    r"\b(?:(?:retry|try again) (?:in|after)|wait(?: for)?) ([0-9]{1,6}(?:\.[0-9]{1,9})?) ?"
    r"(s|m|h|sec|min|second|minute|hour)s?\b",
    re.IGNORECASE,
)
_SECONDS = {"s": 1, "m": 60, "h": 3_600}
_LONGEST_WAIT = timedelta(days=1)  # a longer one is a mistake or an attack; the caller's deadline cuts it further


@dataclass(frozen=True)
class Row:
    """One row of a table: statuses, codes and a message that it is for (empty: any), and what they mean."""

    error: type[ProviderError]
    statuses: frozenset[int] = frozenset()
    codes: frozenset[str] = frozenset()
    message: re.Pattern[str] | None = None

    def fits(self, status: int, codes: list[str], message: str) -> bool:
        """Return True if this row speaks of a failure of this status, with these codes and this message."""
        return (
            (not self.statuses or status in self.statuses)
            and (not self.codes or not self.codes.isdisjoint(code.lower() for code in codes))
            and (self.message is None or self.message.search(message) is not None)
        )


def row(error: type[ProviderError], *statuses: int, codes: str = "", message: str = "") -> Row:
    """Return a row for these statuses, these codes between blanks, and messages that this pattern is found in."""
    pattern = re.compile(message, re.IGNORECASE | re.DOTALL) if message else None
    return Row(error, frozenset(statuses), frozenset(codes.lower().split()), pattern)


# OpenAI, Azure, LiteLLM; and in words: vLLM, Ollama, OpenRouter, Mistral, Anthropic ("model: claude-x").
_NO_MODEL_CODES = {"model_not_found", "deploymentnotfound", "invalid_model", "model_not_available", "unknown_model"}
_NO_MODEL = re.compile(
    r"\bmodels?\b.{0,200}\b(?:not|invalid|unknown|exist|no such)"
    r"|(?:not|invalid|unknown|no such)\b.{0,60}\bmodel\b|^model:",
    re.IGNORECASE | re.DOTALL,
)
_REFUSED = (400, 402, 403, 404, 409, 422, 429)
# Alibaba's Model Studio: its limit of tokens a minute, under the code that others have for an empty account.
_A_MINUTES_QUOTA = row(RateLimited, 429, message=r"allocated quota exceeded, please increase")
_QUOTA = row(
    QuotaExhausted,
    *(200, 400, 401, 402, 403, 429),
    # OpenAI; DeepSeek; OpenRouter; Moonshot; Together; LiteLLM's budgets; Google's quota of a day; Novita; Alibaba;
    # Volcengine; MiniMax; Google; Z.ai; watsonx.
    codes="""insufficient_quota billing_hard_limit_reached credit_balance_exhausted billing_not_active
            organization_spend_limit_exceeded project_spend_limit_exceeded organization_usage_limit_exceeded
            insufficient_balance insufficient_credits payment_required exceeded_current_quota_error credit_limit
            budget_exceeded BudgetExceededError billing_error quota_a_day not_enough_balance Arrearage
            AllocationQuota.FreeTierOnly AccountOverdueError SetLimitExceeded minimax_1008 minimax_2056 BILLING_DISABLED
            1113 token_quota_reached""",
)
# Words that say what happened, whatever status they come with: as a code, as a type, and in a message without one.
_BY_WORD = (
    # Azure OpenAI, "Content filtering"; OpenAI; LiteLLM's exception; Alibaba's Model Studio.
    row(
        PromptFiltered,
        codes="""content_filter ResponsibleAIPolicyViolation content_policy_violation ContentPolicyViolationError
            data_inspection_failed DataInspectionFailed minimax_1026 minimax_1027 censorship_blocked
            InputTextSensitiveContentDetected OutputTextSensitiveContentDetected SensitiveContentDetected
            SensitiveContentDetected.SevereViolation SensitiveContentDetected.Violence""",
    ),
    row(PromptFiltered, 200, 400, codes="1301"),  # Z.ai; a 500 with this code is none
    row(PromptFiltered, message=r"content exists risk"),  # DeepSeek
    row(PromptFiltered, 451, message=r"\bblocked\b"),  # StepFun; a country's law would say something else
    row(PromptFiltered, 498, message=r"deny-?list|block-?list|blocked"),  # Cohere
    row(PromptFiltered, 400, message=r"ContentPolicyViolationError|result of our safety system"),  # LiteLLM
    row(PromptFiltered, 400, message=r"content management policy"),  # Azure, behind gateways that drop its code
    row(PromptFiltered, 200, 400, message=r"blocked by content filtering policy"),  # Anthropic, in streams, too
    row(PromptFiltered, 403, message=r"\bmoderation\b.*\bflagged\b|\bflagged\b.*\bmoderation\b"),  # OpenRouter
    row(PromptFiltered, 403, message=r"content violates usage guidelines"),  # xAI
    row(PromptFiltered, message=r"blocked due to security configurations"),  # Cloudflare's AI Gateway: 2016, 2017
    row(PromptFiltered, 400, message=r"prompt was flagged|flagged as potentially violating"),  # OpenAI's invalid_prompt
    row(PromptFiltered, 400, message=r"violated guardrail|\bguardrail\b.*\b(?:violat|block|interven)"),  # LiteLLM
    # Groq: the model's own answer does not fit the schema, or calls a tool. Asked again, it may. LiteLLM quotes it.
    row(GenerationFailed, codes="json_validate_failed tool_use_failed output_parse_failed"),
    row(GenerationFailed, 400, message=r"json_validate_failed|tool_use_failed|output_parse_failed"),
    row(ProviderUnavailable, 400, message=r"\bDEGRADED function cannot be invoked"),  # NVIDIA
    row(ProviderUnavailable, 400, message=r"input file .{1,80}(?:pending|processing)' state"),  # Azure's batches
    row(UnexpectedStatus, 403, codes="unsupported_country_region_territory"),  # OpenAI: no key helps
    # Google says "You exceeded your current quota" of a minute's, too: its details or its wait tell them apart.
    row(RateLimited, 429, codes="quota_a_minute"),
    row(RateLimited, 429, message=r"exceeded your current quota.*\bretry in \d"),
    # Groq's 413 and OpenAI's 429 of one request that is larger than a whole minute's limit: it never fits.
    row(RequestRefused, 413),
    row(RequestRefused, 429, message=r"request too large"),
    # Anthropic says it with 400 invalid_request_error; others with any status that refuses.
    row(
        QuotaExhausted,
        *_REFUSED,
        401,
        # Anthropic; OpenAI and Google; LiteLLM; OpenRouter's keys; xAI; SiliconFlow; Azure API Management; Cloudflare.
        message=r"credit balance is too low|insufficient (?:account )?(?:credit|balance|funds|quota)"
        r"|exceeded your current quota|reached your specified (?:\w+ ){0,3}usage limits|budget has been exceeded"
        r"|\bover budget\b|exceeded ?(?:token ?)?budget|key limit exceeded|(?:doesn't|does not|don't) have any credits"
        r"|balance is (?:insufficient|not enough)|not enough balance|used all available credits"
        r"|reached its monthly spending limit|out of call volume quota|daily free allocation"
        # Google; Z.ai; Bedrock; OpenRouter's free models; API Management; Cohere's trial; Ollama; Mistral.
        r"|prepayment credits are depleted|exceeded its monthly spending cap|\u4f59\u989d\u4e0d\u8db3",
    ),
    # Not where a refusal may quote what it was sent.
    row(
        QuotaExhausted,
        *(401, 402, 403, 429),
        message=r"\bper-day\b|weekly usage limit|usage limit reached|too many tokens per day"
        r"|token quota is exceeded|calls / month",
    ),
    row(QuotaExhausted, 500, message=r"insufficient (?:account )?balance"),  # MiniMax, in Anthropic's form
    # Together; LM Studio; llama.cpp.
    row(
        RequestRefused,
        *(200, 403),
        message=r"maximum context|context (?:length|window|size|the overflows)",
    ),
    row(RequestRefused, 200, message=r"invalid params"),  # MiniMax
    # xAI; Google's and others' 400; Anthropic.
    row(
        AuthenticationFailed,
        400,
        message=r"(?:incorrect|invalid) api key|api key not valid|organization has been disabled",
    ),
    row(
        AuthenticationFailed,
        # Anthropic; OpenAI; Google; LiteLLM and vLLM; Mistral; Groq.
        codes="""authentication_error permission_error invalid_api_key incorrect_api_key_provided no_api_key
            invalid_authentication invalid_authentication_error unauthorized unauthenticated API_KEY_INVALID
            PERMISSION_DENIED permission_denied AuthenticationError PermissionDeniedError access_denied invalid_token
            expired_api_key token_expired account_deactivated minimax_1004 minimax_2049""",
    ),
    row(
        RequestRefused,
        # OpenAI; vLLM; LiteLLM; llama.cpp's server; Anthropic.
        codes="""context_length_exceeded string_above_max_length ContextWindowExceededError exceed_context_size_error
            model_not_found unsupported_parameter unsupported_value invalid_model request_too_large minimax_2013""",
    ),
    row(
        ProviderOverloaded,
        # Anthropic; OpenAI; Mistral ("Service tier capacity exceeded" is its code 3505); TGI; Moonshot.
        codes="overloaded_error slow_down engine_overloaded_error service_tier_capacity_exceeded 3505 overloaded",
    ),
    row(
        RateLimited,
        codes="""rate_limit_error rate_limit_exceeded RateLimitError too_many_requests rate_limit_reached_error
            throttling ThrottlingException requests tokens minimax_1002""",
    ),
    row(
        ProviderTimeout,
        200,
        codes="timeout_error request_timeout gateway_timeout DEADLINE_EXCEEDED APITimeoutError Timeout",
    ),
)
# What HTTP itself says, the same for every provider. 501 and 505 are answers about the request, not about the moment.
_BY_STATUS = (
    row(QuotaExhausted, 402, 412),  # 412 is Portkey's, of a budget
    row(AuthenticationFailed, 401, 403),
    row(RateLimited, 429),
    row(ProviderTimeout, 408),
    row(PromptFiltered, 446),  # a guardrail's, of Portkey and WSO2
    row(ProviderOverloaded, 498, 529),  # 498 is Groq's, of its flex tier: retry with backoff
    row(RequestRefused, 410, message=r"\bmodel\b|end of life"),  # NVIDIA, of a model that is no more
    row(RequestRefused, 400, 404, 413, 422),
    # 409, a lock that was not to be had, and 425 pass: the SDKs of OpenAI and Anthropic retry the first.
    # By 424, TGI says that the model failed; by 499, Google's backend that it gave up.
    row(ProviderUnavailable, 409, 424, 425, 499, *(status for status in range(500, 600) if status not in {501, 505})),
)
# Common words, which count where no status says more: inside a 200 and within a stream.
_BY_COMMON_WORD = (
    row(
        RequestRefused,
        200,
        codes="""invalid_request_error BadRequestError NotFoundError not_found_error UnprocessableEntityError validation
            INVALID_ARGUMENT FAILED_PRECONDITION NOT_FOUND invalid_prompt""",
    ),
    row(ProviderOverloaded, 200, codes="UNAVAILABLE ServiceUnavailableError"),
    row(RateLimited, 200, codes="RESOURCE_EXHAUSTED"),
    row(RateLimited, 200, message=r"rate.?limit|too many requests|request limit reached"),  # the last: Baidu
    row(ProviderUnavailable, 200),
    row(UnexpectedStatus),
)
# Rules for every provider; those with their own words put rows before them.
COMMON = (_A_MINUTES_QUOTA, _QUOTA, *_BY_WORD, *_BY_STATUS, *_BY_COMMON_WORD)


def common_codes(error: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the codes of an `error` object of OpenAI's form, which most others write too, the more exact ones first."""
    inner = error.get("innererror")  # Azure's
    if isinstance(inner, dict):
        yield inner.get("code")
    for detail in details_of(error):  # Google's, in OpenAI's form too
        yield detail.get("reason")
    metadata = error.get("metadata")  # OpenRouter's: why it moderated, and what its provider said
    if isinstance(metadata, dict):
        if metadata.get("reasons") and "flagged_input" in metadata:
            yield "content_filter"
        yield from common_codes(_raw_error(metadata))
    for name in ("code", "error_code", "type", "error_type", "status"):  # error_type is TGI's
        yield error.get(name)


def _without_quote(error: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the error without what OpenRouter quotes of its provider's; None if it quotes nothing."""
    metadata = error.get("metadata")
    if not isinstance(metadata, dict) or "raw" not in metadata:
        return None
    return {**error, "metadata": {name: value for name, value in metadata.items() if name != "raw"}}


def _raw_error(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the error that OpenRouter quotes as its provider wrote it; empty if there is none."""
    raw = metadata.get("raw")
    if not isinstance(raw, str):
        return {}
    try:
        body = read_json(raw)
    except ValueError:
        return {"message": raw}
    return {name: value for name, value in (error_in(body, is_failure=True) or {}).items() if name != "metadata"}


# In the text of gateways that quote Google's details.
_QUOTA_ID = re.compile(r'"quotaId"\s*:\s*"([A-Za-z-]{1,120})"')
_RETRY_DELAY = re.compile(r'"retryDelay"\s*:\s*"([0-9]{1,6}(?:\.[0-9]{1,9})?)s"')


def _google_quotas(error: Mapping[str, Any]) -> Iterator[str]:
    """Yield `quota_a_day` for a quota that only a new day brings back, or else `quota_a_minute` for others.

    Google's QuotaFailure names them by `quotaId`, such as GenerateRequestsPerDayPerProjectPerModel-FreeTier; it comes
    in the form of OpenAI's API as well.
    """
    named: list[Any] = []
    for detail in details_of(error):
        violations = detail.get("violations")
        violations = violations if isinstance(violations, list) else []
        named += [one.get("quotaId") for one in violations if isinstance(one, dict)]
    named += _QUOTA_ID.findall(text_of(error))
    if any(isinstance(one, str) for one in named):
        yield "quota_a_day" if any("PerDay" in str(one) for one in named) else "quota_a_minute"
    # Of a day's, none would be worth waiting for.
    elif any("retryDelay" in detail for detail in details_of(error)) or _RETRY_DELAY.search(text_of(error)):
        yield "quota_a_minute"


def error_for(
    status: int,
    body: Any,
    headers: Mapping[str, str],
    *,
    table: tuple[Row, ...] = COMMON,
    codes_of: Callable[[Mapping[str, Any]], Iterator[Any]] = common_codes,
    now: datetime | None = None,
) -> ProviderError:
    """Return the error of a response without an answer.

    Args:
        status: the HTTP status; 200 where the error stands in the body of a success, or within a stream.
        body: the decoded JSON body, or anything else if it was not JSON.
        headers: the response's headers, looked up by lower-case name.
        table: the provider's table; its last row fits everything.
        codes_of: how the provider writes its codes.
        now: the time that an HTTP date in Retry-After is counted from.
    """
    error = error_in(body, is_failure=not 200 <= status < 300) or {}
    status = (_own_status(error) or 200) if 200 <= status < 300 else status
    found = (*_google_quotas(error), *codes_of(error))
    codes = [str(code) for code in found if isinstance(code, str | int) and _SAFE_CODE.fullmatch(str(code))]
    codes = [code for code in codes if code != str(status)]
    shown = f"the provider answered {status}" if status != 200 else "the provider answered with an error"
    shown += f" {codes[0]}" if codes else ""
    message = text_of(error)
    kind = next(one.error for one in table if one.fits(status, codes, message))
    if kind in {AuthenticationFailed, QuotaExhausted} and (of_its_own := _without_quote(error)) is not None:
        # The key and credit of the provider behind a gateway are not ours: what is wrong with those is not our key's.
        return error_for(status, {"error": of_its_own}, headers, table=table, codes_of=codes_of, now=now)
    if kind.retryable and headers.get("x-should-retry", "").strip().lower() == "false":
        return UnexpectedStatus(f"{shown} and asks not to retry")
    if status == 403 and kind is AuthenticationFailed and body is None and _is_page(headers):
        return UnexpectedStatus("a page answered 403, and not the provider: a proxy or firewall stands before it")
    wait = retry_after(headers, error, now=now, by_limits=kind is RateLimited) if kind.retryable else None
    failure = kind(shown, retry_after=wait)
    failure.status, failure.code = status, codes[0] if codes else ""
    failure.names_model = bool(_NO_MODEL_CODES & {code.lower() for code in codes}) or bool(_NO_MODEL.search(message))
    return failure


def _is_page(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").lower().startswith("text/html")


def text_of(error: Mapping[str, Any]) -> str:
    """Return the first characters of an error's message, and of one that it quotes."""
    metadata = error.get("metadata")
    said = [error.get("message"), _raw_error(metadata).get("message") if isinstance(metadata, dict) else None]
    return " ".join(text[:_MESSAGE_CHARACTERS] for text in said if isinstance(text, str))


# What an answer has, in the form of one of the wires.
_ANSWERS = ("choices", "content", "candidates", "output", "delta")
_SUCCESS = (None, 0, "0", 200, "200", "success", "")


def error_in(body: Any, *, is_failure: bool = False) -> dict[str, Any] | None:
    """Return the error object in a body, in the forms of providers, gateways and local servers; None if there is none.

    `{"error": {...}}` (nearly all), a list around it (Gemini's streams) or in it (Cloudflare), `{"error": "text"}`
    (Ollama, TGI, LM Studio), `{"errors": [...]}` (Cloudflare), `{"object": "error", "message": ...}` (vLLM, Mistral),
    `{"detail": ...}` (FastAPI's), `{"base_resp": {...}}` (MiniMax), and `{"message": ..., "code": ...}` (Cerebras,
    Novita, SiliconFlow, Azure's API Management).

    Args:
        body: the decoded body.
        is_failure: whether its status says that it is one. Without that, a message alone is no error.
    """
    body = body[0] if isinstance(body, list) and body else body
    if not isinstance(body, dict):
        return None
    error = body.get("error")
    error = error[0] if isinstance(error, list) and error else error
    if isinstance(error, dict) and any(error.values()):
        is_none = not is_failure and error.get("code") in _SUCCESS[1:] and "type" not in error
        return None if is_none else _with_text(error)
    if isinstance(error, str) and error:
        return {"message": error, "type": body.get("error_type"), "code": body.get("code")}
    if body.get("object") == "error" or (body.get("type") == "error" and "message" in body):
        return {name: value for name, value in body.items() if name != "object" and value != "error"}
    result = body.get("base_resp")
    if isinstance(result, dict) and result.get("status_code") not in _SUCCESS:
        return {"code": f"minimax_{result['status_code']}", "message": result.get("status_msg")}
    # An answer may have a member of these names; what is none has nothing else.
    return None if any(name in body for name in _ANSWERS) else _bare_error(body, is_failure=is_failure)


def _bare_error(body: Mapping[str, Any], *, is_failure: bool) -> dict[str, Any] | None:
    """Return what an error says that is not within a member `error`."""
    errors, detail = body.get("errors"), body.get("detail")
    message = body.get("message") or body.get("msg") or body.get("error_msg")  # Z.ai; Baidu
    if isinstance(errors, list) and errors:
        return _with_text(errors[0]) if isinstance(errors[0], dict) else {"message": str(errors[0])}
    if isinstance(detail, dict):
        return error_in(detail, is_failure=True)
    if detail:
        return {"message": detail if isinstance(detail, str) else ""}
    says_so = body.get("success") is False or any(
        body.get(name) not in _SUCCESS for name in ("code", "error_code", "statusCode", "status_code", "param")
    )
    return {**body, "message": message} if isinstance(message, str) and message and (is_failure or says_so) else None


def _with_text(error: Mapping[str, Any]) -> dict[str, Any]:
    """Return an error whose message is text: LiteLLM's may be an object that holds it."""
    message = error.get("message")
    if isinstance(message, dict):
        message = message.get("error") or message.get("message")
    return {**error, "message": message}


def _own_status(error: Mapping[str, Any]) -> int | None:
    """The status that an error states which came with a 200, as a number or in digits."""
    for name in ("status", "code", "status_code", "statusCode", "http_status", "http_code"):
        stated = error.get(name)
        if type(stated) is int or (
            isinstance(stated, str) and stated.isascii() and stated.isdigit() and len(stated) == 3
        ):
            status = int(stated)
            if 400 <= status < 600:
                return status
    return None


def retry_after(
    headers: Mapping[str, str],
    error: Mapping[str, Any] | None = None,
    *,
    now: datetime | None = None,
    by_limits: bool = True,
) -> timedelta | None:
    """Return the wait that the provider asks for: milliseconds, seconds, a span, a moment or a date, or in its message.

    Else, `by_limits`, when the limits that are used up are whole again. None if none is readable. Never negative, and
    never over a day.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _clamp(milliseconds / 1000)
    for seconds in (
        _seconds_in(headers.get("retry-after"), now),
        _seconds_in_details(error or {}),
        _seconds_in_words(text_of(error or {})),
        _seconds_until_whole(headers, now) if by_limits else None,
    ):
        if seconds is not None:
            return _clamp(seconds)
    return None


def _seconds_in(value: str | None, now: datetime | None) -> float | None:
    """Return what Retry-After says, as the standard has it, or as servers write it."""
    if value is None:
        return None
    seconds = seconds_until(value.partition(",")[0], now)  # a proxy may have joined two
    if seconds is None:
        with suppress(ValueError, OverflowError):
            moment = parsedate_to_datetime(value)
            moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
            seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return seconds


def _seconds_in_details(error: Mapping[str, Any]) -> float | None:
    """Return Google's RetryInfo."""
    for detail in details_of(error):
        delay = detail.get("retryDelay")
        seconds = _number(delay.removesuffix("s")) if isinstance(delay, str) and delay.endswith("s") else None
        if seconds is not None:
            return seconds
    return None


def _seconds_in_words(message: str) -> float | None:
    quoted = _RETRY_DELAY.search(message)
    if quoted is not None:
        return float(quoted[1])
    stated = _RETRY_IN.search(message)
    if stated is None or not any(stated.groups()):
        in_words = _WAIT.search(message)
        return None if in_words is None else float(in_words[1]) * _SECONDS[in_words[2][0].lower()]
    hours, minutes, rest, unit = stated.groups()
    return int(hours or 0) * 3_600 + int(minutes or 0) * 60 + float(rest or 0) / (1000 if unit == "ms" else 1)


def _seconds_until_whole(headers: Mapping[str, str], now: datetime | None) -> float | None:
    """Return when the limits that are used up are whole again, as headers state them beside every answer."""
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return max((limit.seconds for limit in rate_limits_in(raw, now=now) if not limit.remaining), default=None)


def details_of(error: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the `details` of an error object, as Google's APIs write them (google.rpc.Status); perhaps none."""
    details = error.get("details")
    return [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []


def _number(value: str | None) -> float | None:
    # Only plain decimals: float() would also take "nan", "inf" and "1_000".
    return float(value) if value is not None and re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,20})?", value.strip()) else None


def _clamp(seconds: float) -> timedelta:
    return timedelta(seconds=min(max(seconds, 0.0), _LONGEST_WAIT.total_seconds()))
