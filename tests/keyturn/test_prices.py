"""What a call costs."""

from decimal import Decimal

import pytest

from keyturn.ledger.prices import Rate, RateCard
from keyturn.llm.providers import price_lists_of_providers
from keyturn.llm.wire import Usage

OURS = Rate(Decimal("2.00"), Decimal("6.00"), cached_input=Decimal("0.20"), context_window=8_000)
CARD = RateCard({"ours": OURS, "listed only": Rate(context_window=1_000)}, lists=price_lists_of_providers())


def test_a_card_of_ones_own_comes_first() -> None:
    """250 tokens in and 80 out at $2 and $6 a million cost $0.00098."""
    assert CARD.cost_usd("openai", "ours", Usage(250, 80)) == Decimal("0.00098")
    assert CARD.context_window("openai", "ours") == 8_000


def test_cached_tokens_have_their_own_price() -> None:
    """100 of 250 at a tenth: 150 * 2 + 100 * 0.2 + 80 * 6 millionths."""
    assert CARD.cost_usd("openai", "ours", Usage(250, 80, cached_tokens=100)) == Decimal("0.0008")


@pytest.mark.parametrize("usage", [Usage(10, 0, cached_tokens=99), Usage(10, 0, 8, 8), Usage(10, 0, 0, 10**9)])
def test_a_strange_count_of_cached_tokens_never_makes_a_price_negative(usage: Usage) -> None:
    """More cached than there was input is limited to the input."""
    cost = CARD.cost_usd("openai", "ours", usage)
    assert cost is not None
    assert Decimal(0) <= cost <= Decimal("0.00002")


@pytest.mark.parametrize(
    ("provider", "model"),
    [("openai", "gpt-5-mini"), ("anthropic", "claude-haiku-4-5"), ("gemini", "models/gemini-2.5-flash")],
)
def test_public_prices_serve_models_without_a_card(provider: str, model: str) -> None:
    """Each provider's models are priced from the bundled list, and what was cached costs less."""
    whole = CARD.cost_usd(provider, model, Usage(1_000_000, 0))
    cached = CARD.cost_usd(provider, model, Usage(1_000_000, 0, cached_tokens=900_000))
    assert whole is not None
    assert cached is not None
    assert 0 < cached < whole / 2
    assert CARD.knows(provider, model)


def test_an_unknown_price_is_unknown_and_not_zero() -> None:
    """An unknown model, a listed one without a price, one's own server, and missing counts are not free of charge."""
    assert CARD.cost_usd("openai", "nobody-knows-1", Usage(10, 10)) is None
    assert CARD.cost_usd("openai", "listed only", Usage(10, 10)) is None
    assert CARD.cost_usd("gemini", "gemma-3", Usage(10, 10)) is None
    assert CARD.cost_usd("compatible", "gpt-5-mini", Usage(10, 10)) is None
    assert CARD.cost_usd("openai", "ours", Usage(None, 10)) is None
    assert not CARD.knows("openai", "nobody-knows-1")


def test_ones_own_rate_counts_although_the_provider_answers_with_a_dated_name() -> None:
    """The model that was asked for stands on the card; the public list knows the dated one at another price."""
    card = RateCard({"gpt-5-mini": Rate(Decimal(1), Decimal(1))}, lists=price_lists_of_providers())
    usage = Usage(1_000_000, 0)
    assert card.cost_usd("openai", "gpt-5-mini-2025-08-07", usage, asked="gpt-5-mini") == Decimal(1)
    assert CARD.cost_usd("openai", "served-name", usage, asked="gpt-5-mini") == CARD.cost_usd(
        "openai", "gpt-5-mini", usage
    )
