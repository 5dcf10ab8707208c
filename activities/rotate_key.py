"""The steps of rotating a key, one activity each; each may be repeated.

A wait is an activity, too, that fails as long as it is not over and says when it is to be tried again: Temporal counts
such attempts without an event in the history, and no worker holds anything meanwhile.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NoReturn

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from keyturn.activities.alive import heartbeating
from keyturn.execution.contracts import KeyRotationOrder, KeyState, Need
from keyturn.execution.errors import Frozen
from keyturn.execution.protocols import RotationSteps
from keyturn.jobs.contracts import ClaimedJob
from keyturn.rotations.contracts import Abandonment

# Half of the longest lease: one renewal may fail.
PROLONG_EVERY = timedelta(hours=12)
# `keyturn thaw` is to be felt soon; a freeze of two weeks is 4,000 looks into the database.
THAW_CHECK = timedelta(minutes=5)
NOT_YET = "not_yet"


class RotateKey:
    """The activities, on `steps`."""

    def __init__(self, steps: RotationSteps) -> None:
        self._steps = steps

    @property
    def activities(self) -> list[Callable[..., Any]]:
        """All of them, as a worker registers them."""
        return [
            self.claim_job,
            self.record_keys,
            self.create_key,
            self.verify_key,
            self.hold_claim,
            self.await_thaw,
            self.await_consumers,
            self.deactivate_key,
            self.await_grace,
            self.delete_key,
            self.close_job,
            self.refuse_job,
            self.roll_back_key,
            self.report_blocked,
            self.record_advance,
        ]

    @activity.defn
    async def claim_job(self, order: KeyRotationOrder) -> ClaimedJob:
        """Claim the job; earlier claims of this workflow count no more."""
        async with heartbeating():
            return await self._steps.claim(order)

    @activity.defn
    async def record_keys(self, order: KeyRotationOrder, job: ClaimedJob) -> KeyState:
        """Write down which keys there are, before one is created, and what is waited for."""
        async with heartbeating():
            return await self._steps.record(order, job)

    @activity.defn
    async def create_key(self, rotation: KeyState) -> str:
        """Create the new key and store its secret; its ID is all that is returned."""
        async with heartbeating():
            return await self._steps.create(rotation)

    @activity.defn
    async def verify_key(self, rotation: KeyState) -> datetime:
        """Use the stored secret as its consumers will; returns when."""
        async with heartbeating():
            return await self._steps.verify(rotation)

    @activity.defn
    async def hold_claim(self, rotation: KeyState, until: datetime) -> None:
        """Prolong the claim on the job until then."""
        async with heartbeating():
            await self._steps.prolong(rotation)
        _expect_reached(until, PROLONG_EVERY)

    @activity.defn
    async def await_thaw(self, rotation: KeyState) -> None:
        """Wait until nothing forbids a change any more."""
        async with heartbeating():
            await self._steps.prolong(rotation)
            try:
                await self._steps.expect_thawed(rotation)
            except Frozen:
                _try_again_in(THAW_CHECK)

    @activity.defn
    async def await_consumers(self, rotation: KeyState, until: datetime, known: Need | None) -> Need | None:
        """Wait until then at least, and until what needs the old key is something else than `known`; returns that."""
        async with heartbeating():
            await self._steps.prolong(rotation)
        _expect_reached(until, PROLONG_EVERY)
        async with heartbeating():
            need = await self._steps.needs(rotation, now=_now())
        if need is not None and known is not None and need.kind == known.kind:
            _try_again_in(rotation.waits.check_every)
        return need

    @activity.defn
    async def deactivate_key(self, rotation: KeyState) -> datetime:
        """Deactivate the old key."""
        async with heartbeating():
            return await self._steps.deactivate(rotation)

    @activity.defn
    async def await_grace(self, rotation: KeyState, until: datetime) -> Need | None:
        """Wait until then, unless the old key is used: then it works again, and who used it is returned."""
        async with heartbeating():
            need = await self._steps.uses_since(rotation)
        if need is None:
            _expect_reached(until, rotation.waits.check_every)
        return need

    @activity.defn
    async def delete_key(self, rotation: KeyState) -> None:
        """Delete the old key, if nothing uses it."""
        async with heartbeating():
            await self._steps.delete(rotation)

    @activity.defn
    async def close_job(self, rotation: KeyState) -> None:
        """Close the job as done."""
        async with heartbeating():
            await self._steps.close(rotation)

    @activity.defn
    async def refuse_job(self, job: ClaimedJob, reason: str) -> None:
        """Close the job as failed; nothing was changed."""
        async with heartbeating():
            await self._steps.refuse(job, reason)

    @activity.defn
    async def roll_back_key(self, rotation: KeyState, reason: str) -> None:
        """Go back to the old key."""
        async with heartbeating():
            await self._steps.roll_back(rotation, reason)

    @activity.defn
    async def report_blocked(self, rotation: KeyState, need: Need) -> None:
        """Write who needs the old key into the audit trail, and send it to the receivers of jobs."""
        async with heartbeating():
            await self._steps.report_blocked(rotation, need)

    @activity.defn
    async def record_advance(self, rotation: KeyState, instruction: Abandonment) -> None:
        """Write into the audit trail who ended a wait, and why."""
        async with heartbeating():
            await self._steps.record_advance(rotation, instruction.operator, instruction.reason)


def _now() -> datetime:
    """When this attempt was started, by the clock of Temporal's server, by which the waits are measured."""
    return activity.info().started_time


def _expect_reached(until: datetime, every: timedelta) -> None:
    left = until - _now()
    if left > timedelta(0):
        # A second more than too little: an attempt just before the end would be followed by another one at once.
        _try_again_in(max(min(left, every), timedelta(seconds=1)))


def _try_again_in(delay: timedelta) -> NoReturn:
    raise ApplicationError(
        "the wait is not over", type=NOT_YET, next_retry_delay=delay, category=ApplicationErrorCategory.BENIGN
    )
