"""What Google's errors mean, beside what every provider's do.

Source: Gemini API reference, "Troubleshooting", and google.rpc.Status (2026-11).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from keyturn.llm.classify import COMMON, details_of, row
from keyturn.llm.errors import ProviderOverloaded

ERRORS = (
    row(ProviderOverloaded, 503, codes="UNAVAILABLE"),
    *COMMON,
)


def codes_of(error: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the codes of Google's `error` object, the more exact ones first."""
    for detail in details_of(error):
        yield detail.get("reason")
    yield error.get("status")
