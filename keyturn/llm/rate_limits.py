"""The rate limits that a provider states with each answer: how many requests or tokens are left, and until when. Pure.

Sources (2026-11): OpenAI's guide on rate limits and Groq's after it (`x-ratelimit-remaining-requests`, with the time
until the limit is whole again as `6m0s` or `20ms`); Anthropic's API reference on errors and rate limits
(`anthropic-ratelimit-requests-remaining`, with the moment by RFC 3339); Azure OpenAI writes OpenAI's with plain
seconds or none, and -1 where it does not know; LiteLLM repeats them behind `llm_provider-`; OpenRouter states one
limit of requests, whose end is a moment in milliseconds since 1970.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

_NAME = re.compile(
    r"^(?P<behind>llm_provider-)?(?:"
    r"x-ratelimit-(?P<part>limit|remaining|reset)(?:-(?P<of>requests|tokens))?"
    r"|anthropic-ratelimit-(?P<their_of>requests|tokens|input-tokens|output-tokens)-(?P<their_part>limit|remaining|reset)"
    r")$"
)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_UNIT = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,20})?)(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_UNIT.pattern})+")
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,20})?")
# Limits by the minute are the common ones, and what Azure means where it names no end.
_A_MINUTE = 60.0
# A larger number of seconds is a moment since 1970, and a larger one still is in milliseconds.
_A_MOMENT, _IN_MILLISECONDS = 1e9, 1e12
# A limit that is whole again in more than a day is a mistake, or nothing that a run could wait for.
_LONGEST = 86_400.0


class RateLimit(NamedTuple):
    """One limit: `remaining` of `limit` requests or tokens are left, and in `seconds` it is whole again."""

    name: str
    limit: float
    remaining: float
    seconds: float
    counts_tokens: bool


def rate_limits_in(headers: Iterable[tuple[bytes, bytes]], *, now: datetime | None = None) -> Iterator[RateLimit]:
    """Yield the rate limits that the headers of an answer state; what is not in a documented form is left out.

    Args:
        headers: names and values as they came.
        now: the time that a moment is counted from; None for that of the answer's Date, or else this machine's.
    """
    stated: dict[str, dict[str, str]] = {}
    date = b""
    for name, value in headers:
        if b"ratelimit" not in name.lower():
            date = value if name.lower() == b"date" else date
            continue
        found = _NAME.match(name.decode("ascii", "replace").lower())
        if found is not None:
            # A proxy's own limits stand beside those that it repeats.
            of = (found["behind"] or "") + (found["of"] or found["their_of"] or "requests")
            stated.setdefault(of, {})[found["part"] or found["their_part"]] = value.decode("ascii", "replace").strip()
    for of, parts in stated.items():
        remaining, limit = _number(parts.get("remaining")), _number(parts.get("limit"))
        seconds = _A_MINUTE if "reset" not in parts else seconds_until(parts["reset"], now or _stated_time(date))
        if remaining is not None and seconds is not None:
            yield RateLimit(of, limit or 0.0, remaining, min(seconds, _LONGEST), not of.endswith("requests"))


def _number(text: str | None) -> float | None:
    # Only plain decimals: float() would also take "nan" and "inf", and -1 is "unknown".
    return float(text) if text is not None and _NUMBER.fullmatch(text) else None


def _stated_time(date: bytes) -> datetime:
    """The time by the clock that stated the moments, where it says it: this machine's may be minutes off."""
    try:
        moment = parsedate_to_datetime(date.decode("ascii"))
    except (ValueError, OverflowError):
        return datetime.now(UTC)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def seconds_until(text: str, now: datetime | None = None) -> float | None:
    """Return in how many seconds a limit is whole again: a number, a span such as 1m30s, or a moment; None for neither.

    A moment is by RFC 3339, or in seconds or milliseconds since 1970; it is counted from `now`.
    """
    text, now = text.strip(), now or datetime.now(UTC)
    number = _number(text)
    if number is not None:
        if number < _A_MOMENT:
            return number
        since_1970 = number / 1000 if number >= _IN_MILLISECONDS else number
        return max(since_1970 - now.timestamp(), 0.0)
    if _DURATION.fullmatch(text):
        return sum(float(amount) * _UNITS[unit] for amount, unit in _UNIT.findall(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return max((moment - now).total_seconds(), 0.0) if moment.tzinfo is not None else None
