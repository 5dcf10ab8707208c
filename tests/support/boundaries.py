"""The parts of boundaries in tests: a price that never changes, providers on the simulator."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import httpx
from pydantic import SecretStr

from keyturn.llm.endpoint import Endpoint
from keyturn.llm.guard import Guard
from keyturn.llm.http import HttpModelClient
from keyturn.llm.keys import FixedKey, KeySource
from keyturn.llm.providers import load_providers
from keyturn.llm.wire import Usage
from tests.support.simulated import SimulatorControl

PROVIDERS = load_providers()
WIRES = {name: provider.wire for name, provider in PROVIDERS.items()}
KEY = SecretStr("key_for_tests")
MODEL = "simulator-1"


class FixedPrice:
    """Every call costs the same, and every model has the given context window."""

    def __init__(self, usd: Decimal | None = Decimal("0.00098"), window: int | None = None) -> None:
        self.usd = usd
        self.window = window

    def cost_usd(self, provider: str, model: str, usage: Usage, *, asked: str | None = None) -> Decimal | None:
        return None if usage.input_tokens is None else self.usd

    def context_window(self, provider: str, model: str) -> int | None:
        return self.window


def guarded(**changed: Any) -> Guard:
    return Guard(**{"prices": FixedPrice()} | changed)


def on_simulator(
    http: httpx.AsyncClient, simulator: SimulatorControl, name: str = "openai", *, model: str = MODEL
) -> HttpModelClient:
    """A provider that asks the simulator in one of the wire formats."""
    base_url = f"{simulator.address}/v1" if name in {"openai", "compatible"} else simulator.address
    return HttpModelClient(http, endpoint(name, base_url), model)


def endpoint(name: str, base_url: str, *, key: SecretStr | KeySource = KEY, **more: Any) -> Endpoint:
    """A server that speaks a provider's wire format, called as that is."""
    source = FixedKey(key) if isinstance(key, SecretStr) else key
    return replace(Endpoint(name, PROVIDERS[name], base_url, source), **more)
