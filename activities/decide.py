"""`decide`: the read-only step. It may run any number of times."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

from temporalio import activity

from keyturn.activities.failures import map_errors
from keyturn.rotations.contracts import Assessment, RotationRequest


class Decider(Protocol):
    """Answers a rotation request with a judged verdict."""

    async def decide(self, request: RotationRequest, attempt: int, *, at: datetime) -> Assessment:
        """Answer `request` as of `at`; raises a KeyturnError."""
        ...


class Decide:
    """The activity `decide`, on the `decider` that the worker wires in."""

    def __init__(self, decider: Decider) -> None:
        self._decider = decider

    @property
    def activities(self) -> list[Callable[..., Any]]:
        """All of them, as a worker registers them."""
        return [self.decide]

    @activity.defn
    async def decide(self, request: RotationRequest) -> Assessment:
        """Ask the model and judge its answer; the verdict is recorded in history with this result."""
        with map_errors():
            info = activity.info()
            # How old the evidence is, is judged by the server's clock: a worker's own may be days off.
            return await self._decider.decide(request, info.attempt, at=info.current_attempt_scheduled_time)
