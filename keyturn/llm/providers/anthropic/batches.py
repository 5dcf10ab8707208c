"""Anthropic's message batches. They take neither an idempotency key nor metadata: a submit whose answer was lost is
found by its size, by when it was made, and by not being known.

Format: Anthropic API reference, "Message Batches" (2026-11).
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from keyturn.llm.batches import MOST_LISTED, BatchAnswer, HttpBatchClient, State, id_of
from keyturn.llm.errors import UnexpectedStatus
from keyturn.tasks.definition import Prompt


class AnthropicBatches(HttpBatchClient):
    """Anthropic's message batches: the requests in one body, the answers as JSON Lines."""

    async def submit(self, marker: str, prompts: Sequence[tuple[str, Prompt]]) -> str:
        """Submit the requests; returns the batch's id."""
        requests = [
            {"custom_id": custom_id, "params": self._wire.payload(self.model, prompt)} for custom_id, prompt in prompts
        ]
        return id_of(await self.ask("POST", "/v1/messages/batches", json={"requests": requests}))

    async def find(self, marker: str, *, count: int, since: datetime, known: Collection[str]) -> str | None:
        """Return the one batch of this size that was created since and that no run accounts for.

        Raises:
            UnexpectedStatus: several fit, so that an operator must look which is the run's.
        """
        listed = await self.ask("GET", "/v1/messages/batches", params={"limit": MOST_LISTED})
        fits = [id_of(batch) for batch in listed.get("data", []) if _fits(batch, count, since)]
        unknown = [batch_id for batch_id in fits if batch_id not in known]
        if len(unknown) > 1:
            raise UnexpectedStatus(f"{len(unknown)} batches of {count} requests may be the one whose answer was lost")
        return unknown[0] if unknown else None

    async def state(self, batch_id: str) -> State:
        """Return whether the batch has ended."""
        status = (await self.ask("GET", f"/v1/messages/batches/{batch_id}")).get("processing_status")
        return "ended" if status == "ended" else "running"

    async def answers(self, batch_id: str) -> AsyncIterator[BatchAnswer]:
        """Yield answers, errors and what expired."""
        async for line in self.lines(f"/v1/messages/batches/{batch_id}/results"):
            result = line.get("result")
            kind = str(result.get("type", "failed")) if isinstance(result, dict) else "failed"
            body = result.get("message") if isinstance(result, dict) and kind == "succeeded" else None
            failure = (
                self.failure(None, result.get("error")) if isinstance(result, dict) and kind == "errored" else kind
            )
            yield self.read_answer_line(line.get("custom_id"), body, failure)


def _fits(batch: Mapping[str, Any], count: int, since: datetime) -> bool:
    counts, made = batch.get("request_counts"), batch.get("created_at")
    if not isinstance(counts, dict) or not isinstance(made, str):
        return False
    return sum(counts.values()) == count and datetime.fromisoformat(made).astimezone(UTC) >= since
