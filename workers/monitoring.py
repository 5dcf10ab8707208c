"""What machines ask a worker: `/metrics`, `/healthz`, `/readyz` and `/status`, over plain HTTP.

GET /metrics   Prometheus: Keyturn's own, and the Temporal SDK's behind them
GET /healthz   200 while the process serves
GET /readyz    200 if database and Temporal answer, else 503; what was looked at, by name
GET /status    latency (p50, p95, p99 in ms) of the last calls, the day's cost, and `degraded` if p95 is over the limit

They show names and figures only, no question and no key; still, bind them where only your own machines reach them.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import httpx
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp
from temporalio.client import Client
from temporalio.runtime import (
    LogForwardingConfig,
    LoggingConfig,
    PrometheusConfig,
    Runtime,
    TelemetryConfig,
    TelemetryFilter,
)

from keyturn.database import within
from keyturn.web.applications import open_server
from keyturn.workers.metrics import CallMetrics, percentile

CHECK_SECONDS = 2.0  # kubelet's own default is 1 s, and it probes again after a failure
SDK_SECONDS = 1.0  # the SDK's metrics come from this very process

Check = Callable[[], Coroutine[Any, Any, object]]


def temporal_answers(client: Client) -> Check:
    """Return a check for probes: it returns if Temporal answers, and raises if it does not."""
    return partial(client.service_client.check_health, timeout=timedelta(seconds=CHECK_SECONDS))


def sdk_runtime(port: int | None) -> Runtime:
    """Return a runtime whose SDK logs as this process does; set it before the first client connects.

    By default the SDK's core writes lines of text to standard error, which are no JSON.

    Args:
        port: of loopback, where the SDK serves its own metrics; None for no metrics.
    """
    core = logging.getLogger("temporalio.core")
    forwarded = LogForwardingConfig(core, append_target_to_name=False, prepend_target_on_message=False)
    logs = LoggingConfig(TelemetryFilter(core_level="WARN", other_level="ERROR"), forwarding=forwarded)
    metrics = None if port is None else PrometheusConfig(bind_address=f"127.0.0.1:{port}")
    return Runtime(telemetry=TelemetryConfig(logging=logs, metrics=metrics))


class Monitoring:
    """The handlers. `checks` are asked by `/readyz`; `facts` returns what `/status` adds to the latencies."""

    def __init__(
        self,
        registry: CollectorRegistry,
        metrics: CallMetrics,
        *,
        degraded_p95_ms: float,
        checks: Mapping[str, Check],
        facts: Callable[[], dict[str, Any]],
        sdk_port: int | None,
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._limit = degraded_p95_ms
        self._checks = checks
        self._facts = facts
        self._sdk_port = sdk_port

    def application(self) -> ASGIApp:
        """Return the application that serves them."""
        return open_server(
            [
                metrics_route(self._registry, self._sdk_port),
                readiness_route(self._checks),
                Route("/status", self._status),
            ]
        )

    async def _status(self, _request: Request) -> Response:
        latencies = self._metrics.recent()
        p50, p95, p99 = (percentile(latencies, share) for share in (0.50, 0.95, 0.99))
        degraded = p95 is not None and p95 > self._limit
        fields = {
            "status": "degraded" if degraded else "ok",
            "calls": len(latencies),
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
            "degraded_over_p95_ms": self._limit,
        }
        return JSONResponse(fields | self._facts())


def metrics_route(registry: CollectorRegistry, sdk_port: int | None) -> Route:
    """Return `/metrics`: Keyturn's figures, and behind them what the SDK serves on its own loopback port."""

    async def prometheus(_request: Request) -> Response:
        body = generate_latest(registry)
        if sdk_port is not None:
            with suppress(httpx.HTTPError):  # Keyturn's own figures are served without it
                async with httpx.AsyncClient(trust_env=False, timeout=SDK_SECONDS) as http:
                    body += (await http.get(f"http://127.0.0.1:{sdk_port}/metrics")).content
        return Response(body, headers={"content-type": CONTENT_TYPE_LATEST})

    return Route("/metrics", prometheus)


def readiness_route(checks: Mapping[str, Check]) -> Route:
    """Return `/readyz`, with what `checks` look at."""

    async def readyz(_request: Request) -> Response:
        states = dict(zip(checks, await asyncio.gather(*map(_state_of, checks.values())), strict=True))
        ready = all(state == "ok" for state in states.values())
        return JSONResponse({"status": "ready" if ready else "not_ready", "checks": states}, 200 if ready else 503)

    return Route("/readyz", readyz)


async def _state_of(check: Check) -> str:
    try:
        await within(CHECK_SECONDS, check())
    except Exception as error:
        return type(error).__name__
    return "ok"
