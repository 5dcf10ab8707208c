"""`withdraw_claim`: withdraws a rotation's claim before it ends without a job, so that no late attempt creates one."""

from collections.abc import Callable
from typing import Any, Protocol

from temporalio import activity

from keyturn.activities.create_rotation_job import StateOfJob, claim_of, with_stored_state
from keyturn.activities.failures import map_errors
from keyturn.rotations.contracts import JobOrder
from keyturn.rotations.outcomes import RotationJob


class ClaimWithdrawals(Protocol):
    """The store of claims."""

    async def withdraw(self, order: JobOrder, *, idempotency_key: str, fence: int) -> RotationJob | None:
        """Withdraw the claim, or return the job that was created already; raises a KeyturnError."""
        ...


class WithdrawClaim:
    """The activity `withdraw_claim`, on `claims`; for `state_of` see `CreateRotationJob`."""

    def __init__(self, claims: ClaimWithdrawals, *, state_of: StateOfJob | None = None) -> None:
        self._claims = claims
        self._state_of = state_of

    @property
    def activities(self) -> list[Callable[..., Any]]:
        """All of them, as a worker registers them."""
        return [self.withdraw_claim]

    @activity.defn
    async def withdraw_claim(self, order: JobOrder) -> RotationJob | None:
        """Withdraw this workflow's claim; returns the job if there is one after all."""
        with map_errors():
            key, fence = claim_of(activity.info())
            job = await self._claims.withdraw(order, idempotency_key=key, fence=fence)
            return None if job is None else await with_stored_state(job, order, self._state_of)
