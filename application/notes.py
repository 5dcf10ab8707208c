"""What the one who asks for a rotation should know beside its outcome."""

from contextlib import suppress

from temporalio.client import Client
from temporalio.service import RPCError

from keyturn.application.namespace import pollers
from keyturn.policy.catalogue import Catalogue
from keyturn.policy.grounding import request_digest
from keyturn.rotations.contracts import RotationRequest
from keyturn.rotations.outcomes import JobCreated, RotationOutcome, TimedOut


def uncovered(catalogue: Catalogue, request: RotationRequest) -> list[str]:
    """Return a note on the policy lines of a request that are about other kinds of credential; none if all cover it."""
    lines = catalogue.resolve(request.policy_lines)
    others = [str(line.ref) for line in lines if request.credential.kind not in line.applies_to]
    kind = request.credential.kind.replace("_", " ")
    said = f"{', '.join(others)} {'covers' if len(others) == 1 else 'cover'} no {kind}, and "
    return [f"{said}{'was' if len(others) == 1 else 'were'} not considered"] if others else []


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
