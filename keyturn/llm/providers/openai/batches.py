"""OpenAI's batches. No idempotency key is taken: a submit whose answer was lost is found by our marker in its metadata.

Format: OpenAI API reference, "Batch" (2026-11).
"""

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime
from typing import Any

from keyturn.llm.batches import MARKER, MOST_LISTED, BatchAnswer, HttpBatchClient, State, id_of
from keyturn.tasks.definition import Prompt

# Azure takes some seconds for a file of a thousand requests; what takes minutes is tried again by the run.
LOOKS_AT_A_FILE, FILE_SECONDS = 60, 2.0


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
        uploaded = await self._processed(
            await self.ask("POST", "/files", data={"purpose": "batch"}, files={"file": file})
        )
        wanted = {
            "input_file_id": uploaded.get("id"),
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {MARKER: marker},
        }
        return id_of(await self.ask("POST", "/batches", json=wanted))

    async def _processed(self, uploaded: dict[str, Any]) -> dict[str, Any]:
        """Return a file that a batch takes: Azure refuses one that it has not looked through yet."""
        for _ in range(LOOKS_AT_A_FILE):
            if uploaded.get("status") not in {"pending", "running", "notRunning"}:
                break
            await asyncio.sleep(FILE_SECONDS)
            uploaded = await self.ask("GET", f"/files/{id_of(uploaded)}")
        return uploaded

    async def find(self, marker: str, *, count: int, since: datetime, known: Collection[str]) -> str | None:
        """Return the batch that has our marker."""
        listed = await self.ask("GET", "/batches", params={"limit": MOST_LISTED})
        for batch in listed.get("data") or []:
            if (batch.get("metadata") or {}).get(MARKER) == marker:
                return id_of(batch)
        return None

    async def state(self, batch_id: str) -> State:
        """Return whether the batch has ended; one that expired has ended with what was answered."""
        batch = await self.ask("GET", f"/batches/{batch_id}")
        status = batch.get("status")
        if status == "failed" or (status == "cancelled" and not batch.get("output_file_id")):
            return "failed"
        # One that was cancelled has what was answered, too, and that is paid.
        return "ended" if status in {"completed", "expired", "cancelled"} else "running"

    async def answers(self, batch_id: str) -> AsyncIterator[BatchAnswer]:
        """Yield answers and errors."""
        batch = await self.ask("GET", f"/batches/{batch_id}")
        for name in ("output_file_id", "error_file_id"):
            if not isinstance(batch.get(name), str) or not batch[name]:  # Azure writes "" for none
                continue
            async for line in self.lines(f"/files/{batch[name]}/content"):
                response, error = line.get("response"), line.get("error")
                body = (
                    response.get("body") if isinstance(response, dict) and response.get("status_code") == 200 else None
                )
                yield self.read_answer_line(line.get("custom_id"), body, self.failure(response, error))
