"""Calls of AWS's API, one try each, and what went wrong by name. It needs the extra `aws`.

Endpoint, region and credentials are found as AWS's own tools find them. No call is repeated here: whether its answer
was lost is for the caller to find out, which looks at what is there before it acts (docs/explanation/executor.md).
"""

import asyncio
import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's own
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.parsers import ResponseParserError

from keyturn.execution.errors import (
    CloudRefused,
    CloudUnavailable,
    CredentialsMissing,
    KeyLimit,
    SecretLeaving,
    UserGone,
)

T = TypeVar("T")
# IAM answers in tenths of a second: after 10 s no answer will come. A retry of boto3's own would hide a lost one.
ONE_TRY = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 1})
# Faults that pass by themselves: throttling, AWS's own, and what IAM has not replicated to all of its hosts yet.
_PASSING = {
    "BandwidthLimitExceeded",
    "ConcurrentModification",
    "ConcurrentModificationException",
    "EntityTemporarilyUnmodifiable",
    "InternalError",
    "InternalFailure",
    "InternalServiceError",
    "IDPCommunicationError",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceFailure",
    "ServiceUnavailable",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
# Signatures have a time, and are refused where it is some minutes off.
_OF_THE_CLOCK = {"RequestExpired", "RequestTimeTooSkewed", "InvalidSignatureException", "SignatureDoesNotMatch"}


class Absent(Exception):
    """There is no such secret, no such version of it, or no such user."""


# Reading AWS's description of a service takes a third of a second; a session caches it. Making clients is not safe in
# two threads at once, using them is.
MAKING = threading.Lock()
_session = functools.cache(boto3.session.Session)


def client_of(service: str, settings: dict[str, Any], session: boto3.session.Session | None = None) -> Any:
    """Return boto3's client of a service, of the environment's session unless another is given; raises CloudRefused."""
    try:
        with MAKING:
            return (session or _session()).client(service, **settings)
    except BotoCoreError as error:
        raise _failure_of(error, set(), None) from None
    except ValueError as error:
        raise CloudRefused(f"no client of {service}: {_type_name(error)}") from None


async def ask(call: Callable[[], T], *, passing: set[str] | None = None, absent: str | None = None) -> T:
    """Make one call in a thread; raises by name what went wrong, and repeats no text of AWS's but its error code."""
    return await asyncio.to_thread(ask_now, call, passing=passing, absent=absent)


def ask_now(call: Callable[[], T], *, passing: set[str] | None = None, absent: str | None = None) -> T:
    """Make one call; raises as `ask`, and outside of `except`: botocore's error has the request with its body."""
    found: T | None = None
    failure: Exception | None = None
    try:
        found = call()
    except BaseException as error:
        failure = _failure_of(error, passing or set(), absent)
    if failure is not None:
        raise failure
    return cast("T", _Answer(found) if isinstance(found, dict) else found)


class _Answer(dict[str, Any]):
    """An answer of AWS's. Of half a body of JSON, boto3 makes one without its fields."""

    def __missing__(self, name: str) -> Any:
        raise CloudUnavailable(f"the answer is not whole: it has no {name}")


def _failure_of(error: BaseException, passing: set[str], absent: str | None) -> Exception:
    if isinstance(error, ClientError):
        return _refusal_of(error, passing, absent)
    if isinstance(error, NoCredentialsError | PartialCredentialsError | ProfileNotFound):
        return CredentialsMissing("AWS finds no credentials here")
    if isinstance(error, NoRegionError):
        return CredentialsMissing("no AWS region is set (AWS_REGION, or the profile's)")
    # A KeyError: a page that is XML, too, and is none of AWS's answers.
    if isinstance(error, HTTPClientError | ConnectionError | ResponseParserError | KeyError):
        return CloudUnavailable(f"no answer of AWS: {_in_words(error)}")
    if isinstance(error, CredentialRetrievalError | MetadataRetrievalError):  # an agent of the cloud that starts, too
        return CloudUnavailable(f"no credentials now: {_type_name(error)}")
    if isinstance(error, BotoCoreError):
        return CloudRefused(_type_name(error))
    raise error


def _refusal_of(error: ClientError, passing: set[str], absent: str | None) -> Exception:  # noqa: PLR0911 - a table
    code = str(error.response.get("Error", {}).get("Code", "unknown"))[:64]
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    operation = error.operation_name
    if code in {"ResourceNotFoundException", "NoSuchEntity"} and absent is not None:
        return Absent(absent)
    if code == "NoSuchEntity" and operation in {"ListAccessKeys", "CreateAccessKey"}:
        return UserGone(f"{operation}: the user does not exist any more")
    if code == "NoSuchEntity":  # the key, or its user: the next attempt lists them, and sees which
        return CloudUnavailable(f"{operation}: the key was deleted since it was listed")
    if code == "InvalidRequestException" and "delet" in str(error.response.get("Error", {}).get("Message")):
        return SecretLeaving(f"{operation}: a secret of this name is scheduled for deletion")
    if code in _PASSING | passing or status >= 500 or status == 429:
        return CloudUnavailable(f"{operation}: {code}")
    if code == "ResourceExistsException" and operation == "CreateSecret":
        return CloudUnavailable(f"{operation}: another attempt has created it")
    if code == "LimitExceeded" and operation == "CreateAccessKey":
        return KeyLimit("the user has two access keys")
    clock = ": is this machine's clock right?" if code in _OF_THE_CLOCK else ""
    return CloudRefused(f"{operation}: {code}{clock}")


_WORDS: Mapping[str, str] = {
    "EndpointConnectionError": "its address cannot be reached",
    "ConnectTimeoutError": "its address did not answer in time",
    "ReadTimeoutError": "it did not answer in time",
    "ConnectionClosedError": "the connection was closed",
    "SSLError": "its certificate is not trusted",
    "ProxyConnectionError": "the proxy cannot be reached",
}


def _in_words(error: BaseException) -> str:
    return _WORDS.get(_type_name(error), _type_name(error))


def _type_name(error: BaseException) -> str:
    return type(error).__name__  # its text may name an endpoint with a password, or repeat what was sent
