"""The desk's JSON by a client that a standard generator makes of its description, as another team would have it."""

import asyncio
import importlib
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL
from temporalio.client import Client

from keyturn.lab.stack.loopback import loopback_client
from tests.support.desks import TOKENS, Place, place
from tests.support.simulated import SimulatorControl


@pytest.fixture
async def here(temporal: Client, sqlite: URL, simulator: SimulatorControl) -> AsyncIterator[Place]:
    async with place(temporal, sqlite, simulator) as made:
        yield made


async def generated(description: dict[str, Any], folder: Path) -> str:
    """Generate the client into `folder`; returns the package's name."""
    file, name = folder / "openapi.json", f"client_{uuid.uuid4().hex}"
    file.write_text(json.dumps(description))
    tools = Path(sys.executable).parent  # the generator formats what it writes with ruff
    command = [str(tools / "openapi-python-client"), "generate", "--path", str(file)]
    process = await asyncio.create_subprocess_exec(
        *command, "--meta", "none", "--fail-on-warning", "--output-path", str(folder / name),
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}, stdout=-1, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return name


async def test_a_generated_client_asks_follows_and_lists(
    here: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typed answers, the required header as a required argument, signed in by the described scheme."""
    async with here.open() as url:
        async with loopback_client(url) as http:
            description = (await http.get("/openapi.json")).json()
        schemes = description["components"]["securitySchemes"]
        assert [(one["type"], one["scheme"]) for one in schemes.values()] == [("http", "bearer")]
        for path, methods in description["paths"].items():
            for operation in methods.values():
                assert operation["security"], path
                assert {"401", "403", "422", "503"} <= set(operation["responses"]), path
        package = await generated(description, tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))

        def part(name: str) -> Any:
            return importlib.import_module(f"{package}.{name}")

        client = part("client").AuthenticatedClient(base_url=url, token=TOKENS["luna"])
        asked = part("models").Ask(
            account_id="acct_7", key_id="key_1", policy_lines=["P-7"], question="May it?", stale=True, age_days=40
        )
        ask = part("api.default.ask")
        with pytest.raises(TypeError, match="idempotency_key"):
            await ask.asyncio(client=client, body=asked)
        answered = await ask.asyncio(client=client, body=asked, idempotency_key=str(uuid.uuid4()))
        assert (type(answered).__name__, str(answered.status)) == ("Rotation", "job_created")
        assert (answered.job_id.startswith("job_"), answered.policy_lines, answered.job_state) == (
            True,
            ["P-7@1"],
            "open",
        )
        assert answered.additional_properties.keys() <= {"call", "location"}, "every other field has a type"
        listed = await part("api.default.rotations").asyncio(client=client)
        assert [(row.account_id, row.key_id) for row in listed.rotations] == [("acct_7", "key_1")]
        jobs = await part("api.default.jobs").asyncio(client=client)
        shown = await part("api.default.job").asyncio(jobs.jobs[0].job_id, client=client)
        assert [one.event for one in shown.audit] == ["created"]
