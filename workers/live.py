"""`doctor --live`: does each endpoint answer with the key and the model that are set, and what does it not take?"""

import time
import uuid
from dataclasses import dataclass

import httpx

from keyturn.llm.endpoint import Endpoint, Timeouts
from keyturn.llm.errors import (
    AuthenticationFailed,
    ProviderError,
    ProviderKeyUnavailable,
    ProviderTimeout,
    ProviderUnavailable,
    RequestRefused,
    UnreadableResponse,
)
from keyturn.llm.http import http_client
from keyturn.llm.routing import CONNECT_SECONDS, Target
from keyturn.tasks.definition import Prompt
from keyturn.workers.settings import Settings
from keyturn.workers.wiring import provider_of

# A local model that is not in memory yet takes half a minute to answer; a check should take no longer.
LIVE_SECONDS = 60.0
# The answer has five tokens; a model that thinks before it answers is cut off here, which is an answer, too.
LIVE_TOKENS = 64
_PROBE = Prompt(
    version="doctor@1",
    system="Answer with the JSON object of the schema. This is a check of the connection.",
    stable='{"ready": ',
    varying="true}",
    schema_name="check",
    schema={
        "type": "object",
        "properties": {"ready": {"type": "boolean"}},
        "required": ["ready"],
        "additionalProperties": False,
    },
    max_output_tokens=LIVE_TOKENS,
)
_SCHEMA_MODES = {"json_schema", "json_object", "response_format"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at: its state, and what fixes it if it is not well."""

    what: str
    state: str
    hint: str | None = None


async def ask_endpoints(settings: Settings) -> list[Finding]:
    """Ask each endpoint and model of the routes once, one after the other."""
    async with http_client(1) as http:
        return [await _ask(settings, http, target) for target in settings.targets]


async def _ask(settings: Settings, http: httpx.AsyncClient, target: Target) -> Finding:
    endpoint, what = settings.endpoints[target.provider], f"endpoint {target}"
    known, began = frozenset(endpoint.unsupported_fields(target.model)), time.perf_counter()
    timeouts = Timeouts(connect=CONNECT_SECONDS, first_byte=LIVE_SECONDS, total=LIVE_SECONDS)
    try:
        answer = await provider_of(settings, http, target).complete(
            _PROBE, timeouts=timeouts, trace_id=f"doctor_{uuid.uuid4().hex}"
        )
    except ProviderError as error:
        state, hint = _fault(endpoint, target.model, error)
        return Finding(what, state, hint)
    seconds = time.perf_counter() - began
    cost = settings.prices.cost_usd(target.provider, answer.model, answer.usage, asked=target.model)
    tokens = f"{_format_tokens(answer.usage.input_tokens)} + {_format_tokens(answer.usage.output_tokens)} tokens"
    price = "price unknown" if cost is None else f"${cost:.6f}"
    state = f"{answer.model} answers in {seconds:.1f} s; {tokens}, {price}"
    if learned := sorted(endpoint.unsupported_fields(target.model) - known):
        state += f"; it does not take {', '.join(learned)}"
        if _SCHEMA_MODES & set(learned):
            state += ", so the schema is sent in the prompt"
        named = ", ".join(f'"{name}"' for name in learned)
        state += f" (lacks = [{named}] spares each worker one refused request)"
    return Finding(what, state)


def _fault(endpoint: Endpoint, model: str, error: ProviderError) -> tuple[str, str]:
    """Return what is wrong, and what fixes it: key, address and model are reported separately."""
    address, asked = endpoint.base_url, endpoint.url(endpoint.wire.path(model)).copy_with(query=None)
    known: list[tuple[bool, str, str]] = [
        (isinstance(error, ProviderKeyUnavailable), "there is no key", error.hint),
        (
            isinstance(error, AuthenticationFailed),
            "the key is refused",
            f"Set a key that {address} accepts and that may use {model}.",
        ),
        (
            isinstance(error, RequestRefused) and error.names_model,
            f"there is no model {model}",
            f"Name a model or deployment of {address} in KEYTURN_ROUTES.",
        ),
        (
            isinstance(error, RequestRefused) and error.status == 404,
            "the address or the model is wrong",
            f"Check the base URL ({asked} was asked), and that {model} exists there.",
        ),
        (
            isinstance(error, UnreadableResponse),
            "something else answers there",
            f"Check the base URL: {asked} was asked.",
        ),
        (
            isinstance(error, ProviderUnavailable | ProviderTimeout) and error.status is None,
            "there is no answer",
            f"Check that {address} is right, that its server runs, and that this machine can reach it.",
        ),
    ]
    found = next(((what, hint) for fits, what, hint in known if fits), None)
    return (str(error), error.hint) if found is None else (f"{found[0]}: {error}", found[1])


def _format_tokens(tokens: int | None) -> str:
    return "?" if tokens is None else f"{tokens:,}"
