"""One call is one HTTP request: send a prompt in a provider's wire format, read the answer, name what went wrong.

This client never retries, because Temporal repeats attempts and two retriers multiply.
"""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import httpx
import structlog
from pydantic import SecretStr

from keyturn.authorities import public_authorities
from keyturn.errors import KeyturnError
from keyturn.llm.bodies import (
    MAX_BODY_BYTES,
    decode_json,
    expect_uncompressed,
    read_body,
    recordable,
    refused_fields,
    words_of,
)
from keyturn.llm.classify import error_for, error_in
from keyturn.llm.endpoint import LEAST_SECONDS_TO_ASK, Endpoint, Timeouts
from keyturn.llm.errors import (
    AuthenticationFailed,
    EndpointBusy,
    PromptFiltered,
    ProviderError,
    ProviderKeyUnavailable,
    ProviderTimeout,
    ProviderUnavailable,
    RequestRefused,
    UnreadableResponse,
)
from keyturn.llm.streams import Bounded, events_of
from keyturn.llm.wire import Completion, OnText, Usage, is_whole, whole_text
from keyturn.tasks.definition import Prompt

_log = structlog.get_logger("keyturn.llm")
# An error's body is some hundred bytes, and comes with its head.
FAILURE_BODY_SECONDS = 5.0
# Behind the mark of an answer's end come its usage and the stream's end, at once: a server that keeps the connection
# open then has nothing more to say.
BEHIND_THE_END_SECONDS = 5.0
# A header of a policy or of cookies may be longer than aiohttp's 8,190 bytes.
LONGEST_HEADER = 1 << 16


class HttpModelClient:
    """An endpoint, asked for one model.

    Args:
        client: makes the requests.
        endpoint: who is asked.
        model: for which model.
        passes_quota_on: whether the next one of its route is asked where its quota is used up.
    """

    def __init__(
        self, client: httpx.AsyncClient, endpoint: Endpoint, model: str, *, passes_quota_on: bool = False
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._wire = wire = endpoint.wire
        self._url, self._stream_url = endpoint.url(wire.path(model)), endpoint.url(wire.stream_path(model))
        self._headers_key: SecretStr | None = None
        self._headers: tuple[list[tuple[str, str]], list[tuple[str, str]]] = ([], [])
        self._unsupported = endpoint.unsupported_fields(model)
        self.concurrency = endpoint.limit_of(model)
        self.name = endpoint.name
        self.model = model
        self.passes_quota_on = passes_quota_on

    async def complete(
        self, prompt: Prompt, *, timeouts: Timeouts, trace_id: str, on_text: OnText | None = None
    ) -> Completion:
        """Ask once and return the answer.

        Args:
            prompt: what to ask.
            timeouts: what the request may take.
            trace_id: sent along.
            on_text: is called with the text so far whenever more of it came, if the answer is to come in pieces.

        Raises:
            ProviderError: the class says what the failure means and whether another attempt is worth it.
        """
        deadline, learned = time.monotonic() + timeouts.total, set[str]()
        key_was_renewed, waited = False, 0.0
        while True:
            known = frozenset(self._unsupported)
            begun = time.monotonic()
            async with self._place(replace(timeouts, total=max(deadline - begun, 0.0))):
                key = await self._key(replace(timeouts, total=max(deadline - time.monotonic(), 0.0)))
                waited += time.monotonic() - begun
                # What was waited for a place and a key is not the provider's: it has the rest, or is not asked at all.
                first_byte = max(timeouts.first_byte - waited, 0.0)
                if first_byte < min(LEAST_SECONDS_TO_ASK, timeouts.first_byte / 2):
                    raise EndpointBusy(f"the deadline passed after {waited:.3g} s of waiting for a free call or a key")
                limits = replace(timeouts, first_byte=first_byte, total=max(deadline - time.monotonic(), 0.0))
                try:
                    with self.concurrency.call():
                        return await self._request(prompt, timeouts, limits, key, trace_id, on_text)
                except PromptFiltered:  # an answer of its kind, as others give it with a 200
                    return Completion("", "filtered", "content_filter", self.model, Usage())
                except AuthenticationFailed:
                    if key_was_renewed or not self._endpoint.key.reject(key):
                        raise
                    key_was_renewed = True  # a short-lived one may have been taken back before its end
                except RequestRefused as error:
                    # A field that the server does not take costs it nothing to refuse, and us one more request, once.
                    new = error.refused_fields - known
                    if not new:
                        self._unsupported -= learned  # it was refused without them as well: they were not the fault
                        raise
                    learned |= new
                    self._unsupported |= new
                    _log.warning("provider_field_refused", provider=self.name, model=self.model, fields=sorted(new))

    @asynccontextmanager
    async def _place(self, timeouts: Timeouts) -> AsyncIterator[None]:
        """Take one of the calls that may be made at once; raises EndpointBusy where none comes free in time."""
        slots = self._endpoint.slots
        if slots is None:
            yield
            return
        try:
            async with asyncio.timeout(min(timeouts.first_byte, timeouts.total)):
                await slots.acquire()
        except TimeoutError:
            message = f"{self._endpoint.calls_at_once} calls are under way, as many as its calls_at_once allows"
            raise EndpointBusy(message) from None
        try:
            yield
        finally:
            slots.release()

    async def _key(self, timeouts: Timeouts) -> SecretStr:
        limit = min(timeouts.first_byte, timeouts.total)
        try:
            async with asyncio.timeout(limit):
                return await self._endpoint.key.current()
        except TimeoutError:
            raise ProviderKeyUnavailable(f"no key was given within {limit:.3g} s") from None

    def _headers_with(self, key: SecretStr, on_text: OnText | None) -> list[tuple[str, str]]:
        # They are made once a key: the same 64 times a second.
        if self._headers_key is not key:
            headers = {
                "accept": "application/json",
                # A compressed mebibyte may unfold to a gigabyte before it can be counted: none is asked for or taken.
                "accept-encoding": "identity",
                "content-type": "application/json",
                "host": self._url.netloc.decode(),
                **self._endpoint.headers_with(key),
            }
            streamed = headers | {"accept": "text/event-stream"}
            self._headers_key, self._headers = key, (list(headers.items()), list(streamed.items()))
        return self._headers[on_text is not None]

    async def _request(
        self,
        prompt: Prompt,
        timeouts: Timeouts,
        limits: Timeouts,
        key: SecretStr,
        trace_id: str,
        on_text: OnText | None,
    ) -> Completion:
        """Send one request: `limits` are what is left of the caller's `timeouts`, which an error names."""
        payload = self._wire.payload(self.model, prompt)
        if on_text is not None:
            payload |= self._wire.stream_fields
        if self._wire.adapt is not None and self._unsupported:
            payload = self._wire.adapt(payload, self._unsupported, prompt)
        # Made directly: a client's build_request merges defaults that are all stated here, at twice the cost.
        request = httpx.Request(
            "POST",
            self._url if on_text is None else self._stream_url,
            content=json.dumps(payload, ensure_ascii=False).encode(),
            headers=[*self._headers_with(key, on_text), ("x-client-request-id", trace_id)],
            extensions={"timeout": {"connect": limits.connect}},
        )
        response, answer, first_byte_ms = await self._exchange(request, timeouts, limits, on_text)
        if not response.is_success or error_in(answer) is not None:
            failure = self._error(response.status_code, answer, response.headers)
            if response.status_code in {400, 422} and self._wire.adapt is not None:
                failure.refused_fields = frozenset(refused_fields(answer, payload))
            raise failure
        completion = self._wire.completion(answer, self.model)
        if (tokens := completion.usage.total) is not None:
            self.concurrency.count_tokens(tokens)
        request_id = recordable(response.headers.get(self._wire.request_id, "")) or completion.request_id
        return replace(completion, request_id=request_id, first_byte_ms=first_byte_ms)

    async def _exchange(
        self, request: httpx.Request, timeouts: Timeouts, limits: Timeouts, on_text: OnText | None
    ) -> tuple[httpx.Response, Any, float]:
        began = time.perf_counter()
        first = asyncio.timeout(limits.first_byte)
        first_byte_ms = 0.0

        def on_first_byte() -> None:
            nonlocal first_byte_ms
            first_byte_ms = first_byte_ms or (time.perf_counter() - began) * 1000
            first.reschedule(None)

        try:
            async with asyncio.timeout(limits.total), first:
                response = await self._client.send(request, stream=True)
                self.concurrency.read(response.headers.raw)
                try:
                    # Any success: with 246, Portkey says that a guardrail which only reports has something to say.
                    if response.is_success and on_text is not None:
                        answer = await self._pieces(response, on_text, on_first_byte)
                    else:
                        on_first_byte()
                        body = await _body_of(response)
                        answer = decode_json(body)
                        if answer is None and not response.is_success:
                            answer = words_of(body, response)
                    return response, answer, first_byte_ms
                finally:
                    await response.aclose()
        except TimeoutError:
            waiting, seconds = "no complete answer", timeouts.total
            if first.expired():
                waiting, seconds = "no byte of an answer", timeouts.first_byte
            raise ProviderTimeout(f"{waiting} within {seconds:.3g} s") from None
        except KeyturnError:
            raise
        except Exception as error:
            # Only its type is repeated: the message may quote what was received. The deadlines that are timeouts stand
            # above: this transport calls a refused or dropped connection one too, and a server out of reach for
            # `connect` seconds is not there.
            cause = type(error.__cause__ or error).__name__
            raise ProviderUnavailable(f"the connection to the provider failed: {cause}") from None

    async def _pieces(self, response: httpx.Response, on_text: OnText, on_first_byte: Callable[[], None]) -> Any:
        """Return the whole of an answer that comes in pieces; `on_first_byte` is called with the first of its text."""
        expect_uncompressed(response)
        if isinstance(response.stream, httpx.AsyncByteStream):
            response.stream = Bounded(response.stream, MAX_BODY_BYTES)
        fold, text, halved = self._wire.fold(), "", False
        last = asyncio.timeout(None)
        try:
            async with last, aclosing(events_of(response)) as events:
                async for event in events:
                    if event.whole:  # a server that answers whole what was asked for in pieces
                        on_first_byte()
                        return event.data
                    if error_in(event.data) is not None or event.name == "error":
                        raise self._error(200, event.data, response.headers)
                    try:
                        more = fold.add(event)
                        text += more
                    except (TypeError, KeyError, IndexError, AttributeError, ValueError):
                        raise UnreadableResponse("the answer's stream is not in the provider's format") from None
                    if more:
                        on_first_byte()
                        halved = halved or not is_whole(more)
                        on_text(whole_text(text) if halved else text)
                    if fold.ended:
                        return fold.answer()
                    if fold.finished:
                        last.reschedule(asyncio.get_running_loop().time() + BEHIND_THE_END_SECONDS)
        except (httpx.HTTPError, OSError):  # a TimeoutError, too
            # The provider marked the end: a connection that breaks or stays open after it loses nothing.
            if not fold.finished:
                raise
        if fold.finished:
            return fold.answer()
        raise ProviderUnavailable("the answer's stream broke off")

    def _error(self, status: int, body: Any, headers: Mapping[str, str]) -> ProviderError:
        return error_for(status, body, headers, table=self._wire.errors, codes_of=self._wire.codes_of)


async def _body_of(response: httpx.Response) -> bytes:
    """Return the body; of a failure whose body may not be read, breaks off or stalls, the status says enough."""
    if response.is_success:
        return await read_body(response)
    with suppress(UnreadableResponse, httpx.HTTPError, OSError, TimeoutError):
        async with asyncio.timeout(FAILURE_BODY_SECONDS):
            return await read_body(response)
    return b""


class _NoCookies(httpx.Cookies):
    """Takes and sends none: no API here needs one, a tenant's would reach others, and reading them takes time."""

    def extract_cookies(self, response: httpx.Response) -> None:
        """Take none."""

    def set_cookie_header(self, request: httpx.Request) -> None:
        """Send none."""


class _Client(httpx.AsyncClient):
    @property
    def cookies(self) -> httpx.Cookies:
        return _NO_COOKIES

    @cookies.setter
    def cookies(self, cookies: object) -> None:
        raise TypeError("this client takes no cookies")


_NO_COOKIES = _NoCookies()


@asynccontextmanager
async def http_client(
    max_connections: int, *, trust_env: bool = True, verify: ssl.SSLContext | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """An httpx client over aiohttp's transport, which carries 64 calls at once ten times faster than httpx's own.

    Args:
        max_connections: at once.
        trust_env: whether the environment's proxies are used.
        verify: whose certificates are trusted; None for the public ones.
    """
    from aiohttp import ClientSession, DummyCookieJar, TCPConnector
    from httpx_aiohttp import AiohttpTransport

    authorities = verify or public_authorities()

    def session() -> ClientSession:
        return ClientSession(
            connector=TCPConnector(
                limit=max_connections, ssl=authorities, keepalive_timeout=limits.keepalive_expiry or 5.0
            ),
            cookie_jar=DummyCookieJar(),  # as above: it would take and send them itself
            max_field_size=LONGEST_HEADER,
            max_line_size=LONGEST_HEADER,
        )

    limits = httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
    transport = AiohttpTransport(limits=limits, verify=authorities, client=session)
    async with _Client(
        transport=transport,
        timeout=None,  # each caller bounds the whole
        follow_redirects=False,
        trust_env=trust_env,
    ) as client:
        yield client
