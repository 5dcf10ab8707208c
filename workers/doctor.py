"""`doctor`: is everything there that a rotation needs?"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from pydantic import SecretStr
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest

from keyturn.application.connection import connect, map_refusals
from keyturn.application.namespace import count_pollers, missing_search_attributes
from keyturn.application.versioning import builds
from keyturn.console import counted
from keyturn.database import open_database
from keyturn.errors import JobStoreUnavailable, KeyturnError
from keyturn.key_use import LIMIT, REPLACE, KeyUse, keys_to_replace
from keyturn.keyring_files import keyring_from_environment
from keyturn.workers.live import Finding, ask_endpoints
from keyturn.workers.local_settings import load_database_url, load_local_settings
from keyturn.workers.schema import check_schema
from keyturn.workers.settings import Settings, load_settings


async def examine(*, live: bool = False) -> list[Finding]:
    """Look at settings, policy, keys, database and Temporal, each on its own, so that one fault hides no other.

    Args:
        live: whether each endpoint and model of the routes is asked once, which costs a little.
    """
    findings = _settings()
    if all(finding.hint is None for finding in findings):
        settings = load_settings()
        if settings.redis_url is not None:
            findings.append(await _examine("providers", partial(_providers, settings, settings.redis_url)))
        if live:
            findings += await ask_endpoints(settings)
    findings.append(await _examine("policy", _policy))
    findings.append(await _examine("payload keys", _keys))
    findings.append(await _examine("database", _database))
    findings.append(await _examine("temporal", temporal_state))
    return findings


def _settings() -> list[Finding]:
    try:
        settings = load_settings()
    except KeyturnError as error:
        hint = f"{error.hint} `keyturn worker` needs it; `rotate`, `status` and `watch` do not."
        return [Finding("setting", line, hint) for line in str(error).splitlines()]
    routes = "; ".join(f"{task} -> {', '.join(map(str, route))}" for task, route in settings.routes.items())
    keyless = sorted(name for name in settings.endpoints if not settings.has_key(name))
    keys = f"no key for {', '.join(keyless)}" if keyless else "keys are set"
    channels = ", ".join(settings.channels) or "no channel, so created jobs are read from the database or the jobs API"
    return [
        Finding(
            "settings",
            f"{settings.environment}, {routes}, {keys}; `doctor --live` asks whether the providers accept them",
        ),
        Finding("notifications", channels),
    ]


async def _examine(what: str, look: Callable[[], Awaitable[str]]) -> Finding:
    try:
        return Finding(what, await look())
    except KeyturnError as error:
        return Finding(what, str(error), error.hint)


async def _policy() -> str:
    catalogue = load_local_settings().load_catalogue()
    return f"{len(list(catalogue))} lines, digest {catalogue.version}; workers, starters and desks need the same digest"


async def _keys() -> str:
    keyring = keyring_from_environment()
    held = ", ".join(f"{key_id} ({value})" for key_id, value in keyring.check_values.items())
    await _expect_usable_keys()
    return f"{held}; workers and starters need the same keys, and the first one encrypts"


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
    """Return what is there of Temporal: its address, the namespace, the workers that poll."""
    client = await connect()
    queue = load_local_settings().task_queue
    with map_refusals():
        server = await client.workflow_service.get_system_info(GetSystemInfoRequest())
        polling = await count_pollers(client, queue)
        missing = await missing_search_attributes(client)
        known = await builds(client)
    workers = counted(polling, "worker")
    state = f"server {server.server_version}, namespace {client.namespace}, {workers} polled {queue} recently"
    if not polling:
        raise NoWorker(state)
    if known and not any(build.current for build in known):
        raise NoBuild(f"{state}; none of the builds {', '.join(one.build_id for one in known[:3])} takes rotations")
    if missing:
        raise AttributesMissing(f"{state}; search attributes are missing: {', '.join(key.name for key in missing)}")
    return state


class RedisAway(KeyturnError):
    """Redis did not answer. Each worker counts tokens and detects outages on its own, and finds no cached responses."""

    kind = "redis_away"
    hint = "Bring back the Redis that KEYTURN_REDIS_URL names; rotations continue without it."


class ProvidersDown(KeyturnError):
    """Some providers of the routes failed several times in a row."""

    kind = "providers_down"
    hint = "Look at their status pages, or ask them with `keyturn doctor --live`; workers retry them by themselves."


class AttributesMissing(KeyturnError):
    """The namespace lacks search attributes, and would refuse every start."""

    kind = "search_attributes_missing"
    hint = "Run `keyturn namespace` once."


class KeyWorn(KeyturnError):
    """A payload key has encrypted half as often as AES-GCM allows."""

    kind = "payload_key_worn"
    hint = REPLACE


class NoBuild(KeyturnError):
    """No build is current: a worker with a build ID takes no new rotation until its build is promoted."""

    kind = "no_current_build"
    hint = "Run `keyturn deployment promote BUILD`; rotations wait until then."


class NoWorker(KeyturnError):
    """No worker polls the task queue."""

    kind = "no_worker"
    hint = "Run `keyturn worker`; workflows wait until then."
