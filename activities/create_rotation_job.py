"""`create_rotation_job`: the only step with an effect, made idempotent by the workflow's id."""

from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from typing import Any, Protocol

from temporalio import activity

from keyturn.activities.decide import WaiverOf, no_waiver
from keyturn.activities.failures import map_errors
from keyturn.jobs.errors import OrderOfAnother
from keyturn.policy.catalogue import Catalogue
from keyturn.policy.grounding import confirm
from keyturn.rotations.contracts import JobOrder, RotationRequest
from keyturn.rotations.outcomes import RotationJob
from keyturn.waivers.errors import KeyWaived


class JobState(Protocol):
    """What a job is at, and its date."""

    @property
    def state(self) -> str:
        """Its state."""
        ...

    @property
    def rotate_by(self) -> datetime | None:
        """Its date; None if it has none."""
        ...


# Returns who owns the key of an order or a question, and who does by the inventory; raises a KeyturnError.
OwnersOf = Callable[[JobOrder | RotationRequest], Awaitable[tuple[str | None, str | None]]]


async def recorded_alone(order: JobOrder | RotationRequest) -> tuple[str | None, str | None]:
    """Look nothing up: the owner is the inventory's."""
    return order.owner, order.owner


# From a job's ID to its state; None if there is no such job.
StateOfJob = Callable[[str], Awaitable[JobState | None]]


class JobClaims(Protocol):
    """Wherever jobs are created once."""

    async def create_once(self, order: JobOrder, *, idempotency_key: str, fence: int) -> RotationJob:
        """Create or return the job of the key; raises a KeyturnError."""
        ...


class JobAnnouncements(Protocol):
    """Starts the delivery of new jobs."""

    async def announce(self, job_id: str, *, urgent: bool = False) -> None:
        """Start to deliver the job; at once, without raising, any number of times."""
        ...


class CreateRotationJob:
    """The activity `create_rotation_job`: checks the digest against `catalogue`, then claims the job in `claims`.

    `rotation_ids` gives the workflow ids that an order belongs to: one that comes from another workflow is refused.
    `state_of` looks up a job that was there already; without it, the order's date is reported for the job's.
    `waiver_of` looks up what exempts the key by now.
    `owners_of` says who owns an order's key, and who does by the inventory.

    Where jobs are delivered, `announcements` starts it right after the commit. Should that fail, or this process end
    before it, the sweeper finds the message in the outbox.
    """

    def __init__(
        self,
        claims: JobClaims,
        catalogue: Catalogue,
        announcements: JobAnnouncements | None = None,
        *,
        rotation_ids: Callable[[JobOrder], Collection[str]],
        state_of: StateOfJob | None = None,
        owners_of: OwnersOf = recorded_alone,
        waiver_of: WaiverOf = no_waiver,
    ) -> None:
        self._claims = claims
        self._catalogue = catalogue
        self._announcements = announcements
        self._rotation_ids = rotation_ids
        self._state_of = state_of
        self._owners_of = owners_of
        self._waiver_of = waiver_of

    @property
    def activities(self) -> list[Callable[..., Any]]:
        """All of them, as a worker registers them."""
        return [self.create_rotation_job]

    @activity.defn
    async def create_rotation_job(self, order: JobOrder) -> RotationJob:
        """Create the one job of this workflow id, or return it.

        The run id would not do as the key: it changes on reset and on a new start, and then a second job would follow.
        """
        with map_errors():
            key, fence = claim_of(activity.info())
            _expect_own(order, key, self._rotation_ids(order))
            confirm(order, self._catalogue)
            if (waiver := await self._waiver_of(order, order.decision)) is not None:
                raise KeyWaived(f"{waiver.waiver_id} exempts the key since it was decided")
            owner, recorded = await self._owners_of(order)
            order = order.model_copy(update={"owner": owner, "recorded_owner": recorded})
            job = await self._claims.create_once(order, idempotency_key=key, fence=fence)
            job = await with_stored_state(job, order, self._state_of)
        if self._announcements is not None:
            await self._announcements.announce(job.job_id, urgent=bool(order.credential.compromised))
        return job


async def with_stored_state(job: RotationJob, order: JobOrder, state_of: StateOfJob | None) -> RotationJob:
    """Return a job as its workflow gets it: with the order's run, and with its state.

    One that was there already has its own date, where the order has another one.
    """
    job = job.model_copy(update={"first_run_id": order.first_run_id})
    if job.created:
        return job.model_copy(update={"job_state": "open"})
    found = None if state_of is None else await state_of(job.job_id)
    if found is None:
        return job
    date = None if found.rotate_by == order.decision.rotate_by else found.rotate_by
    return job.model_copy(update={"job_state": found.state, "rotate_by": date})


def _expect_own(order: JobOrder, workflow_id: str, own: Collection[str]) -> None:
    """Refuse an order, or an approval, that is not this workflow's; raises OrderOfAnother."""
    approval = order.approval
    if workflow_id not in own or (approval is not None and approval.workflow_id != workflow_id):
        raise OrderOfAnother("the order or its approval belongs to another workflow: nothing was created")


def claim_of(info: activity.Info) -> tuple[str, int]:
    """Return what an attempt claims by: the workflow's id, and a fence that grows from attempt to attempt.

    The fence is when Temporal's server scheduled this attempt, in microseconds: one clock for all attempts, resumptions
    and runs of a workflow id.
    """
    if info.workflow_id is None:
        raise RuntimeError("a job is created in a workflow only: its ID is the idempotency key")
    return info.workflow_id, int(info.current_attempt_scheduled_time.timestamp() * 1_000_000)
