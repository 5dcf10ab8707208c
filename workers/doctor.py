"""`keyturn doctor`: what a worker, a starter, a desk or an executor would find, looked at before one runs."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal, get_args

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest

from keyturn.application.connection import connect, map_refusals
from keyturn.application.namespace import missing_search_attributes, pollers
from keyturn.application.versioning import builds
from keyturn.application.worker_identity import checks_of, differences, read_identity
from keyturn.console import counted
from keyturn.database import open_database
from keyturn.errors import JobStoreUnavailable, KeyturnError, SettingsInvalid
from keyturn.key_use import LIMIT, KeyUse, keys_to_replace
from keyturn.keyring_files import keyring_from_environment
from keyturn.settings import field_faults
from keyturn.workers.doctor_environment import files_of_secrets, names_of_settings
from keyturn.workers.doctor_errors import (
    AttributesMissing,
    KeyWorn,
    NoBuild,
    NoWorker,
    ProvidersDown,
    RedisAway,
    SqliteInProduction,
    WorkersDiffer,
)
from keyturn.workers.doctor_looks import cloud_look, key_map_look, notices_look, owners_look
from keyturn.workers.executor_settings import load_executor_settings
from keyturn.workers.live import Finding, ask_endpoints
from keyturn.workers.local_settings import load_database_url, load_local_settings
from keyturn.workers.schema import check_schema
from keyturn.workers.settings import Settings, load_settings
from keyturn.workflows.visibility import SEARCH_ATTRIBUTES

Role = Literal["starter", "worker", "desk", "executor"]
ROLES: tuple[Role, ...] = get_args(Role)
Look = Callable[[], Awaitable[str]]


async def examine(role: Role, *, desk: type[BaseSettings], live: bool = False) -> list[Finding]:
    """Look at what a role needs, each thing on its own, so that one fault hides no other.

    Args:
        role: who would run with this environment.
        desk: the desk's settings, which sit above the workers.
        live: whether what lies outside is asked as well: each endpoint and model of a worker's routes, which costs a
            little, and the cloud of an executor.
    """
    findings: list[Finding] = []
    if role == "worker":
        findings += await _worker_settings(live=live)
    elif role == "desk":
        findings += _desk_settings(desk)
    elif role == "executor":
        findings += await _executor_settings(live=live)
    looks: dict[str, Look] = {"names of settings": partial(names_of_settings, desk), "files": files_of_secrets}
    if role != "executor":
        looks |= {"policy": _policy, "owners": owners_look}
    looks |= {"payload keys": partial(_keys, with_database=role != "starter")}
    if role != "starter":
        looks |= {"database": _database}
    looks |= {"temporal": temporal_state, "search attributes": _search_attributes}
    # Before the first worker runs, that none does is no fault of its settings.
    looks |= {"task queue": partial(task_queue_state, needs_worker=role != "worker"), "workers": _agreement}
    return findings + [await _examine(what, look) for what, look in looks.items()]


async def _worker_settings(*, live: bool) -> list[Finding]:
    try:
        settings = load_settings()
    except KeyturnError as error:
        hint = f"{error.hint} Only a worker needs it: `keyturn doctor --for starter` leaves it out."
        return [Finding("setting", line, hint) for line in str(error).splitlines()]
    routes = "; ".join(f"{task} -> {', '.join(map(str, route))}" for task, route in settings.routes.items())
    keyless = sorted(name for name in settings.endpoints if not settings.has_key(name))
    channels = ", ".join(settings.channels) or "no channel, so created jobs are read from the database or the jobs API"
    findings = [
        Finding("settings", f"{settings.environment}, {routes}"),
        Finding(
            "provider keys",
            f"no key for {', '.join(keyless)}" if keyless else "set; `doctor --live` asks whether they are accepted",
            'Set the key that the endpoint names; an endpoint that needs none says `auth = "none"`.'
            if keyless
            else None,
        ),
        Finding("notifications", channels),
        await _examine("notices", partial(notices_look, settings)),
    ]
    if settings.redis_url is not None:
        findings.append(await _examine("providers", partial(_providers, settings, settings.redis_url)))
    return findings + (await ask_endpoints(settings) if live else [])


def _desk_settings(desk: type[BaseSettings]) -> list[Finding]:
    try:
        settings: Any = desk()
    except ValidationError as error:
        return [Finding("setting", fault, SettingsInvalid.hint) for fault in field_faults(error)]
    who = "no one has to sign in" if settings.open_to_all else "people sign in"
    return [Finding("settings", f"{settings.environment}, tenant {settings.tenant}, {settings.address}, {who}")]


async def _executor_settings(*, live: bool) -> list[Finding]:
    try:
        settings = load_executor_settings()
    except KeyturnError as error:
        return [Finding("setting", line, error.hint) for line in str(error).splitlines()]
    mapped = "" if settings.key_map is None else f", and by {settings.key_map}"
    where = " ".join(settings.default_targets) or "no target but by the key map"
    state = f"{settings.environment}, {settings.executor}, secrets to {where}{mapped}"
    findings = [Finding("settings", state), await _examine("key map", partial(key_map_look, settings.key_map))]
    if live:
        findings.append(await _examine("cloud", partial(cloud_look, settings)))
    return findings


async def _examine(what: str, look: Look) -> Finding:
    try:
        return Finding(what, await look())
    except KeyturnError as error:
        return Finding(what, str(error), error.hint)


async def _policy() -> str:
    catalogue = load_local_settings().load_catalogue()
    return f"{len(list(catalogue))} lines, digest {catalogue.version}"


async def _keys(*, with_database: bool) -> str:
    keyring = keyring_from_environment()
    held = ", ".join(f"{key_id} ({value})" for key_id, value in keyring.check_values.items())
    if with_database:
        await _expect_usable_keys()
    return f"{held}; the first one encrypts"


async def _expect_usable_keys() -> None:
    """Raise KeyWorn if a payload key has encrypted half as often as it may; nothing is known without a database."""
    try:
        engine = open_database(load_database_url(), pool_size=1)
    except KeyturnError:
        return
    try:
        totals = await KeyUse(engine).totals()
    except JobStoreUnavailable:
        return
    finally:
        await engine.dispose()
    if found := keys_to_replace(totals):
        details = ", ".join(f"{key_id} has encrypted {totals[key_id]:,} of {LIMIT:,} times" for key_id in found)
        raise KeyWorn(details)


async def _database() -> str:
    url = load_database_url()
    if url.get_backend_name() == "sqlite" and os.environ.get("KEYTURN_ENVIRONMENT") == "production":
        raise SqliteInProduction(f"DATABASE_URL is {url.database}")
    return f"{url.get_backend_name()} {url.database}, schema {check_schema(url)} is current"


async def _providers(settings: Settings, redis_url: SecretStr) -> str:
    """What the fleet's workers have found out, in the Redis that they share."""
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    from keyturn.llm.shared_outages import REDIS_SECONDS, remaining

    try:
        async with asyncio.timeout(REDIS_SECONDS), Redis.from_url(redis_url.get_secret_value()) as redis:
            down = await remaining(redis, [target[:2] for target in settings.targets])
    except (RedisError, OSError, TimeoutError) as error:
        raise RedisAway(f"Redis did not answer: {type(error).__name__}") from None
    if down:
        details = "; ".join(f"{':'.join(name)} for {seconds:.0f} s more" for name, seconds in down.items())
        raise ProvidersDown(f"down, and therefore asked last: {details}")
    return "no worker reports one as down"


async def temporal_state() -> str:
    """Return what is there of Temporal: the server and the namespace."""
    client = await connect()
    with map_refusals():
        server = await client.workflow_service.get_system_info(GetSystemInfoRequest())
    return f"server {server.server_version}, namespace {client.namespace}"


async def _search_attributes() -> str:
    client = await connect()
    with map_refusals():
        missing = await missing_search_attributes(client)
    if missing:
        raise AttributesMissing(f"missing in {client.namespace}: {', '.join(key.name for key in missing)}")
    return f"all {len(SEARCH_ATTRIBUTES)} are there"


async def task_queue_state(*, needs_worker: bool = True) -> str:
    """Return who polls the task queue, and whether a build takes rotations.

    Raises NoWorker if one is needed and none does; NoBuild.
    """
    client, queue = await connect(), load_local_settings().task_queue
    with map_refusals():
        known = await builds(client)
        polling = len(await pollers(client, queue))
    state = f"{counted(polling, 'worker')} polled {queue} recently"
    if not polling and needs_worker:
        raise NoWorker(state)
    if known and not any(build.current for build in known):
        raise NoBuild(f"{state}; none of the builds {', '.join(one.build_id for one in known[:3])} takes rotations")
    return state


async def _agreement() -> str:
    """Whether the running workers have the payload keys and policy lines of this machine, by their check values."""
    client = await connect()
    settings = load_local_settings()
    ours = checks_of(keyring_from_environment(), settings.load_catalogue().version)
    with map_refusals():
        found = [read_identity(one) for one in await pollers(client, settings.task_queue)]
    theirs = [one for one in found if one is not None]
    apart = differences(ours, theirs)
    if apart:
        raise WorkersDiffer("; ".join(apart))
    unknown = (
        f"; {counted(len(found) - len(theirs), 'worker')} of an older build does not say"
        if len(found) > len(theirs)
        else ""
    )
    if not theirs:
        return f"none that says what it has{unknown}"
    return f"{counted(len(theirs), 'worker')} with the same payload keys and policy lines{unknown}"
