"""The simulator as tests speak to it."""

import json
from typing import Any

import httpx


class SimulatorControl:
    """Makes a simulator fail, and asks it what it got."""

    def __init__(self, http: httpx.AsyncClient, address: str) -> None:
        self._http = http
        self.address = address

    async def reset(self) -> None:
        """Let the simulator be as at its start."""
        (await self._http.delete("/control")).raise_for_status()

    async def pace(self, seconds: float) -> None:
        """Let so many seconds pass between two pieces of a stream."""
        (await self._http.put("/control/pace", content=str(seconds))).raise_for_status()

    async def take_keys(self, keys: list[str] | None) -> None:
        """Take these API keys and no others; None takes any."""
        (await self._http.put("/control/keys", content=json.dumps(keys))).raise_for_status()

    async def fail(self, name: str, **arguments: Any) -> None:
        """Set a fault; it raises if the simulator knows no such fault."""
        (await self._http.post("/control/faults", json={"name": name, **arguments})).raise_for_status()

    async def plan_batches(self, **plan: Any) -> None:
        """Say what is to become of the batches that are submitted from now on; see lab/simulator/batches.py."""
        (await self._http.put("/control/batches", json=plan)).raise_for_status()

    async def requests(self) -> list[dict[str, Any]]:
        answer = await self._http.get("/control/requests")
        requests: list[dict[str, Any]] = answer.json()
        return requests
