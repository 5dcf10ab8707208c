"""Notices of no key that exists, for previews, tests of a channel, and its tests."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from keyturn.notices.contracts import SHOWN, TOPICS, Notice, NoticeMessage, Severity, Topic

_SEVERITIES: dict[Topic, Severity] = {
    "approval.waits": "warning",
    "approval.expires": "warning",
    "decision.disagreement": "warning",
    "rotation.parked": "warning",
    "job.overdue": "warning",
    "rotation.blocked": "warning",
    "rotation.failed": "urgent",
    "rotation.rolled_back": "warning",
    "old_key.activated": "urgent",
    "run.failed": "warning",
    "run.paused": "warning",
    "waiver.ends": "warning",
    "spend.over": "warning",
    "exposure.unknown": "urgent",
}
_WITHOUT_JOB = {"approval.waits", "approval.expires", "decision.disagreement", "rotation.parked"}
_OF_NO_ACCOUNT = {"exposure.unknown"}
_WITHOUT_KEY = {"run.finished", "run.failed", "run.paused", "waiver.ends", "spend.over"}


def sample(topic: Topic, *, number: int = 1, owner: str | None = "payments", at: datetime | None = None) -> Notice:
    """Return a notice of a topic about a key that does not exist."""
    at = at or datetime.now(UTC)
    of_key, of_job = topic not in _WITHOUT_KEY, topic not in _WITHOUT_JOB | _WITHOUT_KEY | _OF_NO_ACCOUNT
    return Notice(
        event_id=f"sample-{topic}-{number}-{int(at.timestamp())}",
        topic=topic,
        severity=_SEVERITIES.get(topic, "info"),
        tenant_id="default",
        at=at,
        owner=owner if of_key and topic not in _OF_NO_ACCOUNT else None,
        account_id="acct_sample" if of_key and topic not in _OF_NO_ACCOUNT else None,
        key_id=f"key_sample_{number}" if of_key else None,
        policy_lines=("P-7@1",) if of_key and topic not in _OF_NO_ACCOUNT else (),
        job_id=f"job_sample_{number}" if of_job else None,
        workflow_id=f"rotation:default:sample-{number}" if topic in _WITHOUT_JOB else None,
        run_id="run-sample" if topic in {"run.finished", "run.failed", "run.paused"} else None,
        rotate_by=at + timedelta(days=3) if of_job else None,
        facts={"sample": "this is a test of Keyturn's notices; no key is concerned"},
    )


def message_of(notices: Sequence[Notice], destination: str, *, message_id: str = "notice_sample") -> NoticeMessage:
    """Return the message that notices would share."""
    return NoticeMessage(
        message_id=message_id,
        destination=destination,
        notices=tuple(notices[-SHOWN:]),
        total=len(notices),
        by_topic=Counter(one.topic for one in notices),
    )


def samples(topics: Sequence[Topic] = TOPICS) -> Sequence[Notice]:
    """Return a notice of each topic."""
    return [sample(topic, number=number) for number, topic in enumerate(topics, 1)]
