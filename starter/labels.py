"""`keyturn labels`: count labelled cases, and collect them now."""

import json
from typing import TYPE_CHECKING, Any

import click

from keyturn.console import counted
from keyturn.moments import in_utc
from keyturn.starter.database import with_database
from keyturn.starter.jobs import lists

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from keyturn.workers.labels import Collected

_tenant = click.option("--tenant", envvar="KEYTURN_TENANT", default="default", show_default=True, help="Tenant ID.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
GONE_SHOWN = 20  # names of rotations whose histories are gone; the count is whole


@click.group(invoke_without_command=True)
@_tenant
@_as_json
@click.pass_context
def labels(context: click.Context, tenant: str, as_json: bool) -> None:
    """Count the labelled cases by policy line and label: what people approved, denied and rolled back.

    `keyturn eval --from-labels` replays them. Workers collect them every ten minutes; their questions and evidence are
    encrypted.

    \b
    Example:
      keyturn labels
      keyturn labels collect
    """
    if not lists(context):
        return
    from keyturn.labels.store import LabelCounts

    async def read(engine: "AsyncEngine") -> "tuple[list[dict[str, Any]], list[str]]":
        store = LabelCounts(engine)
        rows = [dict(row) for row in await store.counts(tenant_id=tenant)]
        return rows, list(await store.gone(tenant_id=tenant, limit=GONE_SHOWN))

    rows, gone = with_database(read)
    if as_json:
        shown = [row | {name: row[name].isoformat() for name in ("oldest", "newest")} for row in rows]
        click.echo(json.dumps({"labels": shown, "gone": gone}))
        return
    for row in rows:
        what = f"{row['policy_lines'] or 'history gone'}  {row['label']}, by {row['source'] or 'an unknown question'}"
        span = f"{in_utc(row['oldest'])} to {in_utc(row['newest'])}"
        click.echo(f"{what}  {counted(row['cases'], 'case')}  {span}")
    for workflow_id in gone:
        click.echo(f"history gone: {workflow_id}", err=True)
    if not rows:
        click.echo(f"tenant {tenant} has no labelled case", err=True)


@labels.command()
@_tenant
@_as_json
def collect(tenant: str, as_json: bool) -> None:
    """Collect what people decided and is no case yet, as workers do.

    Histories that were gone are looked at again, and cases of older payload keys are encrypted under the newest one.
    """
    from keyturn.application.connection import connect, map_refusals
    from keyturn.keyring_files import keyring_from_environment
    from keyturn.labels.sources import LabelSources
    from keyturn.labels.store import LabelStore
    from keyturn.workers.labels import LabelCollector
    from keyturn.workers.retention_settings import load_retention_settings

    keyring, days = keyring_from_environment(), load_retention_settings().limits().labels

    async def run(engine: "AsyncEngine") -> "Collected":
        with map_refusals():
            client = await connect(keyring=keyring)
            collector = LabelCollector(client, LabelSources(engine), LabelStore(engine, keyring), days=days)
            return await collector.collect(tenant_id=tenant, gone_too=True)

    found = with_database(run)
    if as_json:
        output = {"collected": found.cases, "gone": found.gone, "unreadable": found.unreadable}
        click.echo(json.dumps(output | {"renewed": found.renewed}))
        return
    for label, count in sorted(found.cases.items()):
        click.echo(f"{label}  {counted(count, 'new case')}")
    for why, ids in (("gone", found.gone), ("not opened by the keys here", found.unreadable)):
        for workflow_id in ids[:GONE_SHOWN]:
            click.echo(f"history {why}: {workflow_id}", err=True)
        if ids:
            histories = "1 history is" if len(ids) == 1 else f"{len(ids):,} histories are"
            click.echo(f"{histories} {why}", err=True)
    if found.renewed:
        click.echo(f"{counted(found.renewed, 'case')} encrypted anew, under the newest key", err=True)
    if not found.cases:
        click.echo("no new case", err=True)
