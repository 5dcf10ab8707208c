"""The boundary: one question in, one assessed and recorded answer out. Everything else in the program calls this.

It owns what must be the same for every call: the prompt's version, the deadline, the judgement and the record.
"""

import asyncio
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Protocol

from keyturn.contracts import Assessment, CallRecord, CallStatus, Rejection, RotationRequest
from keyturn.errors import KeyturnError, ProviderTimeout
from keyturn.llm.prompt import Prompt, rotation_prompt
from keyturn.llm.wire import Completion, parse_answer
from keyturn.policy.catalogue import Catalogue
from keyturn.policy.grounding import ground, request_digest


class Provider(Protocol):
    """A model behind any wire format."""

    name: str
    model: str

    async def complete(self, prompt: Prompt, *, timeout_seconds: float, trace_id: str) -> Completion:
        """Ask once; raises a ProviderError."""
        ...


Price = Callable[[str, int | None, int | None], Decimal | None]
"""From model, input and output tokens to US dollars; None where the price is unknown."""


class ModelBoundary:
    """Asks `provider`, judges its answers by `catalogue`, and hands a record of every call to `record`."""

    def __init__(
        self, provider: Provider, catalogue: Catalogue, *, record: Callable[[CallRecord], None], price: Price
    ) -> None:
        self._provider = provider
        self._catalogue = catalogue
        self._record = record
        self._price = price

    async def decide(self, request: RotationRequest, attempt: int) -> Assessment:
        """Return the judged answer to `request`. Read-only: it may be called as often as one likes.

        Args:
            request: the question with its evidence.
            attempt: which attempt of this question it is, counted from 1, for the record.

        Raises:
            ProviderError: no answer came; the class says whether another attempt is worth it.
            UnknownPolicyLine, UnknownPromptVersion: the request names what this worker does not hold.
        """
        lines = self._catalogue.resolve(request.policy_lines)
        prompt = rotation_prompt(request, lines)
        started = time.perf_counter()
        completion: Completion | None = None
        failure: str | None = None
        status: CallStatus = "failed"
        try:
            completion = await self._provider.complete(
                prompt, timeout_seconds=request.timeout_seconds, trace_id=request.trace_id
            )
            proposed = parse_answer(completion)
            verdict = proposed if isinstance(proposed, Rejection) else ground(proposed, request, lines)
            if isinstance(verdict, Rejection):
                status, failure = "invalid_output", verdict.reason
            else:
                status = "ok"
        except KeyturnError as error:
            status, failure = ("timeout" if isinstance(error, ProviderTimeout) else "failed"), error.kind
            raise
        except asyncio.CancelledError:
            status = "cancelled"
            raise
        except Exception:
            failure = "unforeseen"
            raise
        finally:
            call = CallRecord(
                trace_id=request.trace_id,
                task=request.task,
                provider=self._provider.name,
                model=completion.model if completion else self._provider.model,
                prompt_version=prompt.version,
                attempt=attempt,
                status=status,
                failure=failure,
                latency_ms=round((time.perf_counter() - started) * 1000, 2),
                input_tokens=completion.input_tokens if completion else None,
                output_tokens=completion.output_tokens if completion else None,
                finish_reason=completion.finish_reason if completion else None,
                cost_usd=self._price(completion.model, completion.input_tokens, completion.output_tokens)
                if completion
                else None,
            )
            self._record(call)
        return Assessment(
            verdict=verdict,
            catalogue_version=self._catalogue.version,
            request_digest=request_digest(request),
            call=call,
        )
