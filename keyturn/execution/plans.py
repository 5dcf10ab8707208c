"""What a rotation is going to do and when, in words: for a dry run and for the audit trail. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from keyturn.execution.contracts import KeyUse, KeyWaits, Need, NeedKind
from keyturn.jobs.contracts import ClaimedJob, Evidence
from keyturn.keyless import KEYLESS
from keyturn.moments import in_utc

_HINTS: Mapping[NeedKind, str] = {
    "old_key_in_use": "Move what uses the old key to the new secret: the rotation continues by itself once the old key "
    "is quiet. Or `keyturn rollback JOB_ID`.",
    "new_key_not_seen": "Check that its consumers read the new secret. If nothing uses this key any more: "
    "`keyturn advance JOB_ID --reason ...`.",
    "consumers_not_moved": "Each consumer reports the new key's ID (POST /jobs/JOB_ID/consumers/NAME, or `keyturn jobs "
    "moved`), and each rollout completes. If one is gone: `keyturn advance JOB_ID --reason ...`.",
    "key_use_unknown": "Give the executor the right to read when keys are used, or declare the key's consumers in the "
    "key map. If nothing uses the old key: `keyturn advance JOB_ID --reason ...`.",
    "new_key_missing": "The old key works again. Find out who deleted or deactivated the new one, then `keyturn "
    "rollback JOB_ID`, and ask again; or activate it, and `keyturn resume execute:JOB_ID`.",
}
USED_IN_GRACE = (
    "The old key works again. Move what uses it to the new secret, then `keyturn resume execute:JOB_ID`: the old key "
    "is deactivated anew once it is quiet. Or `keyturn rollback JOB_ID`."
)


def hint_for(need: Need) -> str:
    """Return what to do about what needs the old key."""
    return _HINTS[need.kind]


def hint_of(kind: str, job_id: str) -> str | None:
    """Return what to do about a wait of a kind, with the job's ID in its commands; None for another kind."""
    return next((hint.replace("JOB_ID", job_id) for name, hint in _HINTS.items() if name == kind), None)


def late_until(waits: KeyWaits, *, rotate_by: datetime | None, now: datetime) -> datetime | None:
    """Return when the waits of a rotation that starts now end, if that is after its date; None if it is not."""
    end = now + waits.overlap + waits.grace
    return end if rotate_by is not None and end > rotate_by else None


def evidence_of(waits: KeyWaits, *, rotate_by: datetime | None, now: datetime) -> Evidence:
    """Return the waits of a rotation for its audit trail, and whether they end after its date."""
    evidence = {"overlap": in_words(waits.overlap), "quiet": in_words(waits.quiet), "grace": in_words(waits.grace)}
    if waits.cut_short_by is not None:
        evidence["cut_short_by"] = waits.cut_short_by
    late = late_until(waits, rotate_by=rotate_by, now=now)
    return evidence if late is None else evidence | {"late_until": in_utc(late)}


def plan_of(
    job: ClaimedJob,
    *,
    user: str,
    used: KeyUse,
    targets: Sequence[str],
    consumers: Sequence[str],
    restarts: bool,
    waits: KeyWaits,
    is_idle: bool,
    now: datetime,
) -> Sequence[str]:
    """Return the steps of a job that is started now, a sentence each, with the times that it will use."""
    deactivated, deleted = now + waits.overlap, now + waits.overlap + waits.grace
    shown = [f"{', '.join(consumers)} have reported it"] if consumers else []
    shown += ["each rollout is complete"] if restarts else []
    if not shown and not is_idle:
        shown = ["the new one is seen in use"] if used.is_known else ["an operator says that nothing else uses it"]
    seen = "".join(f"{one}, and " for one in shown)
    idle = f"; it was idle for {in_words(waits.idle)}: no use of the new one is waited for" if is_idle else ""
    short = f" (cut short by {waits.cut_short_by})" if waits.cut_short_by else ""
    late = late_until(waits, rotate_by=job.rotate_by, now=now)
    if late is not None and job.rotate_by is not None:
        ends = f"{in_words(late - job.rotate_by)} after its date, {in_utc(job.rotate_by)}: the waits are not shortened"
    else:
        ends = f"before its date, {in_utc(job.rotate_by)}" if job.rotate_by else "it has no date"
    return (
        f"record the keys of {user}: {job.key_id}, last used {use_in_words(used)}",
        "create a second key",
        f"store its secret in {', '.join(targets)}",
        f"read it back, and use it as {user}",
        f"let both keys work for {in_words(waits.overlap)}{short}, until {seen}the old one was not used for "
        f"{in_words(waits.quiet)}{idle}",
        f"deactivate {job.key_id}, at {in_utc(deactivated)} at the earliest",
        f"wait for {in_words(waits.grace)}{short}; activate it again if anything uses it",
        f"delete {job.key_id}, at {in_utc(deleted)} at the earliest",
        f"close {job.job_id} as done: {ends}",
        f"consider instead: {KEYLESS[job.credential_kind]}",
    )


def use_in_words(use: KeyUse | None) -> str:
    """Return when a key was last used, and by what if that is known."""
    if use is None or not use.is_known:
        return "unknown"
    by = ", ".join(use.by)
    if use.last_used_at is None:
        return "never" if use.is_whole else "never, as far as the cloud sees" + (f": {by}" if by else "")
    return in_utc(use.last_used_at) + (f" by {by}" if by else "")


def in_words(span: timedelta) -> str:
    """Return a span as hours or days."""
    hours = span.total_seconds() / 3_600
    return f"{hours / 24:.3g} days" if hours >= 48 else f"{hours:.3g} hours" if hours != 1 else "1 hour"
