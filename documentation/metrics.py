"""The reference of metrics, from the registries that are served."""

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from documentation.markdown import cell, code, page, table
from workers.metrics import CallMetrics, ExecutorMetrics, JobMetrics

LEAD = """\
`KEYTURN_MONITORING_ADDRESS` serves them at `/metrics`, in Prometheus's text format, with the Temporal SDK's own behind them.
No label holds what a user or a provider wrote.
The dashboard and the alerts of `deploy/` are written on them.
"""
SUFFIX = {"counter": "_total"}


def metrics_page() -> str:
    """Return the page of every metric of a worker and of the executor."""
    worker, executor = CollectorRegistry(), CollectorRegistry()
    CallMetrics(worker, spent_today=lambda: 0.0)
    JobMetrics(worker)
    ExecutorMetrics(executor)
    return page("Metrics", LEAD.strip(), f"## Worker\n\n{_table(worker)}", f"## Executor\n\n{_table(executor)}")


def _table(registry: CollectorRegistry) -> str:
    # The registry lists names and values; labels are known to the collectors alone.
    collectors = [one for one in registry._collector_to_names if isinstance(one, MetricWrapperBase)]
    rows = (
        [
            code(one._name + SUFFIX.get(str(one._type), "")),
            str(one._type),
            ", ".join(map(code, one._labelnames)),
            cell(one._documentation),
        ]
        for one in collectors
    )
    return table(("metric", "type", "labels", "meaning"), sorted(rows))
