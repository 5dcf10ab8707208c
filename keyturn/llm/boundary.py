"""The boundary: one question in, one judged and recorded answer out. Everything else in the program calls this.

It owns what must be the same for every call: prompt version, route, deadline, limits, judgement, cache and record.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from keyturn.cache.key import CacheKey
from keyturn.calls import CallRecord, Exchange
from keyturn.contracts import MAX_ANSWER_CHARACTERS, ModelTask
from keyturn.errors import JobStoreUnavailable, KeyturnError, SettingsInvalid
from keyturn.llm.cache import ResponseCache, cache_key, pack, unpack
from keyturn.llm.errors import ProviderTimeout
from keyturn.llm.estimate import estimate_input
from keyturn.llm.guard import Guard
from keyturn.llm.outages import Outages
from keyturn.llm.records import Call, record_of_call, record_of_rule
from keyturn.llm.routing import LEAST_SECONDS, ModelClient, RouteFailed, ask_in_turn, route_of
from keyturn.llm.wire import Completion, OnText, parse_answer
from keyturn.people import same_form
from keyturn.policy.catalogue import Catalogue
from keyturn.policy.errors import PolicyDiffers
from keyturn.policy.grounding import request_digest
from keyturn.policy.line import PolicyLine, digest_of_lines
from keyturn.rotations.contracts import Assessment, RotationRequest
from keyturn.rotations.decisions import Rejection
from keyturn.tasks.definition import Prompt, Reading, Task
from keyturn.tasks.errors import UnknownTask
from keyturn.tasks.registry import load_tasks


@dataclass(frozen=True)
class JudgedAnswer:
    """A judged answer: what the task calls an answer, or why there is none; and the record of the call.

    `first` is the answer before it, where that one contradicted the evidence and another was asked for.
    """

    verdict: Any
    call: CallRecord
    exchange: Exchange | None
    proposed: object = None
    first: "JudgedAnswer | None" = None


class ModelBoundary:
    """Asks the providers of a task's route, judges the answer, and hands a record of every call to `record`.

    Args:
        routes: providers in the order in which they are asked, by task; `*` for tasks without a route of their own.
        catalogue: the policy lines.
        guard: prices and limits.
        record: is called with each call's record; returns at once, without raising.
        cache: where answers of repeatable tasks are cached; None for no cache.
        fingerprint: from the document that a model reads to a keyed fingerprint of it; None leaves it out.
        tasks: every task by name.
        clock: the time at which evidence is judged.
        outages: what is known of providers that are down; None for this boundary's own memory.
    """

    def __init__(
        self,
        routes: Mapping[str, Sequence[ModelClient]],
        catalogue: Catalogue,
        *,
        guard: Guard,
        record: Callable[[CallRecord], None],
        cache: ResponseCache | None = None,
        fingerprint: Callable[[str], str] | None = None,
        tasks: Mapping[str, Task[Any, Any, Any]] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        outages: Outages | None = None,
    ) -> None:
        self._routes = routes
        self._catalogue = catalogue
        self._guard = guard
        self._record = record
        self._cache = cache
        self._fingerprint = fingerprint
        self._tasks = load_tasks() if tasks is None else tasks
        self._clock = clock
        self._outages = outages or Outages()

    async def decide(self, request: RotationRequest, attempt: int, *, at: datetime | None = None) -> Assessment:
        """Answer a rotation request; see `answer`."""
        judged = await self.answer(request, attempt, at=at)
        return Assessment(
            verdict=judged.verdict,
            catalogue_version=self._catalogue.version,
            request_digest=request_digest(request),
            first_run_id=request.first_run_id,
            call=judged.call,
            exchange=judged.exchange,
            first_call=None if judged.first is None else judged.first.call,
            first_exchange=None if judged.first is None else judged.first.exchange,
        )

    async def answer(
        self, request: ModelTask, attempt: int = 1, *, at: datetime | None = None, on_text: OnText | None = None
    ) -> JudgedAnswer:
        """Return the judged answer to `request`. Read-only: it may be called as often as one likes.

        An answer that contradicts the evidence is asked for once more, of the route's next provider or of the same one
        where there is no other. If that one does not agree with the evidence either, the disagreement is the verdict.

        Args:
            request: the request of any task.
            attempt: which attempt of this question it is, counted from 1, for the record.
            at: when it is decided, by which the age of evidence is judged; None for now, by this machine's clock.
            on_text: is called with the text so far whenever more came. It is untrusted and may start over; only the
                verdict counts.

        Raises:
            ProviderError: no answer came; the class says whether another attempt is worth it.
            CallRefused: a limit forbids the call; nothing was spent.
            UnknownTask, UnknownPolicyLine, UnknownPromptVersion: the request names what this worker does not have.
            PolicyDiffers: the caller has other wording of the policy lines.
        """
        task = self._tasks.get(request.task)
        if task is None or not isinstance(request, task.request):
            raise UnknownTask(f"there is no task {request.task}; tasks: {', '.join(sorted(self._tasks))}")
        at, began = at or self._clock(), time.perf_counter()
        if _asks_for_no_model(request) and task.by_rule is not None:
            verdict = task.by_rule(request, self._lines(request), at)
            if verdict is not None:
                return JudgedAnswer(verdict, self._record_rule(request, attempt, began), None)
        route = route_of(self._routes, request.task)
        judged = await self._call(task, request, attempt, route, at, on_text=on_text)
        contradicts = isinstance(judged.verdict, Rejection) and judged.verdict.reason == "contradicts_evidence"
        if task.disagree is None or not contradicts:
            return judged
        left = request.timeout_seconds - (time.perf_counter() - began)
        return await self._ask_another(task, request, attempt, route, at, judged, left)

    async def _ask_another(
        self,
        task: Task[Any, Any, Any],
        request: ModelTask,
        attempt: int,
        route: Sequence[ModelClient],
        at: datetime,
        first: JudgedAnswer,
        left: float,
    ) -> JudgedAnswer:
        """Return another provider's answer, if it is accepted; else the disagreement, for a person."""
        answered = (first.call.provider, first.call.asked_model)
        place = next(at for at, one in enumerate(route) if (one.name, one.model) == answered)
        others = [*route[place + 1 :], *route[:place]] or route
        readings, last = [_reading(first)], first
        if left >= LEAST_SECONDS:
            try:
                last = await self._call(task, request, attempt, others, at, seconds=left, fresh=True)
            except KeyturnError as error:  # a person decides without it: the key is due, whichever provider is away
                readings.append(Reading(others[0].name, others[0].model, None, error.kind))
            else:
                if not isinstance(last.verdict, Rejection):
                    return replace(last, first=first)
                readings.append(_reading(last))
        verdict = task.disagree(request, self._lines(request), readings, at) if task.disagree else last.verdict
        return JudgedAnswer(verdict, last.call, last.exchange, first=None if last is first else first)

    async def _call(
        self,
        task: Task[Any, Any, Any],
        request: ModelTask,
        attempt: int,
        route: Sequence[ModelClient],
        at: datetime,
        *,
        seconds: float | None = None,
        fresh: bool = False,
        on_text: OnText | None = None,
    ) -> JudgedAnswer:
        """Make one recorded call, or answer from the cache unless `fresh`; see `answer` for what it raises."""
        call = Call(provider=route[0], seconds=request.timeout_seconds if seconds is None else seconds)
        try:
            verdict, exchange, proposed = await self._judge(call, task, request, route, at, fresh, on_text)
        except RouteFailed as failed:
            call.passed_over = failed.passed_over
            call.fail(failed.error)
            raise failed.error from None
        except KeyturnError as error:
            call.fail(error)
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
        return JudgedAnswer(verdict, record, exchange, proposed)

    def prompt_of(self, request: ModelTask) -> Prompt:
        """Return what a model would be asked; raises UnknownTask, UnknownPolicyLine, UnknownPromptVersion."""
        return self._tasks[request.task].prompt(request, self._lines(request), self._clock())

    def _lines(self, request: ModelTask) -> tuple[PolicyLine, ...]:
        """The request's policy lines; raises UnknownPolicyLine, PolicyDiffers."""
        lines = self._catalogue.resolve(request.policy_lines)
        if request.policy_digest is not None and digest_of_lines(lines) != request.policy_digest:
            names = ", ".join(str(line.ref) for line in lines)
            raise PolicyDiffers(f"{names}: the caller's wording differs from this worker's, at the same version")
        return lines

    async def take(self, request: ModelTask, completion: Completion, provider: str, model: str, price: Decimal) -> bool:
        """Judge an answer that a provider's batch gave, record it, and cache it if it is accepted.

        The next caller with the same `request` gets it from the cache, as if it had just been asked; so it goes through
        the same grounding again. Returns whether it was accepted.

        Args:
            request: what was asked.
            completion: what was answered.
            provider: who answered.
            model: the model that was asked.
            price: of an answer in a batch, as a part of the same one's asked for alone.

        Raises:
            SettingsInvalid: there is no response cache, or the route has no such provider and model.
            UnknownTask, UnknownPolicyLine, UnknownPromptVersion: the request names what this worker does not have.
            JobStoreUnavailable: it could not be cached; take it again.
        """
        task, route = self._tasks[request.task], route_of(self._routes, request.task)
        place = next((at for at, one in enumerate(route) if (one.name, one.model) == (provider, model)), None)
        if self._cache is None or task.cache_for is None or place is None:
            raise SettingsInvalid("KEYTURN_RESPONSE_CACHE: batches need the response cache: set it to on")
        lines, at = self._lines(request), self._clock()
        prompt = task.prompt(request, lines, at)
        keys = self._keys(task, prompt, route)
        if await self._cache.find(keys) is not None:
            return True  # taken before
        call = Call(route[place], request.timeout_seconds, prompt=prompt, completion=completion, status="ok")
        verdict, _ = _verdict(task, completion, request, lines, at)
        if isinstance(verdict, Rejection):
            call.status, call.failure = "invalid_output", verdict.reason
        elif not await self._cache.store(keys[place], pack(completion), task.cache_for):
            # Else it would be asked and paid again.
            raise JobStoreUnavailable("an answer of a batch could not be cached")
        record = self._record_of(call, request, attempt=1)
        cost = None if record.cost_usd is None else record.cost_usd * price
        self._record(record.model_copy(update={"cost_usd": cost, "latency_ms": 0.0, "first_byte_ms": None}))
        return call.status == "ok"

    async def _judge(
        self,
        call: Call,
        task: Task[Any, Any, Any],
        request: ModelTask,
        route: Sequence[ModelClient],
        at: datetime,
        fresh: bool,
        on_text: OnText | None,
    ) -> tuple[Any, Exchange, object]:
        lines = self._lines(request)
        call.prompt = prompt = task.prompt(request, lines, at)
        keys = self._keys(task, prompt, route)
        call.completion = None if fresh else await self._find_cached(call, keys, route)
        verdict: Any = None
        proposed: object = None
        if call.completion is not None:
            verdict, proposed = _verdict(task, call.completion, request, lines, at)
            if isinstance(verdict, Rejection) and self._cache is not None:
                # What is refused now is asked anew: a cached answer is never a reason to reject.
                await self._cache.drop(keys[route.index(call.provider)])
                call.completion, call.cache_hit = None, False
        if call.completion is None:
            call.completion = await self._ask(call, task, request, prompt, route, on_text)
            verdict, proposed = _verdict(task, call.completion, request, lines, at)
        if isinstance(verdict, Rejection):
            call.status, call.failure = "invalid_output", verdict.reason
        else:
            call.status = "ok"
            if keys and not call.cache_hit and self._cache is not None and task.cache_for is not None:
                # Only an accepted answer is cached: asking again after a rejection asks the model again.
                await self._cache.store(keys[route.index(call.provider)], pack(call.completion), task.cache_for)
        text = call.completion.text[:MAX_ANSWER_CHARACTERS]
        return verdict, Exchange(instructions=prompt.system, document=prompt.user, answer=text), proposed

    def _keys(self, task: Task[Any, Any, Any], prompt: Prompt, route: Sequence[ModelClient]) -> list[CacheKey]:
        if self._cache is None or task.cache_for is None:
            return []
        version = self._catalogue.version
        return [cache_key(task.name, prompt, version, provider.name, provider.model) for provider in route]

    async def _find_cached(
        self, call: Call, keys: Sequence[CacheKey], route: Sequence[ModelClient]
    ) -> Completion | None:
        """The answer that any provider of the route gave before: after a fallback, the first one may be back."""
        found = await self._cache.find(keys) if self._cache is not None and keys else None
        completion = None if found is None else unpack(found[1])
        if found is None or completion is None:
            return None
        call.cache_hit, call.provider = True, route[found[0]]
        return completion

    async def _ask(
        self,
        call: Call,
        task: Task[Any, Any, Any],
        request: ModelTask,
        prompt: Prompt,
        route: Sequence[ModelClient],
        on_text: OnText | None,
    ) -> Completion:
        limit, user = self._guard.tokens, f"{request.tenant_id}/{same_form(request.user_id)}"
        estimate = estimate_input(prompt)
        held = Decimal(0)

        async def admit(provider: ModelClient) -> None:
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
                deadline=time.monotonic() + call.seconds - (time.perf_counter() - call.began),
                trace_id=request.trace_id,
                admit=admit,
                on_text=on_text,
                outages=self._outages,
            )
            used = asked.completion.usage.total
        except RouteFailed as failed:
            used = estimate if isinstance(failed.error, ProviderTimeout) else 0
            raise
        except asyncio.CancelledError:
            used = estimate  # it went out, and the provider may have counted it
            raise
        finally:
            self._guard.release(request, held)
            if limit is not None:
                await limit.give_back(receipt, user, 0 if used is None else reserved - used)
        call.provider, call.passed_over = asked.provider, asked.passed_over
        return asked.completion

    def _record_rule(self, request: ModelTask, attempt: int, began: float) -> CallRecord:
        """Record what was decided by rule."""
        record = record_of_rule(
            request,
            attempt,
            catalogue_version=self._catalogue.version,
            latency_ms=(time.perf_counter() - began) * 1000,
            at=self._clock(),
        )
        self._record(record)
        return record

    def _record_of(self, call: Call, request: ModelTask, attempt: int) -> CallRecord:
        prompt = call.prompt
        fingerprint = self._fingerprint(prompt.user) if self._fingerprint and prompt else None
        version = self._catalogue.version
        return record_of_call(
            call, request, attempt, prices=self._guard.prices, catalogue_version=version, fingerprint=fingerprint
        )


def _verdict(
    task: Task[Any, Any, Any], completion: Completion, request: ModelTask, lines: Sequence[PolicyLine], at: datetime
) -> tuple[Any, object]:
    """Return the verdict on an answer, and what the answer proposed, unchecked; None if it could not be read."""
    proposed = parse_answer(completion, task.proposal)
    if isinstance(proposed, Rejection):
        return proposed, None
    try:
        return task.judge(proposed, request, lines, at), proposed
    except ValidationError:  # what a model wrote does not fit into the task's own answer, which no check had seen
        explanation = "The answer does not match the task's schema."
        return Rejection(reason="malformed_answer", explanation=explanation), proposed


def _reading(judged: JudgedAnswer) -> Reading:
    call, verdict = judged.call, judged.verdict
    return Reading(call.provider, call.model, judged.proposed, verdict.reason if isinstance(verdict, Rejection) else "")


def _asks_for_no_model(request: ModelTask) -> bool:
    return isinstance(request, RotationRequest) and request.decide_by == "rule"
