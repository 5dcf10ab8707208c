"""What the fleet has spent today, and the alert when it is more than the configured threshold."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from decimal import Decimal

import structlog

from keyturn.background import is_cancelled
from keyturn.calls import CallRecord
from keyturn.errors import JobStoreUnavailable
from keyturn.ledger.store import midnight

_log = structlog.get_logger("keyturn.ledger")

REFRESH_SECONDS = 60.0  # how late one worker may learn what the others have spent


class DailySpend:
    """Sums the day's cost (UTC): one's own calls at once, the fleet's from the ledger once a minute.

    Args:
        threshold_usd: what a day may cost before `daily_spend_over` is logged, once a day; None never logs it.
        total: returns what the whole fleet has spent since a moment.
    """

    def __init__(self, threshold_usd: Decimal | None, total: Callable[[datetime], Awaitable[Decimal]]) -> None:
        self._threshold = threshold_usd
        self._total = total
        self._day: date | None = None
        self._alerted = False
        self.today_usd = Decimal(0)

    def add(self, call: CallRecord) -> None:
        """Count one call."""
        self._start_day()
        self.today_usd += call.cost_usd or 0
        self._look()

    async def refresh(self) -> None:
        """Take the fleet's sum from the ledger; raises JobStoreUnavailable."""
        self._start_day()
        self.today_usd = await self._total(midnight(datetime.now(UTC)))
        self._look()

    async def watch(self) -> None:
        """Refresh once a minute until cancelled; while the database is away, one's own calls are counted on."""
        while not is_cancelled():
            try:
                await self.refresh()
            except JobStoreUnavailable as error:
                _log.warning("daily_spend_unknown", cause=type(error).__name__)
            await asyncio.sleep(REFRESH_SECONDS)

    def _start_day(self) -> None:
        today = datetime.now(UTC).date()
        if today != self._day:
            self._day, self._alerted, self.today_usd = today, False, Decimal(0)

    def _look(self) -> None:
        if self._threshold is not None and not self._alerted and self.today_usd > self._threshold:
            self._alerted = True
            _log.warning(
                "daily_spend_over",
                today_usd=f"{self.today_usd:.4f}",
                threshold_usd=f"{self._threshold:.4f}",
                hint="Look at `keyturn costs --by task` and `--by user`; KEYTURN_DAILY_SPEND_ALERT_USD sets the limit.",
            )
