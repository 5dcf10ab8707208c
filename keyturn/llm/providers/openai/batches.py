"""OpenAI's batches. No idempotency key is taken: a submit whose answer was lost is found by our marker in its metadata.

Format: OpenAI API reference, "Batch" (2026-11).
"""

import json
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime

from keyturn.llm.batches import MARKER, MOST_LISTED, BatchAnswer, HttpBatchClient, State, id_of
from keyturn.tasks.definition import Prompt


class OpenAiBatches(HttpBatchClient):
    """OpenAI's batches: a file of requests, a batch on it, a file of answers and one of errors."""

    async def submit(self, marker: str, prompts: Sequence[tuple[str, Prompt]]) -> str:
        """Upload the requests and submit them; returns the batch's id."""
        lines = [
            json.dumps(
                {
                    "custom_id": custom_id,
                    "method": "POST",
                    "url": "/v1/chat/completions",
                    "body": self._wire.payload(self.model, prompt),
                }
            )
            for custom_id, prompt in prompts
        ]
        file = ("batch.jsonl", "\n".join(lines).encode(), "application/jsonl")
        uploaded = await self.ask("POST", "/files", data={"purpose": "batch"}, files={"file": file})
        wanted = {
            "input_file_id": uploaded.get("id"),
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {MARKER: marker},
        }
        return id_of(await self.ask("POST", "/batches", json=wanted))

    async def find(self, marker: str, *, count: int, since: datetime, known: Collection[str]) -> str | None:
        """Return the batch that has our marker."""
        listed = await self.ask("GET", "/batches", params={"limit": MOST_LISTED})
        for batch in listed.get("data", []):
            if (batch.get("metadata") or {}).get(MARKER) == marker:
                return id_of(batch)
        return None

    async def state(self, batch_id: str) -> State:
        """Return whether the batch has ended; one that expired has ended with what was answered."""
        status = (await self.ask("GET", f"/batches/{batch_id}")).get("status")
        if status in {"failed", "cancelled"}:
            return "failed"
        return "ended" if status in {"completed", "expired"} else "running"

    async def answers(self, batch_id: str) -> AsyncIterator[BatchAnswer]:
        """Yield answers and errors."""
        batch = await self.ask("GET", f"/batches/{batch_id}")
        for name in ("output_file_id", "error_file_id"):
            if not isinstance(batch.get(name), str):
                continue
            async for line in self.lines(f"/files/{batch[name]}/content"):
                response, error = line.get("response"), line.get("error")
                body = (
                    response.get("body") if isinstance(response, dict) and response.get("status_code") == 200 else None
                )
                yield self.read_answer_line(line.get("custom_id"), body, self.failure(response, error))
