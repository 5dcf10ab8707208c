"""How long a key's rotation waits, and whether anything still needs the old key. Pure."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from keyturn.execution.contracts import KeyState, KeyUse, KeyWaits, Need
from keyturn.execution.mapping import KeyMapping
from keyturn.policy.line import PolicyLine, WhenCompromised


def waits_of(
    default: KeyWaits, *, lines: Iterable[PolicyLine], mapping: KeyMapping | None, is_compromised: bool
) -> KeyWaits:
    """Return the waits of one rotation: what its policy lines and its mapping say, the longest of them each.

    A wait is a minimum, whatever the job's date: what is late is not made worse by cutting a consumer off. Only a line
    on compromised keys makes the waits of a compromised key shorter, and then it is alone in saying so.

    The old key must be quiet for no less than the overlap: where consumers need a week to read a new secret, one that
    used the old key yesterday may use it again within a week.

    Args:
        default: where neither says anything.
        lines: the job's policy lines.
        mapping: the key's mapping, if it has one.
        is_compromised: whether the job's key is.
    """
    stated = list(lines)
    for line in stated if is_compromised else ():
        if isinstance(line.rule, WhenCompromised) and (line.overlap_hours, line.grace_hours) != (None, None):
            return default.model_copy(
                update={
                    "overlap": _hours(line.overlap_hours, default.overlap),
                    "grace": _hours(line.grace_hours, default.grace),
                    "quiet": timedelta(0),
                    "cut_short_by": line.id,
                }
            )
    said: list[PolicyLine | KeyMapping] = [*stated, *([mapping] if mapping is not None else [])]
    overlaps = [one.overlap_hours for one in said if one.overlap_hours is not None]
    graces = [one.grace_hours for one in said if one.grace_hours is not None]
    overlap = _hours(max(overlaps, default=None), default.overlap)
    return default.model_copy(
        update={
            "overlap": overlap,
            "grace": _hours(max(graces, default=None), default.grace),
            "quiet": max(default.quiet, overlap),
        }
    )


def need_of(
    rotation: KeyState,
    *,
    old: KeyUse,
    new: KeyUse,
    missing: Sequence[str],
    is_watched: bool = False,
    own_use_within: timedelta,
    now: datetime,
) -> Need | None:
    """Return why the old key must stay active; None if everything that is known says that nothing needs it.

    Args:
        rotation: with its new key verified.
        old: the old key's use.
        new: the new key's use, our own verification included.
        missing: the declared consumers that have not reported the new key, and the rollouts that are not complete.
        is_watched: whether a target restarts what reads the key, so that its rollouts show who has moved.
        own_use_within: how long after our verification the provider may date it.
        now: by the clock that the waits are measured by.
    """
    if is_in_use(rotation, old, now=now):  # before what an operator may end: a use is a fact
        return Need(kind="old_key_in_use", by=old.by)
    if missing:
        return Need(kind="consumers_not_moved", by=tuple(one[:200] for one in missing[:16]))
    if not old.is_known:
        return None if rotation.consumers or is_watched else Need(kind="key_use_unknown")
    # Each consumer has said that it moved; or there is none, for as long as anyone knows.
    if (
        rotation.consumers
        or is_watched
        or is_idle(rotation.waits, old, rotation.old_created_at, at=rotation.recorded_at)
    ):
        return None
    verified = rotation.verified_at
    if verified is not None and new.last_used_at is not None and new.last_used_at > verified + own_use_within:
        return None
    return Need(kind="new_key_not_seen")


def is_idle(waits: KeyWaits, old: KeyUse, created_at: datetime | None, *, at: datetime) -> bool:
    """Return whether a key was not used for so long that nothing uses it: its age, if it was never used."""
    last = old.last_used_at or created_at
    return old.is_known and old.is_whole and last is not None and last < at - waits.idle


def is_in_use(rotation: KeyState, old: KeyUse, *, now: datetime) -> bool:
    """Return whether the old key was used within the time for which it must be quiet."""
    if rotation.goes_regardless or old.last_used_at is None:
        return False
    return old.last_used_at > now - rotation.waits.quiet


def _hours(hours: float | None, default: timedelta) -> timedelta:
    return default if hours is None else timedelta(hours=hours)
