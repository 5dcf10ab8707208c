"""Cloud Monitoring's counts of what service-account keys authenticate, on loopback; no real cloud was called.

- https://docs.cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.timeSeries/list
- https://docs.cloud.google.com/monitoring/api/metrics_gcp_i_o, for the metric, its labels and its resource
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from keyturn.lab.simulator.gcp_answers import Refused, fields_if

METRIC = "iam.googleapis.com/service_account/key/authn_events_count"
_FILTER = re.compile(rf'metric\.type = "{re.escape(METRIC)}"(?: AND metric\.labels\.key_id = "([0-9a-f]+)")?')
MOST_POINTS = 100_000


@dataclass
class Monitoring:
    """Samples of ten minutes: when each ends and how often a key authenticated in it, by the keys' IDs.

    Attributes:
        samples: those that are visible by now.
        gauges_have_starts: whether a point's interval has its start, which for a gauge is its end.
    """

    samples: dict[str, list[tuple[datetime, int]]] = field(default_factory=dict)
    gauges_have_starts: bool = True

    def count(self, key_id: str, *, at: datetime, times: int = 1) -> None:
        """Let a key have authenticated in the sample that ends at a moment."""
        self.samples.setdefault(key_id, []).append((at, times))

    def list_series(self, _words: dict[str, str], sent: dict[str, Any], _caller: str) -> dict[str, Any]:
        """Answer `projects.timeSeries.list`: sums by periods that end where the interval does, the newest first."""
        asked = _FILTER.fullmatch(sent.get("filter", ""))
        aligned = (sent.get("aggregation.perSeriesAligner"), sent.get("view"))
        if asked is None or aligned != ("ALIGN_SUM", "FULL"):
            raise Refused(400, "INVALID_ARGUMENT")
        start, end = (datetime.fromisoformat(sent[f"interval.{name}Time"]) for name in ("start", "end"))
        period = timedelta(seconds=int(sent["aggregation.alignmentPeriod"].removesuffix("s")))
        points = [
            (key_id, ended, times)
            for key_id in sorted(self.samples)
            if asked[1] in {None, key_id}
            for ended, times in sorted(self._sums(key_id, start, end, period).items(), reverse=True)
        ]
        first = int(sent.get("pageToken") or 0)
        size = min(int(sent.get("pageSize", MOST_POINTS)), MOST_POINTS)
        shown = points[first : first + size]
        series = [self._series(key_id, shown) for key_id in dict.fromkeys(point[0] for point in shown)]
        more = first + size < len(points)
        return fields_if(bool(series), timeSeries=series) | fields_if(more, nextPageToken=str(first + size))

    def _sums(self, key_id: str, start: datetime, end: datetime, period: timedelta) -> Counter[datetime]:
        sums: Counter[datetime] = Counter()
        for at, times in self.samples[key_id]:
            if start < at <= end:
                sums[end - (end - at) // period * period] += times
        return sums

    def _series(self, key_id: str, points: list[tuple[str, datetime, int]]) -> dict[str, Any]:
        shown = []
        for named, ended, times in points:
            if named == key_id:
                moment = f"{ended:%Y-%m-%dT%H:%M:%SZ}"
                interval = fields_if(self.gauges_have_starts, startTime=moment) | {"endTime": moment}
                shown.append({"interval": interval, "value": {"int64Value": str(times)}})
        return {
            "metric": {"type": METRIC, "labels": {"key_id": key_id}},
            "resource": {"type": "iam_service_account", "labels": {"unique_id": "107654321098765432109"}},
            "metricKind": "GAUGE",
            "valueType": "INT64",
            "points": shown,
        }
