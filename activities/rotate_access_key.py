"""The steps of rotating an access key, one activity each; each may be repeated."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from temporalio import activity

from keyturn.activities.alive import heartbeating
from keyturn.execution.contracts import AccessKeyState, KeyRotationOrder, RotationSteps
from keyturn.jobs.contracts import ClaimedJob


class RotateAccessKey:
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
            self.prolong_claim,
            self.deactivate_key,
            self.delete_key,
            self.close_job,
            self.refuse_job,
            self.roll_back_key,
        ]

    @activity.defn
    async def claim_job(self, order: KeyRotationOrder) -> ClaimedJob:
        """Claim the job; earlier claims of this workflow count no more."""
        async with heartbeating():
            return await self._steps.claim(order)

    @activity.defn
    async def record_keys(self, job: ClaimedJob) -> AccessKeyState:
        """Write down which keys there are, before one is made."""
        async with heartbeating():
            return await self._steps.record(job)

    @activity.defn
    async def create_key(self, rotation: AccessKeyState) -> str:
        """Create the new key and store its secret; its id is all that is returned."""
        async with heartbeating():
            return await self._steps.create(rotation)

    @activity.defn
    async def verify_key(self, rotation: AccessKeyState) -> None:
        """Sign a call with the stored secret."""
        async with heartbeating():
            await self._steps.verify(rotation)

    @activity.defn
    async def prolong_claim(self, rotation: AccessKeyState) -> None:
        """Prolong the claim on the job."""
        async with heartbeating():
            await self._steps.prolong(rotation)

    @activity.defn
    async def deactivate_key(self, rotation: AccessKeyState) -> datetime:
        """Deactivate the old key."""
        async with heartbeating():
            return await self._steps.deactivate(rotation)

    @activity.defn
    async def delete_key(self, rotation: AccessKeyState) -> None:
        """Delete the old key, if nothing uses it."""
        async with heartbeating():
            await self._steps.delete(rotation)

    @activity.defn
    async def close_job(self, rotation: AccessKeyState) -> None:
        """Close the job as done."""
        async with heartbeating():
            await self._steps.close(rotation)

    @activity.defn
    async def refuse_job(self, job: ClaimedJob, reason: str) -> None:
        """Close the job as failed; nothing was changed."""
        async with heartbeating():
            await self._steps.refuse(job, reason)

    @activity.defn
    async def roll_back_key(self, rotation: AccessKeyState, reason: str) -> None:
        """Go back to the old key."""
        async with heartbeating():
            await self._steps.roll_back(rotation, reason)
