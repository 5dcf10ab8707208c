"""Model calls as Prometheus sees them, and the rolling figures of `/status`."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from keyturn.calls import CallRecord
from keyturn.jobs.states import OPEN

# From an instant local model to the longest timeout of any task; the steps separate 1 s from 2 s and 5 s from 10 s.
BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0, 60.0, 120.0)
# What one call of is worth a look (deploy/prometheus/alerts.yml).
ALERTED = (
    "quota_exhausted", "authentication_failed", "request_refused", "unexpected_status", "contradicts_evidence",
)  # fmt: skip
RECENT_CALLS = 1_000
RECENT_SECONDS = 900.0  # a quarter of an hour: older figures are history, which Prometheus has


class CallMetrics:
    """Counts calls. Labels are names of settings and of this program only: never what a user or a provider wrote."""

    def __init__(self, registry: CollectorRegistry, *, spent_today: Callable[[], float]) -> None:
        by = ("task", "provider", "model")
        self._duration = Histogram(
            "keyturn_call_duration_seconds",
            "Duration of one model call for its caller, fallbacks included.",
            (*by, "status", "cache"),
            buckets=BUCKETS,
            registry=registry,
        )
        self._first_byte = Histogram(
            "keyturn_call_first_byte_seconds",
            "Time to the first byte of the answer.",
            by,
            buckets=BUCKETS,
            registry=registry,
        )
        self._tokens = Counter(
            "keyturn_call_tokens", "Tokens as the provider counted them.", (*by, "kind"), registry=registry
        )
        self._cost = Counter("keyturn_call_cost_usd", "Cost of calls at known prices.", by, registry=registry)
        self._unpriced = Counter(
            "keyturn_calls_unpriced", "Answered calls whose price is unknown.", by, registry=registry
        )
        self._failures = Counter(
            "keyturn_call_failures", "Calls without an accepted answer, by kind.", (*by, "kind"), registry=registry
        )
        self._passed_over = Counter(
            "keyturn_call_passed_over",
            "Failed attempts at a provider of a route.",
            ("task", "provider", "model", "kind"),
            registry=registry,
        )
        self._hits = Counter(
            "keyturn_cache_hits", "Calls that were answered from the response cache.", ("task",), registry=registry
        )
        self._circuits = Gauge(
            "keyturn_provider_circuit_open",
            "1 while this worker counts a provider as down and asks it last.",
            ("provider", "model"),
            registry=registry,
        )
        self._limits = Gauge(
            "keyturn_provider_concurrency_limit",
            "Calls that this worker makes at once for bulk runs, as many as the provider takes.",
            ("provider", "model"),
            registry=registry,
        )
        Gauge(
            "keyturn_spend_today_usd", "Cost of all workers' calls since midnight UTC.", registry=registry
        ).set_function(spent_today)
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT_CALLS)

    def expect(self, task: str, provider: str, model: str) -> None:
        """Start the series on which alerts are based at 0: Prometheus sees no increase in one that starts at 1."""
        for kind in ALERTED:
            self._failures.labels(task, provider, model, kind)
            self._passed_over.labels(task, provider, model, kind)
        self._unpriced.labels(task, provider, model)

    def watch_circuit(self, provider: str, model: str, is_down: Callable[[], bool]) -> None:
        """Show whether a provider is down, as it is when the figures are read."""
        self._circuits.labels(provider, model).set_function(lambda: float(is_down()))

    def watch_limit(self, provider: str, model: str, limit: Callable[[], float]) -> None:
        """Show how many calls are made at once, as it is when the figures are read."""
        self._limits.labels(provider, model).set_function(limit)

    def observe(self, call: CallRecord) -> None:
        """Count one call."""
        model = call.asked_model or call.model
        by = (call.task, call.provider, model)
        cache = "hit" if call.cache_hit else "miss"
        self._duration.labels(*by, call.status, cache).observe(call.latency_ms / 1000)
        for passed in call.passed_over:
            self._passed_over.labels(call.task, passed.provider, passed.model, passed.failure).inc()
        if call.failure is not None:
            self._failures.labels(*by, call.failure).inc()
        if call.cache_hit:
            self._hits.labels(call.task).inc()
            return
        if call.status != "cancelled":
            self._recent.append((time.monotonic(), call.latency_ms))
        if call.first_byte_ms is not None:
            self._first_byte.labels(*by).observe(call.first_byte_ms / 1000)
        for kind in ("input", "cached", "output"):
            self._tokens.labels(*by, kind).inc(getattr(call, f"{kind}_tokens") or 0)
        if call.cost_usd is not None:
            self._cost.labels(*by).inc(float(call.cost_usd))
        elif call.finish_reason is not None:
            self._unpriced.labels(*by).inc()

    def recent(self) -> list[float]:
        """Return the latencies in milliseconds of the last calls that went out, sorted."""
        since = time.monotonic() - RECENT_SECONDS
        return sorted(latency for at, latency in self._recent if at >= since)


class JobMetrics:
    """Open jobs by state, and the overdue ones, as they were last counted. Closed jobs are not counted here."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._jobs = Gauge(
            "keyturn_jobs", "Open jobs by state; overdue: past their due date.", ("state", "overdue"),
            registry=registry,
        )  # fmt: skip

    def show(self, counted: Mapping[tuple[str, bool], int]) -> None:
        """Take the figures of now; a state that has none is 0."""
        for state in OPEN:
            for overdue in (False, True):
                self._jobs.labels(state, str(overdue).lower()).set(counted.get((state, overdue), 0))


class ExecutorMetrics:
    """An executor's looks and started rotations; the SDK's own figures have its steps, by activity."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._looks = Counter(
            "keyturn_executor_looks", "Polls for free jobs, by result.", ("result",), registry=registry
        )
        self._jobs = Counter(
            "keyturn_executor_jobs",
            "Free jobs found: started, left to another account's executor, or not checked: the cloud did not answer.",
            ("what",),
            registry=registry,
        )
        for result in ("ok", "failed"):
            self._looks.labels(result)
        for what in ("started", "left", "not_looked_at"):
            self._jobs.labels(what)

    def count_look(self, result: str) -> None:
        """Count a look."""
        self._looks.labels(result).inc()

    def jobs(self, what: str) -> None:
        """Count a job that was met."""
        self._jobs.labels(what).inc()


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return the value that `share` of `ordered` does not pass (nearest rank); None if there are none."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else None
