"""Calls of AWS's API, one try each, and what went wrong by name. It needs the extra `aws`.

Endpoint, region and credentials are found as AWS's own tools find them. No call is repeated here: whether its answer
was lost is for the caller to find out, which looks at what is there before it acts (docs/explanation/executor.md).
"""

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's own
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
)

from keyturn.execution.errors import AwsRefused, AwsUnavailable, KeyLimit, SecretLeaving, UserGone

T = TypeVar("T")
# IAM answers in tenths of a second: after 10 s no answer will come. A retry of boto3's own would hide a lost one.
ONE_TRY = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 1})
# Faults that pass by themselves: throttling, AWS's own, and what IAM has not replicated to all of its hosts yet.
_PASSING = {
    "ConcurrentModification",
    "ConcurrentModificationException",
    "EntityTemporarilyUnmodifiable",
    "InternalError",
    "InternalFailure",
    "InternalServiceError",
    "RequestLimitExceeded",
    "RequestThrottled",
    "ServiceFailure",
    "ServiceUnavailable",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}


class Absent(Exception):
    """There is no such secret, no such version of it, or no such user."""


# Reading AWS's description of a service takes a third of a second; a session caches it. Making clients is not safe in
# two threads at once, using them is.
_making = threading.Lock()
_session = functools.cache(boto3.session.Session)


def client_of(service: str, settings: dict[str, Any]) -> Any:
    """Return boto3's client of a service; raises AwsRefused."""
    try:
        with _making:
            return _session().client(service, **settings)
    except (BotoCoreError, ValueError) as error:
        raise AwsRefused(f"no client of {service}: {_type_name(error)}") from None


async def ask(call: Callable[[], T], *, passing: set[str] | None = None, absent: str | None = None) -> T:
    """Make one call in a thread; raises by name what went wrong, and repeats no text of AWS's but its error code."""
    try:
        return await asyncio.to_thread(call)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))[:64]
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        operation = error.operation_name
        if code in {"ResourceNotFoundException", "NoSuchEntity"} and absent is not None:
            raise Absent(absent) from None
        if code == "NoSuchEntity" and operation in {"ListAccessKeys", "CreateAccessKey"}:
            raise UserGone(f"{operation}: the user does not exist any more") from None
        if code == "NoSuchEntity":  # the key, or its user: the next attempt lists them, and sees which
            raise AwsUnavailable(f"{operation}: the key was deleted since it was listed") from None
        if code == "InvalidRequestException" and "delet" in str(error.response.get("Error", {}).get("Message")):
            raise SecretLeaving(f"{operation}: a secret of this name is scheduled for deletion") from None
        if code in _PASSING | (passing or set()) or status >= 500 or status == 429:
            raise AwsUnavailable(f"{operation}: {code}") from None
        if code == "LimitExceeded" and operation == "CreateAccessKey":
            raise KeyLimit("the user has two access keys") from None
        raise AwsRefused(f"{operation}: {code}") from None
    except (NoCredentialsError, NoRegionError) as error:
        raise AwsRefused(_type_name(error)) from None
    except (HTTPClientError, ConnectionError) as error:
        raise AwsUnavailable(f"no answer: {_type_name(error)}") from None
    except BotoCoreError as error:
        raise AwsRefused(_type_name(error)) from None


def _type_name(error: Exception) -> str:
    return type(error).__name__  # its text may name an endpoint with a password, or repeat what was sent
