"""The simulator as tests speak to it."""

from typing import Any

import httpx


class SimulatorControl:
    """Tells a simulator how to fail, and asks it what it got."""

    def __init__(self, http: httpx.AsyncClient, address: str) -> None:
        self._http = http
        self.base_url = f"{address}/v1"

    async def reset(self) -> None:
        await self._http.delete("/control/faults")
        await self._http.delete("/control/requests")

    async def fail(self, name: str, **arguments: Any) -> None:
        """Set a fault; it raises if the simulator knows no such fault."""
        (await self._http.post("/control/faults", json={"name": name, **arguments})).raise_for_status()

    async def requests(self) -> list[dict[str, Any]]:
        answer = await self._http.get("/control/requests")
        requests: list[dict[str, Any]] = answer.json()
        return requests
