"""What is known of a call while it is made, and the record that it becomes."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from keyturn.calls import CallRecord, CallStatus, FailedAttempt
from keyturn.contracts import ModelTask
from keyturn.errors import KeyturnError
from keyturn.llm.errors import ProviderTimeout
from keyturn.llm.guard import Prices
from keyturn.llm.routing import ModelClient
from keyturn.llm.wire import Completion, Usage
from keyturn.tasks.definition import Prompt

RULE = "rule"  # in place of a provider's name, in the record of what was decided by rule
_NOTHING_USED = Usage(0, 0, 0)  # of a cache hit: no provider was asked, so none counted tokens


@dataclass
class Call:
    """What is known of a call so far; becomes its record however it ends."""

    provider: ModelClient
    seconds: float  # in which it must have ended
    prompt: Prompt | None = None
    completion: Completion | None = None
    passed_over: tuple[FailedAttempt, ...] = ()
    cache_hit: bool = False
    status: CallStatus = "failed"
    failure: str | None = None
    began: float = field(default_factory=time.perf_counter)
    called_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def fail(self, error: KeyturnError) -> None:
        """Note that it failed, and by what."""
        self.status = "timeout" if isinstance(error, ProviderTimeout) else "failed"
        self.failure = error.kind


def record_of_rule(
    request: ModelTask, attempt: int, *, catalogue_version: str, latency_ms: float, at: datetime
) -> CallRecord:
    """Return the record of what was decided by rule: a call without a provider and without a cost."""
    return CallRecord(
        trace_id=request.trace_id,
        tenant_id=request.tenant_id,
        user_id=request.user_id,
        task=request.task,
        provider=RULE,
        model="policy",
        prompt_version=request.prompt_version,
        catalogue_version=catalogue_version,
        attempt=attempt,
        status="ok",
        latency_ms=round(latency_ms, 2),
        input_tokens=0,
        cached_tokens=0,
        output_tokens=0,
        cost_usd=Decimal(0),
        called_at=at,
    )


def record_of_call(
    call: Call,
    request: ModelTask,
    attempt: int,
    *,
    prices: Prices,
    catalogue_version: str,
    fingerprint: str | None,
) -> CallRecord:
    """Return the record of a call, however it ended; its cost is None where no price is known."""
    provider, completion = call.provider, call.completion
    usage = Usage() if completion is None else completion.usage
    cost: Decimal | None = None
    if call.cache_hit:
        usage, cost = _NOTHING_USED, Decimal(0)
    elif completion is not None:
        cost = prices.cost_usd(provider.name, completion.model, usage, asked=provider.model)
    return CallRecord(
        trace_id=request.trace_id,
        tenant_id=request.tenant_id,
        user_id=request.user_id,
        task=request.task,
        provider=provider.name,
        model=completion.model if completion else provider.model,
        asked_model=provider.model,
        prompt_version=request.prompt_version,
        catalogue_version=catalogue_version,
        attempt=attempt,
        status=call.status,
        failure=call.failure,
        latency_ms=round((time.perf_counter() - call.began) * 1000, 2),
        first_byte_ms=_round(completion.first_byte_ms) if completion and not call.cache_hit else None,
        input_tokens=usage.input_tokens,
        cached_tokens=usage.cached_tokens,
        output_tokens=usage.output_tokens,
        finish_reason=completion.finish_reason if completion else None,
        cost_usd=cost,
        cache_hit=call.cache_hit,
        request_id=completion.request_id if completion and not call.cache_hit else None,
        fingerprint=fingerprint,
        passed_over=call.passed_over,
        called_at=call.called_at,
    )


def _round(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 2)
