"""A model call that brought no answer."""

from datetime import timedelta

from keyturn.errors import KeyturnError


class ProviderError(KeyturnError):
    """A model call that brought no answer.

    `retry_after` is the provider's own wish, if it stated one; the others are of its answer, if there was one.
    """

    kind = "provider_error"
    status: int | None = None
    code: str = ""
    names_model: bool = False  # whether it says that there is no such model
    refused_fields: frozenset[str] = frozenset()  # of the request, which the server says that it does not take

    def __init__(self, message: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ProviderUnavailable(ProviderError):
    """The provider or the way to it is down; it may pass."""

    kind = "provider_unavailable"
    retryable = True
    next_step = "retry_with_backoff"
    hint = "Look at the provider's status page; ask again when it is back."


class ProviderOverloaded(ProviderUnavailable):
    """The provider says that it has too much to do: Anthropic's 529, OpenAI's `slow_down`."""

    kind = "provider_overloaded"


class ProviderKeyUnavailable(ProviderUnavailable):
    """The file or the command that gives an endpoint's key does not give it; it may pass."""

    kind = "provider_key_unavailable"
    hint = "Look at key_file or key_command of this endpoint in KEYTURN_ENDPOINTS: run it as the worker's user."


class ProviderTimeout(ProviderError):
    """No complete answer within the call's deadline."""

    kind = "provider_timeout"
    retryable = True
    next_step = "show_retry_option"
    hint = "Ask again; if it stays slow, raise the request's timeout or choose a quicker model."


class RateLimited(ProviderError):
    """Too many requests or tokens for now."""

    kind = "provider_rate_limited"
    retryable = True
    next_step = "retry_with_backoff"
    hint = "Wait, or ask the provider for a higher rate limit."


class EndpointBusy(RateLimited):
    """As many calls to an endpoint are under way as its `calls_at_once` allows; it was not asked."""

    kind = "endpoint_busy"
    hint = "Raise calls_at_once of this endpoint in KEYTURN_ENDPOINTS, or add another one to the route."


class UnreadableResponse(ProviderError):
    """A success status whose body is not the provider's format, such as a proxy's page."""

    kind = "unreadable_response"
    retryable = True
    next_step = "retry_with_backoff"
    hint = "Check the provider's base URL: something else than the provider answers there."


class QuotaExhausted(ProviderError):
    """Money or quota is used up. Sending more requests cannot fix that."""

    kind = "quota_exhausted"
    parks = True
    next_step = "fail_and_fix_quota"
    hint = "Raise the provider's quota or spend limit, then resume or ask again."


class AuthenticationFailed(ProviderError):
    """The provider does not take this key."""

    kind = "authentication_failed"
    parks = True
    next_step = "fail_and_fix_request"
    hint = "Set a valid key for this provider (see .env.example) and restart the worker, then resume or ask again."


class RequestRefused(ProviderError):
    """The provider will not take this request, however often it is sent."""

    kind = "request_refused"
    parks = True
    next_step = "fail_and_fix_request"
    hint = "Check the model's name in KEYTURN_ROUTES and the provider's base URL, then resume or ask again."


class PromptFiltered(RequestRefused):
    """The provider's content filter holds the prompt; others say so with a 200, as an answer of its kind."""

    kind = "content_filtered"
    parks = False


class UnexpectedStatus(ProviderError):
    """A status that no retry is known to fix, or one that the provider asks not to repeat."""

    kind = "unexpected_status"
    parks = True
    hint = "Look at the status: a proxy or a new version of the provider may stand behind it."
