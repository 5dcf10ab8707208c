"""What is known of a server that answers: its provider, its address, its key, and what it does not take."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx
from pydantic import SecretStr

from keyturn.llm.concurrency import MOST_CALLS, ConcurrencyLimit
from keyturn.llm.keys import KeySource
from keyturn.llm.provider import Provider, WireFormat


@dataclass(frozen=True)
class Timeouts:
    """What one request may take, in seconds: each limit counts from the request's start."""

    connect: float
    first_byte: float
    total: float


# With less than this left for its first byte, a provider is not asked after a wait: the failure would be ours.
LEAST_SECONDS_TO_ASK = 1.0


@dataclass(frozen=True)
class Endpoint:
    """A server under its own name, as routes and records call it.

    Attributes:
        name: unique in one worker.
        provider: whose wire format, errors and batches it has.
        base_url: up to where the format's own path starts.
        key: gives its API key.
        key_header: the header that carries the key alone, such as Azure's `api-key`; None for the format's own.
        headers: sent with every request besides.
        query: parameters of every request, such as `api-version`.
        lacks: fields that it does not take.
        calls_at_once: as many as it is asked at once by one worker; None for no limit.
        takes_batches: whether it has the provider's batches.
        learned: fields that it refused, by model; they are left out from then on, as long as the process lives.
        slots: the semaphore of `calls_at_once`.
        limits: the concurrency limit of each model, as far as this worker has found it.
    """

    name: str
    provider: Provider
    base_url: str
    key: KeySource
    key_header: str | None = None
    headers: Mapping[str, SecretStr] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    lacks: frozenset[str] = frozenset()
    calls_at_once: int | None = None
    takes_batches: bool = False
    learned: dict[str, set[str]] = field(default_factory=dict)
    slots: asyncio.Semaphore | None = field(init=False, default=None)
    limits: dict[str, ConcurrencyLimit] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.calls_at_once is not None:
            object.__setattr__(self, "slots", asyncio.Semaphore(self.calls_at_once))

    @property
    def wire(self) -> WireFormat:
        """The format that it speaks."""
        return self.provider.wire

    def url(self, path: str) -> httpx.URL:
        """Return the address of a path of the format's."""
        return httpx.URL(self.base_url.rstrip("/") + path).copy_merge_params(dict(self.query))

    def headers_with(self, key: SecretStr) -> dict[str, str]:
        """Return the headers of a request that is made with `key`; where it is empty, none carries one."""
        name, before = self.wire.key_header if self.key_header is None else (self.key_header, "")
        if name == "authorization":
            before = "Bearer "
        carried = {name: before + key.get_secret_value()} if key.get_secret_value() else {}
        own = {name: value.get_secret_value() for name, value in self.headers.items()}
        return {"user-agent": "keyturn", **self.wire.headers, **carried, **own}

    def limit_of(self, model: str) -> ConcurrencyLimit:
        """Return the concurrency limit of a model: providers limit each by itself, and `calls_at_once` all together."""
        of = model if self.calls_at_once is None else ""
        if of not in self.limits:
            self.limits[of] = ConcurrencyLimit(most=self.calls_at_once or MOST_CALLS)
        return self.limits[of]

    def unsupported_fields(self, model: str) -> set[str]:
        """Return the fields that it rejects in requests to a model; a client that learns of one adds it."""
        return self.learned.setdefault(model, set(self.lacks))
