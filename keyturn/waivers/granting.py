"""Granting a waiver: what is checked before one is written."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any

from pydantic import ValidationError

from keyturn.errors import InvalidRequest
from keyturn.faults import faults_of
from keyturn.moments import in_utc
from keyturn.owners import Owners
from keyturn.people import is_among
from keyturn.policy.catalogue import Catalogue
from keyturn.waivers.contracts import Waiver
from keyturn.waivers.errors import WaiverRefused
from keyturn.waivers.rules import MOST_DAYS, ends_for, may_exempt_from, most_days


def new_waiver(catalogue: Catalogue, fields: Mapping[str, Any], *, now: datetime | None = None) -> Waiver:
    """Return a waiver that may be granted.

    Args:
        catalogue: the policy lines, which say who may exempt keys from them, and for how long.
        fields: of `Waiver`, by its names, but for its ID and when it is granted.
        now: when it is granted; None for the present moment.

    Raises:
        InvalidRequest: a field cannot be used.
        WaiverRefused: it has ended already, lasts too long, or its approver may not grant it.
        UnknownPolicyLine: there is no such line.
    """
    now = now or datetime.now(UTC)
    try:
        waiver = Waiver.model_validate({"waiver_id": f"waiver_{uuid.uuid4().hex[:12]}", "granted_at": now, **fields})
    except ValidationError as error:
        raise InvalidRequest(faults=faults_of(error)) from None
    line = None if waiver.line is None else catalogue.current(waiver.line)
    if not ((waiver.account or "").strip("*") or waiver.key_id or waiver.owner or waiver.line):
        raise WaiverRefused(f"the account {waiver.account} is every account: name accounts, a key, an owner or a line")
    if waiver.covers_compromised and waiver.key_id is None:
        raise WaiverRefused("a waiver that covers exposed keys is for one key: name it, by its ID")
    if waiver.until <= now:
        raise WaiverRefused(f"{waiver.until:%Y-%m-%d} is in the past: give a later day")
    most = MOST_DAYS if line is None else most_days(line)
    # The whole last day, as the message names it.
    if waiver.until > datetime.combine((now + timedelta(days=most)).date(), time.max, UTC) or not most:
        longest = f"{(now + timedelta(days=most)):%Y-%m-%d}"
        about = "a waiver" if line is None else f"a waiver of {line.id}"
        raise WaiverRefused(
            f"{about} lasts {most} days at most, until {longest}" if most else f"{about} is not allowed"
        )
    if waiver.owner is not None and is_among(waiver.granted_by, [waiver.owner]):
        raise WaiverRefused(f"{waiver.granted_by} owns the keys: someone else must exempt them")
    if line is not None and line.approvers and not is_among(waiver.granted_by, line.approvers):
        raise WaiverRefused(
            f"{waiver.granted_by} is no approver of {line.id}: {', '.join(line.approvers)} may grant it"
        )
    return waiver


def exceptions_of(waiver: Waiver, catalogue: Catalogue, owners: Owners) -> Sequence[str]:
    """Return where a waiver counts less than it says, in words.

    For lines that allow no longer, or name other approvers; for keys of the approver's own; and where no file names the
    owner that it is about.
    """
    found = []
    if is_among(waiver.granted_by, owners.names):
        found.append(f"for keys that {waiver.granted_by} owns it does not count: someone else must exempt them")
    if waiver.owner is not None and owners.names and not is_among(waiver.owner, owners.names):
        found.append(f"no file names the owner {waiver.owner}: it counts only for keys of which an inventory says so")
    for line in catalogue:
        if waiver.line not in {None, line.id}:
            continue
        if not may_exempt_from(waiver, line):
            found.append(f"for {line.id} it does not count: {', '.join(line.approvers)} may grant it")
        elif (ends := ends_for(waiver, line)) < waiver.until:
            found.append(f"for {line.id} it ends at {in_utc(ends)}: the line allows no longer")
    return found
