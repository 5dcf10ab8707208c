"""A model call that was not made."""

from datetime import datetime

from keyturn.errors import KeyturnError
from keyturn.moments import in_utc


class CallRefused(KeyturnError):
    """A limit of Keyturn forbids the call: the model was not asked, and nothing was spent."""

    kind = "call_refused"


class TokenLimitReached(CallRefused):
    """The user's hourly token limit is used up until `retry_at`."""

    kind = "rate_limited"
    retryable = False  # by Temporal's policy: the workflow itself waits for the known time
    next_step = "wait"

    def __init__(self, message: str, *, retry_at: datetime) -> None:
        super().__init__(message)
        self.retry_at = retry_at
        self.hint = f"Ask again after {in_utc(retry_at)}, or raise KEYTURN_TOKENS_PER_USER_HOUR."


class CostCapExceeded(CallRefused):
    """The call would cost more than the task or the user may spend; the message has the numbers."""

    kind = "cost_cap_exceeded"
    parks = True
    next_step = "fail_and_fix_request"
    hint = "Shorten the request, choose a cheaper model, or raise the cap that the message names."


class ContextWindowExceeded(CallRefused):
    """The call would not fit into the model's context window; the message has the numbers."""

    kind = "context_window_exceeded"
    parks = True
    next_step = "fail_and_fix_request"
    hint = "Shorten the request, or choose a model with a larger context window."


class LedgerUnavailable(CallRefused):
    """The user's spend of today cannot be read, so its cap cannot be enforced."""

    kind = "ledger_unavailable"
    retryable = True
    next_step = "retry_with_backoff"
    hint = "Bring the database back (DATABASE_URL), or unset KEYTURN_USD_PER_USER_DAY."
