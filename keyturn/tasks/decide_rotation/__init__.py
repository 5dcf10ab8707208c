"""`decide_rotation`: may this credential be rotated under these policy lines? The answer is grounded in evidence."""

from datetime import timedelta
from decimal import Decimal

from pydantic import JsonValue

from keyturn.contracts import GroundedDecision, ProposedDecision, RotationRequest
from keyturn.policy.grounding import ground
from keyturn.tasks.definition import Section, Task, answer_schema, policy_section, prompts_beside


def _varying(request: RotationRequest) -> list[Section]:
    facts = request.credential
    account: dict[str, JsonValue] = {
        "account_id": request.account_id,
        "credential_kind": facts.kind,
        "stale": facts.stale,
        "compromised": facts.compromised,
        "age_days": _days(facts.age),
        "unused_days": _days(facts.unused_for),
        "observed_at": facts.observed_at.isoformat(),
    }
    return [("account", account), ("question", request.question)]


def _days(elapsed: timedelta | None) -> float | int | None:
    if elapsed is None:
        return None
    days = elapsed / timedelta(days=1)
    return int(days) if days.is_integer() else round(days, 6)  # 6 places tell seconds apart


TASK: Task[RotationRequest, ProposedDecision, GroundedDecision] = Task(
    name="decide_rotation",
    request=RotationRequest,
    proposal=ProposedDecision,
    answer=GroundedDecision,
    schema=answer_schema(
        decision={"type": "string", "enum": ["eligible", "not_eligible", "not_specified"]},
        rotation_window_days={"type": ["integer", "null"]},
        source_line_ids={"type": "array", "items": {"type": "string"}},
    ),
    stable=policy_section,
    varying=_varying,
    judge=ground,
    # Three fields take about 40 tokens; models that reason first spend some hundreds on that.
    max_output_tokens=2_000,
    # A thousand times a small model's price for it: only a wrong route or a runaway prompt costs this much.
    max_cost_usd=Decimal("0.25"),
    # The same evidence, observed at the same second, under the same catalogue: a day covers every retry and re-run.
    keep_for=timedelta(days=1),
    prompts=prompts_beside(__file__),
)
