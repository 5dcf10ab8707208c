"""Labelled cases as tests make them."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from keyturn.labels.contracts import Label, LabelledCase
from keyturn.policy.catalogue import Catalogue, load_catalogue
from keyturn.policy.grounding import disagree, ground
from keyturn.policy.line import digest_of_lines
from keyturn.rotations.decisions import GroundedDecision, ModelReading, ProposedDecision
from tests.support.cases import request

NO = '{"decision":"not_eligible","rotation_window_days":null,"source_line_ids":["P-7"]}'


def labelled(label: Label = "eligible", *, catalogue: Catalogue | None = None, **changed: Any) -> LabelledCase:
    """A case of one stale key, which rule and model called due; by a disagreement if `disagreed`."""
    lines = (catalogue or load_catalogue()).resolve(request().policy_lines)
    asked = request(policy_digest=digest_of_lines(lines))
    disagreed = changed.pop("disagreed", False)
    at = asked.credential.observed_at + timedelta(hours=1)
    proposed = ProposedDecision(decision="eligible", rotation_window_days=30, source_line_ids=["P-7"])
    verdict: Any = ground(proposed, asked, lines, at)
    assert isinstance(verdict, GroundedDecision)
    if disagreed:
        reading = ModelReading(provider="scripted", model="m-0", decision="not_eligible", reason="contradicts_evidence")
        verdict = disagree(asked, lines, [reading], at)
    given: dict[str, Any] = {
        "tenant_id": "default",
        "workflow_id": f"rotate:default:~a:{asked.credential.key_id}:P-7@1",
        "event_id": f"{uuid.uuid4()}:7",
        "label": label,
        "source": "approval" if label == "eligible" else "denial",
        "labelled_by": "omar",
        "labelled_at": datetime.now(UTC),
        "request": asked,
        "verdict": verdict,
        "model": "scripted:m-0",
        "answer": '{"decision":"eligible"}',
    }
    return LabelledCase(**given | changed)
