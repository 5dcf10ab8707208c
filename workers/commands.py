"""The commands that need the worker's settings: `worker`, `migrate`, `jobs`, `doctor`."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from keyturn.contracts import ShortIdentifier


@click.command()
def worker() -> None:
    """Run a worker until Ctrl-C or SIGTERM; running calls may end first.

    \b
    Example:
      OPENAI_API_KEY=... KEYTURN_MODEL=... keyturn worker
    """
    from workers.run import run_worker
    from workers.settings import load_settings
    from workers.telemetry import configure_logging

    settings = load_settings()
    configure_logging(settings.log_format)
    asyncio.run(run_worker(settings))


@click.command()
def migrate() -> None:
    """Bring the schema of DATABASE_URL up to this program's.

    \b
    Example:
      DATABASE_URL=postgresql://keyturn@db/keyturn keyturn migrate
    """
    from workers import schema
    from workers.settings import load_database_url

    before, after = schema.migrate(load_database_url())
    click.echo(
        f"schema {after}, was current" if before == after else f"schema {before or 'empty'} -> {after}", err=True
    )


@click.command()
@click.option("--tenant", envvar="KEYTURN_TENANT", default="default", show_default=True, help="Whose jobs.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="How many, newest first.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def jobs(tenant: ShortIdentifier, limit: int, as_json: bool) -> None:
    """List rotation jobs, newest first.

    \b
    Example:
      keyturn jobs --limit 5 --json
    """
    from keyturn.database import open_database
    from keyturn.jobs.store import JobStore
    from workers.schema import check_schema
    from workers.settings import load_database_url

    async def rows() -> Sequence[Mapping[str, Any]]:
        engine = open_database(url, pool_size=1)
        try:
            return await JobStore(engine).jobs(tenant_id=tenant, limit=limit)
        finally:
            await engine.dispose()

    url = load_database_url()
    check_schema(url)
    found = asyncio.run(rows())
    if as_json:
        click.echo(json.dumps({"jobs": found}, default=lambda moment: moment.isoformat()))
        return
    for row in found:
        due = f"due {row['rotate_by']:%Y-%m-%d}" if row["rotate_by"] else "no due date"
        under = ", ".join(row["policy_lines"] or [])
        click.echo(f"{row['job_id']}  {row['status']:6}  {due}  {row['account_id']}  {row['key_id']}  {under}")
    if not found:
        click.echo(f"no jobs of tenant {tenant} yet", err=True)


@click.command()
def doctor() -> None:
    """Check that everything a rotation needs is there: one line each, with what mends it.

    Ends with status 0 if all is well, 1 if not.

    \b
    Example:
      keyturn doctor
    """
    from workers.doctor import examine

    findings = asyncio.run(examine())
    for finding in findings:
        mark = click.style("ok  ", fg="green") if finding.mend is None else click.style("FAIL", fg="red")
        click.echo(f"{mark}  {finding.what}: {finding.state}" + (f" -> {finding.mend}" if finding.mend else ""))
    if any(finding.mend for finding in findings):
        raise click.exceptions.Exit(1)
