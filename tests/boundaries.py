"""What boundaries in tests are made of: a price that never changes, providers on the simulator."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import httpx
from pydantic import SecretStr

from keyturn.llm.guard import Guard
from keyturn.llm.keys import FixedKey, KeySource
from keyturn.llm.providers.anthropic import ANTHROPIC_WIRE
from keyturn.llm.providers.endpoint import Endpoint, WireFormat
from keyturn.llm.providers.gemini import GEMINI_WIRE
from keyturn.llm.providers.http import HttpProvider
from keyturn.llm.providers.openai import COMPATIBLE_WIRE, OPENAI_WIRE
from keyturn.llm.wire import Usage
from tests.simulated import SimulatorControl

WIRES = {wire.name: wire for wire in (OPENAI_WIRE, ANTHROPIC_WIRE, GEMINI_WIRE, COMPATIBLE_WIRE)}
KEY = SecretStr("key_for_tests")
MODEL = "simulator-1"


class FixedPrice:
    """Every call costs the same, and every model holds as much as it is told to."""

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
    http: httpx.AsyncClient, simulator: SimulatorControl, wire: WireFormat | str = "openai", *, model: str = MODEL
) -> HttpProvider:
    """A provider that asks the simulator in one of the wire formats."""
    name = wire if isinstance(wire, str) else wire.name
    base_url = f"{simulator.address}/v1" if name in {"openai", "compatible"} else simulator.address
    return HttpProvider(http, endpoint(wire, base_url), model)


def endpoint(wire: WireFormat | str, base_url: str, *, key: SecretStr | KeySource = KEY, **more: Any) -> Endpoint:
    """A server that speaks one of the wire formats, called as that is."""
    wire = WIRES[wire] if isinstance(wire, str) else wire
    source = FixedKey(key) if isinstance(key, SecretStr) else key
    return replace(Endpoint(wire.name, wire, base_url, source), **more)
