"""What another distribution adds by entry points works as what is built in: one rotation through one of each kind."""

from __future__ import annotations

import asyncio
import json
import os
import tomllib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from sqlalchemy.engine import URL

from keyturn.lab.stack.embedded import Stack
from keyturn.lab.stack.processes import child
from tests.support.estates import LINE
from tests.support.servers import fake_server
from tests.support.terminal import KEYTURN, lunas

CHECK = ("inventory", "check", "--json")
EXTENSION = Path(__file__).parents[1] / "examples" / "extension"
GRANTED = json.dumps({"decision": "eligible", "rotation_window_days": 90, "source_line_ids": [LINE]})


def installed(folder: Path, entry_points: Mapping[str, Mapping[str, str]]) -> Path:
    """What `pip install` leaves of a distribution: its metadata, in a folder that is on the path."""
    metadata = folder / "keyturn_example_extension-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: keyturn-example-extension\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n" + "\n".join(f"{name} = {value}" for name, value in points.items())
        for group, points in entry_points.items()
    ]
    (metadata / "entry_points.txt").write_text("\n\n".join(lines) + "\n")
    return folder


@pytest.fixture
def packages(tmp_path: Path) -> str:
    """The path with the example's modules and the metadata of its distribution."""
    project = tomllib.loads((EXTENSION / "pyproject.toml").read_text())["project"]
    (tmp_path / "site").mkdir()
    return f"{EXTENSION}:{installed(tmp_path / 'site', project['entry-points'])}"


@asynccontextmanager
async def example_provider() -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """A server that speaks the example's wire format; its address, and what it was asked."""
    asked: list[dict[str, Any]] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append({"key": request.headers.get("x-example-key"), **await request.json()})
        return web.json_response({"said": GRANTED, "tokens": [700, 20]})

    application = web.Application()
    application.router.add_post("/answer", answer)
    async with fake_server(application) as url:
        yield url, asked


async def run(environment: Mapping[str, str], folder: Path, *words: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        KEYTURN,
        *words,
        env=dict(environment),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode or 0, out.decode(), err.decode()


async def until(done: Any, *, seconds: float = 90) -> None:
    async with asyncio.timeout(seconds):
        while not await done():
            await asyncio.sleep(0.2)


async def test_a_rotation_goes_through_a_provider_a_source_a_channel_a_target_and_an_executor_from_outside(
    stack: Stack, packages: str, sqlite: URL, tmp_path: Path
) -> None:
    executor: list[str | Path] = [KEYTURN, "executor"]
    cloud, messages, secrets = tmp_path / "cloud", tmp_path / "messages.jsonl", tmp_path / "secrets.json"
    (cloud / "robot_1").mkdir(parents=True)
    old = cloud / "robot_1" / "badge_1"
    old.touch()
    os.utime(old, times=(1_577_836_800, 1_577_836_800))  # as the inventory says: the beginning of 2020
    inventory = tmp_path / "badges.json"
    robots = [
        {"robot": "robot_1", "badge": "badge_1", "since": "2020-01-01T00:00:00Z"},
        {"robot": "robot_2", "badge": "badge_2", "since": "2020-01-01T00:00:00Z", "on": False},
    ]
    inventory.write_text(json.dumps(robots))
    async with example_provider() as (url, asked):
        environment = lunas(stack) | {
            "PYTHONPATH": packages,
            # Its own: of a database of others, its worker would send their messages, too.
            "DATABASE_URL": f"sqlite:///{sqlite.database}",
            "KEYTURN_TASK_QUEUE": f"extensions-{tmp_path.name}",
            "KEYTURN_TENANT": "extended",
            "KEYTURN_ROUTES": "example:m-1",
            "EXAMPLE_BASE_URL": url,
            "EXAMPLE_API_KEY": "key-of-the-example",
            "EXAMPLE_CHANNEL_FILE": str(messages),
            "KEYTURN_EXECUTOR": "example",
            "EXAMPLE_CLOUD": str(cloud),
            "EXAMPLE_SECRETS": str(secrets),
            "KEYTURN_EXECUTOR_TARGETS": "example:badges/{user}",
            "KEYTURN_EXECUTOR_OVERLAP_HOURS": "0",
            "KEYTURN_EXECUTOR_GRACE_HOURS": "0",
        }
        async with child([KEYTURN, "worker"], environment=environment, folder=tmp_path, log=tmp_path / "w.log"):
            status, out, err = await run(environment, tmp_path, "bulk", str(inventory), "--policy", LINE, "--json")
            assert status == 0, err
            assert json.loads(out)["outcomes"] == {"job_created": 1, "nothing_due": 1}
            assert [(one["key"], one["model"]) for one in asked] == [("key-of-the-example", "m-1")]

            async def delivered() -> bool:
                return messages.exists()

            await until(delivered)
            sent = [json.loads(line) for line in messages.read_text().splitlines()]
            assert len(sent) == 1, sent
            (message,) = sent
            assert message["topic"] == "rotation_job.created"
            status, out, _ = await run(environment, tmp_path, "executor", "--dry-run")
            assert (status, "store its secret in example:badges/robot_1" in out) == (0, True)
            async with child(executor, environment=environment, folder=tmp_path, log=tmp_path / "e.log"):

                async def done() -> bool:
                    return (
                        '"status": "done"'
                        in (await run(environment, tmp_path, "jobs", "show", message["job_id"], "--json"))[1]
                    )

                await until(done)
    (badge,) = (cloud / "robot_1").iterdir()
    assert badge.name != "badge_1"
    assert [entry[0] for entry in json.loads(secrets.read_text())["badges/robot_1"]] == [badge.name]


async def test_an_inventory_is_fetched_by_a_fetcher_from_outside(packages: str, tmp_path: Path) -> None:
    """Named as Keyturn's own are, in `--from` and its help."""
    for name in ("robot_1/badge_1", "robot_2/badge_2"):
        (tmp_path / "cloud" / name).parent.mkdir(parents=True)
        (tmp_path / "cloud" / name).touch()
        os.utime(tmp_path / "cloud" / name, times=(1_577_836_800, 1_577_836_800))
    environment = os.environ | {"PYTHONPATH": packages, "EXAMPLE_CLOUD": str(tmp_path / "cloud")}
    command = ["inventory", "fetch", "--from", "example", "--out", "keys.jsonl"]
    status, out, err = await run(environment, tmp_path, *command)
    assert (status, out.splitlines()[0]) == (0, "keys.jsonl: 2 keys of 2 users"), err
    assert "example" in (await run(environment, tmp_path, "inventory", "fetch", "--help"))[1]


@pytest.mark.parametrize(
    ("points", "fault"),
    [
        (
            {"x": "example_provider:PROVIDER", "y": "example_provider:PROVIDER"},
            "which is taken",
        ),
        ({"x": "example_source:SOURCE"}, "is a Source, not a Provider"),
        ({"x": "nowhere:PROVIDER"}, "cannot be imported: ModuleNotFoundError"),
        ({"x": "misnamed:RULE"}, "has the name 'rule': a name is"),
        ({"x": "misnamed:MARKED"}, "has the name 'a:b': a name is"),
    ],
)
async def test_an_extension_that_cannot_be_used_is_named_with_its_distribution(
    points: dict[str, str], fault: str, tmp_path: Path
) -> None:
    """Before anything starts: a worker without a provider that its operator installed would ask another one."""
    misnamed = "from dataclasses import replace; from example_provider import PROVIDER\n"
    misnamed += "RULE, MARKED = replace(PROVIDER, name='rule'), replace(PROVIDER, name='a:b')\n"
    (tmp_path / "misnamed.py").write_text(misnamed)
    environment = {
        "PATH": "/usr/bin",
        "PYTHONPATH": f"{EXTENSION}:{installed(tmp_path, {'keyturn.providers': points})}",
        "KEYTURN_ROUTES": "x:m",
    }
    status, _, err = await run(environment, tmp_path, "worker")
    assert status == 1
    assert fault in err
    assert "keyturn-example-extension registers in keyturn.providers" in err
    assert "Fix or uninstall that distribution" in err
    assert "Traceback" not in err


async def test_the_format_that_is_named_has_the_first_look_at_an_entry(packages: str, tmp_path: Path) -> None:
    """An entry may have the members of several sources: a badge with a `name` looks like Google's."""
    file = tmp_path / "badges.json"
    file.write_text('[{"robot": "r", "badge": "b", "name": "of the robot", "since": "2020-01-01T00:00:00Z"}]')
    environment = {"PATH": "/usr/bin", "PYTHONPATH": packages}
    status, out, err = await run(
        environment, tmp_path, "inventory", "check", str(file), "--format", "example", "--json"
    )
    assert (status, json.loads(out)["counts"]) == (0, {"active": 1}), err
