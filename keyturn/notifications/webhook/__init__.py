"""One message to one receiver over HTTP: enveloped, signed, sent once an attempt, and its answer classified.

Envelope: CloudEvents 1.0, structured JSON (https://cloudevents.io); its `data` is a `JobMessage`, published as
docs/schemas/rotation_job.created.json. `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header) is the event's id:
the job's own for a created job, and the job's with the message's number for one that was tightened since.
It is signed by Standard Webhooks (https://github.com/standard-webhooks/standard-webhooks, specification 1.0), which
every receiver's library verifies: `webhook-id` is the idempotency key, `webhook-timestamp` the time of sending, and
`webhook-signature` one `v1,BASE64` a secret, so that two secrets overlap while they are exchanged.
"""

import asyncio
import base64
import re
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Literal

import httpx
from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings

from keyturn.backoff import wait_asked_for
from keyturn.errors import SettingsInvalid
from keyturn.foreign_json import read_json
from keyturn.jobs.channel import Channel
from keyturn.jobs.errors import ReceiverConflict, ReceiverRefused, ReceiverUnavailable
from keyturn.jobs.outbox import Message
from keyturn.llm.http import http_client
from keyturn.notices.channel import Notifier, NotifierContext
from keyturn.notifications.webhook.destinations import fault_of_target
from keyturn.notifications.webhook.notices import NoticeWebhook
from keyturn.notifications.webhook.signing import envelope, event_id, signature
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT, http_url
from keyturn.tokens import parse_tokens

IDEMPOTENCY_KEY = "Idempotency-Key"
# A receiver writes a row and answers; what takes ten seconds is sent again, with the same key.
SEND_SECONDS = 10.0
MAX_ANSWER_BYTES = 64 * 1024  # only a 409's body is read, and it names a job


class Webhook:
    """The receiver at `url`.

    Args:
        http: a client that follows no redirect; one request an attempt.
        url: https, or http on loopback.
        keys: secrets that sign, by their id; one, or two while they are exchanged.
        allow_private: whether addresses of private networks may be asked.
    """

    def __init__(
        self, http: httpx.AsyncClient, url: str, keys: Mapping[str, SecretStr], *, allow_private: bool = False
    ) -> None:
        self._http = http
        self._url = httpx.URL(url)
        self._keys = keys
        self._allow_private = allow_private

    async def send(self, message: Message) -> str:
        """Send `message` once; returns how the receiver took it: `taken`, or `known` if it had it already.

        Raises:
            ReceiverUnavailable: no answer, or one that asks for patience; send it again.
            ReceiverConflict, ReceiverRefused: a person must look at it.
        """
        return await self.post(envelope(message), event_id(message))

    async def post(self, body: bytes, key: str) -> str:
        """Send an event's body under its idempotency key once; see `send`."""
        answer, answer_body = await self._post(body, key)
        return _classify(answer, answer_body, key)

    async def _post(self, body: bytes, key: str) -> tuple[httpx.Response, bytes]:
        """Send a body once; returns the answer, and its body if that may name a conflict."""
        address = await self._address()
        headers = {
            "Host": self._url.netloc.decode(),
            "Content-Type": "application/cloudevents+json",
            IDEMPOTENCY_KEY: key,
            **signature(key, body, self._keys, now=time.time()),
        }
        # To the address that was looked at, and to no other: a name may point elsewhere a moment later.
        request = self._http.build_request(
            "POST",
            self._url.copy_with(host=address),
            content=body,
            headers=headers,
            extensions={"sni_hostname": self._url.host},
        )
        try:
            async with asyncio.timeout(SEND_SECONDS):
                answer = await self._http.send(request, stream=True, follow_redirects=False)
                try:
                    answer_body = await _read_body(answer) if answer.status_code == 409 else b""
                finally:
                    await answer.aclose()
        except (httpx.HTTPError, OSError) as error:  # asyncio's TimeoutError is an OSError
            raise ReceiverUnavailable(f"the receiver did not answer: {type(error).__name__}") from None
        return answer, answer_body

    async def _address(self) -> str:
        """Return the address to connect to; raises ReceiverRefused for one that may not be asked."""
        host, loop = self._url.host, asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, self._url.port or 443, type=socket.SOCK_STREAM)
        except UnicodeError:  # a label of over 63 letters, or of none
            raise ReceiverRefused("the receiver's name is no host name") from None
        except OSError as error:
            raise ReceiverUnavailable(f"the receiver's name does not resolve: {error.strerror}") from None
        addresses = [str(entry[4][0]) for entry in found]
        for address in addresses:
            fault = fault_of_target(self._url.scheme, address, allow_private=self._allow_private)
            if fault is not None:
                raise ReceiverRefused(fault)
        return addresses[0]


async def _read_body(answer: httpx.Response) -> bytes:
    answer_body = b""
    async for chunk in answer.aiter_bytes():
        answer_body += chunk
        if len(answer_body) > MAX_ANSWER_BYTES:
            return b""
    return answer_body


def _classify(answer: httpx.Response, answer_body: bytes, key: str) -> str:
    status = answer.status_code
    if 200 <= status < 300:
        return "taken"
    if status == 409 and _names_this_message(answer_body, key):
        return "known"
    wait = wait_asked_for(answer.headers)
    if status in {408, 423, 425, 429} or status >= 500 or (status == 409 and (wait or _is_under_way(answer_body))):
        raise ReceiverUnavailable(f"the receiver answered {status}", retry_after=wait)
    if status in {409, 422}:
        raise ReceiverConflict(f"the receiver answered {status}: it has this job's key from another request")
    raise ReceiverRefused(f"the receiver answered {status}")


# What receivers answer while the same request is in progress elsewhere: the draft on idempotency keys has 409 for it
# (draft-ietf-httpapi-idempotency-key-header, 2.6), Stripe `idempotency_key_in_use`, others their own words.
_UNDER_WAY = re.compile(
    rb"\bin[ _-]progress\b|\boutstanding\b|\bstill (?:being )?process|\bbeing processed\b|(?:\b|_)in[ _-]use\b"
    rb"|\bconcurrent(?:ly)?\b|\btry (?:it )?again (?:later|in)\b|\bretry (?:later|after|in)\b",
    re.IGNORECASE,
)


def _is_under_way(answer_body: bytes) -> bool:
    return _UNDER_WAY.search(answer_body) is not None


def _names_this_message(answer_body: bytes, key: str) -> bool:
    """Whether a conflict names what was sent: the event, or the job that a first message is of."""
    try:
        body = read_json(answer_body)
    except ValueError:
        return False
    named = [body.get("job_id"), body.get("id")] if isinstance(body, dict) else []
    return any(name == key for name in named)


def _receiver_url(value: str) -> str:
    url = httpx.URL(http_url(value))
    if url.scheme != "https" and url.host not in {"localhost", "127.0.0.1", "::1"}:
        raise ValueError("must use https, or http on loopback")
    return value


def _keys(value: SecretStr) -> SecretStr:
    secrets = parse_tokens(value.get_secret_value())
    if len(secrets) > 2:
        raise ValueError("names more than two keys: one signs, or two while one is replaced")
    for name, secret in secrets.items():
        text = secret.get_secret_value()
        try:
            if text.startswith("whsec_"):
                base64.b64decode(text.removeprefix("whsec_"), validate=True)
        except ValueError:  # a receiver's library would read another secret than we do
            raise ValueError(f"the secret of {name} starts with whsec_, and the rest is not padded Base64") from None
    return value


class WebhookSettings(BaseSettings):
    """Where messages are sent, and by which secrets they are signed."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    url: Annotated[str, AfterValidator(_receiver_url)] | None = Field(
        default=None,
        alias="KEYTURN_WEBHOOK_URL",
        description="The receiver of new jobs: https, or http on loopback.",
    )
    keys: Annotated[SecretStr, AfterValidator(_keys)] | None = Field(
        default=None,
        alias="KEYTURN_WEBHOOK_KEYS",
        description="The secrets that sign messages: ID:SECRET of 32 characters or more; two while one is replaced.",
    )
    private: Literal["refuse", "allow"] = Field(
        default="refuse",
        alias="KEYTURN_WEBHOOK_PRIVATE",
        description="Whether the receiver may have a private address; link-local ones are always refused.",
    )

    @model_validator(mode="after")
    def _expect_keys(self) -> "WebhookSettings":
        if self.url is not None and self.keys is None:
            raise ValueError(
                "KEYTURN_WEBHOOK_KEYS is not set: messages to KEYTURN_WEBHOOK_URL are signed with its ID:SECRET"
            )
        return self


@asynccontextmanager
async def _open(settings: WebhookSettings, most_at_once: int) -> AsyncIterator[Webhook]:
    if settings.url is None or settings.keys is None:
        raise SettingsInvalid("KEYTURN_WEBHOOK_URL is not set")
    keys = parse_tokens(settings.keys.get_secret_value())
    # No proxy of the environment: the address that was looked at must be the one that is asked.
    async with http_client(most_at_once, trust_env=False) as http:
        yield Webhook(http, settings.url, keys, allow_private=settings.private == "allow")


@asynccontextmanager
async def _notify(settings: WebhookSettings, context: NotifierContext) -> AsyncIterator[Notifier]:
    async with _open(settings, context.most_at_once) as webhook:
        yield NoticeWebhook(webhook)


CHANNEL = Channel(
    "webhook",
    WebhookSettings,
    is_on=lambda settings: settings.url is not None,
    open=_open,
    notify=_notify,
    alone=True,
)
