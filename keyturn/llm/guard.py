"""What may not be asked: calls that would not fit, cost too much, or come too often. Nothing is spent on a refusal."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Protocol

from keyturn.call_errors import ContextWindowExceeded, CostCapExceeded
from keyturn.contracts import ModelTask
from keyturn.llm.wire import Usage
from keyturn.tasks.definition import Task


class Prices(Protocol):
    """Prices and context windows of models; None where that is unknown."""

    def cost_usd(self, provider: str, model: str, usage: Usage, *, asked: str | None = None) -> Decimal | None:
        """Return what a call of this usage costs; `asked` is the model that was asked for."""
        ...

    def context_window(self, provider: str, model: str) -> int | None:
        """Return how many tokens input and output may take together."""
        ...


class TokenLimit(Protocol):
    """Tokens that a user may use."""

    async def reserve(self, user: str, tokens: int) -> object:
        """Take `tokens` from what `user` has left; raises TokenLimitReached and takes nothing if they are too many.

        Returns a receipt for `give_back`.
        """
        ...

    async def give_back(self, receipt: object, user: str, tokens: int) -> None:
        """Return what was reserved and not used."""
        ...


@dataclass(frozen=True)
class Guard:
    """The limits of one worker.

    Attributes:
        prices: prices and context windows of models.
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
    in_flight: dict[tuple[str, str], Decimal] = field(default_factory=dict)  # what admitted calls may cost, by user

    def without_token_limit(self) -> "Guard":
        """Return the same limits for work that is no single user's: costs are capped together with this one's."""
        return replace(self, tokens=None)

    async def admit(
        self, task: Task[Any, Any, Any], request: ModelTask, tokens_in: int, provider: str, model: str
    ) -> Decimal:
        """Raise ContextWindowExceeded or CostCapExceeded, with the numbers, if this call may not be made.

        `tokens_in` is the upper estimate of the input. An unknown price cannot be counted against a cap; the
        worker says at start for which models that is so.
        Returns what is reserved of the user's day until `release`.
        """
        tokens_out = task.max_output_tokens
        window = self.prices.context_window(provider, model)
        if window is not None and tokens_in + tokens_out > window:
            raise ContextWindowExceeded(
                f"about {tokens_in:,} tokens of input and {tokens_out:,} of output do not fit into {model}'s {window:,}"
            )
        cost = self.prices.cost_usd(provider, model, Usage(tokens_in, tokens_out))
        if cost is None:
            return Decimal(0)
        cap, named = (
            (task.max_cost_usd, f"the task {task.name}")
            if self.usd_per_call is None
            else (self.usd_per_call, "KEYTURN_USD_PER_CALL")
        )
        if cost > cap:
            raise CostCapExceeded(f"the call may cost up to ${cost:.4f}, and {named} allows ${cap:.4f}")
        if self.usd_per_user_day is None or self.spent_today is None:
            return Decimal(0)
        spent = await self.spent_today(request.tenant_id, request.user_id)
        # Calls at once count together: their rows are not written yet.
        user = (request.tenant_id, request.user_id)
        spent += self.in_flight.get(user, Decimal(0))
        if spent + cost > self.usd_per_user_day:
            raise CostCapExceeded(
                f"the user has spent ${spent:.4f} today and the call may cost up to ${cost:.4f}; "
                f"KEYTURN_USD_PER_USER_DAY allows ${self.usd_per_user_day:.4f}"
            )
        self.in_flight[user] = self.in_flight.get(user, Decimal(0)) + cost
        return cost

    def release(self, request: ModelTask, cost: Decimal) -> None:
        """Release what `admit` reserved of the user's day, once the call has ended."""
        user = (request.tenant_id, request.user_id)
        if cost and user in self.in_flight:
            self.in_flight[user] -= cost
            if self.in_flight[user] <= 0:
                del self.in_flight[user]
