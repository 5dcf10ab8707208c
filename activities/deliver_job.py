"""`deliver_job` sends a job to its receiver once; `give_up_delivery` abandons it, when no attempt succeeded."""

from collections.abc import Callable
from typing import Any, Protocol

from temporalio import activity

from keyturn.activities.failures import map_errors
from keyturn.jobs.contracts import Delivery


class Deliveries(Protocol):
    """Sends jobs to their receiver."""

    async def deliver(self, job_id: str) -> str:
        """Deliver the job's message, once in effect; returns the receiver's answer. Raises a KeyturnError."""
        ...

    async def give_up(self, job_id: str, *, failure: str) -> None:
        """Record that the delivery was abandoned. Raises a KeyturnError."""
        ...


class DeliverJob:
    """The activities `deliver_job` and `give_up_delivery`, on `deliveries`."""

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries

    @property
    def activities(self) -> list[Callable[..., Any]]:
        """All of them, as a worker registers them."""
        return [self.deliver_job, self.give_up_delivery]

    @activity.defn
    async def deliver_job(self, delivery: Delivery) -> str:
        """Deliver the job's message; it may be sent any number of times, under one idempotency key."""
        with map_errors():
            return await self._deliveries.deliver(delivery.job_id)

    @activity.defn
    async def give_up_delivery(self, delivery: Delivery, failure: str) -> None:
        """Put the message among the dead letters, for a person."""
        with map_errors():
            await self._deliveries.give_up(delivery.job_id, failure=failure)
