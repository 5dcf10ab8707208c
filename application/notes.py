"""What the one who asks for a rotation should know beside its outcome."""

from contextlib import suppress

from temporalio.client import Client
from temporalio.service import RPCError

from keyturn.application.namespace import pollers
from keyturn.policy.grounding import request_digest
from keyturn.rotations.contracts import RotationRequest
from keyturn.rotations.outcomes import JobCreated, RotationOutcome, TimedOut


async def notes_on(client: Client, request: RotationRequest, outcome: RotationOutcome, *, task_queue: str) -> list[str]:
    """Return what the one who asked should know beside the outcome.

    Args:
        client: a connected client.
        request: as it was asked now.
        outcome: what the rotation came to; it may be an earlier one's.
        task_queue: where workers poll.
    """
    if isinstance(outcome, JobCreated) and outcome.request_digest != request_digest(request):
        return ["the key has its job already: what is stated of it now was not considered"]
    if isinstance(outcome, TimedOut):
        with suppress(RPCError):
            if not await pollers(client, task_queue):
                return [f"no worker has polled the task queue {task_queue}: start one with `keyturn worker`"]
    return []
