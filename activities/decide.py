"""`decide`: the read-only step. It may run any number of times."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Protocol

from temporalio import activity

from keyturn.activities.failures import map_errors
from keyturn.rotations.contracts import Assessment, JobOrder, RotationRequest
from keyturn.rotations.decisions import Disagreement, GroundedDecision
from keyturn.waivers.contracts import AppliedWaiver


class Decider(Protocol):
    """Answers a rotation request with a judged verdict."""

    async def decide(self, request: RotationRequest, attempt: int, *, at: datetime) -> Assessment:
        """Answer `request` as of `at`; raises a KeyturnError."""
        ...


async def no_waiver(subject: RotationRequest | JobOrder, decision: GroundedDecision) -> AppliedWaiver | None:
    """Look up no waiver: where there is none."""
    return None


# Returns what exempts the key of a request or an order that is due by a decision; raises a KeyturnError.
WaiverOf = Callable[[RotationRequest | JobOrder, GroundedDecision], Awaitable[AppliedWaiver | None]]


class Decide:
    """The activity `decide`, on the `decider` that the worker wires in; `waiver_of` looks up what exempts a due key."""

    def __init__(self, decider: Decider, waiver_of: WaiverOf = no_waiver) -> None:
        self._decider = decider
        self._waiver_of = waiver_of

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
            assessment = await self._decider.decide(request, info.attempt, at=info.current_attempt_scheduled_time)
            due = _due_decision(assessment)
            waiver = None if due is None else await self._waiver_of(request, due)
            return assessment if waiver is None else assessment.model_copy(update={"waiver": waiver})


def _due_decision(assessment: Assessment) -> GroundedDecision | None:
    """Return the decision that the key is due, by rule where the model disagrees; None if it is not."""
    verdict = assessment.verdict
    decision = verdict.supported if isinstance(verdict, Disagreement) else verdict
    return decision if isinstance(decision, GroundedDecision) and decision.decision == "eligible" else None
