"""What tests of every cloud's keys share."""

import uuid
from collections.abc import Awaitable, Callable
from typing import TypeVar

from keyturn.contracts import CredentialKind
from keyturn.execution.errors import CloudUnavailable
from keyturn.jobs.store import JobStore
from tests.support.cases import order

T = TypeVar("T")


async def create_job(store: JobStore, account_id: str, key_id: str, *, kind: CredentialKind) -> str:
    """A job that orders the rotation of a key."""
    ordered = order(account_id=account_id)
    credential = ordered.credential.model_copy(update={"key_id": key_id, "kind": kind})
    ordered = ordered.model_copy(update={"credential": credential})
    return (await store.create_once(ordered, idempotency_key=f"rotate:{uuid.uuid4().hex}", fence=1)).job_id


async def patiently(step: Callable[[], Awaitable[T]], *, tries: int = 6) -> T:
    """As Temporal does: what passes is tried again."""
    for _ in range(tries - 1):
        try:
            return await step()
        except CloudUnavailable:
            continue
    return await step()
