"""What a call costs: a card of one's own first, then the bundled list of public prices. Unknown stays unknown."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

_MILLION = Decimal(1_000_000)


class TokensUsed(Protocol):
    """Token counts of a call; all of the input, and what of it was read from or written to a prompt cache."""

    @property
    def input_tokens(self) -> int | None:
        """All input tokens."""
        ...

    @property
    def output_tokens(self) -> int | None:
        """All output tokens."""
        ...

    @property
    def cached_tokens(self) -> int | None:
        """Of the input: read from a prompt cache."""
        ...

    @property
    def cache_write_tokens(self) -> int | None:
        """Of the input: written to a prompt cache."""
        ...


@dataclass(frozen=True)
class Rate:
    """One model on a card: US dollars a million tokens, and its context window in tokens. None is unknown.

    Cached input costs as much as other input where the card does not say otherwise.
    """

    input: Decimal | None = None
    output: Decimal | None = None
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    context_window: int | None = None


class RateCard:
    """Prices and context windows: an endpoint's own, those of a card of one's own, and then the public list.

    Raises nothing: an unknown price is None, never 0.

    Args:
        rates: of the card, by model.
        of_endpoints: by endpoint and model.
        lists: by endpoint, the name that the public list has for the provider that sets its prices.
    """

    def __init__(
        self,
        rates: Mapping[str, Rate],
        *,
        of_endpoints: Mapping[str, Mapping[str, Rate]] | None = None,
        lists: Mapping[str, str] | None = None,
    ) -> None:
        self._rates = rates
        self._of_endpoints = of_endpoints or {}
        self._lists = lists or {}

    def _rate(self, provider: str, model: str) -> Rate | None:
        return self._of_endpoints.get(provider, {}).get(model) or self._rates.get(model)

    def _find_listing(self, provider: str, model: str) -> "_Listing | None":
        listed = self._lists.get(provider)
        return None if listed is None else _look_up(listed, model)

    def knows(self, provider: str, model: str) -> bool:
        """Return True if the card or the public list has this model, priced or not."""
        return self._rate(provider, model) is not None or self._find_listing(provider, model) is not None

    def cost_usd(self, provider: str, model: str, usage: TokensUsed, *, asked: str | None = None) -> Decimal | None:
        """Return the price of one call; None if the model's price or the token counts are unknown.

        Args:
            provider: who answered.
            model: the model that answered, as it says.
            usage: the tokens.
            asked: the model that was asked for, whose rate counts where the card has none for the other: providers
                answer with a dated name, and some servers with a name of their own.
        """
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        asked = asked or model
        rate = self._rate(provider, model) or self._rate(provider, asked)
        if rate is None or rate.input is None or rate.output is None:
            listed = _listed_cost(self._find_listing(provider, model), usage)
            return (
                _listed_cost(self._find_listing(provider, asked), usage)
                if listed is None and asked != model
                else listed
            )
        cached, written = _parts(usage)
        fresh = usage.input_tokens - cached - written
        dollars = (
            fresh * rate.input
            + cached * (rate.input if rate.cached_input is None else rate.cached_input)
            + written * (rate.input if rate.cache_write is None else rate.cache_write)
            + usage.output_tokens * rate.output
        )
        return dollars / _MILLION

    def context_window(self, provider: str, model: str) -> int | None:
        """Return how many tokens a call to the model may have; None if unknown."""
        rate = self._rate(provider, model)
        if rate is not None and rate.context_window is not None:
            return rate.context_window
        listed = self._find_listing(provider, model)
        return None if listed is None else listed.context_window


class _Listing(NamedTuple):
    model: Any
    provider: Any
    context_window: int | None


@lru_cache(maxsize=1_024)  # providers send the name that is looked up: it must not grow for ever
def _look_up(list_name: str, model: str) -> _Listing | None:
    # 0.2 s to import, and only needed for models without a rate of one's own.
    from genai_prices.data_snapshot import get_snapshot

    try:
        found, info = get_snapshot().find_provider_model(model.removeprefix("models/"), None, list_name, None)
    except LookupError:
        return None
    return _Listing(info, found, info.context_window)


def price_lists() -> set[str]:
    """Return the names of those whose public prices are bundled."""
    from genai_prices.data_snapshot import get_snapshot

    return {provider.id for provider in get_snapshot().providers}


def _listed_cost(listed: _Listing | None, usage: TokensUsed) -> Decimal | None:
    if listed is None:
        return None
    from genai_prices import Usage

    prices = listed.model.get_prices(datetime.now(UTC))
    if prices.input_mtok is None or prices.output_mtok is None:
        return None  # the list names some models without a price, and would call them free
    cached, written = _parts(usage)
    counts = Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=cached,
        cache_write_tokens=written,
    )
    priced: Decimal = prices.calc_price(counts)["total_price"]
    return priced


def _parts(usage: TokensUsed) -> tuple[int, int]:
    """Cached and written tokens, limited to the input: another way of counting must not make a price negative."""
    whole = usage.input_tokens or 0
    cached = min(usage.cached_tokens or 0, whole)
    return cached, min(usage.cache_write_tokens or 0, whole - cached)
