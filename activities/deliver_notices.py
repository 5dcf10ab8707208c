"""`deliver_notices` sends a message of notices once; `give_up_notices` abandons it, when no attempt succeeded."""

from collections.abc import Callable
from typing import Any, Protocol

from temporalio import activity

from keyturn.activities.failures import map_errors
from keyturn.notices.contracts import NoticeDelivery


class NoticeDeliveries(Protocol):
    """Sends messages of notices to their destinations."""

    async def deliver(self, message_id: str) -> str:
        """Deliver a message; returns the receiver's answer. Raises a KeyturnError."""
        ...

    async def give_up(self, message_id: str, *, failure: str) -> None:
        """Record that the delivery was abandoned. Raises a KeyturnError."""
        ...


class DeliverNotices:
    """The activities `deliver_notices` and `give_up_notices`, on `deliveries`."""

    def __init__(self, deliveries: NoticeDeliveries) -> None:
        self._deliveries = deliveries

    @property
    def activities(self) -> list[Callable[..., Any]]:
        """All of them, as a worker registers them."""
        return [self.deliver_notices, self.give_up_notices]

    @activity.defn
    async def deliver_notices(self, delivery: NoticeDelivery) -> str:
        """Send the message; it may be sent any number of times, under one ID."""
        with map_errors():
            return await self._deliveries.deliver(delivery.message_id)

    @activity.defn
    async def give_up_notices(self, delivery: NoticeDelivery, failure: str) -> None:
        """Put the message among the dead letters, for an operator."""
        with map_errors():
            await self._deliveries.give_up(delivery.message_id, failure=failure)
