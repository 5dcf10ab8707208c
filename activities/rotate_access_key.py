"""The steps of rotating an access key, one activity each; each may be repeated."""

from datetime import datetime
from typing import Protocol

from temporalio import activity

from activities.alive import heartbeating
from keyturn.contracts import ClaimedJob, KeyInHand, KeyRotationOrder


class AccessKeySteps(Protocol):
    """Whoever carries the steps out. Each raises a KeyturnError."""

    async def claim(self, order: KeyRotationOrder) -> ClaimedJob:
        """Claim the job."""
        ...

    async def record(self, job: ClaimedJob) -> KeyInHand:
        """Write down which keys there are."""
        ...

    async def create(self, hand: KeyInHand) -> str:
        """Create the new key and store its secret; returns its id."""
        ...

    async def verify(self, hand: KeyInHand) -> None:
        """Show that the new key works."""
        ...

    async def prolong(self, hand: KeyInHand) -> None:
        """Keep the claim."""
        ...

    async def deactivate(self, hand: KeyInHand) -> datetime:
        """Deactivate the old key; returns when."""
        ...

    async def delete(self, hand: KeyInHand) -> None:
        """Delete the old key."""
        ...

    async def close(self, hand: KeyInHand) -> None:
        """Close the job as done."""
        ...

    async def refuse(self, job: ClaimedJob, reason: str) -> None:
        """Close the job as failed, nothing having been changed."""
        ...

    async def roll_back(self, hand: KeyInHand, reason: str) -> None:
        """Go back to the old key, and close the job as failed."""
        ...


class RotateAccessKey:
    """The activities, on `steps`."""

    def __init__(self, steps: AccessKeySteps) -> None:
        self._steps = steps

    @activity.defn
    async def claim_job(self, order: KeyRotationOrder) -> ClaimedJob:
        """Claim the job; earlier claims of this workflow count no more."""
        async with heartbeating():
            return await self._steps.claim(order)

    @activity.defn
    async def record_keys(self, job: ClaimedJob) -> KeyInHand:
        """Write down which keys there are, before one is made."""
        async with heartbeating():
            return await self._steps.record(job)

    @activity.defn
    async def create_key(self, hand: KeyInHand) -> str:
        """Create the new key and store its secret; its id is all that is returned."""
        async with heartbeating():
            return await self._steps.create(hand)

    @activity.defn
    async def verify_key(self, hand: KeyInHand) -> None:
        """Sign a call with the stored secret."""
        async with heartbeating():
            await self._steps.verify(hand)

    @activity.defn
    async def prolong_claim(self, hand: KeyInHand) -> None:
        """Keep the claim on the job."""
        async with heartbeating():
            await self._steps.prolong(hand)

    @activity.defn
    async def deactivate_key(self, hand: KeyInHand) -> datetime:
        """Deactivate the old key."""
        async with heartbeating():
            return await self._steps.deactivate(hand)

    @activity.defn
    async def delete_key(self, hand: KeyInHand) -> None:
        """Delete the old key, if nothing uses it."""
        async with heartbeating():
            await self._steps.delete(hand)

    @activity.defn
    async def close_job(self, hand: KeyInHand) -> None:
        """Close the job as done."""
        async with heartbeating():
            await self._steps.close(hand)

    @activity.defn
    async def refuse_job(self, job: ClaimedJob, reason: str) -> None:
        """Close the job as failed; nothing was changed."""
        async with heartbeating():
            await self._steps.refuse(job, reason)

    @activity.defn
    async def roll_back_key(self, hand: KeyInHand, reason: str) -> None:
        """Go back to the old key."""
        async with heartbeating():
            await self._steps.roll_back(hand, reason)
