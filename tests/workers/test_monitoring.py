"""What a worker publishes of itself for programs, and what it never publishes."""

import asyncio
import gzip
import re
import sys
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy.engine import URL
from temporalio.client import Client

from keyturn.application.rotations import rotate
from keyturn.calls import FailedAttempt
from keyturn.errors import SettingsInvalid
from keyturn.lab.stack.embedded import worker_environment
from keyturn.lab.stack.loopback import loopback_client
from keyturn.lab.stack.processes import child
from keyturn.rotations.outcomes import JobCreated, TimedOut
from keyturn.web.ports import free_loopback_port
from keyturn.web.serving import served
from keyturn.workers.metrics import ALERTED, CallMetrics, ExecutorMetrics, JobMetrics, percentile
from keyturn.workers.monitoring import Monitoring
from keyturn.workers.settings_faults import PLACEHOLDER_KEY
from tests.keyturn.test_ledger import call
from tests.support.cases import request
from tests.support.promtool import expect_accepted, needs_promtool, queries_of_the_dashboard, unanswered
from tests.support.servers import fake_server
from tests.support.simulated import SimulatorControl


class Watched:
    """A monitoring server with checks that can be broken."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = CallMetrics(self.registry, spent_today=lambda: 1.25)
        self.broken: set[str] = set()
        checks = {name: self._check(name) for name in ("database", "temporal")}
        self.monitoring = Monitoring(
            self.registry,
            self.metrics,
            degraded_p95_ms=1_000,
            checks=checks,
            facts=lambda: {"environment": "development"},
            sdk_port=None,
        )

    def _check(self, name: str) -> Any:
        async def check() -> None:
            if name in self.broken:
                raise ConnectionError(f"the secret of {name}")

        return check


@pytest.fixture
async def watched() -> AsyncIterator[tuple[Watched, httpx.AsyncClient]]:
    made = Watched()
    async with (
        served(made.monitoring.application(), "127.0.0.1:0", setting="KEYTURN_MONITORING_ADDRESS") as url,
        loopback_client(url) as http,
    ):
        yield made, http


def test_the_first_refused_call_is_an_increase_and_every_alerted_kind_begins_at_zero() -> None:
    """Prometheus sees no increase in a series that starts at 1: the alert would come with the second failure."""
    made = Watched()
    made.metrics.expect("decide_rotation", "openai", "m")
    by = {"task": "decide_rotation", "provider": "openai", "model": "m"}
    for name in ("keyturn_call_failures_total", "keyturn_call_passed_over_total"):
        for kind in ALERTED:
            assert made.registry.get_sample_value(name, by | {"kind": kind}) == 0
    made.metrics.observe(
        call(provider="openai", model="m", asked_model="m", status="failed", failure="quota_exhausted")
    )
    shown = made.registry.get_sample_value("keyturn_call_failures_total", by | {"kind": "quota_exhausted"})
    assert shown == 1
    alerts = (Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml").read_text()
    named = {kind for kinds in re.findall(r'kind=~?"([a-z_|]+)"', alerts) for kind in kinds.split("|")}
    assert named == set(ALERTED)


async def test_a_probe_is_told_whether_the_worker_can_work(watched: tuple[Watched, httpx.AsyncClient]) -> None:
    """Alive is not yet ready: a database that is away is named, and no more of it is shown."""
    made, http = watched
    assert (await http.get("/healthz")).status_code == 200
    assert (await http.get("/readyz")).json() == {"status": "ready", "checks": {"database": "ok", "temporal": "ok"}}
    made.broken.add("database")
    answer = await http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"] == {"database": "ConnectionError", "temporal": "ok"}
    assert "secret" not in answer.text
    assert (await http.get("/healthz")).status_code == 200


async def test_status_says_degraded_when_p95_is_over_the_limit(watched: tuple[Watched, httpx.AsyncClient]) -> None:
    """Percentiles of the last calls that went out; cached responses and cancelled calls are not among them."""
    made, http = watched
    assert (await http.get("/status")).json()["p95_ms"] is None
    for number in range(100):
        made.metrics.observe(call(latency_ms=float(number + 1)))
    made.metrics.observe(call(latency_ms=0.1, cache_hit=True))
    made.metrics.observe(call(latency_ms=90_000.0, status="cancelled"))
    shown = (await http.get("/status")).json()
    assert (shown["status"], shown["calls"], shown["p50_ms"], shown["p95_ms"], shown["p99_ms"]) == (
        "ok",
        100,
        50,
        95,
        99,
    )
    assert shown["environment"] == "development"
    for _ in range(10):
        made.metrics.observe(call(latency_ms=3_000.0))
    assert (await http.get("/status")).json()["status"] == "degraded"


async def test_prometheus_is_told_of_every_call(watched: tuple[Watched, httpx.AsyncClient]) -> None:
    """Latency, tokens, cost, failures by kind, cached responses, and failed attempts."""
    made, http = watched
    passed = FailedAttempt(provider="anthropic", model="c-1", failure="provider_overloaded")
    made.metrics.observe(call(asked_model="m-1", cached_tokens=40, first_byte_ms=7, passed_over=(passed,)))
    made.metrics.observe(call(status="failed", failure="quota_exhausted", input_tokens=None, cost_usd=None))
    made.metrics.observe(call(cost_usd=None, finish_reason="stop"))
    made.metrics.observe(call(cache_hit=True, cost_usd=Decimal(0)))
    text = (await http.get("/metrics")).text
    by = {"task": "decide_rotation", "provider": "openai", "model": "m-1"}
    passed_by = {"task": "decide_rotation", "provider": "anthropic", "model": "c-1", "kind": "provider_overloaded"}
    shown: list[tuple[str, dict[str, str], float]] = [
        ("keyturn_call_duration_seconds_count", by | {"status": "ok", "cache": "miss"}, 2),
        ("keyturn_call_duration_seconds_count", by | {"status": "ok", "cache": "hit"}, 1),
        ("keyturn_call_tokens_total", by | {"kind": "cached"}, 40),
        ("keyturn_call_tokens_total", by | {"kind": "input"}, 200),
        ("keyturn_call_cost_usd_total", by, 0.000123),
        ("keyturn_calls_unpriced_total", by, 1),
        ("keyturn_call_failures_total", by | {"kind": "quota_exhausted"}, 1),
        ("keyturn_call_passed_over_total", passed_by, 1),
        ("keyturn_cache_hits_total", {"task": "decide_rotation"}, 1),
        ("keyturn_spend_today_usd", {}, 1.25),
    ]
    for name, labels, value in shown:
        assert made.registry.get_sample_value(name, labels) == value, name
        assert name in text


async def test_a_taken_address_is_reported() -> None:
    """By its setting's name."""
    async with served(Watched().monitoring.application(), "127.0.0.1:0", setting="KEYTURN_MONITORING_ADDRESS") as url:
        with pytest.raises(SettingsInvalid, match="KEYTURN_MONITORING_ADDRESS: cannot listen on"):
            async with served(
                Watched().monitoring.application(), url.removeprefix("http://"), setting="KEYTURN_MONITORING_ADDRESS"
            ):
                pass


def test_a_percentile_is_a_value_that_was_measured() -> None:
    """Nearest rank."""
    assert percentile([], 0.95) is None
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0


def test_a_span_of_each_call_has_the_genai_names_and_no_content() -> None:
    """OpenTelemetry, where the extra is installed."""
    pytest.importorskip("opentelemetry.sdk", reason="the opentelemetry extra is not installed")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from keyturn.workers.tracing import span_recorder

    spans, reader, tracers = InMemorySpanExporter(), InMemoryMetricReader(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    record = span_recorder({"openai": "openai"}, tracers, MeterProvider(metric_readers=[reader]))
    assert record is not None
    record(call(asked_model="m-1", finish_reason="stop", request_id="req_1", cached_tokens=3))
    record(call(status="failed", failure="quota_exhausted", input_tokens=None, output_tokens=None, cost_usd=None))
    sound, failed = spans.get_finished_spans()
    assert sound.name == "chat m-1"
    assert sound.attributes is not None
    assert failed.attributes is not None
    wanted = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m-1",
        "gen_ai.response.id": "req_1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 10,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.prompt.name": "rotation_decision@1",
        "keyturn.task": "decide_rotation",
    }
    assert wanted.items() <= dict(sound.attributes).items()
    assert failed.attributes["error.type"] == "quota_exhausted"
    assert not failed.status.is_ok
    assert (sound.end_time or 0) - (sound.start_time or 0) == pytest.approx(12_500_000, rel=1e-3)
    measured = reader.get_metrics_data()
    assert measured is not None
    names = {
        metric.name
        for resource in measured.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert names == {"gen_ai.client.operation.duration", "gen_ai.client.token.usage"}


def test_without_the_endpoint_nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of OpenTelemetry is needed."""
    from keyturn.workers import tracing

    monkeypatch.delenv(tracing.ENDPOINT, raising=False)
    assert tracing.span_recorder({}) is None
    assert tracing.temporal_plugins() == []
    monkeypatch.setenv(tracing.ENDPOINT, "http://127.0.0.1:4318")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(SettingsInvalid, match=r"keyturn\[opentelemetry\]"):
        tracing.is_enabled()


def monitored(temporal: Client, simulator: SimulatorControl, database: URL, keys: Path) -> dict[str, str]:
    """The environment of a worker on a queue of its own, whose figures can be read."""
    url = database.render_as_string(hide_password=False)
    settings = worker_environment(temporal.service_client.config.target_host, url, simulator.address, keys=keys)
    own = {
        "KEYTURN_TASK_QUEUE": f"test-{uuid.uuid4().hex}",
        "KEYTURN_MONITORING_ADDRESS": f"127.0.0.1:{free_loopback_port()}",
    }
    return settings | own


async def test_a_running_worker_serves_its_own_metrics_and_the_sdks(
    temporal: Client, simulator: SimulatorControl, sqlite: URL, tmp_path: Path, keys: Path
) -> None:
    """One address: readiness, the SDK's figures behind ours, and not a word of a question or a key."""
    settings = monitored(temporal, simulator, sqlite, keys)
    settings |= {"KEYTURN_FINGERPRINT_KEY": "a_fingerprint_key_of_tests"}
    queue, address = settings["KEYTURN_TASK_QUEUE"], settings["KEYTURN_MONITORING_ADDRESS"]
    planted = "Luna's private words"
    log = tmp_path / "worker.log"
    async with child([sys.executable, "-m", "keyturn.workers"], environment=settings, log=log):
        _, outcome = await rotate(temporal, request(question=planted), task_queue=queue, wait_seconds=60)
        assert isinstance(outcome, JobCreated)
        assert outcome.call.fingerprint is not None
        async with loopback_client(f"http://{address}") as http:
            assert (await http.get("/readyz")).status_code == 200
            metrics = (await http.get("/metrics")).text
            status = (await http.get("/status")).json()
    assert 'keyturn_call_duration_seconds_count{cache="miss"' in metrics
    assert "temporal_workflow_completed" in metrics
    assert 'keyturn_jobs{overdue="true",state="open"} 0.0' in metrics
    assert (status["status"], status["calls"], status["environment"]) == ("ok", 1, "development")
    for secret in (planted, PLACEHOLDER_KEY, "a_fingerprint_key_of_tests"):
        assert secret not in metrics + str(status) + log.read_text()


def every_figure() -> str:
    """What a worker and an executor serve that have met everything."""
    registry = CollectorRegistry()
    metrics = CallMetrics(registry, spent_today=lambda: 1.0)
    metrics.expect("decide_rotation", "openai", "m-1")
    metrics.watch_circuit("openai", "m-1", lambda: False)
    metrics.watch_limit("openai", "m-1", lambda: 4.0)
    passed = FailedAttempt(provider="groq", model="m-2", failure="overloaded")
    for changed in (
        {"first_byte_ms": 4.0, "finish_reason": "stop", "passed_over": (passed,)},
        {"cache_hit": True},
        {"status": "failed", "failure": "quota_exhausted", "cost_usd": None},
        {"finish_reason": "stop", "cost_usd": None},
    ):
        metrics.observe(call(**changed))
    JobMetrics(registry).show({})
    executor = ExecutorMetrics(registry)
    executor.count_look("ok")
    executor.jobs("started")
    return generate_latest(registry).decode()


@needs_promtool
def test_prometheus_accepts_every_figure() -> None:
    """By its own linter: names, units, help."""
    expect_accepted(every_figure())


@needs_promtool
def test_every_panel_of_the_dashboard_has_an_answer(tmp_path: Path) -> None:
    """Asked by Prometheus' own engine; the SDK's figures are asked of a running worker."""
    queries = [one for one in queries_of_the_dashboard() if "temporal_" not in one]
    assert len(queries) > 10
    assert unanswered(queries, every_figure(), tmp_path) == []
    assert unanswered(["sum(keyturn_call_failures_total{kind='never'})"], every_figure(), tmp_path) != []


@needs_promtool
async def test_every_panel_of_the_sdks_figures_has_an_answer(
    temporal: Client, simulator: SimulatorControl, sqlite: URL, tmp_path: Path, keys: Path
) -> None:
    """From a worker that has seen a workflow complete, and one fail."""
    settings = monitored(temporal, simulator, sqlite, keys)
    queue, address = settings["KEYTURN_TASK_QUEUE"], settings["KEYTURN_MONITORING_ADDRESS"]
    async with child([sys.executable, "-m", "keyturn.workers"], environment=settings, log=tmp_path / "worker.log"):
        _, outcome = await rotate(temporal, request(), task_queue=queue, wait_seconds=60)
        assert isinstance(outcome, JobCreated)
        await simulator.fail("slow", times=None, seconds=30)
        late = request(timeout_seconds=1, max_retries=0, account_id="acct_too_late")
        _, outcome = await rotate(temporal, late, task_queue=queue, wait_seconds=60)
        assert isinstance(outcome, TimedOut)
        async with loopback_client(f"http://{address}") as http:
            figures = (await http.get("/metrics")).text
    queries = [one for one in queries_of_the_dashboard() if "temporal_" in one]
    assert len(queries) >= 3
    assert unanswered(queries, figures, tmp_path) == []


async def test_a_running_worker_sends_traces_of_its_calls_without_their_content(
    temporal: Client, simulator: SimulatorControl, sqlite: URL, tmp_path: Path, keys: Path
) -> None:
    """Temporal's spans and ours, to where OpenTelemetry's own variable says."""
    received: list[bytes] = []

    async def collect(request: web.Request) -> web.Response:
        received.append(gzip.decompress(body) if (body := await request.read())[:2] == b"\x1f\x8b" else body)
        return web.Response()

    collector = web.Application()
    collector.router.add_post("/v1/{signal}", collect)
    url = sqlite.render_as_string(hide_password=False)
    settings = worker_environment(temporal.service_client.config.target_host, url, simulator.address, keys=keys)
    queue, planted = f"test-{uuid.uuid4().hex}", "Luna's private words"
    log = tmp_path / "worker.log"
    async with fake_server(collector) as endpoint:
        settings |= {
            "KEYTURN_TASK_QUEUE": queue,
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        async with child([sys.executable, "-m", "keyturn.workers"], environment=settings, log=log):
            _, outcome = await rotate(temporal, request(question=planted), task_queue=queue, wait_seconds=60)
            assert isinstance(outcome, JobCreated)
            async with asyncio.timeout(20):
                while b"chat simulator-1" not in b"".join(received):
                    await asyncio.sleep(0.05)
    sent = b"".join(received)
    assert b"gen_ai.usage.input_tokens" in sent
    assert b"decide" in sent
    for secret in (planted, "private words", PLACEHOLDER_KEY):
        assert secret.encode() not in sent
