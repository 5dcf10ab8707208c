"""What Anthropic's errors mean, beside what every provider's do.

Source: Anthropic API reference, "Errors" (2026-11).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from keyturn.llm.classify import COMMON, row
from keyturn.llm.errors import QuotaExhausted

ERRORS = (
    row(QuotaExhausted, codes="enforced_spend_limit_reached contract_spend_limit_reached billing_error"),
    *COMMON,
)


def codes_of(error: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the codes of Anthropic's `error` object, the more exact one first."""
    details = error.get("details")
    if isinstance(details, dict):
        yield details.get("error_code")
    yield error.get("code")  # gateways
    yield error.get("type")
