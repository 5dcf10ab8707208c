"""How every program here reaches Temporal: by Temporal's own environment configuration, with payloads encrypted."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache

from temporalio.client import Client, Plugin
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode

from keyturn.application.encryption import encryption_plugin
from keyturn.errors import KeyturnError
from keyturn.keyring import Keyring
from keyturn.keyring_files import keyring_from_environment


class TemporalUnreachable(KeyturnError):
    """No Temporal server answers at the configured address, or it refuses this client."""

    kind = "temporal_unreachable"
    retryable = True
    next_step = "retry_with_backoff"
    hint = "Start one with `make dev`, or set TEMPORAL_ADDRESS (and TEMPORAL_NAMESPACE, TEMPORAL_API_KEY) to yours."


class TemporalRefused(KeyturnError):
    """The Temporal server refuses this call: an unknown namespace, a missing right, a limit."""

    kind = "temporal_refused"
    next_step = "fail_and_fix_request"
    hint = "Check TEMPORAL_NAMESPACE, and the rights of TEMPORAL_API_KEY there."


@contextmanager
def map_refusals() -> Iterator[None]:
    """Turn what the server says no with into a TemporalRefused, and its silence into a TemporalUnreachable."""
    try:
        yield
    except RPCError as error:
        raise map_rpc_error(error) from None


def map_rpc_error(error: RPCError) -> KeyturnError:
    """Return the error that a failed call to Temporal is to its caller."""
    status = error.status.name.lower().replace("_", " ")
    if error.status in {RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED}:
        return TemporalUnreachable(f"Temporal stopped answering ({status})")
    refused = TemporalRefused(f"Temporal refused the call ({status}): {error.message[:200]}")
    if "search attribute" in error.message:
        refused.hint = "Run `keyturn namespace` once: it adds Keyturn's search attributes to the namespace."
    return refused


# A server on another continent answers in a second. One that needs ten is not there, and a user waits for this message.
CONNECT_SECONDS = 10.0


@cache
def _silence_core() -> None:
    """Have the SDK's core log nothing, unless this process has said where that goes, as a worker has.

    By default it writes each retry of a call to standard error, in the middle of what a command shows.
    """
    with suppress(RuntimeError):  # there is a runtime: a worker's, or that of an earlier client
        Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=None)))


async def connect(
    address: str | None = None,
    *,
    keyring: Keyring | None = None,
    timeout_seconds: float = CONNECT_SECONDS,
    plugins: Sequence[Plugin] = (),
) -> Client:
    """Return a client by TEMPORAL_* variables or a profile of Temporal's configuration file, its payloads encrypted.

    Args:
        address: a server of our own (tests, the embedded stack): then no variable and no file counts.
        keyring: what encrypts payloads; None for the one that the environment names, or, with an address, for none.
        timeout_seconds: how long to wait for the server's first answer.
        plugins: of Temporal's SDK, such as its tracing.

    Raises:
        TemporalUnreachable: nothing was reached; the message names the address.
        SettingsInvalid: the environment names no payload keys.
    """
    if keyring is None and address is None:
        keyring = keyring_from_environment()
    try:
        options = (
            ClientConfig.load_client_connect_config()
            if address is None
            else ClientConfig.load_client_connect_config(
                disable_file=True, override_env_vars={"TEMPORAL_ADDRESS": address}
            )
        )
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        # The first line alone: below it the faulty line of the file is quoted, which may contain the API key.
        reason = str(error).splitlines()[0][:200]
        raise TemporalUnreachable(f"Temporal's configuration cannot be read: {reason}") from None
    _silence_core()
    target = options.setdefault("target_host", "localhost:7233")
    if keyring is not None:
        plugins = [encryption_plugin(keyring, options.get("namespace", "default")), *plugins]
    try:
        async with asyncio.timeout(timeout_seconds):
            return await Client.connect(**options, data_converter=pydantic_data_converter, plugins=plugins)
    except TimeoutError:
        reason = f"no answer within {timeout_seconds:g} s"
    except (RuntimeError, ValueError) as error:
        # The SDK gives the transport's whole debug text; the quoted message in it is what a person can use.
        quoted = re.findall(r'(?:message|error): "([^"]+)"', str(error))
        reason = quoted[-1] if quoted else str(error)[:200]
    raise TemporalUnreachable(f"no Temporal server reached at {target}: {reason}")
