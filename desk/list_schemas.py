"""The rows and pages of the desk's lists as JSON."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, Field

from keyturn.application.rotation_lists import RotationState
from keyturn.application.runs import RunState
from keyturn.bulk.contracts import RunProgress
from keyturn.rotations.decisions import ModelReading


class RotationRow(BaseModel):
    """A rotation in a list. Names are null where they cannot be decrypted here."""

    workflow_id: str
    state: RotationState
    reason: str | None = Field(description="What a parked rotation waits for.")
    account_id: str | None
    key_id: str | None
    credential_kind: str | None
    owner: str | None = Field(default=None, description="Who owns the key; null if no one is known to.")
    requested_by: str | None
    policy_lines: list[str]
    started_at: datetime
    closed_at: datetime | None
    rotate_by: datetime | None = Field(description="The date of its job, or of the decision that waits.")
    overdue_by_days: int | None = Field(description="Whole days past that date; null if it is not overdue.")
    job_id: str | None
    job_state: str | None
    digest: str | None = Field(description="The digest of the decision that waits: an approval names it.")
    approvers: list[str]
    any_operator: bool
    waits_since: datetime | None
    waits_until: datetime | None
    readings: list[ModelReading] = Field(description="Of a disagreement: what the models said.")
    hint: str | None = Field(description="What to do about a parked one.")


class _List(BaseModel):
    after: str | None = Field(description="The cursor of the next page; null at the end.")


class RotationList(_List):
    """A page of rotations."""

    rotations: list[RotationRow]


class JobRow(BaseModel):
    """A rotation job."""

    job_id: str
    status: str
    account_id: str | None
    key_id: str | None
    credential_kind: str | None
    owner: str | None = Field(default=None, description="Who owns the key; null if no one is known to.")
    policy_lines: list[str] | None
    requested_by: str | None
    trace_id: str | None
    decision_digest: str | None
    rotation_window_days: int | None
    created_at: datetime
    rotate_by: datetime | None
    closed_at: datetime | None
    lease_owner: str | None
    lease_until: datetime | None
    priority: int = Field(description="1: urgent, the key is compromised; 3: normal.")
    overdue_by_days: int | None = None


class JobList(_List):
    """A page of jobs."""

    jobs: list[JobRow]


class AuditRow(BaseModel):
    """An event of a job's audit trail."""

    at: datetime
    event: str
    actor: str
    detail: dict[str, Any]


class JobWithAudit(BaseModel):
    """A job and its audit trail, oldest first."""

    job: JobRow
    audit: list[AuditRow]


class RunRow(BaseModel):
    """A bulk run."""

    run_id: str
    state: RunState
    task: str
    source: str = Field(description="The inventory.")
    policy_lines: list[str]
    requested_by: str
    created_at: datetime
    ended_at: datetime | None
    progress: RunProgress = Field(description="As it is, or as it was at the end.")


class RunList(_List):
    """A page of bulk runs."""

    runs: list[RunRow]


class ItemRow(BaseModel):
    """An item of a bulk run: a key, or what a scan has of an account."""

    ordinal: int = Field(description="Its place in the run, from 1.")
    line: int = Field(description="Its line, or place, in the inventory.")
    account_id: str | None
    key_id: str | None
    owner: str | None
    age_days: int | None
    outcome: str | None = Field(description="null until it is judged.")
    reason: str | None
    explanation: str | None
    decided_by: str | None
    policy_lines: list[str] | None
    rotate_by: datetime | None
    workflow_id: str | None = Field(description="Its rotation, if one was started.")
    job_id: str | None
    trace_id: str | None = Field(description="By which its model calls are found, if a model was asked.")


class ItemList(_List):
    """A page of a run's items."""

    items: list[ItemRow]


class CallRow(BaseModel):
    """A model call."""

    call_id: str
    called_at: datetime
    trace_id: str
    user_id: str
    task: str
    provider: str
    model: str
    attempt: int
    status: str
    failure: str | None
    latency_ms: float
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: Decimal | None
    cache_hit: bool


class CallList(_List):
    """A page of model calls."""

    calls: list[CallRow]


class CostRow(BaseModel):
    """What a task's model calls have cost."""

    task: str
    calls: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cache_hits: int
    not_ok: int
    unpriced: int = Field(description="Answered calls of unknown price: cost_usd leaves them out.")
    cost_usd: Decimal | None


class CostList(BaseModel):
    """Costs by task."""

    costs: list[CostRow]
