"""What machines ask a worker: `/metrics`, `/healthz`, `/readyz` and `/status`, over plain HTTP.

GET /metrics   Prometheus: Keyturn's own, and the Temporal SDK's behind them
GET /healthz   200 while the process serves
GET /readyz    200 if database and Temporal answer, else 503; what was looked at, by name
GET /status    latency (p50, p95, p99 in ms) of the last calls, the day's cost, and `degraded` if p95 is over the limit

They show names and figures only, no question and no key; still, bind them where only your own machines reach them.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any

import httpx
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from temporalio.client import Client
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

from keyturn.database import within
from keyturn.errors import SettingsInvalid
from keyturn.workers import connections
from keyturn.workers.http import DiscreetProtocol
from keyturn.workers.metrics import CallMetrics, percentile

_log = structlog.get_logger("keyturn.worker")
CHECK_SECONDS = 2.0  # kubelet's own default is 1 s, and it probes again after a failure
SDK_SECONDS = 1.0  # the SDK's metrics come from this very process

Check = Callable[[], Coroutine[Any, Any, object]]


def temporal_answers(client: Client) -> Check:
    """Return a check for probes: it returns if Temporal answers, and raises if it does not."""
    return partial(client.service_client.check_health, timeout=timedelta(seconds=CHECK_SECONDS))


def sdk_metrics(port: int) -> Runtime:
    """Return a runtime whose SDK serves its own metrics on a loopback port; set it before the first client connects."""
    return Runtime(telemetry=TelemetryConfig(metrics=PrometheusConfig(bind_address=f"127.0.0.1:{port}")))


def free_loopback_port() -> int:
    """Return a loopback port that is free at this moment: the SDK does not say which one it took for 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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

    def application(self) -> web.Application:
        """Return the aiohttp application that serves them."""
        application = web.Application()
        add_metrics(application, self._registry, self._sdk_port)
        add_health(application, self._checks)
        application.router.add_get("/status", self._status)
        return application

    async def _status(self, _request: web.Request) -> web.Response:
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
        return web.json_response(fields | self._facts())


def add_metrics(application: web.Application, registry: CollectorRegistry, sdk_port: int | None) -> None:
    """Add `/metrics` to an application: Keyturn's, and behind them what the SDK serves on its own loopback port."""

    async def prometheus(_request: web.Request) -> web.Response:
        body = generate_latest(registry)
        if sdk_port is not None:
            with suppress(httpx.HTTPError):  # Keyturn's own figures are served without it
                async with httpx.AsyncClient(trust_env=False, timeout=SDK_SECONDS) as http:
                    body += (await http.get(f"http://127.0.0.1:{sdk_port}/metrics")).content
        return web.Response(body=body, headers={"content-type": CONTENT_TYPE_LATEST})

    application.router.add_get("/metrics", prometheus)


def add_health(application: web.Application, checks: Mapping[str, Check]) -> None:
    """Add `/healthz`, and `/readyz` with what `checks` look at, to an application."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readyz(_request: web.Request) -> web.Response:
        states = dict(zip(checks, await asyncio.gather(*map(_state_of, checks.values())), strict=True))
        ready = all(state == "ok" for state in states.values())
        body = {"status": "ready" if ready else "not_ready", "checks": states}
        return web.json_response(body, status=200 if ready else 503)

    application.router.add_get("/healthz", healthz)
    application.router.add_get("/readyz", readyz)


async def _state_of(check: Check) -> str:
    try:
        await within(CHECK_SECONDS, check())
    except Exception as error:
        return type(error).__name__
    return "ok"


@asynccontextmanager
async def served(
    application: web.Application, address: str, *, setting: str = "KEYTURN_MONITORING_ADDRESS"
) -> AsyncIterator[str]:
    """Serve on `address` (HOST:PORT; port 0 takes any free one) and yield the URL.

    Raises:
        SettingsInvalid: the address is taken; the message names `setting`.
    """
    host, _, port = address.rpartition(":")
    runner = web.AppRunner(application, handle_signals=False, shutdown_timeout=0.5)
    await runner.setup()
    listening: asyncio.Server | None = None
    protocol = type("Protocol", (DiscreetProtocol,), {"peers": connections.Peers()})
    try:
        loop, manager = asyncio.get_running_loop(), runner.server
        if manager is None:
            raise RuntimeError("the runner was set up, and has a server")
        try:
            listening = await loop.create_server(
                # As a runner passes it on: no log of accesses.
                lambda: protocol(manager, loop=loop, access_log=None, keepalive_timeout=connections.HEAD_SECONDS),
                host.strip("[]"),
                int(port),
                backlog=128,
            )
        except OSError as error:
            raise SettingsInvalid(f"{setting}: cannot listen on {address}: {error.strerror}") from None
        bound = listening.sockets[0].getsockname()
        url = f"http://{bound[0]}:{bound[1]}"
        _log.info("serving", url=url, setting=setting)
        yield url
    finally:
        if listening is not None:
            listening.close()
        await runner.cleanup()
