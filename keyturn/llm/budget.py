"""A limit on what calls cost together, held while several are made at once."""

import asyncio
from collections.abc import Sequence
from decimal import Decimal

from keyturn.calls import CallRecord
from keyturn.llm.records import RULE


class Budget:
    """What some calls may cost together. While the cost of a call is unknown, only one is made at a time.

    Args:
        usd: what is left.
        dearest: what the dearest call so far has cost; None if it is unknown.
        may_exceed: whether the last call may go over, by no more than itself.
    """

    def __init__(self, usd: Decimal, dearest: Decimal | None, *, may_exceed: bool) -> None:
        self.dearest = dearest
        self._left = usd
        self._may_exceed = may_exceed
        self._running = 0
        self._changed = asyncio.Condition()

    async def admit(self) -> bool:
        """Wait until a further call may be made; False if it would go over, or by more than itself where it may."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.dearest is not None or self._running == 0)
            dearest = self.dearest or Decimal(0)
            left = self._left - dearest * self._running
            if left <= 0 or (left < dearest and not self._may_exceed):
                return False
            self._running += 1
            return True

    async def close(self, calls: Sequence[CallRecord]) -> None:
        """Count what an answer has cost; one from the cache, or by rule, teaches nothing about the cost of a call."""
        usd = sum((call.cost_usd or Decimal(0) for call in calls), Decimal(0))
        async with self._changed:
            self._running -= 1
            self._left -= usd
            if any(not call.cache_hit and call.provider != RULE for call in calls):
                self.dearest = max(self.dearest or Decimal(0), usd)
            self._changed.notify_all()
