"""An outcome's forms: one JSON object, lines for a user, an exit status."""

from datetime import datetime
from typing import Any

from keyturn.jobs.states import CLOSED, ENDED_WITHOUT_ROTATION
from keyturn.moments import in_utc
from keyturn.rotations.decisions import GroundedDecision, ModelReading
from keyturn.rotations.outcomes import (
    Failed,
    JobCreated,
    LimitedUntil,
    NotEligible,
    NotSpecified,
    Rejected,
    RotationOutcome,
    WaitingForPerson,
    Waived,
)

# Documented in README and `keyturn --help`: scripts branch on them.
EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_REJECTED, EXIT_TIMEOUT, EXIT_WAITING = 0, 1, 2, 3, 4, 5
_EXIT = {
    "rejected": EXIT_REJECTED,
    "timeout": EXIT_TIMEOUT,
    "rate_limited": EXIT_TIMEOUT,
    "parked": EXIT_WAITING,
    "awaiting_approval": EXIT_WAITING,
    "disagreement": EXIT_WAITING,
    "failed": EXIT_FAILED,
}


def with_job_state(outcome: RotationOutcome, state: str | None) -> RotationOutcome:
    """Return an outcome with the present state of its job; None if that is not known.

    What history has is the state of then: only one that a job never leaves still counts.
    """
    if not isinstance(outcome, JobCreated) or (state is None and outcome.job_state in CLOSED):
        return outcome
    return outcome.model_copy(update={"job_state": state})


def exit_status(outcome: RotationOutcome) -> int:
    """Return the command's exit status: 0 for an accomplished outcome, one each for the others."""
    if isinstance(outcome, JobCreated) and outcome.job_state in ENDED_WITHOUT_ROTATION:
        return EXIT_FAILED
    return _EXIT.get(outcome.status, EXIT_DONE)


def as_object(workflow_id: str | None, outcome: RotationOutcome, *, attached: bool | None = None) -> dict[str, Any]:
    """Return the JSON object of an outcome: `workflow_id`, `status`, and what its status adds."""
    fields: dict[str, Any] = {"workflow_id": workflow_id, "status": outcome.status}
    if attached is not None:
        fields["attached"] = attached
    match outcome:
        case JobCreated():
            fields |= {"job_id": outcome.job_id, "created": outcome.created, "approved_by": outcome.approved_by}
            fields |= {"tightened": outcome.tightened, "job_state": outcome.job_state}
            fields |= _decision(outcome.decision)
            fields["rotate_by"] = outcome.due.isoformat() if outcome.due else None
        case NotEligible():
            fields |= _decision(outcome.decision) | {"next_step": "none"}
        case NotSpecified():
            fields |= _decision(outcome.decision) | {"next_step": "add_evidence_or_policy"}
        case Waived():
            fields |= _decision(outcome.decision) | {"waiver": outcome.waiver.model_dump(mode="json")}
            fields |= {"next_step": "none"}
        case Rejected():
            fields |= {
                "reason": outcome.reason,
                "explanation": outcome.explanation,
                "next_step": "ask_again_or_inspect",
            }
        case Failed():
            fields |= {"reason": outcome.kind, "explanation": outcome.hint, "next_step": outcome.next_step}
        case WaitingForPerson():
            fields |= {"reason": outcome.kind, "explanation": outcome.hint, "next_step": outcome.next_step}
            fields |= {"until": outcome.until.isoformat() if outcome.until else None}
            if outcome.decision is not None:
                fields |= _decision(outcome.decision) | {"approvers": list(outcome.decision.approvers)}
                fields |= {"any_operator": outcome.decision.any_operator}
                fields |= {"readings": [one.model_dump(mode="json") for one in outcome.readings]}
        case LimitedUntil():
            fields |= {"retry_at": outcome.retry_at.isoformat(), "next_step": outcome.next_step}
        case _:
            fields |= {"next_step": outcome.next_step}
    if isinstance(outcome, JobCreated | NotEligible | NotSpecified | Waived | Rejected):
        fields["call"] = outcome.call.model_dump(mode="json", exclude={"task", "failure"})
    return fields


def fate_of(*, created: bool, tightened: bool) -> str:
    """Return what became of an order for a job: a new job, a tightened one, or one that was there."""
    return "created" if created else "tightened" if tightened else "there already"


def as_lines(workflow_id: str, outcome: RotationOutcome) -> list[str]:
    """Return an outcome as short lines for a person."""
    match outcome:
        case JobCreated():
            lines = [*_job_lines(outcome), *_decision_lines(outcome.decision, outcome.due)]
        case NotEligible():
            lines = ["not eligible: the policy requires no rotation; no job", *_decision_lines(outcome.decision)]
        case NotSpecified():
            lines = [
                "not specified: policy and evidence do not decide it; no job",
                *_because(outcome.decision),
                "state what is known of the key (--stale, --age-days, --last-rotated, ...) or name another --policy",
            ]
        case Waived():
            waiver = outcome.waiver
            lines = [f"waived until {in_utc(waiver.until)} by {waiver.granted_by}; no job", waiver.reason]
            lines += [*_decision_lines(outcome.decision), f"{waiver.waiver_id}: keyturn waivers"]
        case Rejected():
            lines = [f"rejected: {outcome.reason}; no job", outcome.explanation]
        case Failed():
            lines = [f"failed: {outcome.kind}", outcome.hint]
        case WaitingForPerson():
            lines = _waiting(workflow_id, outcome)
        case LimitedUntil():
            lines = [
                f"rate limited until {in_utc(outcome.retry_at)}; then the workflow continues by itself",
                "the same command attaches to it later",
            ]
        case _:
            # The wait expired, or the rotation itself timed out: for the caller it is the same.
            lines = [
                "no answer in time",
                "the same command attaches to it or asks again: neither creates a second job",
            ]
    return [*lines, f"workflow {workflow_id}"]


def _job_lines(outcome: JobCreated) -> list[str]:
    if outcome.job_state in ENDED_WITHOUT_ROTATION:
        return [
            f"job {outcome.job_id} {outcome.job_state}: nothing rotates the key any more",
            f"see why: keyturn status {outcome.job_id}; then ask with --again, which creates another job",
        ]
    first = fate_of(created=outcome.created, tightened=outcome.tightened)
    approved = f", approved by {outcome.approved_by}" if outcome.approved_by else ""
    state = f", {outcome.job_state}" if outcome.job_state and not outcome.created else ""
    return [f"job {outcome.job_id} ({first}{state}{approved})"]


def _waiting(workflow_id: str, outcome: WaitingForPerson) -> list[str]:
    until = f", until {in_utc(outcome.until)}" if outcome.until else ""
    if outcome.status == "parked":
        return [f"parked: {outcome.kind}{until}; nothing is lost", outcome.hint, f"then: keyturn resume {workflow_id}"]
    is_disagreement = outcome.status == "disagreement"
    lines = [f"disagreement: the key is due by rule, the model says otherwise; it waits for an approver{until}"]
    if not is_disagreement:
        lines = [f"awaiting approval{until}"]
    if outcome.decision is not None:
        lines += [f"by rule: {line}" if is_disagreement else line for line in _decision_lines(outcome.decision)]
        lines += [f"by model: {reading_of(one)}" for one in outcome.readings]
        lines.append(f"approvers: {approvers_of(outcome.decision)}; digest {outcome.decision.digest}")
        lines.append(f"review it and decide: keyturn approve {workflow_id}")
    return lines


def reading_of(one: ModelReading) -> str:
    """Return in a phrase what a model said of a key."""
    said = one.decision.replace("_", " ") if one.decision else "no decision"
    return f"{one.provider} {one.model} said {said} ({one.reason})"


def approvers_of(decision: GroundedDecision) -> str:
    """Return who may approve a decision."""
    return "any operator who did not ask" if decision.any_operator else ", ".join(decision.approvers)


def _decision(decision: GroundedDecision) -> dict[str, Any]:
    return {
        "decision": decision.decision,
        "rotation_window_days": decision.rotation_window_days,
        "policy_lines": [str(line) for line in decision.source_lines],
        "cited_lines": [str(line) for line in decision.cited_lines],
        "rotate_by": decision.rotate_by.isoformat() if decision.rotate_by else None,
        "overdue_by_days": decision.overdue_by_days,
        "decided_by": decision.basis,
        "decision_explanation": decision.explanation,
        "digest": decision.digest,
    }


def _decision_lines(decision: GroundedDecision, due: datetime | None = None) -> list[str]:
    lines = ", ".join(str(line) for line in decision.source_lines) or "no policy line"
    window = f", window {days_in_words(decision.rotation_window_days)}" if decision.rotation_window_days else ""
    return [f"{decision.decision.replace('_', ' ')} under {lines}{window}{due_of(decision, due)}"]


def due_of(decision: GroundedDecision, due: datetime | None = None) -> str:
    """Return when the rotation is due, and by how much that has passed; empty where no line states a time.

    Args:
        decision: what was decided.
        due: the job's own date, if there is a job; else it is the decision's.
    """
    due = due or decision.rotate_by
    if due is None:
        return ""
    overdue = "" if decision.overdue_by_days is None else f", overdue by {days_in_words(decision.overdue_by_days)}"
    return f", due {due:%Y-%m-%d}{overdue}"


def days_in_words(days: int) -> str:
    """Return a number of whole days in words."""
    return "less than a day" if days == 0 else "1 day" if days == 1 else f"{days:,} days"


def _because(decision: GroundedDecision) -> list[str]:
    return [decision.explanation] if decision.explanation else []
