"""A model call, as it is recorded: names, figures and outcome, never a question or an answer."""

from decimal import Decimal
from typing import Literal

from pydantic import AwareDatetime, Field

from keyturn.contracts import MAX_ANSWER_CHARACTERS, Contract, Digest, Identifier, ShortIdentifier, TaskName

CallStatus = Literal["ok", "invalid_output", "timeout", "failed", "cancelled"]


class FailedAttempt(Contract):
    """A provider of the route that was asked and did not answer, and why."""

    provider: str = Field(max_length=64)
    model: str = Field(max_length=128)
    failure: str = Field(max_length=64)


class CallRecord(Contract):
    """What one model call cost and how it ended. It holds no question, prompt, answer or key.

    `model` is the one that answered, or was asked if none did. A call that the cache answered has `cache_hit`, cost 0.
    """

    trace_id: ShortIdentifier
    tenant_id: ShortIdentifier = "default"
    user_id: Identifier = "unknown"
    task: TaskName
    provider: str = Field(max_length=64)
    model: str = Field(max_length=128)
    asked_model: str | None = Field(default=None, max_length=128)
    prompt_version: ShortIdentifier
    catalogue_version: Digest | None = None
    attempt: int = Field(ge=1)
    status: CallStatus
    failure: str | None = Field(default=None, max_length=64)
    latency_ms: float = Field(ge=0)
    first_byte_ms: float | None = Field(default=None, ge=0)
    input_tokens: int | None = Field(default=None, ge=0)
    cached_tokens: int | None = Field(default=None, ge=0)
    output_tokens: int | None = Field(default=None, ge=0)
    finish_reason: str | None = Field(default=None, max_length=64)
    cost_usd: Decimal | None = None
    cache_hit: bool = False
    request_id: str | None = Field(default=None, max_length=128)
    fingerprint: str | None = Field(default=None, max_length=64)
    passed_over: tuple[FailedAttempt, ...] = Field(default=(), max_length=16)
    called_at: AwareDatetime | None = None


class Exchange(Contract):
    """What a model was asked and what it said, word for word, for `keyturn explain`. Only encrypted history has it.

    `answer` is cut to its first 16,000 characters; it is what the model said before anything was checked.
    """

    instructions: str
    document: str
    answer: str = Field(max_length=MAX_ANSWER_CHARACTERS)
