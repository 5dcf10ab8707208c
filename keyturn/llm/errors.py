"""A model call that brought no answer."""

from datetime import timedelta

from keyturn.errors import KeyturnError


class ProviderError(KeyturnError):
    """A model call without an answer.

    `retry_after` is the provider's Retry-After, if it sent one; the other fields come from its response, if any.
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
    """The provider or the network to it is down; a retry may succeed."""

    kind = "provider_unavailable"
    retryable = True
    next_step = "retry_with_backoff"
    hint = "Look at the provider's status page; ask again when it is back."


class ProviderOverloaded(ProviderUnavailable):
    """The provider reports overload: Anthropic's 529, OpenAI's `slow_down`."""

    kind = "provider_overloaded"


class ProviderKeyUnavailable(ProviderUnavailable):
    """The file or the command of an endpoint's key gives no key; a retry may succeed."""

    kind = "provider_key_unavailable"
    hint = "Look at key_file or key_command of this endpoint in KEYTURN_ENDPOINTS: run it as the worker's user."


class ProviderTimeout(ProviderError):
    """No complete answer within the call's deadline."""

    kind = "provider_timeout"
    retryable = True
    next_step = "show_retry_option"
    hint = "Ask again; if it stays slow, raise the request's timeout or choose a faster model."


class RateLimited(ProviderError):
    """The provider limits the rate of requests or tokens."""

    kind = "provider_rate_limited"
    retryable = True
    next_step = "retry_with_backoff"
    hint = "Wait, or ask the provider for a higher rate limit."


class EndpointBusy(RateLimited):
    """The endpoint has as many calls under way as `calls_at_once` allows; it was not asked."""

    kind = "endpoint_busy"
    hint = "Raise calls_at_once of this endpoint in KEYTURN_ENDPOINTS, or add another one to the route."


class UnreadableResponse(ProviderError):
    """A success status whose body is not the provider's format, such as a proxy's page."""

    kind = "unreadable_response"
    retryable = True
    next_step = "retry_with_backoff"
    hint = "Check the provider's base URL: something other than the provider answers there."


class GenerationFailed(ProviderError):
    """The provider refused what its own model wrote, such as an answer that does not fit the schema."""

    kind = "generation_failed"
    retryable = True
    next_step = "retry_with_backoff"
    hint = "It is asked again by itself; if that happens often, choose a model that keeps to schemas."


class QuotaExhausted(ProviderError):
    """Credit or quota is used up. A retry cannot fix that."""

    kind = "quota_exhausted"
    parks = True
    next_step = "fail_and_fix_quota"
    hint = "Raise the provider's quota or spend limit, then resume or ask again."


class AuthenticationFailed(ProviderError):
    """The provider refuses the API key."""

    kind = "authentication_failed"
    parks = True
    next_step = "fail_and_fix_request"
    hint = "Set a valid key for this provider (see .env.example) and restart the worker, then resume or ask again."


class RequestRefused(ProviderError):
    """The provider refuses this request, however often it is sent."""

    kind = "request_refused"
    parks = True
    next_step = "fail_and_fix_request"
    hint = "Check the model's name in KEYTURN_ROUTES and the provider's base URL, then resume or ask again."


class PromptFiltered(RequestRefused):
    """The provider's content filter blocked the prompt, with an error status; other providers answer with a 200."""

    kind = "content_filtered"
    parks = False
    hint = "Reword the question or its notes, or ask the provider to change its content filter."


class UnexpectedStatus(ProviderError):
    """A status that a retry is not known to fix, or that the provider asks not to retry."""

    kind = "unexpected_status"
    parks = True
    hint = "Look at the status: a proxy or a new version of the provider's API may be the cause."
