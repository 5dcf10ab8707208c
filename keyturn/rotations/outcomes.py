"""How a rotation ends, or what it waits for: the value that a caller gets."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from keyturn.calls import CallRecord
from keyturn.contracts import Contract, Digest, Identifier, ShortIdentifier
from keyturn.rotations.decisions import GroundedDecision, ModelReading, RejectionReason
from keyturn.waivers.contracts import AppliedWaiver


class RotationJob(Contract):
    """The one rotation job of an idempotency key. `created` is False when it was there already.

    `tightened`: the credential had an open job under another key, and this decision, which is stricter, now governs it.
    `rotate_by`: the job's date, where it is another than the order's: a rotation that is decided a second time, on the
    same evidence and a later day, does not move the date of the job that it has. `job_state` is the job's.
    """

    job_id: ShortIdentifier
    created: bool
    tightened: bool = False
    rotate_by: AwareDatetime | None = None
    job_state: str | None = Field(default=None, max_length=16)
    # Of the workflow that ordered it, as in `Assessment`.
    first_run_id: str | None = Field(default=None, max_length=64)


class JobCreated(Contract):
    """The key may be rotated and its one job exists; `rotate_by` as of `RotationJob`, `job_state` as it was then."""

    status: Literal["job_created"] = "job_created"
    job_id: ShortIdentifier
    created: bool
    tightened: bool = False
    rotate_by: AwareDatetime | None = None
    job_state: str | None = Field(default=None, max_length=16)
    approved_by: Identifier | None = None
    decision: GroundedDecision
    request_digest: Digest
    call: CallRecord

    @property
    def due(self) -> datetime | None:
        """The job's date; None if it has none."""
        return self.rotate_by or self.decision.rotate_by


class NotEligible(Contract):
    """The policy speaks of this key, and says no."""

    status: Literal["not_eligible"] = "not_eligible"
    decision: GroundedDecision
    request_digest: Digest
    call: CallRecord


class NotSpecified(Contract):
    """Neither policy nor evidence answers the question."""

    status: Literal["not_specified"] = "not_specified"
    decision: GroundedDecision
    request_digest: Digest
    call: CallRecord


class Waived(Contract):
    """The key is due, and a waiver exempts it until a date: no job."""

    status: Literal["waived"] = "waived"
    decision: GroundedDecision
    waiver: AppliedWaiver
    request_digest: Digest
    call: CallRecord


class Rejected(Contract):
    """The model's answer is not supported by the evidence; nothing was done."""

    status: Literal["rejected"] = "rejected"
    reason: RejectionReason
    explanation: str = Field(max_length=500)
    request_digest: Digest
    call: CallRecord


class TimedOut(Contract):
    """The answer did not come in time; asking again is safe."""

    status: Literal["timeout"] = "timeout"
    next_step: Literal["show_retry_option"] = "show_retry_option"


class LimitedUntil(Contract):
    """The user's token limit is used up until `retry_at`; the workflow then resumes by itself."""

    status: Literal["rate_limited"] = "rate_limited"
    next_step: Literal["wait"] = "wait"
    retry_at: AwareDatetime


class WaitingForPerson(Contract):
    """The workflow waits for a person, who fixes something or approves; after `until` it ends by itself."""

    status: Literal["parked", "awaiting_approval", "disagreement"]
    kind: str = Field(max_length=64)
    next_step: str = Field(max_length=64)
    hint: str = Field(max_length=500)
    until: AwareDatetime | None = None
    decision: GroundedDecision | None = None
    readings: tuple[ModelReading, ...] = ()


class Failed(Contract):
    """Something that a person must fix: its kind, and what fixes it."""

    status: Literal["failed"] = "failed"
    kind: str = Field(max_length=64)
    next_step: str = Field(max_length=64)
    hint: str = Field(max_length=500)
    # When asking again can succeed, where that is known: a workflow waits for it by itself, within reason.
    retry_at: AwareDatetime | None = None
    retry_in: float | None = Field(default=None, ge=0)  # the same in seconds: clocks differ, and a wait does not
    # Whether a rotation waits for the person who fixes it, and then resumes, instead of ending.
    parks: bool = False


CompletedOutcome = Annotated[JobCreated | NotEligible | NotSpecified | Waived | Rejected, Field(discriminator="status")]


RotationOutcome = Annotated[
    JobCreated | NotEligible | NotSpecified | Waived | Rejected | TimedOut | LimitedUntil | WaitingForPerson | Failed,
    Field(discriminator="status"),
]
