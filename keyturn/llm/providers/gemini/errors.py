"""What Google's errors mean, beside what every provider's do.

Source: Gemini API reference, "Troubleshooting", and google.rpc.Status (2026-11).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from keyturn.llm.classify import COMMON, details_of, row
from keyturn.llm.errors import ProviderOverloaded, QuotaExhausted

ERRORS = (
    row(QuotaExhausted, 200, 429, codes="quota_a_day"),
    row(ProviderOverloaded, 503, codes="UNAVAILABLE"),
    *COMMON,
)


def codes_of(error: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the codes of Google's `error` object; a quota that only a new day brings back is `quota_a_day`."""
    for detail in details_of(error):
        violations = detail.get("violations")
        for violation in violations if isinstance(violations, list) else []:
            if isinstance(violation, dict) and "PerDay" in str(violation.get("quotaId")):
                yield "quota_a_day"
        yield detail.get("reason")
    yield error.get("status")
