"""What a call costs: a rate card of one's own first, then the bundled list of public prices. Unknown stays unknown."""

from collections.abc import Mapping
from decimal import Decimal

_MILLION = Decimal(1_000_000)


class RateCard:
    """Prices in US dollars a million tokens, as `{model: (input, output)}`; other models are looked up publicly.

    Raises nothing: a price that nobody knows is None, never 0.
    """

    def __init__(self, rates: Mapping[str, tuple[Decimal, Decimal]]) -> None:
        self._rates = rates

    def cost_usd(self, model: str, input_tokens: int | None, output_tokens: int | None) -> Decimal | None:
        """Return the price of one call; None if the model's price or the token counts are unknown."""
        if input_tokens is None or output_tokens is None:
            return None
        rates = self._rates.get(model)
        if rates is None:
            return _public_cost(model, input_tokens, output_tokens)
        return (rates[0] * input_tokens + rates[1] * output_tokens) / _MILLION


def _public_cost(model: str, input_tokens: int, output_tokens: int) -> Decimal | None:
    from genai_prices import (
        Usage,
        calc_price,
    )  # 0.4 s to import, and only needed for models without a rate of one's own

    try:
        return calc_price(Usage(input_tokens=input_tokens, output_tokens=output_tokens), model).total_price
    except LookupError:
        return None
