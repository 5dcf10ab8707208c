"""When a key was last used, by Policy Analyzer's activities, which are dated by days and come days later.

`lastAuthenticatedTime` is a day, written as 07:00 UTC: the day is one of UTC-8 all year
(https://docs.cloud.google.com/policy-intelligence/docs/activity-analyzer-service-account-authentication). It is left
out for a key that was not used while it was observed; what happened after `observationPeriod` is not known.

Only Cloud APIs are observed: a key that signs in for Google Workspace by domain-wide delegation has no activity, on the
same page. So the longest quiet is no proof that nothing uses a key, and Cloud Monitoring is asked first.

So a use has an earliest and a latest moment, and which of them is safe depends on what it is asked for:

- An active key beside a newer one gives way to it: whether it is quiet is asked. Its last use is the latest moment that
  the day allows, and what happened since the observation ended is taken to be as what happened before: a key that was
  used on the last day observed is in use now.
- Of the newest key, whether anything but its verification has used it, and of a disabled one, whether anything has used
  it since: the last use is the earliest moment that the day allows, so that a use of the same day is no proof.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from keyturn.execution.contracts import KeyUse
from keyturn.gcp.moments import moment_in

UNKNOWN = KeyUse(is_known=False)
# From 07:00 UTC, as the day is written, to where it ends in UTC-8: 08:00 UTC of the next.
_DAY = timedelta(hours=25)
# As long as a key is disabled before it is deleted, by default: what ends earlier cannot have seen a use of that time.
OBSERVED_WITHIN = timedelta(days=7)


def use_in(activity: Mapping[str, Any], *, created_at: datetime, gives_way: bool, now: datetime) -> KeyUse:
    """Return a key's use by its activity.

    Args:
        activity: as `activities.query` returns it.
        created_at: when the key was created: an observation that ended before says nothing of it.
        gives_way: whether it is an active key beside a newer active one.
        now: to measure by how long ago the observation ended.
    """
    ended = moment_in(activity.get("observationPeriod"), "endTime")
    day = moment_in(activity.get("activity"), "lastAuthenticatedTime")
    if ended is None or ended <= created_at or (gives_way and now - ended > OBSERVED_WITHIN):
        return UNKNOWN
    if day is None:
        return KeyUse(is_whole=False)
    quiet_for = max(ended - (day + _DAY), timedelta(0))
    last = now - quiet_for if gives_way else day
    return KeyUse(last_used_at=last, by=(f"a Google API, on {day:%Y-%m-%d}",), is_whole=False)
