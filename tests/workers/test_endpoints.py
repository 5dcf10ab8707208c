"""Named endpoints: read from a file, asked as each wants it, and checked one by one by `doctor --live`."""

import asyncio
import json
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from keyturn.errors import SettingsInvalid
from keyturn.llm.endpoint import Timeouts
from keyturn.llm.errors import QuotaExhausted, RateLimited
from keyturn.llm.http import http_client
from keyturn.llm.outages import Outages
from keyturn.llm.providers import load_providers
from keyturn.llm.routing import RouteFailed, ask_in_turn
from keyturn.llm.wire import Completion
from keyturn.tasks.definition import Prompt
from keyturn.workers.live import ask_endpoints
from keyturn.workers.settings import Settings, load_settings
from keyturn.workers.tracing import provider_names
from keyturn.workers.wiring import provider_of
from tests.support.servers import fake_server

SOON = Timeouts(connect=5, first_byte=5, total=5)
PROMPT = Prompt("t@1", "system", '{"a":', "1}", "schema", {"type": "object"}, 16)
Handler = Callable[[web.Request, dict[str, Any]], Awaitable[web.Response]]
ANSWER = {
    "id": "c-1",
    "model": "m-1",
    "choices": [{"message": {"content": '{"ready":true}'}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 20, "completion_tokens": 5},
}

ESTATE = """
[endpoints.azure-sweden]            # the v1 surface: the model is the deployment's name
format = "openai"
url = "https://pay-sweden.openai.azure.com/openai/v1"
key_env = "AZURE_SWEDEN_KEY"
key_header = "api-key"
price_list = "azure"
batches = true

[endpoints.azure-france]            # the same with an Entra token
format = "openai"
url = "https://pay-france.openai.azure.com/openai/v1"
key_command = ["az", "account", "get-access-token", "--resource", "https://cognitiveservices.azure.com"]

[endpoints.bedrock]
format = "compatible"
url = "https://bedrock-runtime.eu-west-1.amazonaws.com/openai/v1"
key_command = ["bedrock-token"]
price_list = "aws"

[endpoints.vertex]
format = "compatible"
url = "https://europe-west1-aiplatform.googleapis.com/v1/projects/p/locations/europe-west1/endpoints/openapi"
key_command = ["gcloud", "auth", "print-access-token"]

[endpoints.openrouter]
format = "compatible"
url = "https://openrouter.ai/api/v1"
key_env = "OPENROUTER_API_KEY"
headers = {HTTP-Referer = "https://keys.example", X-Title = "Keyturn"}
price_list = "openrouter"

[endpoints.vllm]
format = "compatible"
url = "http://gpu-1:8000/v1"
key_file = "/var/run/secrets/vllm/token"
calls_at_once = 8
models."Qwen/Qwen3-8B" = {input = 0, output = 0, context_window = 32768}

[endpoints.ollama]
format = "compatible"
url = "http://127.0.0.1:11434/v1"
lacks = ["json_schema"]
"""
COMPATIBLE = '[endpoints.a]\nformat = "compatible"\nurl = "https://h"\n'
EVERYWHERE = (
    "azure-sweden:gpt-5-mini[next-on-quota], azure-france:gpt-5-mini, bedrock:openai.gpt-oss-120b-1:0, "
    "vertex:google/gemini-2.5-flash, openrouter:openai/gpt-5-mini, vllm:Qwen/Qwen3-8B, ollama:llama3.2:3b, "
    "ollama:qwen3:8b"
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def settings_of(monkeypatch: pytest.MonkeyPatch, text: str, routes: str, **variables: str) -> Settings:
    Path("endpoints.toml").write_text(text)
    for name, value in ({"KEYTURN_ENDPOINTS": "endpoints.toml", "KEYTURN_ROUTES": routes} | variables).items():
        monkeypatch.setenv(name, value)
    return load_settings()


def test_an_estate_of_servers_stands_in_one_route(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two regions of Azure, Bedrock, Vertex, OpenRouter, vLLM, and Ollama with two models."""
    given = {"AZURE_SWEDEN_KEY": "k-1", "OPENROUTER_API_KEY": "k-2"}
    settings = settings_of(monkeypatch, ESTATE, EVERYWHERE, **given)
    assert [target.provider for target in settings.routes["*"]] == [
        *("azure-sweden", "azure-france", "bedrock", "vertex", "openrouter", "vllm", "ollama", "ollama")
    ]
    assert settings.routes["*"][0].passes_quota_on
    asked = {name: str(endpoint.url("/chat/completions")) for name, endpoint in settings.endpoints.items()}
    assert asked["azure-sweden"] == "https://pay-sweden.openai.azure.com/openai/v1/chat/completions"
    assert asked["bedrock"] == "https://bedrock-runtime.eu-west-1.amazonaws.com/openai/v1/chat/completions"
    assert settings.prices.context_window("vllm", "Qwen/Qwen3-8B") == 32_768
    assert settings.prices.knows("azure-sweden", "gpt-5-mini")
    assert not settings.prices.knows("azure-france", "gpt-5-mini")  # no list is its own: its price is unknown
    assert [name for name, one in settings.endpoints.items() if one.takes_batches] == ["azure-sweden"]
    assert provider_names(settings.endpoints) == {
        "azure-sweden": "azure.ai.openai",
        "azure-france": "azure.ai.openai",
        "bedrock": "aws.bedrock",
        "vertex": "gcp.vertex_ai",
        "openrouter": "_OTHER",
        "vllm": "_OTHER",
        "ollama": "_OTHER",
    }


def test_the_documented_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    docs = Path(__file__).parents[2] / "docs"
    text = "".join((docs / name).read_text() for name in ("how-to/add-an-endpoint.md", "reference/endpoints-file.md"))
    (table,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (routes,) = re.findall(r"^KEYTURN_ROUTES=(.*)$", text, re.MULTILINE)
    settings = settings_of(monkeypatch, table, routes, AZURE_OPENAI_API_KEY="k-1")
    assert set(settings.endpoints) == {"azure-sweden", "azure-france", "ollama"}
    members = set(re.findall(r"^\| `(\w+)", text, re.MULTILINE))
    assert members == set(type(settings.named_endpoints.entries["ollama"]).model_fields)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ('[endpoints.openai]\nformat = "openai"\nurl = "https://h/v1"\nkey_env = "K"', "has settings of its own"),
        ('[endpoints.A_b]\nformat = "openai"\nurl = "https://h/v1"\nkey_env = "K"', "is no name"),
        (
            '[endpoints.a]\nformat = "bedrock"\nurl = "https://h/v1"',
            "endpoints.a.format: is none of anthropic, compatible",
        ),
        ('[endpoints.a]\nformat = "openai"\nurl = "https://h/v1"', "has no key: set one of key_env"),
        ('[endpoints.a]\nformat = "openai"\nurl = "h/v1"\nkey_env = "K"', "must begin with http"),
        ('[endpoints.a]\nformat = "openai"\nurl = "https://u:hunter2@h/v1"\nkey_env = "K"', "neither a password"),
        ('[endpoints.a]\nformat = "openai"\nurl = "https://h"\nkey_env = "K"\nkey_file = "f"', "from one place"),
        ('[endpoints.a]\nformat = "openai"\nurl = "https://h"\nkey = "hunter2"', "endpoints.a.key: Extra inputs"),
        ('[endpoints.a]\nformat = "openai"\nurl = "https://h"\nkey_command = "az login"', "endpoints.a.key_command"),
        (
            '[endpoints.a]\nformat = "compatible"\nurl = "https://h"\nheaders = {x-api-key = "hunter2"}',
            "carries a secret",
        ),
        (
            '[endpoints.a]\nformat = "compatible"\nurl = "https://h"\nheaders = {Host = "x"}',
            "a header that cannot be set",
        ),
        (f'{COMPATIBLE}headers = {{a = "b\\r\\nc: d"}}', "printable ASCII"),
        ('[endpoints.a]\nformat = "compatible"\nurl = "https://h"\nlacks = ["temperature"]', "lacks 'temperature'"),
        (
            '[endpoints.a]\nformat = "gemini"\nurl = "https://h"\nkey_env = "K"\nlacks = ["strict"]',
            "no field that",
        ),
        ('[endpoints.a]\nformat = "gemini"\nurl = "https://h"\nkey_env = "K"\nbatches = true', "has batches"),
        ('[endpoints.a]\nformat = "compatible"\nurl = "https://h"\ncalls_at_once = 0', "calls_at_once"),
        ('[endpoints.a]\nformat = "compatible"\nurl = "https://h"\nprice_list = "nobody"', "price_list: is none of"),
        ('[endpoints.a]\nformat = "compatible"\nurl = "https://h"\nmodels.m = {input = 5000}', "models.m.input"),
        ("[endpoints", "is not TOML"),
        (f"{COMPATIBLE}calls_at_once = {'1' * 5_000}", "holds a number that is none"),
        (f"{COMPATIBLE}models.m = {{input = 1e99999999999999999999}}", "holds a number that is none"),
        (f'{COMPATIBLE}query = {{subscription-key = "hunter2"}}', "carries a secret"),
        ('[endpoints.a]\nformat = "compatible"\nurl = "https://h/v1#x"', "neither a password nor a query"),
        ('[endpoints.a]\nformat = "compatible"\nurl = "https://h:99999/v1"', "a port above 65535"),
        ('[endpoints.a]\nformat = "openai"\nurl = "https://h"\nkey_env = "ABSENT"', "ABSENT is not set: key_env of"),
        (
            '[endpoints.a]\nformat = "compatible"\nurl = "https://h"\nheaders_env = {x-token = "ABSENT"}',
            "ABSENT is not set: headers_env of",
        ),
        (
            '[endpoints.a]\nformat = "openai"\nurl = "https://h"\nkey_env = "K"\nheaders_env = {Authorization = "K"}',
            "has authorization in headers_env and a key",
        ),
        (
            f'{COMPATIBLE}headers = {{X-Team = "a"}}\nheaders_env = {{x-team = "K"}}',
            "has the header x-team in headers and in headers_env",
        ),
        ('[endpoints.b]\nformat = "compatible"\nurl = "https://h"', "there is no endpoint 'a'; endpoints: anthropic,"),
    ],
)
def test_a_fault_in_the_file_is_reported_by_its_place_and_repeats_no_secret(
    monkeypatch: pytest.MonkeyPatch, table: str, expected: str
) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        settings_of(monkeypatch, table, "a:m")
    assert expected in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_every_fault_of_a_file_is_reported_at_once_and_a_file_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        settings_of(monkeypatch, '[endpoints.a]\nformat = "x"\n[endpoints.b]\nformat = "openai"\nurl = "h"', "a:m")
    assert {"endpoints.a.format", "endpoints.a.url", "endpoints.b.url"} <= set(str(refused.value).split(": "))
    monkeypatch.setenv("KEYTURN_ENDPOINTS", "absent.toml")
    with pytest.raises(SettingsInvalid, match=r"absent\.toml cannot be read: No such file"):
        load_settings()


def test_production_refuses_the_placeholder_here_too(monkeypatch: pytest.MonkeyPatch) -> None:
    table = '[endpoints.a]\nformat = "compatible"\nurl = "https://h"\nkey_env = "K"'
    with pytest.raises(SettingsInvalid, match="K: is the placeholder"):
        settings_of(monkeypatch, table, "a:m", K="dev_key_not_a_real_secret", KEYTURN_ENVIRONMENT="production")


@asynccontextmanager
async def serving(answer: Handler) -> AsyncIterator[tuple[str, list[web.Request]]]:
    """A server on loopback; its address, and the requests that it got."""
    seen: list[web.Request] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(request)
        return await answer(request, json.loads(await request.read()))

    application = web.Application()
    application.router.add_post("/v1/chat/completions", handle)
    async with fake_server(application) as url:
        yield f"{url}/v1", seen


async def answers(_request: web.Request, _body: dict[str, Any]) -> web.Response:
    return web.json_response(ANSWER)


async def asked(settings: Settings) -> Completion:
    """What the first of the route says."""
    async with http_client(8) as http:
        provider = provider_of(settings, http, settings.routes["*"][0])
        return await provider.complete(PROMPT, timeouts=SOON, trace_id="t-1")


async def test_a_key_goes_where_the_endpoint_wants_it_with_its_own_headers_and_query(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(answers) as (url, seen):
        table = f"""
            [endpoints.a]
            format = "openai"
            url = "{url}"
            key_env = "K"
            key_header = "api-key"
            headers = {{X-Title = "Keyturn"}}
            headers_env = {{x-gateway = "GATE"}}
            query = {{api-version = "2024-10-21"}}
        """
        await asked(settings_of(monkeypatch, table, "a:m", K="k-1", GATE="g-1"))
    (request,) = seen
    assert (request.headers["api-key"], request.headers["x-title"], request.headers["x-gateway"]) == (
        *("k-1", "Keyturn", "g-1"),
    )
    assert "authorization" not in request.headers
    assert request.query == {"api-version": "2024-10-21"}


async def test_a_token_that_is_taken_back_is_asked_for_anew_within_the_call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Once: a server that takes no token at all is reported as such."""
    token = tmp_path / "token"
    token.write_text("old")
    takes = {"Bearer new"}

    async def answer(request: web.Request, body: dict[str, Any]) -> web.Response:
        if request.headers["authorization"] in takes:
            return await answers(request, body)
        token.write_text("new")
        return web.json_response({"error": {"code": "401", "message": "Access token has expired."}}, status=401)

    async with serving(answer) as (url, seen):
        table = f'[endpoints.a]\nformat = "openai"\nurl = "{url}"\nkey_file = "{token}"'
        settings = settings_of(monkeypatch, table, "a:m")
        source = settings.endpoints["a"].key
        await source.current()
        source._read_at -= 60  # type: ignore[attr-defined]
        assert (await asked(settings)).text == '{"ready":true}'
        assert [request.headers["authorization"] for request in seen] == ["Bearer old", "Bearer new"]


async def test_no_more_calls_are_made_at_once_than_an_endpoint_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one of the route is asked instead; and a full house is no outage."""

    async def never(_request: web.Request, _body: dict[str, Any]) -> web.Response:
        raise AssertionError("was asked")

    async with serving(never) as (url, _):
        settings = settings_of(
            monkeypatch, f'[endpoints.a]\nformat = "compatible"\nurl = "{url}"\ncalls_at_once = 1', "a:m"
        )
        slots = settings.endpoints["a"].slots
        assert slots is not None
        async with slots, http_client(1) as http:
            provider = provider_of(settings, http, settings.routes["*"][0])
            with pytest.raises(RateLimited, match="1 calls are under way"):
                await provider.complete(PROMPT, timeouts=Timeouts(0.2, 0.2, 0.2), trace_id="t")


async def test_a_quota_passes_on_where_the_route_says_so_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    async def poor(_request: web.Request, _body: dict[str, Any]) -> web.Response:
        return web.json_response({"error": {"code": "insufficient_quota", "message": "x"}}, status=429)

    async def admit(_provider: object) -> None: ...

    async with serving(poor) as (empty, _), serving(answers) as (full, _), http_client(8) as http:
        table = "".join(
            f'[endpoints.{name}]\nformat = "compatible"\nurl = "{url}"\n'
            for name, url in (("a", empty), ("b", full), ("c", empty))
        )

        async def ask(routes: str) -> str:
            settings = settings_of(monkeypatch, table, routes)
            route = [provider_of(settings, http, target) for target in settings.routes["*"]]
            try:
                asked = await ask_in_turn(route, PROMPT, deadline=time.monotonic() + 5, trace_id="t", admit=admit)
            except RouteFailed as failed:
                return type(failed.error).__name__
            return asked.provider.name

        assert await ask("a:m[next-on-quota], b:m") == "b"
        assert await ask("a:m, b:m") == QuotaExhausted.__name__
        assert await ask("a:m[next-on-quota], c:m") == QuotaExhausted.__name__


async def _live(monkeypatch: pytest.MonkeyPatch, url: str, more: str = "", **variables: str) -> tuple[str, str | None]:
    table = f'[endpoints.a]\nformat = "compatible"\nurl = "{url}"\n{more}'
    (finding,) = await ask_endpoints(settings_of(monkeypatch, table, "a:m", **variables))
    return finding.state, finding.hint


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, {"error": {"code": "invalid_api_key", "message": "x"}}, "the key is refused"),
        (403, {"error": {"code": "permission_denied", "message": "x"}}, "the key is refused"),
        (404, {"error": {"code": "model_not_found", "message": "x"}}, "there is no model m"),  # OpenAI
        (404, {"error": {"code": "DeploymentNotFound", "message": "x"}}, "there is no model m"),  # Azure
        (
            404,
            {"object": "error", "message": "The model `m` does not exist.", "code": 404},
            "there is no model m",
        ),  # vLLM
        (404, {"error": {"message": "model 'm' not found", "type": "api_error"}}, "there is no model m"),  # Ollama
        (404, {"error": "model 'm' not found, try pulling it first"}, "there is no model m"),  # Ollama, older
        (404, {"type": "error", "error": {"type": "not_found_error", "message": "model: m"}}, "there is no model m"),
        (400, {"error": {"message": "m is not a valid model ID", "code": 400}}, "there is no model m"),  # OpenRouter
        (400, {"object": "error", "message": "Invalid model: m", "type": "invalid_model"}, "there is no model m"),
        (
            404,
            {"error": {"message": "Invalid URL (POST /v1/v1/chat/completions)"}},
            "the address or the model is wrong",
        ),
        (404, {"detail": "Not Found"}, "the address or the model is wrong"),  # FastAPI's, and so vLLM's
        (404, "404 page not found", "the address or the model is wrong"),  # Go's, and so Ollama's
        (404, "<html>", "the address or the model is wrong"),
        (200, "<html>", "something else answers there"),
        (429, {"error": {"code": "insufficient_quota"}}, "the provider answered 429 insufficient_quota"),
        (503, {}, "the provider answered 503"),
    ],
)
async def test_a_live_check_tells_key_address_and_model_apart(
    monkeypatch: pytest.MonkeyPatch, status: int, body: Any, expected: str
) -> None:
    async def answer(_request: web.Request, _body: dict[str, Any]) -> web.Response:
        return (
            web.Response(text=body, status=status) if isinstance(body, str) else web.json_response(body, status=status)
        )

    async with serving(answer) as (url, seen):
        state, hint = await _live(monkeypatch, url)
    assert state.startswith(expected)
    assert hint
    assert len(seen) == 1


async def test_a_live_check_shows_the_cost_and_what_it_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(request: web.Request, body: dict[str, Any]) -> web.Response:
        if body.get("response_format", {}).get("type") == "json_schema":
            message = "'response_format.type' must be 'text' or 'json_object': json_schema is not supported"
            return web.json_response({"error": {"message": message}}, status=400)
        return await answers(request, body)

    async with serving(answer) as (url, seen):
        state, hint = await _live(monkeypatch, url, "models.m = {input = 1, output = 10}")
    assert hint is None
    assert "m-1 answers in" in state
    assert "20 + 5 tokens, $0.000070" in state
    assert 'does not take json_schema, so the schema is sent in the prompt (lacks = ["json_schema"]' in state
    assert len(seen) == 2


async def test_a_live_check_of_nobody_and_of_a_key_that_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    state, hint = await _live(monkeypatch, "http://127.0.0.1:9/v1")
    assert state.startswith("there is no answer")
    assert hint is not None
    assert "http://127.0.0.1:9/v1" in hint
    command = json.dumps([sys.executable, "-c", "raise SystemExit(7)"])
    state, hint = await _live(monkeypatch, "http://127.0.0.1:9/v1", f"key_command = {command}")
    assert state.startswith("there is no key: the command for the key exited with status 7")
    assert hint is not None
    assert "key_command" in hint


async def test_a_key_command_sees_the_key_of_no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os; print('seen-' + str(sum('ours' in value for value in os.environ.values())))"
    table = f"{COMPATIBLE}key_command = {json.dumps([sys.executable, '-c', code])}"
    for provider in load_providers().values():
        monkeypatch.setenv(provider.key_variable, "ours")
    settings = settings_of(monkeypatch, table, "a:m")
    assert (await settings.endpoints["a"].key.current()).get_secret_value() == "seen-0"


async def test_waiting_for_a_place_is_not_charged_to_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waited too long is sent on, and the endpoint that was only busy is not taken for one that is down."""

    async def slow(_request: web.Request, _body: dict[str, Any]) -> web.Response:
        await asyncio.sleep(0.5)
        return web.json_response(ANSWER)

    async def admit(_provider: object) -> None: ...

    async with serving(slow) as (url, _), http_client(32) as http:
        settings = settings_of(
            monkeypatch, f'[endpoints.a]\nformat = "compatible"\nurl = "{url}"\ncalls_at_once = 4', "a:m"
        )
        provider, outages = provider_of(settings, http, settings.routes["*"][0]), Outages()

        async def ask() -> str:
            try:
                await ask_in_turn(
                    [provider],
                    PROMPT,
                    deadline=time.monotonic() + 2.2,
                    trace_id="t",
                    admit=admit,
                    outages=outages,
                )
            except RouteFailed as failed:
                return failed.error.kind
            return "answered"

        kinds = Counter(await asyncio.gather(*(ask() for _ in range(32))))
    assert set(kinds) == {"answered", "endpoint_busy"}, kinds
    assert outages.open_now() == []
