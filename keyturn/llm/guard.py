"""What may not be asked: calls that would not fit, cost too much, or come too often. Nothing is spent on a refusal."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from keyturn.contracts import ModelTask
from keyturn.errors import ContextWindowExceeded, CostCapExceeded
from keyturn.llm.wire import Usage
from keyturn.tasks.definition import Task


class Prices(Protocol):
    """What models cost and hold; None where that is unknown."""

    def cost_usd(self, provider: str, model: str, usage: Usage) -> Decimal | None:
        """Return what a call of this usage costs."""
        ...

    def context_window(self, provider: str, model: str) -> int | None:
        """Return how many tokens input and output may take together."""
        ...


class TokenLimit(Protocol):
    """Tokens that a user may use."""

    async def reserve(self, user: str, tokens: int) -> None:
        """Take `tokens` from what `user` has left; raises TokenLimitReached and takes nothing if they are too many."""
        ...

    async def give_back(self, user: str, tokens: int) -> None:
        """Return what was reserved and not used."""
        ...


@dataclass(frozen=True)
class Guard:
    """The limits of one worker.

    Attributes:
        prices: what models cost and hold.
        usd_per_call: what any call may cost; None leaves it to each task's own cap.
        usd_per_user_day: what one user may spend in a day (UTC); None for no such cap.
        spent_today: what a tenant's user has spent today; needed for that cap.
        tokens: the limit of tokens a user and hour; None for none.
    """

    prices: Prices
    usd_per_call: Decimal | None = None
    usd_per_user_day: Decimal | None = None
    spent_today: Callable[[str, str], Awaitable[Decimal]] | None = None
    tokens: TokenLimit | None = None

    async def admit(
        self, task: Task[Any, Any, Any], request: ModelTask, tokens_in: int, provider: str, model: str
    ) -> None:
        """Raise ContextWindowExceeded or CostCapExceeded, with the numbers, if this call may not be made.

        `tokens_in` is the upper estimate of the input. A price that nobody knows cannot be held against a cap; the
        worker says at start for which models that is so.
        """
        tokens_out = task.max_output_tokens
        window = self.prices.context_window(provider, model)
        if window is not None and tokens_in + tokens_out > window:
            raise ContextWindowExceeded(
                f"about {tokens_in:,} tokens of input and {tokens_out:,} of output do not fit into {model}'s {window:,}"
            )
        cost = self.prices.cost_usd(provider, model, Usage(tokens_in, tokens_out))
        if cost is None:
            return
        cap, named = (
            (task.max_cost_usd, f"the task {task.name}")
            if self.usd_per_call is None
            else (self.usd_per_call, "KEYTURN_USD_PER_CALL")
        )
        if cost > cap:
            raise CostCapExceeded(f"the call may cost up to ${cost:.4f}, and {named} allows ${cap:.4f}")
        if self.usd_per_user_day is None or self.spent_today is None:
            return
        spent = await self.spent_today(request.tenant_id, request.user_id)
        if spent + cost > self.usd_per_user_day:
            raise CostCapExceeded(
                f"the user has spent ${spent:.4f} today and the call may cost up to ${cost:.4f}; "
                f"KEYTURN_USD_PER_USER_DAY allows ${self.usd_per_user_day:.4f}"
            )
