"""When a key last authenticated, by Cloud Monitoring: within hours, for any API of Google's, for six weeks. Pure.

The metric `iam.googleapis.com/service_account/key/authn_events_count` counts what a key authenticates, Workspace by
domain-wide delegation included, in samples of ten minutes that are visible three hours later at the latest, and is kept
for six weeks (https://docs.cloud.google.com/iam/docs/service-account-monitoring,
https://docs.cloud.google.com/monitoring/api/metrics_gcp_i_o). Google advises to look here, too, before a key is
disabled, since Policy Analyzer sees Cloud APIs alone.

Like a day of Policy Analyzer's, a sample has an earliest and a latest moment: see `keyturn.executors.gcp.activity`.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from keyturn.execution.contracts import KeyUse
from keyturn.gcp.moments import moment_in

METRIC = "iam.googleapis.com/service_account/key/authn_events_count"
KEPT_FOR = timedelta(days=42)
VISIBLE_WITHIN = timedelta(hours=3)
SAMPLE = timedelta(minutes=10)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class Authentications(NamedTuple):
    """How often a key authenticated in the last period in which it did."""

    times: int
    since: datetime
    until: datetime


def query_of(*, now: datetime, period: timedelta, key_id: str | None = None) -> Mapping[str, str]:
    """Return the parameters of `projects.timeSeries.list` for one key, or for all keys of a project.

    Args:
        now: where the six weeks end.
        period: a point for each such period in which there was any: an hour, or a day.
        key_id: hexadecimal digits; None for all.
    """
    named = "" if key_id is None else f' AND metric.labels.key_id = "{key_id}"'
    return {
        "filter": f'metric.type = "{METRIC}"{named}',
        "interval.startTime": f"{now - KEPT_FOR:%Y-%m-%dT%H:%M:%SZ}",
        "interval.endTime": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "aggregation.alignmentPeriod": f"{period.total_seconds():.0f}s",
        "aggregation.perSeriesAligner": "ALIGN_SUM",
        "view": "FULL",
    }


def last_authentications(series: Iterable[Mapping[str, Any]], *, period: timedelta) -> Mapping[str, Authentications]:
    """Return the last authentications of each key in `timeSeries`, by the keys' IDs; a key without any is left out."""
    found: dict[str, Authentications] = {}
    for one in series:
        metric, points = one.get("metric"), one.get("points")
        labels = metric.get("labels") if isinstance(metric, dict) else None
        key_id = str(labels.get("key_id")) if isinstance(labels, dict) else ""
        for point in points if isinstance(points, list) else ():
            seen = _read_point(point, period) if isinstance(point, dict) else None
            if seen is not None and (key_id not in found or seen.until > found[key_id].until):
                found[key_id] = seen
    return found


def is_incomplete(body: Mapping[str, Any]) -> bool:
    """Return whether an answer says that series are missing from it, which is no proof that there are none."""
    return bool(body.get("executionErrors") or body.get("unreachable"))


def use_by(seen: Authentications, *, gives_way: bool, now: datetime) -> KeyUse:
    """Return a key's use by its last authentications.

    Args:
        seen: the last of them.
        gives_way: whether it is an active key beside a newer active one: then its use is the latest that is possible.
        now: what happened in the three hours before is not known, and taken to be as what happened before them.
    """
    times = f"{seen.times} authentication{'' if seen.times == 1 else 's'}"
    latest = min(now, seen.until + VISIBLE_WITHIN)
    by = f"a Google API, by {times} until {seen.until:%Y-%m-%d %H:%M} UTC"
    return KeyUse(last_used_at=latest if gives_way else seen.since, by=(by,))


def no_use() -> KeyUse:
    """Return the use of a key that has no authentication in the six weeks: what was before is not known."""
    return KeyUse(by=("six weeks of Cloud Monitoring",), is_whole=False)


def _read_point(point: Mapping[str, Any], period: timedelta) -> Authentications | None:
    until, value = moment_in(point.get("interval"), "endTime"), point.get("value")
    try:
        count = int(value["int64Value"]) if isinstance(value, dict) else 0  # a string, as JSON has 64 bits of Google's
    except (KeyError, TypeError, ValueError):
        count = 0
    if until is None or count <= 0:
        return None
    # A sum is a gauge: its start is its end, or left out. What a sample holds may be as old as the sample is long.
    return Authentications(count, until - period - SAMPLE, until)
