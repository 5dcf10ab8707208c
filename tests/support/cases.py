"""Requests and orders as tests make them: sound by default, changed by name."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from keyturn.contracts import CredentialFacts, PolicyRef
from keyturn.policy.catalogue import load_catalogue
from keyturn.policy.grounding import ground
from keyturn.rotations.contracts import JobOrder, RotationRequest
from keyturn.rotations.decisions import GroundedDecision, ProposedDecision

# Yesterday: evidence has an age, and a fixed day would be too old some weeks later.
NOW = (datetime.now(UTC) - timedelta(days=1)).replace(hour=9, minute=0, second=0, microsecond=0)
GOLDEN_TIME = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)  # of what is compared byte for byte, and never decided
QUESTION = "May the stale service-account key be rotated?"
P7 = PolicyRef(id="P-7", version=1)


def facts(**changed: Any) -> CredentialFacts:
    return CredentialFacts(
        **{"key_id": f"key_{uuid.uuid4().hex[:12]}", "stale": True, "age_days": 12, "observed_at": NOW} | changed
    )


def request(**changed: Any) -> RotationRequest:
    given: dict[str, Any] = {
        "account_id": "acct_10234",
        "policy_lines": (P7,),
        "question": QUESTION,
        "trace_id": "trace_acct_10234_01",
        "credential": changed.pop("credential", None) or facts(),
    }
    return RotationRequest(**given | changed)


def order(**changed: Any) -> JobOrder:
    """An order whose digest is the one that grounding gives."""
    asked = request(**changed)
    lines = load_catalogue().resolve(asked.policy_lines)
    proposed = ProposedDecision(decision="eligible", rotation_window_days=30, source_line_ids=["P-7"])
    decision = ground(proposed, asked, lines)
    assert isinstance(decision, GroundedDecision)
    return JobOrder(
        tenant_id=asked.tenant_id,
        user_id=asked.user_id,
        account_id=asked.account_id,
        credential=asked.credential,
        policy_lines=asked.policy_lines,
        decision=decision,
        trace_id=asked.trace_id,
    )
