"""A notice: one event that people hear of. As a CloudEvent's `data` it is published as docs/schemas/notice.json."""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple, get_args

from pydantic import AwareDatetime, Field, StringConstraints

from keyturn.contracts import ONE_LINE, AccountId, Contract, Identifier, Owner, ShortIdentifier

Topic = Literal[
    "approval.waits",
    "approval.expires",
    "decision.disagreement",
    "rotation.parked",
    "job.created",
    "job.tightened",
    "job.due_soon",
    "job.overdue",
    "job.cancelled",
    "rotation.began",
    "rotation.blocked",
    "old_key.deactivated",
    "old_key.activated",
    "rotation.done",
    "rotation.failed",
    "run.finished",
    "run.failed",
    "run.paused",
    "waiver.ends",
    "spend.over",
]
TOPICS: tuple[Topic, ...] = get_args(Topic)
# How a job ends well: what was opened for it may be closed.
CLOSING: frozenset[Topic] = frozenset({"rotation.done", "job.cancelled"})
Severity = Literal["info", "warning", "urgent"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
Fact = Annotated[str, StringConstraints(max_length=500, pattern=ONE_LINE)]


class Notice(Contract):
    """One event that people hear of: names, dates and states. Never evidence, a question, an answer or a secret.

    Attributes:
        event_id: the same for the same event, however often it is found.
        topic: what happened.
        severity: how soon somebody must look: `urgent` is neither held back nor put into a digest.
        tenant_id: whose.
        at: when it happened.
        owner: who owns the key; None if no one is known to.
        account_id: the key's account; None for what is about no key.
        key_id: the key; None for what is about no key.
        policy_lines: under which the key is due, as ID@VERSION.
        job_id: the rotation job.
        workflow_id: the rotation that waits for a person.
        run_id: the bulk run.
        rotate_by: the date of the job or of the waiver's end.
        facts: what the topic adds, such as `until`, `approvers`, `reason`, `by`.
    """

    event_id: str = Field(max_length=160)
    topic: Topic
    severity: Severity
    tenant_id: ShortIdentifier
    at: AwareDatetime
    owner: Owner | None = None
    account_id: AccountId | None = None
    key_id: Identifier | None = None
    policy_lines: tuple[str, ...] = Field(default=(), max_length=16)
    job_id: ShortIdentifier | None = None
    workflow_id: str | None = Field(default=None, max_length=1_000)
    run_id: ShortIdentifier | None = None
    rotate_by: AwareDatetime | None = None
    facts: dict[str, Fact] = Field(default_factory=dict, max_length=16)


class NoticeMessage(NamedTuple):
    """Notices that go to one destination together.

    Attributes:
        message_id: the same, however often it is sent: a receiver that knows it drops the second one.
        destination: where, as CHANNEL or CHANNEL:ADDRESS.
        notices: the newest `SHOWN` of those that it is about, oldest first.
        total: how many there are.
        by_topic: how many of each topic.
        waits_for: the earlier message to the same destination that must come first; None if none must.
        is_sent: whether it has come through already.
    """

    message_id: str
    destination: str
    notices: tuple[Notice, ...]
    total: int
    by_topic: Mapping[str, int]
    waits_for: str | None = None
    is_sent: bool = False


# Named one by one in a digest; of the others, only their number. A screen's worth.
SHOWN = 20


class NoticeDelivery(Contract):
    """Which message of notices is to be delivered."""

    message_id: ShortIdentifier
