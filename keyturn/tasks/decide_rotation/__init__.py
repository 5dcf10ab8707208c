"""`decide_rotation`: may this credential be rotated under these policy lines? The answer is grounded in evidence."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from pydantic import JsonValue

from keyturn.policy.applicability import MICROSECOND, read
from keyturn.policy.grounding import decide_by_rule, decision_of, disagree, ground, is_rule_readable
from keyturn.policy.line import InProse, PolicyLine
from keyturn.policy.quotes import evidence_in_words
from keyturn.rotations.contracts import RotationRequest
from keyturn.rotations.decisions import Disagreement, GroundedDecision, ModelReading, ProposedDecision
from keyturn.tasks.definition import Reading, Section, Task, answer_schema, policy_section, prompts_beside


def _varying(request: RotationRequest, lines: Sequence[PolicyLine], at: datetime | None) -> list[Section]:
    facts = request.credential
    account: dict[str, JsonValue] = {
        "account_id": request.account_id,
        "credential_kind": facts.kind,
        "stale": facts.stale,
        "compromised": facts.compromised,
        "age_days": _days(facts.age),
        "age_seconds": _seconds(facts.age),
        "unused_days": _days(facts.unused_for),
        "unused_seconds": _seconds(facts.unused_for),
        "observed_at": facts.observed_at.isoformat(),
    }
    # The time itself is left out: with it, no two prompts would be the same, and no answer could be cached.
    causes = {line.id: read(line, facts, at).cause for line in lines}
    account["evidence_too_old_for"] = [
        # Too coarse, too: what the model sees is a figure, and not that it is rounded.
        name
        for name in sorted(causes)
        if causes[name] in {"evidence_too_old", "evidence_too_coarse", "evidence_in_future"}
    ]
    if any(isinstance(line.rule, InProse) for line in lines):
        account["evidence"] = list[JsonValue](evidence_in_words(facts))
    return [("account", account), ("question", request.question)]


def _days(elapsed: timedelta | None) -> int | None:
    return None if elapsed is None else elapsed.days


def _seconds(elapsed: timedelta | None) -> float | int | None:
    """Elapsed time at the precision at which it is judged: a microsecond."""
    if elapsed is None:
        return None
    seconds, rest = divmod(elapsed // MICROSECOND, 1_000_000)
    return (
        seconds if not rest else (seconds * 1_000_000 + rest) / 1_000_000
    )  # exact below 2**53 microseconds: 285 years


def _by_rule(request: RotationRequest, lines: Sequence[PolicyLine], at: datetime) -> GroundedDecision | None:
    if request.decide_by != "rule" or not is_rule_readable(request, lines):
        return None
    return decide_by_rule(request, lines, at)


def _disagree(
    request: RotationRequest, lines: Sequence[PolicyLine], readings: Sequence[Reading], at: datetime
) -> Disagreement:
    said = [
        ModelReading(provider=one.provider, model=one.model, decision=decision_of(one.proposed), reason=one.reason)
        for one in readings
    ]
    return disagree(request, lines, said, at)


TASK: Task[RotationRequest, ProposedDecision, GroundedDecision] = Task(
    name="decide_rotation",
    request=RotationRequest,
    proposal=ProposedDecision,
    answer=GroundedDecision,
    schema=answer_schema(
        decision={"type": "string", "enum": ["eligible", "not_eligible", "not_specified"]},
        rotation_window_days={"type": ["integer", "null"]},
        source_line_ids={"type": "array", "items": {"type": "string"}},
        quotes={
            "type": "array",
            "items": answer_schema(line_id={"type": "string"}, wording={"type": "string"}, evidence={"type": "string"}),
        },
    ),
    stable=policy_section,
    varying=_varying,
    judge=ground,
    # Four fields take about 50 tokens; models that reason first spend some hundreds on that.
    max_output_tokens=2_000,
    # A thousand times a small model's price for it: only a wrong route or a runaway prompt costs this much.
    max_cost_usd=Decimal("0.25"),
    # The same evidence, observed at the same second, under the same catalogue: a day covers every retry and re-run.
    cache_for=timedelta(days=1),
    prompts=prompts_beside(__file__),
    by_rule=_by_rule,
    disagree=_disagree,
)
