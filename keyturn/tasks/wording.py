"""What no text of ours may say: private data, and the promise of an action. Pure, and on the side of caution."""

import re

from keyturn.contracts import Rejection

# 13 to 19 digits (ISO/IEC 7812-1), with the blanks, dots and dashes that people write into them.
_DIGITS = re.compile(r"(?<!\d)\d(?:[ .\u00a0-]?\d){12,18}(?!\d)")
_SECRETS = re.compile(
    r"""
      \b(?:AKIA|ASIA)[0-9A-Z]{16}\b                  # AWS access key ids: half of a key
    | -----BEGIN[ A-Z]*PRIVATE\ KEY                  # PEM
    | \bsk-[A-Za-z0-9_-]{16,}                        # OpenAI, Anthropic
    | \bAIza[0-9A-Za-z_-]{30,}                       # Google API keys
    | \bya29\.[0-9A-Za-z_-]{20,}                     # Google access tokens
    | \bgh[pousr]_[0-9A-Za-z]{30,}                   # GitHub
    | \bxox[abposr]-[0-9A-Za-z-]{10,}                # Slack
    | \beyJ[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]{10,}\.  # JSON web tokens
    """,
    re.VERBOSE,
)
_DONE = r"(?:created|opened|scheduled|started|queued|completed|rotated|deleted|disabled|revoked|deactivated|replaced)"
_ACTION = re.compile(
    rf"""
      \b(?:job(?:_\w+)?|rotation|key|credential|request|it|ticket)\b[^.!?\n]{{0,60}}?
        \b(?:has\ been|have\ been|was|were|is\ being|is\ now|will\ be)\ (?:\w+\ )?{_DONE}\b
    | \b(?:i|we|keyturn)\b(?:'ve|'ll|\ have|\ has|\ will|\ just|\ already|\ am|\ are){{0,3}}\ +
        (?:{_DONE}|rotat(?:e|ing)|creat(?:e|ing)|schedul(?:e|ing)|delet(?:e|ing)|disabl(?:e|ing)|revok(?:e|ing))\b
    | \bjob\ (?:id\b|job_|created\b|done\b)
    """,
    re.VERBOSE | re.IGNORECASE,
)


def fit_text(text: object, longest: int, *, may_tell_of_actions: bool = False) -> str | Rejection:
    """Return `text` trimmed if it may be shown and stored as ours, at most `longest` characters; else why not."""
    if not isinstance(text, str):
        return Rejection(reason="malformed_answer", explanation="What should be text is not.")
    if not text.strip():
        return Rejection(reason="empty_answer", explanation="The text is empty.")
    if len(text) > longest:
        return Rejection(reason="too_long", explanation=f"The text is over {longest:,} characters.")
    if holds_private_data(text):
        return Rejection(reason="private_data", explanation="The text holds a card number or a secret.")
    if not may_tell_of_actions and promises_action(text):
        return Rejection(reason="promised_action", explanation="The text says that something was or will be done.")
    return text.strip()


def holds_private_data(text: str) -> bool:
    """Return True if `text` holds what looks like a payment card's number (by its check digit) or a secret key."""
    if _SECRETS.search(text):
        return True
    return any(_passes_luhn(re.sub(r"\D", "", found.group())) for found in _DIGITS.finditer(text))


def promises_action(text: str) -> bool:
    """Return True if `text` says that something was done or will be: no text of a model acts, so none may say so."""
    return _ACTION.search(text) is not None


def cited_ids(text: str, known: set[str]) -> set[str]:
    """Return the ids among `known` that stand in `text` as words of their own."""
    return {line_id for line_id in known if re.search(rf"(?<![\w.-]){re.escape(line_id)}(?![\w-])", text)}


def days_named(text: str) -> set[int]:
    """Return every number of days that `text` speaks of."""
    return {int(found) for found in re.findall(r"\b(\d{1,5})[ -]?(?:calendar[ -]?)?days?\b", text, re.IGNORECASE)}


def _passes_luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0 and len(set(digits)) > 1
