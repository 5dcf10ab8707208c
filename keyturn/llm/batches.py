"""Batches: many questions in one request, answered within a day, at a lower price.

No provider takes an idempotency key here. So a submit whose answer was lost is looked for before another is made.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, Protocol

import httpx

from keyturn.foreign_json import read_json
from keyturn.llm.classify import error_for
from keyturn.llm.endpoint import Endpoint
from keyturn.llm.errors import ProviderError, ProviderTimeout, ProviderUnavailable, UnreadableResponse
from keyturn.llm.streams import lines_in
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
class BatchAnswer:
    """One answer of a batch; `completion` is None if the provider has none for it, and `why` says so."""

    custom_id: str
    completion: Completion | None
    why: str = ""


class BatchClient(Protocol):
    """A provider's batches, for one model."""

    name: str
    model: str
    price: Decimal  # of an answer in a batch, as a part of the same one's asked for alone

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

    def answers(self, batch_id: str) -> AsyncIterator[BatchAnswer]:
        """Yield the answers of a batch that has ended, in any order, perhaps some twice. Raises a ProviderError."""
        ...


class HttpBatchClient:
    """An endpoint's batches, for one model: what every provider's have in common."""

    price = Decimal("0.5")  # OpenAI's and Anthropic's

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

    async def ask(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        """Make one request, and return the object that answers it; raises a ProviderError."""
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
        if not answer.is_success:  # Azure answers 201
            self._refuse(answer, body)
        if not isinstance(body, dict):
            raise UnreadableResponse("the answer is not a JSON object")
        return body

    async def lines(self, path: str) -> AsyncIterator[Mapping[str, Any]]:
        """Yield the objects of a file of JSON Lines as they come."""
        try:
            async with (
                asyncio.timeout(REQUEST_SECONDS),
                self._client.stream("GET", **await self._request(path)) as answer,
            ):
                if not answer.is_success:
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

    def failure(self, response: Any, error: Any) -> str:
        """Return why a line has no answer, under the name that the same failure has for a single call."""
        status: int = 200
        body: Any = {"error": error}
        if isinstance(response, dict) and type(response.get("status_code")) is int:
            status, body = response["status_code"], response.get("body")
        elif isinstance(error, dict) and isinstance(error.get("error"), dict):  # Anthropic nests one in another
            body = error
        if error is None and status == 200:
            return "failed"
        return error_for(status, body, {}, table=self._wire.errors, codes_of=self._wire.codes_of).kind

    def read_answer_line(self, custom_id: Any, body: Any, why: str) -> BatchAnswer:
        """Return a line's answer, or `why` there is none; raises UnreadableResponse if it names no request."""
        if not isinstance(custom_id, str):
            raise UnreadableResponse("an answer of the batch has no custom id")
        if body is None:
            return BatchAnswer(custom_id, None, why[:64])
        try:
            return BatchAnswer(custom_id, self._wire.completion(body, self.model))
        except ProviderError as error:  # of this line alone: the others are read all the same
            return BatchAnswer(custom_id, None, error.kind)


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


def id_of(batch: Mapping[str, Any]) -> str:
    """Return the id of a batch, if it fits into a path; raises UnreadableResponse."""
    found = batch.get("id")
    if not isinstance(found, str) or not found.replace("_", "").replace("-", "").isalnum() or len(found) > 128:
        raise UnreadableResponse("the batch has no id")
    return found
