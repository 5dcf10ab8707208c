"""What notices say, in plain text: each channel puts it into its own form."""

from collections.abc import Mapping
from urllib.parse import quote

from keyturn.contracts import UNOWNED
from keyturn.moments import in_utc
from keyturn.notices.contracts import Notice, NoticeMessage, Topic

# Of one, of several: as they stand behind a number.
HEADLINES: Mapping[Topic, tuple[str, str]] = {
    "approval.waits": ("decision waits for an approval", "decisions wait for an approval"),
    "approval.expires": ("approval expires within a day", "approvals expire within a day"),
    "decision.disagreement": ("rule and model disagree on a due key", "due keys on which rule and model disagree"),
    "rotation.parked": ("rotation is parked", "rotations are parked"),
    "job.created": ("key must be rotated", "keys must be rotated"),
    "job.tightened": ("job has an earlier date", "jobs have an earlier date"),
    "job.due_soon": ("job is due soon", "jobs are due soon"),
    "job.overdue": ("job is overdue", "jobs are overdue"),
    "job.cancelled": ("job was cancelled", "jobs were cancelled"),
    "rotation.began": ("rotation began", "rotations began"),
    "rotation.blocked": ("rotation waits, and the old key stays", "rotations wait, and the old keys stay"),
    "old_key.deactivated": ("old key was deactivated", "old keys were deactivated"),
    "old_key.activated": (
        "old key was used after its deactivation, and is active again",
        "old keys were used after their deactivation, and are active again",
    ),
    "rotation.done": ("rotation is done", "rotations are done"),
    "rotation.failed": ("rotation failed", "rotations failed"),
    "rotation.rolled_back": ("rotation was rolled back", "rotations were rolled back"),
    "run.finished": ("bulk run finished", "bulk runs finished"),
    "run.failed": ("bulk run failed", "bulk runs failed"),
    "run.paused": ("bulk run is paused", "bulk runs are paused"),
    "waiver.ends": ("waiver ends soon", "waivers end soon"),
    "exposure.unknown": ("exposed key is in no inventory", "exposed keys are in no inventory"),
    "spend.over": ("limit of a day's cost is passed", "limits of a day's cost are passed"),
}
# What a fact is, where its name alone does not say it.
_FACTS = {
    "approvers": "to be decided by",
    "by": "by",
    "cancelled_by": "cancelled by",
    "consumers": "these must report that they have it:",
    "continue_by": "it goes on by",
    "ended": "which is",
    "new_key": "the new key is",
    "place": "at",
    "overlap_until": "the old key is deactivated at the earliest on",
    "reason": "because of",
    "reported_by": "reported by",
    "grace_until": "and is deleted at the earliest on",
    "kind": "because of",
    "late_until": "after its date: until",
    "look": "see",
    "scope": "exempt",
    "source": "found by",
    "state": "its job is",
    "stores": "the new secret goes to",
    "to_do": "what to do:",
    "until": "until",
    "users": "used by",
}


# What keeps an old key.
_BLOCKED = {
    "old_key_in_use": "it is still used",
    "new_key_missing": "the new key does not work",
    "new_key_not_seen": "no use of the new key was seen",
    "consumers_not_moved": "not all consumers have the new key",
    "key_use_unknown": "whether it is still used is not known",
}


def headline(message: NoticeMessage) -> str:
    """Return what a message is about, in one line."""
    counts = sorted(message.by_topic.items(), key=lambda item: (-item[1], item[0]))
    parts = [_counted(count, topic) for topic, count in counts]
    owners = {notice.owner or UNOWNED for notice in message.notices if notice.key_id}
    of = f" ({owners.pop()})" if len(owners) == 1 else ""
    return ", ".join(parts[:3]) + (f" and {len(parts) - 3} more kinds" if len(parts) > 3 else "") + of


def sentence(notice: Notice) -> str:
    """Return what happened, to which key, and what it adds."""
    one, _ = HEADLINES[notice.topic]
    of = f" of {notice.account_id}" if notice.account_id else ""
    about = f": {notice.key_id}{of}" if notice.key_id else ""
    parts = [f"{one[0].upper()}{one[1:]}{about}"]
    parts += [f"under {', '.join(notice.policy_lines)}"] if notice.policy_lines else []
    parts += [f"due {notice.rotate_by:%Y-%m-%d}"] if notice.rotate_by else []
    parts += [_fact(name, value) for name, value in notice.facts.items()]
    return ", ".join(parts) + "."


def _fact(name: str, value: str) -> str:
    if name == "days":
        return f"overdue by {value} day{'' if value == '1' else 's'}"
    if name == "exposed":
        return "the key was exposed"
    if name == "blocked":
        return _BLOCKED.get(value, value.replace("_", " "))
    if name in {"kind", "state"}:
        value = value.replace("_", " ")
    if name.endswith("_usd"):
        return f"{name.removesuffix('_usd').replace('_', ' ')} ${value}"
    return f"{_FACTS.get(name, name.replace('_', ' '))} {_as_read(value)}"


def link(notice: Notice, desk: str | None) -> str | None:
    """Return the desk's page of what a notice is about; None without a desk. It decides nothing: a person signs in."""
    if desk is None:
        return None
    base = desk.rstrip("/")
    if notice.job_id is not None:
        return f"{base}/jobs/{quote(notice.job_id, safe='')}"
    if notice.workflow_id is not None:
        return f"{base}/rotations/{quote(notice.workflow_id, safe='')}"
    pages = {"waiver.ends": "waivers", "exposure.unknown": "exposed"}
    return f"{base}/{pages.get(notice.topic, 'runs' if notice.run_id else '')}".rstrip("/")


def left_out(message: NoticeMessage) -> str | None:
    """Return what a digest does not name one by one; None if it names all."""
    hidden = message.total - len(message.notices)
    return f"and {hidden:,} more" if hidden > 0 else None


def as_text(message: NoticeMessage, desk: str | None) -> str:
    """Return a message as plain text, for channels without a form of their own."""
    lines = [headline(message), ""]
    for notice in message.notices:
        lines.append(f"- {in_utc(notice.at)}  {sentence(notice)}")
        if (url := link(notice, desk)) is not None:
            lines.append(f"  {url}")
    if (more := left_out(message)) is not None:
        lines += ["", more]
    return "\n".join(lines) + "\n"


def _counted(count: int, topic: str) -> str:
    one, several = next((words for name, words in HEADLINES.items() if name == topic), (topic, topic))
    return f"1 {one}" if count == 1 else f"{count:,} {several}"


def _as_read(value: str) -> str:
    """A moment as people read it; anything else as it is."""
    try:
        return in_utc(value) if len(value) > len("2026-11-27") and value[4:5] == "-" else value
    except ValueError:
        return value
