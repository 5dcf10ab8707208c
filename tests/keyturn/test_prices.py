"""What a call costs."""

from decimal import Decimal

from keyturn.ledger.prices import RateCard

CARD = RateCard({"ours": (Decimal("2.00"), Decimal("6.00"))})


def test_a_card_of_ones_own_comes_first() -> None:
    """250 tokens in and 80 out at $2 and $6 a million cost $0.00098."""
    assert CARD.cost_usd("ours", 250, 80) == Decimal("0.00098")


def test_public_prices_serve_models_without_a_card() -> None:
    """A model that the bundled list knows is priced from it."""
    cost = CARD.cost_usd("gpt-4o-mini", 1_000_000, 0)
    assert cost is not None
    assert cost > 0


def test_an_unknown_price_is_unknown_and_not_zero() -> None:
    """Neither an unknown model nor missing token counts are free of charge."""
    assert CARD.cost_usd("nobody-knows-1", 10, 10) is None
    assert CARD.cost_usd("ours", None, 10) is None
