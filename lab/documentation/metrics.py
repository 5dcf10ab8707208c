"""The reference of metrics, from the registries that are served."""

import ast
import inspect
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from keyturn.lab.documentation.markdown import cell, code, page, table
from keyturn.workers import tracing
from keyturn.workers.metrics import CallMetrics, ExecutorMetrics, JobMetrics

LEAD = """\
`KEYTURN_MONITORING_ADDRESS` serves them at `/metrics`, in Prometheus's text format, with the Temporal SDK's own behind them.
No label holds what a user or a provider wrote.
The dashboard and the alerts of `deploy/` are written on them.
"""
OTLP = """\
With the extra `keyturn[opentelemetry]` and `OTEL_EXPORTER_OTLP_ENDPOINT`, a worker also sends a span and these metrics for each model call, by the conventions for generative AI.
"""
SUFFIX = {"counter": "_total"}


def metrics_page() -> str:
    """Return the page of every metric of a worker and of the executor."""
    worker, executor = CollectorRegistry(), CollectorRegistry()
    CallMetrics(worker, spent_today=lambda: 0.0)
    JobMetrics(worker)
    ExecutorMetrics(executor)
    return page(
        "Metrics",
        LEAD.strip(),
        f"## Worker\n\n{_table(worker)}",
        f"## Executor\n\n{_table(executor)}",
        f"## OpenTelemetry\n\n{OTLP.strip()}\n\n{_otlp_table()}",
    )


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


def _otlp_table() -> str:
    return table(("metric", "type", "unit"), sorted(_instruments()))


def _instruments() -> Iterator[list[str]]:
    """Yield what the module creates on its meter: an instrument does not say so of itself."""
    for node in ast.walk(ast.parse(inspect.getsource(tracing))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.startswith("create_"):
            unit = next((ast.literal_eval(one.value) for one in node.keywords if one.arg == "unit"), "")
            yield [code(ast.literal_eval(node.args[0])), node.func.attr.removeprefix("create_"), code(unit)]
