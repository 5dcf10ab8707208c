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
    "rotation.rolled_back",
    "run.finished",
    "run.failed",
    "run.paused",
    "waiver.ends",
    "spend.over",
    "exposure.unknown",
]
TOPICS: tuple[Topic, ...] = get_args(Topic)
# How a job ends well: what was opened for it may be closed.
CLOSING: frozenset[Topic] = frozenset({"rotation.done", "job.cancelled"})
Severity = Literal["info", "warning", "urgent"]
MAX_EVENT_ID = 160
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
Fact = Annotated[str, StringConstraints(max_length=500, pattern=ONE_LINE)]
# What each topic may add; a fact that is not known is left out.
_DECISION = ("approvers", "until", "readings")
FACTS: Mapping[Topic, tuple[str, ...]] = {
    "approval.waits": _DECISION,
    "approval.expires": _DECISION,
    "decision.disagreement": _DECISION,
    "rotation.parked": ("kind", "until", "look"),
    "job.created": ("exposed",),
    "job.tightened": ("exposed",),
    "job.due_soon": ("state",),
    "job.overdue": ("state", "days"),
    "job.cancelled": ("cancelled_by", "reason"),
    "rotation.began": ("stores", "consumers", "overlap", "overlap_until", "grace", "grace_until", "late_until"),
    "rotation.blocked": ("blocked", "by", "to_do"),
    "old_key.deactivated": ("last_used",),
    "old_key.activated": ("users", "last_used"),
    "rotation.done": ("new_key",),
    "rotation.failed": ("reason",),
    "rotation.rolled_back": ("reason",),
    "run.finished": ("ended", "keys", "outcomes", "cost_usd", "by"),
    "run.failed": ("reason",),
    "run.paused": ("reason", "continue_by"),
    "waiver.ends": ("scope", "until", "granted_by", "line", "waiver"),
    "spend.over": ("today_usd", "limit_usd"),
    "exposure.unknown": ("source", "place", "reported_by"),
}
FACT_MEANINGS: Mapping[str, str] = {
    "approvers": "who may decide",
    "blocked": "why the old key stays: old_key_in_use, new_key_not_seen, consumers_not_moved or key_use_unknown",
    "by": "who still uses the old key, or who asked for the run",
    "cancelled_by": "who cancelled the job",
    "consumers": "who must report that they have the new key",
    "continue_by": "the command by which it goes on",
    "cost_usd": "what the run's model calls cost, in US dollars",
    "days": "by how many whole days it is overdue",
    "ended": "how the run ended: done or cancelled",
    "exposed": "`yes` if the key is known to others",
    "grace": "how long the old key is kept after its deactivation",
    "grace_until": "the earliest moment at which the old key is deleted",
    "granted_by": "who granted the waiver",
    "keys": "how many keys the inventory has",
    "kind": "what it waits for: the kind of an error, as the reference of errors has it",
    "last_used": "when the old key was last used",
    "late_until": "when the waits end, if that is after the job's date",
    "limit_usd": "KEYTURN_DAILY_SPEND_ALERT_USD",
    "line": "the policy line that ends the waiver before its own end",
    "look": "the command that says more",
    "new_key": "the new key's ID",
    "place": "where the key was found",
    "outcomes": "how many keys have each outcome",
    "overlap": "how long both keys work at least",
    "overlap_until": "the earliest moment at which the old key is deactivated",
    "readings": "what the models decided",
    "reported_by": "who reported it",
    "reason": "why, by whoever did it or by the kind of the error",
    "scope": "which keys are exempt",
    "source": "what found the key",
    "state": "the job's state",
    "stores": "where the new secret is stored",
    "to_do": "what ends the wait",
    "today_usd": "what the day's model calls cost, in US dollars",
    "until": "when it ends by itself",
    "users": "what used the old key",
    "waiver": "the waiver's ID",
}


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
        facts: what the topic adds, see `FACTS`; moments are ISO 8601.
    """

    event_id: str = Field(max_length=MAX_EVENT_ID)
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
    facts: dict[str, Fact] = Field(
        default_factory=dict,
        max_length=16,
        json_schema_extra={"properties": {name: {"description": said} for name, said in FACT_MEANINGS.items()}},
    )


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
