"""`record_event`: writes a user's or operator's action on a rotation into the audit trail once."""

from collections.abc import Callable
from typing import Any, Protocol

from temporalio import activity

from keyturn.activities.failures import map_errors
from keyturn.rotations.contracts import RotationEvent


class AuditTrail(Protocol):
    """The store of events."""

    async def record_event(self, event: RotationEvent, *, workflow_id: str, event_id: str) -> None:
        """Add the event, once for an id; raises a KeyturnError."""
        ...


class RecordEvent:
    """The activity `record_event`, on `trail`."""

    def __init__(self, trail: AuditTrail) -> None:
        self._trail = trail

    @property
    def activities(self) -> list[Callable[..., Any]]:
        """All of them, as a worker registers them."""
        return [self.record_event]

    @activity.defn
    async def record_event(self, event: RotationEvent) -> None:
        """Add `event` of this workflow to the audit trail."""
        with map_errors():
            info = activity.info()
            if info.workflow_id is None:
                raise RuntimeError("record_event runs in a workflow only: the audit trail is the workflow's")
            # One execution of the activity is one event, however many attempts it takes.
            event_id = f"{info.workflow_run_id}:{info.activity_id}"
            await self._trail.record_event(event, workflow_id=info.workflow_id, event_id=event_id)
