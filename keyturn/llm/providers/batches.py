"""Batches: many questions in one request, answered within a day, at half the price. OpenAI's and Anthropic's.

Neither takes an idempotency key. So a submit whose answer was lost is looked for before another is made: OpenAI's by
our marker in its metadata, Anthropic's, which has none, by when it can have been made, its size, and not being known.

Formats: the API references, "Batch" and "Message Batches" (2026-11).
"""

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import httpx

from keyturn.errors import ProviderTimeout, ProviderUnavailable, UnexpectedStatus, UnreadableResponse
from keyturn.foreign_json import read_json
from keyturn.llm.classify import error_for
from keyturn.llm.providers.endpoint import Endpoint
from keyturn.llm.providers.streams import lines_in
from keyturn.llm.wire import Completion
from keyturn.tasks.definition import Prompt

# Below both providers' limits (50,000 requests and 200 MB; 100,000 and 256 MB) with the longest prompts that there are.
MOST_REQUESTS = 1_000
# An upload of 60 MB, or a file of answers: minutes on a slow line.
REQUEST_SECONDS = 300.0
MOST_LISTED = 100  # batches to look through for a lost one: it is among the newest
MARKER = "keyturn_batch"
State = Literal["running", "ended", "failed"]


@dataclass(frozen=True)
class Answered:
    """One answer of a batch; `completion` is None if the provider has none for it, and `why` says so."""

    custom_id: str
    completion: Completion | None
    why: str = ""


class BatchProvider(Protocol):
    """A provider's batches, for one model."""

    name: str
    model: str

    async def submit(self, marker: str, prompts: Sequence[tuple[str, Prompt]]) -> str:
        """Submit prompts under their custom ids; returns the batch's id. Raises a ProviderError."""
        ...

    async def find(self, marker: str, *, count: int, since: datetime, known: Collection[str]) -> str | None:
        """Return the batch that a submit made whose answer was lost; None if there is none. Raises a ProviderError.

        Args:
            marker: of the submit.
            count: of its requests.
            since: when it was about to be made.
            known: ids of batches that are accounted for.
        """
        ...

    async def state(self, batch_id: str) -> State:
        """Return whether a batch has ended. Raises a ProviderError."""
        ...

    def answers(self, batch_id: str) -> AsyncIterator[Answered]:
        """Yield the answers of a batch that has ended, in any order, perhaps some twice. Raises a ProviderError."""
        ...


class _Batches:
    """An endpoint's batches, for one model."""

    def __init__(self, client: httpx.AsyncClient, endpoint: Endpoint, model: str) -> None:
        self._client = client
        self._endpoint = endpoint
        self._wire = endpoint.wire
        self.name = endpoint.name
        self.model = model

    async def _request(self, path: str) -> dict[str, Any]:
        """Return address and headers of a request."""
        headers = {"accept-encoding": "identity"} | self._endpoint.headers_with(await self._endpoint.key.current())
        return {"url": self._endpoint.url(path), "headers": headers}

    async def _json(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                answer = await self._client.request(method, **await self._request(path), **content)
        except TimeoutError:
            raise ProviderTimeout(f"no answer within {REQUEST_SECONDS:g} s") from None
        except httpx.HTTPError as error:
            raise ProviderUnavailable(f"the connection to the provider failed: {type(error).__name__}") from None
        try:
            body = answer.json()
        except ValueError:
            body = None
        if answer.status_code != 200:
            self._refuse(answer, body)
        if not isinstance(body, dict):
            raise UnreadableResponse("the answer is not a JSON object")
        return body

    async def _lines(self, path: str) -> AsyncIterator[Mapping[str, Any]]:
        """Yield the objects of a file of JSON Lines as they come."""
        try:
            async with (
                asyncio.timeout(REQUEST_SECONDS),
                self._client.stream("GET", **await self._request(path)) as answer,
            ):
                if answer.status_code != 200:
                    await answer.aread()
                    self._refuse(answer, None)
                async for line in lines_in(answer):
                    parsed = _object(line)
                    if parsed is not None:
                        yield parsed
        except TimeoutError:
            raise ProviderTimeout(f"not all answers within {REQUEST_SECONDS:g} s") from None
        except httpx.HTTPError as error:
            raise ProviderUnavailable(f"the connection to the provider failed: {type(error).__name__}") from None

    def _refuse(self, answer: httpx.Response, body: Any) -> None:
        raise error_for(answer.status_code, body, answer.headers, table=self._wire.errors, codes_of=self._wire.codes_of)

    def _failure(self, response: Any, error: Any) -> str:
        """What a line without an answer says, by the name that it would have had as an answer of its own."""
        status: int = 200
        body: Any = {"error": error}
        if isinstance(response, dict) and type(response.get("status_code")) is int:
            status, body = response["status_code"], response.get("body")
        elif isinstance(error, dict) and isinstance(error.get("error"), dict):  # Anthropic's stands in one of its own
            body = error
        if error is None and status == 200:
            return "failed"
        return error_for(status, body, {}, table=self._wire.errors, codes_of=self._wire.codes_of).kind

    def _answered(self, custom_id: Any, body: Any, why: str) -> Answered:
        if not isinstance(custom_id, str):
            raise UnreadableResponse("an answer of the batch has no custom id")
        if body is None:
            return Answered(custom_id, None, why[:64])
        try:
            return Answered(custom_id, self._wire.completion(body, self.model))
        except UnreadableResponse:
            return Answered(custom_id, None, "unreadable_response")


class OpenAiBatches(_Batches):
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
        uploaded = await self._json("POST", "/files", data={"purpose": "batch"}, files={"file": file})
        wanted = {
            "input_file_id": uploaded.get("id"),
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {MARKER: marker},
        }
        return _id_of(await self._json("POST", "/batches", json=wanted))

    async def find(self, marker: str, *, count: int, since: datetime, known: Collection[str]) -> str | None:
        """Return the batch that has our marker."""
        listed = await self._json("GET", "/batches", params={"limit": MOST_LISTED})
        for batch in listed.get("data", []):
            if (batch.get("metadata") or {}).get(MARKER) == marker:
                return _id_of(batch)
        return None

    async def state(self, batch_id: str) -> State:
        """Return whether the batch has ended; one that expired has ended with what was answered."""
        status = (await self._json("GET", f"/batches/{batch_id}")).get("status")
        if status in {"failed", "cancelled"}:
            return "failed"
        return "ended" if status in {"completed", "expired"} else "running"

    async def answers(self, batch_id: str) -> AsyncIterator[Answered]:
        """Yield answers and errors."""
        batch = await self._json("GET", f"/batches/{batch_id}")
        for name in ("output_file_id", "error_file_id"):
            if not isinstance(batch.get(name), str):
                continue
            async for line in self._lines(f"/files/{batch[name]}/content"):
                response, error = line.get("response"), line.get("error")
                body = (
                    response.get("body") if isinstance(response, dict) and response.get("status_code") == 200 else None
                )
                yield self._answered(line.get("custom_id"), body, self._failure(response, error))


class AnthropicBatches(_Batches):
    """Anthropic's message batches: the requests in one body, the answers as JSON Lines."""

    async def submit(self, marker: str, prompts: Sequence[tuple[str, Prompt]]) -> str:
        """Submit the requests; returns the batch's id."""
        requests = [
            {"custom_id": custom_id, "params": self._wire.payload(self.model, prompt)} for custom_id, prompt in prompts
        ]
        return _id_of(await self._json("POST", "/v1/messages/batches", json={"requests": requests}))

    async def find(self, marker: str, *, count: int, since: datetime, known: Collection[str]) -> str | None:
        """Return the one batch of this size that was made since and that nobody accounts for.

        Raises:
            UnexpectedStatus: several fit, so that a person must look which is ours.
        """
        listed = await self._json("GET", "/v1/messages/batches", params={"limit": MOST_LISTED})
        fits = [_id_of(batch) for batch in listed.get("data", []) if _fits(batch, count, since)]
        unknown = [batch_id for batch_id in fits if batch_id not in known]
        if len(unknown) > 1:
            raise UnexpectedStatus(f"{len(unknown)} batches of {count} requests may be the one whose answer was lost")
        return unknown[0] if unknown else None

    async def state(self, batch_id: str) -> State:
        """Return whether the batch has ended."""
        status = (await self._json("GET", f"/v1/messages/batches/{batch_id}")).get("processing_status")
        return "ended" if status == "ended" else "running"

    async def answers(self, batch_id: str) -> AsyncIterator[Answered]:
        """Yield answers, errors and what expired."""
        async for line in self._lines(f"/v1/messages/batches/{batch_id}/results"):
            result = line.get("result")
            kind = str(result.get("type", "failed")) if isinstance(result, dict) else "failed"
            body = result.get("message") if isinstance(result, dict) and kind == "succeeded" else None
            failure = (
                self._failure(None, result.get("error")) if isinstance(result, dict) and kind == "errored" else kind
            )
            yield self._answered(line.get("custom_id"), body, failure)


def _fits(batch: Mapping[str, Any], count: int, since: datetime) -> bool:
    counts, made = batch.get("request_counts"), batch.get("created_at")
    if not isinstance(counts, dict) or not isinstance(made, str):
        return False
    return sum(counts.values()) == count and datetime.fromisoformat(made).astimezone(UTC) >= since


def _object(line: str) -> Mapping[str, Any] | None:
    if not line.strip():
        return None
    try:
        parsed = read_json(line)
    except ValueError:
        raise UnreadableResponse("a line of the batch's answers is not JSON") from None
    if not isinstance(parsed, dict):
        raise UnreadableResponse("a line of the batch's answers is not an object")
    return parsed


def _id_of(batch: Mapping[str, Any]) -> str:
    found = batch.get("id")
    if not isinstance(found, str) or not found.replace("_", "").replace("-", "").isalnum() or len(found) > 128:
        raise UnreadableResponse("the batch has no id")
    return found
