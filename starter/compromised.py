"""`keyturn compromised` and `keyturn leaks`: report an exposed key, and serve the webhook by which scanners do."""

import asyncio
import json
import signal
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from keyturn.console import printable, signed_in_user
from keyturn.contracts import AccountId, Identifier, ShortIdentifier
from keyturn.moments import in_utc
from keyturn.starter.database import with_database
from keyturn.starter.faults import naming_options, validate_as
from keyturn.starter.policy_options import policy_options
from keyturn.starter.rotate import KINDS, print_outcome

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from keyturn.application.exposures import ExposedKeys
    from keyturn.exposures.contracts import KnownKey

_tenant = click.option("--tenant", envvar="KEYTURN_TENANT", default="default", show_default=True, help="Tenant ID.")
_task_queue = click.option(
    "--task-queue", envvar="KEYTURN_TASK_QUEUE", default="keyturn", show_default=True, help="Task queue of the workers."
)


@click.command()
@click.argument("key_id", required=False)
@click.option("--account", "account_id", help="Account that holds the key.  [default: from inventories and jobs]")
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    help="Kind of credential, if no inventory or job lists the key.  [default: service_account_key]",
)
@click.option("--source", default="reported", show_default=True, help="What found it, such as github or gitleaks.")
@click.option("--by-rule", is_flag=True, help="Decide by rule, without a model: no provider's outage delays it.")
@click.option("--user", envvar="KEYTURN_USER", help="Your user name.  [default: the signed-in user]")
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds to wait for the outcome. The rotation continues after that.",
)
@_tenant
@_task_queue
@policy_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
def compromised(
    key_id: str | None,
    account_id: str | None,
    kind: Any,
    source: str,
    by_rule: bool,
    user: str | None,
    wait_seconds: float,
    tenant: str,
    task_queue: str,
    policy_dir: Path | None,
    shipped: bool,
    as_json: bool,
) -> None:
    """Report that the key KEY_ID was exposed: its rotation starts at once, before all others.

    Without KEY_ID, list the keys that were reported, newest first. From then on, runs count the key as compromised,
    whatever an inventory says. The key is judged under every policy line for compromised keys of its kind.

    \b
    Example:
      keyturn compromised AKIAIOSFODNN7EXAMPLE --source github
    """
    if key_id is None:
        _list(tenant, as_json=as_json)
        return
    key = validate_as(Identifier, key_id, "KEY_ID")
    account = None if account_id is None else validate_as(AccountId, account_id, "--account")
    who = validate_as(Identifier, user or signed_in_user(), "--user")
    found_by = validate_as(ShortIdentifier, source, "--source")
    from keyturn.policy.catalogue import load_catalogue

    with naming_options():
        catalogue = load_catalogue(policy_dir, shipped=shipped)

    async def run(engine: "AsyncEngine") -> list[tuple[str, Any]]:
        from keyturn.application.connection import connect, map_refusals
        from keyturn.application.exposures import ExposedKeys
        from keyturn.exposures.store import ExposureStore

        with map_refusals():
            reports = ExposedKeys(
                await connect(),
                catalogue,
                ExposureStore(engine),
                tenant=tenant,
                task_queue=task_queue,
                decide_by="rule" if by_rule else "rule_and_model",
            )
            keys = await reports.keys_of(key, account, kind)
            return [await _outcome(reports, one, found_by, who, wait_seconds) for one in keys]

    _end_with(with_database(run, pool_size=2), as_json=as_json)


def _end_with(outcomes: Sequence[tuple[str, Any]], *, as_json: bool) -> NoReturn:
    """Print how the rotations ended, and leave with the status of the worst."""
    from keyturn.application.outcomes import as_object, exit_status

    if as_json:
        click.echo(json.dumps({"rotations": [as_object(workflow_id, outcome) for workflow_id, outcome in outcomes]}))
    else:
        for workflow_id, outcome in outcomes:
            print_outcome(workflow_id, outcome)
    raise click.exceptions.Exit(max(exit_status(outcome) for _, outcome in outcomes))


async def _outcome(
    reports: "ExposedKeys", key: "KnownKey", source: str, reported_by: str, wait_seconds: float
) -> tuple[str, Any]:
    from keyturn.application.rotations import wait_for_outcome
    from keyturn.rotations.outcomes import TimedOut

    reported, rotation = await reports.report(key, source=source, reported_by=reported_by)
    try:
        async with asyncio.timeout(wait_seconds):
            return reported.workflow_id, await wait_for_outcome(rotation.handle)
    except TimeoutError:
        return reported.workflow_id, TimedOut()


def _list(tenant: str, *, as_json: bool) -> None:
    from keyturn.exposures.store import ExposureStore

    rows = with_database(lambda engine: ExposureStore(engine).listed(tenant_id=tenant, limit=1_000))
    if as_json:
        click.echo(json.dumps({"exposed": [dict(row) for row in rows]}, default=lambda moment: moment.isoformat()))
        return
    for row in rows:
        at = f" at {row['place']}" if row["place"] else ""
        found = f"found by {row['source']}{at}, reported by {row['reported_by']} at {in_utc(row['reported_at'])}"
        click.echo(printable(f"{row['key_id']}  {row['account_id'] or 'of no known account'}  {found}"))
    if not rows:
        click.echo(f"no key of tenant {tenant} was reported", err=True)


@click.command()
def leaks() -> None:
    """Serve the webhook for reports of exposed keys until Ctrl-C, in the form of GitHub's secret scanning.

    A report must be signed by one of KEYTURN_LEAKS_PUBLIC_KEYS. Each key that it names is marked, and its rotation
    begins at once.

    \b
    Example:
      keyturn leaks
    """
    from keyturn.application.connection import connect, map_refusals
    from keyturn.application.exposures import ExposedKeys
    from keyturn.exposures.store import ExposureStore
    from keyturn.llm.http import http_client
    from keyturn.web.serving import served
    from keyturn.workers.leaks import PublicKeys, leaks_application
    from keyturn.workers.leaks_settings import load_leaks_settings
    from keyturn.workers.local_settings import load_local_settings
    from keyturn.workers.telemetry import configure_logging

    settings, local = load_leaks_settings(), load_local_settings()
    configure_logging(local.log_format)
    catalogue = local.load_catalogue()

    async def run(engine: "AsyncEngine") -> None:
        stop = asyncio.Event()
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
        with map_refusals():
            client = await connect()
        reports = ExposedKeys(
            client,
            catalogue,
            ExposureStore(engine),
            tenant=settings.tenant,
            task_queue=local.task_queue,
            decide_by=settings.decide_by,
        )
        async with http_client(4) as http:
            keys = PublicKeys(settings.public_keys, http, known_for=timedelta(hours=1))
            application = leaks_application(reports, keys, source=settings.source)
            async with served(application, settings.address, setting="KEYTURN_LEAKS_ADDRESS"):
                await stop.wait()

    with_database(run, pool_size=16)
