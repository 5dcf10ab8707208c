"""The boundary: one question in, one judged and recorded answer out. Everything else in the program calls this.

It owns what must be the same for every call: prompt version, route, deadline, limits, judgement, cache and record.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from keyturn.cache.key import CacheKey
from keyturn.contracts import (
    MAX_ANSWER_CHARACTERS,
    Assessment,
    CallRecord,
    CallStatus,
    Exchange,
    ModelTask,
    PassedOver,
    Rejection,
    RotationRequest,
)
from keyturn.errors import JobStoreUnavailable, KeyturnError, ProviderTimeout, SettingsInvalid, UnknownTask
from keyturn.llm.cache import AnswerCache, cache_key, packed, unpacked
from keyturn.llm.estimate import estimated_input
from keyturn.llm.guard import Guard
from keyturn.llm.routing import Provider, RouteFailed, ask_in_turn, route_of
from keyturn.llm.wire import Completion, OnText, Usage, parse_answer
from keyturn.policy.catalogue import Catalogue, PolicyLine
from keyturn.policy.grounding import request_digest
from keyturn.tasks.definition import Prompt, Task
from keyturn.tasks.registry import load_tasks

BATCH_PRICE = Decimal("0.5")  # of OpenAI's and Anthropic's batches, against the same call made at once
_NOTHING_USED = Usage(0, 0, 0)  # of a cache hit: nobody counted, because nobody was asked


@dataclass(frozen=True)
class Judged:
    """A judged answer: what the task calls an answer, or why there is none; and the record of the call."""

    verdict: Any
    call: CallRecord
    exchange: Exchange


@dataclass
class _Call:
    """What is known of a call so far; becomes its record however it ends."""

    provider: Provider
    prompt: Prompt | None = None
    completion: Completion | None = None
    passed_over: tuple[PassedOver, ...] = ()
    cache_hit: bool = False
    status: CallStatus = "failed"
    failure: str | None = None
    began: float = field(default_factory=time.perf_counter)
    called_at: datetime = field(default_factory=lambda: datetime.now(UTC))


class ModelBoundary:
    """Asks the providers of a task's route, judges the answer, and hands a record of every call to `record`.

    Args:
        routes: providers in the order in which they are asked, by task; `*` for tasks without a route of their own.
        catalogue: the policy lines.
        guard: prices and limits.
        record: takes each call's record, at once and without raising.
        cache: where answers of repeatable tasks are kept; None for nowhere.
        fingerprint: from the document that a model reads to a keyed fingerprint of it; None leaves it out.
        tasks: every task by name.
    """

    def __init__(
        self,
        routes: Mapping[str, Sequence[Provider]],
        catalogue: Catalogue,
        *,
        guard: Guard,
        record: Callable[[CallRecord], None],
        cache: AnswerCache | None = None,
        fingerprint: Callable[[str], str] | None = None,
        tasks: Mapping[str, Task[Any, Any, Any]] | None = None,
    ) -> None:
        self._routes = routes
        self._catalogue = catalogue
        self._guard = guard
        self._record = record
        self._cache = cache
        self._fingerprint = fingerprint
        self._tasks = load_tasks() if tasks is None else tasks

    async def decide(self, request: RotationRequest, attempt: int) -> Assessment:
        """Answer a rotation request; see `answer`."""
        judged = await self.answer(request, attempt)
        return Assessment(
            verdict=judged.verdict,
            catalogue_version=self._catalogue.version,
            request_digest=request_digest(request),
            call=judged.call,
            exchange=judged.exchange,
        )

    async def answer(self, request: ModelTask, attempt: int = 1, *, on_text: OnText | None = None) -> Judged:
        """Return the judged answer to `request`. Read-only: it may be called as often as one likes.

        Args:
            request: the request of any task.
            attempt: which attempt of this question it is, counted from 1, for the record.
            on_text: is called with the text so far whenever more came. It is untrusted and may begin anew; only the
                verdict counts.

        Raises:
            ProviderError: no answer came; the class says whether another attempt is worth it.
            CallRefused: a limit forbids the call; nothing was spent.
            UnknownTask, UnknownPolicyLine, UnknownPromptVersion: the request names what this worker does not hold.
        """
        task = self._tasks.get(request.task)
        if task is None or not isinstance(request, task.request):
            raise UnknownTask(f"there is no task {request.task}; tasks: {', '.join(sorted(self._tasks))}")
        route = route_of(self._routes, request.task)
        call = _Call(provider=route[0])
        try:
            verdict, exchange = await self._judged(call, task, request, route, on_text)
        except RouteFailed as failed:
            call.passed_over = failed.passed_over
            _failed(call, failed.error)
            raise failed.error from None
        except KeyturnError as error:
            _failed(call, error)
            raise
        except asyncio.CancelledError:
            call.status = "cancelled"
            raise
        except Exception:
            call.failure = "unforeseen"
            raise
        finally:
            record = self._record_of(call, request, attempt)
            self._record(record)
        return Judged(verdict, record, exchange)

    def prompt_of(self, request: ModelTask) -> Prompt:
        """Return what a model would be asked; raises UnknownTask, UnknownPolicyLine, UnknownPromptVersion."""
        return self._tasks[request.task].prompt(request, self._catalogue.resolve(request.policy_lines))

    async def take(self, request: ModelTask, completion: Completion, provider: str, model: str) -> bool:
        """Judge an answer that a provider's batch gave, record it at half the price, and keep it if it is accepted.

        Whoever asks `request` next is then given it from the cache, as if they had asked just now; so it goes through
        the same grounding again. Returns whether it was accepted.

        Raises:
            SettingsInvalid: there is no cache of answers, or the route has no such provider and model.
            UnknownTask, UnknownPolicyLine, UnknownPromptVersion: the request names what this worker does not hold.
            JobStoreUnavailable: it could not be kept; take it again.
        """
        task, route = self._tasks[request.task], route_of(self._routes, request.task)
        place = next((at for at, one in enumerate(route) if (one.name, one.model) == (provider, model)), None)
        if self._cache is None or task.keep_for is None or place is None:
            raise SettingsInvalid("KEYTURN_ANSWER_CACHE: batches are taken through the cache of answers: set it to on")
        lines = self._catalogue.resolve(request.policy_lines)
        prompt = task.prompt(request, lines)
        keys = self._keys(task, prompt, route)
        if await self._cache.find(keys) is not None:
            return True  # taken before
        call = _Call(provider=route[place], prompt=prompt, completion=completion, status="ok")
        proposed = parse_answer(completion, task.proposal)
        verdict = proposed if isinstance(proposed, Rejection) else _verdict(task, proposed, request, lines)
        if isinstance(verdict, Rejection):
            call.status, call.failure = "invalid_output", verdict.reason
        elif not await self._cache.keep(keys[place], packed(completion), task.keep_for):
            raise JobStoreUnavailable("an answer of a batch could not be kept")  # else it would be asked and paid again
        record = self._record_of(call, request, attempt=1)
        halved = None if record.cost_usd is None else record.cost_usd * BATCH_PRICE
        self._record(record.model_copy(update={"cost_usd": halved, "latency_ms": 0.0, "first_byte_ms": None}))
        return call.status == "ok"

    async def _judged(
        self,
        call: _Call,
        task: Task[Any, Any, Any],
        request: ModelTask,
        route: Sequence[Provider],
        on_text: OnText | None,
    ) -> tuple[Any, Exchange]:
        lines = self._catalogue.resolve(request.policy_lines)
        call.prompt = prompt = task.prompt(request, lines)
        keys = self._keys(task, prompt, route)
        found = await self._found(call, keys, route)
        call.completion = found or await self._asked(call, task, request, prompt, route, on_text)
        proposed = parse_answer(call.completion, task.proposal)
        verdict = proposed if isinstance(proposed, Rejection) else _verdict(task, proposed, request, lines)
        if isinstance(verdict, Rejection):
            call.status, call.failure = "invalid_output", verdict.reason
        else:
            call.status = "ok"
            if keys and not call.cache_hit and self._cache is not None and task.keep_for is not None:
                # Only what was accepted is kept: asking again after a rejection asks the model again.
                await self._cache.keep(keys[route.index(call.provider)], packed(call.completion), task.keep_for)
        text = call.completion.text[:MAX_ANSWER_CHARACTERS]
        return verdict, Exchange(instructions=prompt.system, document=prompt.user, answer=text)

    def _keys(self, task: Task[Any, Any, Any], prompt: Prompt, route: Sequence[Provider]) -> list[CacheKey]:
        if self._cache is None or task.keep_for is None:
            return []
        version = self._catalogue.version
        return [cache_key(task.name, prompt, version, provider.name, provider.model) for provider in route]

    async def _found(self, call: _Call, keys: Sequence[CacheKey], route: Sequence[Provider]) -> Completion | None:
        """The answer that any provider of the route gave before: after a fallback, the first one may be back."""
        found = await self._cache.find(keys) if self._cache is not None and keys else None
        completion = None if found is None else unpacked(found[1])
        if found is None or completion is None:
            return None
        call.cache_hit, call.provider = True, route[found[0]]
        return completion

    async def _asked(
        self,
        call: _Call,
        task: Task[Any, Any, Any],
        request: ModelTask,
        prompt: Prompt,
        route: Sequence[Provider],
        on_text: OnText | None,
    ) -> Completion:
        limit, user = self._guard.tokens, f"{request.tenant_id}/{request.user_id}"
        estimate = estimated_input(prompt)
        held = Decimal(0)

        async def admit(provider: Provider) -> None:
            nonlocal held
            self._guard.release(request, held)
            held = Decimal(0)
            held = await self._guard.admit(task, request, estimate, provider.name, provider.model)

        reserved = estimate + prompt.max_output_tokens
        used: int | None = 0
        receipt = None if limit is None else await limit.reserve(user, reserved)
        try:
            asked = await ask_in_turn(
                route,
                prompt,
                deadline=time.monotonic() + request.timeout_seconds - (time.perf_counter() - call.began),
                trace_id=request.trace_id,
                admit=admit,
                on_text=on_text,
            )
            used = asked.completion.usage.total
        except RouteFailed as failed:
            used = estimate if isinstance(failed.error, ProviderTimeout) else 0
            raise
        except asyncio.CancelledError:
            used = estimate  # it went out, and somebody may have counted it
            raise
        finally:
            self._guard.release(request, held)
            if limit is not None:
                await limit.give_back(receipt, user, 0 if used is None else reserved - used)
        call.provider, call.passed_over = asked.provider, asked.passed_over
        return asked.completion

    def _record_of(self, call: _Call, request: ModelTask, attempt: int) -> CallRecord:
        provider, completion = call.provider, call.completion
        usage = Usage() if completion is None else completion.usage
        cost: Decimal | None = None
        if call.cache_hit:
            usage, cost = _NOTHING_USED, Decimal(0)
        elif completion is not None:
            cost = self._guard.prices.cost_usd(provider.name, completion.model, usage, asked=provider.model)
        fingerprint = self._fingerprint(call.prompt.user) if self._fingerprint and call.prompt else None
        return CallRecord(
            trace_id=request.trace_id,
            tenant_id=request.tenant_id,
            user_id=request.user_id,
            task=request.task,
            provider=provider.name,
            model=completion.model if completion else provider.model,
            asked_model=provider.model,
            prompt_version=request.prompt_version,
            catalogue_version=self._catalogue.version,
            attempt=attempt,
            status=call.status,
            failure=call.failure,
            latency_ms=round((time.perf_counter() - call.began) * 1000, 2),
            first_byte_ms=_rounded(completion.first_byte_ms) if completion and not call.cache_hit else None,
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


def _verdict(task: Task[Any, Any, Any], proposed: Any, request: ModelTask, lines: Sequence[PolicyLine]) -> Any:
    try:
        return task.judge(proposed, request, lines)
    except ValidationError:  # what a model wrote does not fit into the task's own answer, which no check had seen
        return Rejection(reason="malformed_answer", explanation="The answer does not have the form that it must have.")


def _failed(call: _Call, error: KeyturnError) -> None:
    call.status = "timeout" if isinstance(error, ProviderTimeout) else "failed"
    call.failure = error.kind


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 2)
