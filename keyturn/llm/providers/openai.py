"""OpenAI chat completions, which llama.cpp, Ollama and vLLM speak too.

One call is one HTTP request: this client never retries, because Temporal repeats attempts and two retriers multiply.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from pydantic import JsonValue, SecretStr

from keyturn.errors import ProviderTimeout, ProviderUnavailable, UnreadableResponse
from keyturn.llm.classify import error_for
from keyturn.llm.prompt import Prompt
from keyturn.llm.wire import Completion, Finish

# An answer of three fields takes about 40 tokens; models that reason first spend some hundreds on that.
MAX_COMPLETION_TOKENS = 2_000
# 1 MiB is 100 times what 2,000 tokens make: what is larger is not an answer, and is not read to its end.
MAX_BODY_BYTES = 1 << 20
_FINISH: dict[str, Finish] = {"stop": "complete", "length": "truncated", "content_filter": "filtered"}


def payload(model: str, prompt: Prompt) -> dict[str, JsonValue]:
    """Return the request body for `prompt`. No sampling settings: newer models refuse them."""
    return {
        "model": model,
        "messages": [
            {"role": "system", "content": prompt.system},
            {"role": "user", "content": prompt.user},
        ],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": prompt.schema_name, "strict": True, "schema": prompt.schema},
        },
        "max_completion_tokens": MAX_COMPLETION_TOKENS,
    }


class OpenAIProvider:
    """An OpenAI-compatible server at `base_url` (up to and with `/v1`), asked for `model` with `api_key`."""

    name = "openai"

    def __init__(self, client: httpx.AsyncClient, *, base_url: str, model: str, api_key: SecretStr) -> None:
        self._client = client
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._api_key = api_key
        self.model = model

    async def complete(self, prompt: Prompt, *, timeout_seconds: float, trace_id: str) -> Completion:
        """Ask once and return the answer; raises the ProviderError that the failure stands for.

        `timeout_seconds` bounds the whole call: connecting, waiting and reading.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                status, headers, body = await self._post(payload(self.model, prompt), trace_id)
        except TimeoutError:
            raise ProviderTimeout(f"no complete answer within {timeout_seconds:g} s") from None
        except (httpx.HTTPError, OSError) as error:
            # The only deadline is ours, above: what this transport calls a timeout is a refused or dropped connection.
            cause = type(error.__cause__ or error).__name__
            raise ProviderUnavailable(f"the connection to the provider failed: {cause}") from None
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if status != 200:
            raise error_for(status, answer, headers)
        return _completion(answer, self.model)

    async def _post(self, request: dict[str, JsonValue], trace_id: str) -> tuple[int, httpx.Headers, bytes]:
        headers = {
            "authorization": f"Bearer {self._api_key.get_secret_value()}",
            "x-client-request-id": trace_id,
        }
        async with self._client.stream("POST", self._url, json=request, headers=headers) as response:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise UnreadableResponse("the answer is larger than 1 MiB")
            return response.status_code, response.headers, bytes(body)


@asynccontextmanager
async def http_client(max_connections: int) -> AsyncIterator[httpx.AsyncClient]:
    """An httpx client over aiohttp's transport, which carries 64 calls at once ten times faster than httpx's own."""
    from httpx_aiohttp import AiohttpTransport

    # Deadlines are the caller's, as one total: a limit a phase would add up to more than the user was promised.
    limits = httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
    transport = AiohttpTransport(limits=limits)
    async with httpx.AsyncClient(transport=transport, timeout=None, follow_redirects=False) as client:  # noqa: S113
        yield client


def _completion(answer: Any, asked_model: str) -> Completion:
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        finish_reason = choice["finish_reason"]
        text = message.get("content")
        refusal = message.get("refusal")
        usage = answer.get("usage") or {}
        model = answer.get("model")
    except (TypeError, KeyError, IndexError, AttributeError):
        raise UnreadableResponse("the answer is not a chat completion") from None
    if not isinstance(finish_reason, str) or (text is not None and not isinstance(text, str)):
        raise UnreadableResponse("the answer is not a chat completion")
    return Completion(
        text=text or "",
        finish="refused" if refusal else _FINISH.get(finish_reason, "complete"),
        finish_reason=_name(finish_reason),
        model=(_name(model) if isinstance(model, str) else "") or asked_model,
        input_tokens=_count(usage, "prompt_tokens"),
        output_tokens=_count(usage, "completion_tokens"),
    )


def _name(text: str) -> str:
    """A name as it may be recorded: short, printable, one line."""
    return "".join(letter for letter in text[:64] if letter.isascii() and letter.isprintable())


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and value >= 0 else None
