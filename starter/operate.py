"""The commands that need the worker's settings: `worker`, `migrate`, `namespace`, `audit`, `doctor`."""

import asyncio
import json
import os
from typing import Any

import click

from keyturn.console import counted, printable
from keyturn.contracts import ShortIdentifier
from keyturn.moments import in_utc


@click.command()
def worker() -> None:
    """Run a worker until Ctrl-C or SIGTERM; running calls may complete first.

    \b
    Example:
      OPENAI_API_KEY=... KEYTURN_ROUTES=openai:gpt-5-mini keyturn worker
    """
    from keyturn.workers.run import serve_worker

    serve_worker()


@click.command()
def migrate() -> None:
    """Migrate the schema of DATABASE_URL to this program's version.

    \b
    Example:
      DATABASE_URL=postgresql://keyturn@db/keyturn keyturn migrate
    """
    from keyturn.workers import schema
    from keyturn.workers.local_settings import load_database_url

    before, after = schema.migrate(load_database_url())
    click.echo(
        f"schema {after}, already current" if before == after else f"schema {before or 'empty'} -> {after}", err=True
    )


@click.command()
def namespace() -> None:
    """Add Keyturn's search attributes to the Temporal namespace, once; this needs the right to add them.

    On Temporal Cloud, add them in its UI or with tcld: this command prints which.

    \b
    Example:
      keyturn namespace
    """
    from keyturn.application.connection import connect, map_refusals
    from keyturn.application.namespace import add_search_attributes, missing_search_attributes
    from keyturn.workflows.visibility import type_of

    async def run() -> list[Any]:
        with map_refusals():
            client = await connect()
            missing = await missing_search_attributes(client)
            for key in missing:
                click.echo(f"{key.name} ({type_of(key)})")
            await add_search_attributes(client, missing)
            return missing

    missing = asyncio.run(run())
    click.echo(
        f"added {counted(len(missing), 'search attribute')}" if missing else "all search attributes exist", err=True
    )


@click.command()
@click.argument("workflow_id")
@click.option("--tenant", envvar="KEYTURN_TENANT", default="default", show_default=True, help="Tenant ID.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
def audit(workflow_id: str, tenant: ShortIdentifier, as_json: bool) -> None:
    """Show the audit trail of a rotation and its job, oldest first: who did what and when.

    \b
    Example:
      keyturn audit rotate:default:acct_10234:key_01:P-7@1
    """
    from keyturn.jobs.store import JobStore
    from keyturn.keyring_files import keyring_from_environment
    from keyturn.starter.database import with_database
    from keyturn.workflows.identity import stored_id

    stored = stored_id(workflow_id, keyring_from_environment().name_of)
    found = with_database(lambda engine: JobStore(engine).events(tenant_id=tenant, workflow_id=stored))
    if as_json:
        click.echo(
            json.dumps({"workflow_id": stored, "events": list(found)}, default=lambda moment: moment.isoformat())
        )
        return
    for row in found:
        detail = "  ".join(f"{name}={value}" for name, value in row["detail"].items())
        click.echo(printable(f"{in_utc(row['at'])}  {row['event']:18}  {row['actor']:16}  {detail}"))
    if not found:
        click.echo(
            f"tenant {tenant} has no audit trail of {workflow_id}: check the ID and --tenant; of a job alone, "
            "`keyturn jobs show`",
            err=True,
        )
        raise click.exceptions.Exit(1)


@click.command()
@click.option(
    "--live",
    is_flag=True,
    help="Also ask what lies outside: each endpoint and model of a worker for one short answer, whose cost is printed; "
    "an executor's cloud for the account that its credentials belong to.",
)
@click.option(
    "--for",
    "role",
    type=click.Choice(["starter", "worker", "desk", "executor"]),
    help="Role to check for.  [default: worker if KEYTURN_ROUTES is set, otherwise starter]",
)
def doctor(role: str | None, live: bool) -> None:
    """Check everything that a worker, a starter, a desk or an executor needs, a line each, with a hint for each fault.

    Without --for it is a worker where KEYTURN_ROUTES is set, and a starter elsewhere. Exit status 0 if no check
    fails, 1 otherwise.

    \b
    Example:
      keyturn doctor --live
      keyturn doctor --for desk
    """
    from keyturn.desk.settings import DeskSettings
    from keyturn.workers.doctor import examine

    chosen: Any = role or ("worker" if os.environ.get("KEYTURN_ROUTES") else "starter")
    findings = asyncio.run(examine(chosen, desk=DeskSettings, live=live))
    if role is None and chosen == "starter":
        click.echo("checked as a starter: KEYTURN_ROUTES is not set; `--for worker` checks a worker", err=True)
    for finding in findings:
        mark = click.style("ok  ", fg="green") if finding.hint is None else click.style("FAIL", fg="red")
        click.echo(f"{mark}  {finding.what}: {finding.state}" + (f" -> {finding.hint}" if finding.hint else ""))
    if any(finding.hint for finding in findings):
        raise click.exceptions.Exit(1)
