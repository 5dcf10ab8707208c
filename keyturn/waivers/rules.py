"""When a waiver exempts a key. Pure.

A key that is due under several policy lines is exempt only if each of them is waived: a waiver of one line says nothing
of the others. A line that names approvers is waived by them alone, whatever else a waiver is about. A line may limit
how long its waivers last (`waiver_days`); a longer one ends for that line with the day on which its limit is reached.
Approvers cannot exempt keys that they own themselves.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, time, timedelta

from keyturn.execution.mapping import names_of
from keyturn.patterns import pattern_of
from keyturn.people import is_among, same_form
from keyturn.policy.line import PolicyLine
from keyturn.waivers.contracts import AppliedWaiver, Waiver

# Where a line says nothing of its waivers: an exception that no one has looked at for a year is a policy of its own.
MOST_DAYS = 365


def most_days(line: PolicyLine) -> int:
    """Return how many days a waiver of a line lasts at most."""
    return MOST_DAYS if line.waiver_days is None else line.waiver_days


def ends_for(waiver: Waiver, line: PolicyLine) -> datetime:
    """Return when a waiver ends for keys that are due under a line."""
    limit = waiver.granted_at + timedelta(days=most_days(line))
    return min(waiver.until, datetime.combine(limit.date(), time.max, UTC) if most_days(line) else waiver.granted_at)


def covers(waiver: Waiver, *, account_id: str, key_id: str, owner: str | None, compromised: bool) -> bool:
    """Whether a waiver is about a key, whatever line it is due under, and at whatever time."""
    if waiver.key_id not in {None, key_id} or (compromised and not waiver.covers_compromised):
        return False
    if waiver.owner is not None and (owner is None or same_form(waiver.owner) != same_form(owner)):
        return False
    if waiver.account is not None:
        pattern = pattern_of(waiver.account)
        if not any(pattern.matches(name) for name in names_of(account_id)):
            return False
    return owner is None or same_form(waiver.granted_by) != same_form(owner)


def may_exempt_from(waiver: Waiver, line: PolicyLine) -> bool:
    """Whether a waiver counts for keys that are due under a line: a line with approvers is waived by them alone."""
    about = waiver.line in {None, line.id}
    return about and (not line.approvers or is_among(waiver.granted_by, line.approvers))


def find_waiver(
    waivers: Iterable[Waiver],
    lines: Sequence[PolicyLine],
    *,
    account_id: str,
    key_id: str,
    owner: str | None,
    compromised: bool,
    now: datetime,
) -> AppliedWaiver | None:
    """Return what exempts a key that is due under `lines`, all of which bind; None if it must be rotated.

    Args:
        waivers: those that were granted, and not ended by hand.
        lines: the binding lines.
        account_id: the key's account.
        key_id: the key's ID.
        owner: who owns it; None if no one is known to.
        compromised: whether it was exposed.
        now: the present moment.
    """
    about = [
        one
        for one in waivers
        if covers(one, account_id=account_id, key_id=key_id, owner=owner, compromised=compromised)
    ]
    applied: list[tuple[datetime, Waiver]] = []
    for line in lines:
        of_line = [(ends_for(one, line), one) for one in about if may_exempt_from(one, line)]
        longest = max(of_line, key=lambda pair: pair[0], default=None)
        if longest is None or longest[0] <= now:
            return None
        applied.append(longest)
    if not applied:
        return None
    until, first = min(applied, key=lambda pair: pair[0])
    return AppliedWaiver(waiver_id=first.waiver_id, granted_by=first.granted_by, reason=first.reason, until=until)
