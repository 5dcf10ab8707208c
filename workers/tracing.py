"""OpenTelemetry, as an extra: a span and two metrics a model call, by the GenAI conventions. Content is never in them.

The names are not stable yet (OpenTelemetry semantic conventions for generative AI, 2026-11), so only this file
has them. Without the extra, or without OTEL_EXPORTER_OTLP_ENDPOINT, nothing here is imported.
"""

import importlib.util
import os
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import httpx

from keyturn.calls import CallRecord
from keyturn.errors import SettingsInvalid
from keyturn.llm.endpoint import Endpoint
from keyturn.llm.providers import load_providers

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"  # OpenTelemetry's own variable; so are the others of OTEL_*
_OTHER = "_OTHER"
# The conventions' names for those that speak another's format, by the end of their hosts' names.
_HOSTS = {
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    ".openai.azure.com": "azure.ai.openai",
    ".cognitiveservices.azure.com": "azure.ai.openai",
    ".services.ai.azure.com": "azure.ai.inference",
    "api.mistral.ai": "mistral_ai",
    "api.groq.com": "groq",
    "api.deepseek.com": "deepseek",
    "api.x.ai": "x_ai",
    "api.perplexity.ai": "perplexity",
    "api.cohere.ai": "cohere",
    "api.cohere.com": "cohere",
}
_BEDROCK = re.compile(r"^bedrock-(?:runtime|mantle)[.-].*(?:\.amazonaws\.com|\.api\.aws)$")


def is_enabled() -> bool:
    """Return True if traces are wanted; raises SettingsInvalid if they are and the extra is not installed."""
    if not os.environ.get(ENDPOINT):
        return False
    if importlib.util.find_spec("opentelemetry.sdk") is None:
        raise SettingsInvalid(
            f"{ENDPOINT}: is set, and the extra is not installed: pip install 'keyturn[opentelemetry]'"
        )
    return True


def temporal_plugins() -> list[Any]:
    """Return Temporal's own tracing for a client and its workers; empty if tracing is not wanted."""
    if not is_enabled():
        return []
    from opentelemetry import metrics, trace
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from temporalio.contrib.opentelemetry import OpenTelemetryPlugin, create_tracer_provider

    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "keyturn")})
    tracers = create_tracer_provider(resource=resource)
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(tracers)
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    metrics.set_meter_provider(MeterProvider(resource=resource, metric_readers=[reader]))
    return [OpenTelemetryPlugin()]


def provider_names(endpoints: Mapping[str, Endpoint]) -> dict[str, str]:
    """Return by endpoint what the conventions call its provider."""
    return {name: _provider_name(endpoint) for name, endpoint in endpoints.items()}


def _provider_name(endpoint: Endpoint) -> str:
    host = httpx.URL(endpoint.base_url).host
    if _BEDROCK.match(host):
        return "aws.bedrock"
    hosts = {httpx.URL(one.base_url).host: one.telemetry_name for one in load_providers().values() if one.base_url}
    found = next((name for end, name in (hosts | _HOSTS).items() if host.endswith(end)), None)
    # A gateway, or a server of one's own: its format says whose models it most probably has.
    return found or endpoint.provider.telemetry_name


def span_recorder(
    providers: Mapping[str, str], tracers: Any = None, meters: Any = None
) -> Callable[[CallRecord], None] | None:
    """Return a function that makes a span of a call record and counts it; None if tracing is not wanted.

    The span takes its place below the one that is current where the call ended: the activity's, if Temporal's plugin
    traces it.

    Args:
        providers: what the conventions call the provider of each endpoint.
        tracers: the tracer provider; None for the process's own.
        meters: the meter provider; None for the process's own.
    """
    if tracers is None and not is_enabled():
        return None
    from opentelemetry import metrics, trace
    from opentelemetry.trace import SpanKind, Status, StatusCode

    tracer = trace.get_tracer("keyturn", tracer_provider=tracers)
    meter = metrics.get_meter("keyturn", meter_provider=meters)
    duration = meter.create_histogram("gen_ai.client.operation.duration", unit="s")
    tokens = meter.create_histogram("gen_ai.client.token.usage", unit="{token}")

    def record(call: CallRecord) -> None:
        if call.called_at is None:
            return
        ended = call.called_at + timedelta(milliseconds=call.latency_ms)
        span = tracer.start_span(
            f"chat {call.asked_model or call.model}",
            kind=SpanKind.CLIENT,
            start_time=int(call.called_at.timestamp() * 1e9),
            attributes=attributes(call, providers),
        )
        if call.failure is not None:
            span.set_status(Status(StatusCode.ERROR, call.failure))
        span.end(int(ended.timestamp() * 1e9))
        shared = metric_attributes(call, providers)
        duration.record(call.latency_ms / 1000, shared)
        for kind, number in (("input", call.input_tokens), ("output", call.output_tokens)):
            if number is not None and not call.cache_hit:
                tokens.record(number, shared | {"gen_ai.token.type": kind})

    return record


def attributes(call: CallRecord, providers: Mapping[str, str]) -> dict[str, Any]:
    """Return a span's attributes: names and figures, never a question or an answer."""
    fields = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": providers.get(call.provider, _OTHER),
        "keyturn.endpoint": call.provider,
        "gen_ai.request.model": call.asked_model or call.model,
        "gen_ai.response.model": call.model if call.finish_reason else None,
        "gen_ai.response.id": call.request_id,
        "gen_ai.response.finish_reasons": [call.finish_reason] if call.finish_reason else None,
        "gen_ai.usage.input_tokens": call.input_tokens,
        "gen_ai.usage.output_tokens": call.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": call.cached_tokens,
        "gen_ai.prompt.name": call.prompt_version,
        "error.type": call.failure,
        "keyturn.task": call.task,
        "keyturn.trace_id": call.trace_id,
        "keyturn.attempt": call.attempt,
        "keyturn.status": call.status,
        "keyturn.cache_hit": call.cache_hit,
        "keyturn.cost_usd": None if call.cost_usd is None else float(call.cost_usd),
        "keyturn.passed_over": [f"{passed.provider}: {passed.failure}" for passed in call.passed_over] or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def metric_attributes(call: CallRecord, providers: Mapping[str, str]) -> dict[str, Any]:
    """Return a metric's attributes: few values each."""
    names = ("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "error.type")
    return {name: value for name, value in attributes(call, providers).items() if name in names}
