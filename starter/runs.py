"""`keyturn runs` and what is said to one."""

import json
from typing import TYPE_CHECKING, Any

import click

from keyturn.console import cut, signed_in_user
from keyturn.errors import KeyturnError
from keyturn.moments import in_utc
from keyturn.rotations.contracts import Abandonment, Resumption
from keyturn.starter.database import with_database
from keyturn.starter.faults import validate
from keyturn.starter.inventory_options import as_one_object, as_user, for_tenant
from keyturn.starter.jobs import lists

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine


@click.group(invoke_without_command=True)
@for_tenant
@click.option(
    "--limit",
    default=20,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="Maximum number of rows, newest first.",
)
@as_one_object
@click.pass_context
def runs(context: click.Context, tenant: str, limit: int, as_json: bool) -> None:
    """List bulk runs, newest first; or pause, resume or cancel one.

    \b
    Example:
      keyturn runs pause run-0f3c...
    """
    if not lists(context):
        return
    rows = cut(with_database(lambda engine: _load_runs(engine, tenant, limit + 1)), limit)
    if as_json:
        click.echo(json.dumps({"runs": rows}, default=str))
        return
    for row in rows:
        click.echo(f"{row['run_id']:24}  {in_utc(row['created_at'])}  {row['state']:10}  {row['source']}")
    if not rows:
        click.echo(f"tenant {tenant} has no bulk run", err=True)


@runs.command()
@for_tenant
@as_user
@click.argument("run_id")
def pause(run_id: str, tenant: str, user_id: str | None) -> None:
    """Pause a run: it starts no further page; questions under way complete."""
    _update_run(run_id, tenant, "pause", validate(lambda: Resumption(operator=user_id or signed_in_user())))


@runs.command()
@for_tenant
@as_user
@click.argument("run_id")
def resume(run_id: str, tenant: str, user_id: str | None) -> None:
    """Resume a run that was paused by an operator, a spend limit or failures."""
    _update_run(run_id, tenant, "resume", validate(lambda: Resumption(operator=user_id or signed_in_user())))


@runs.command()
@for_tenant
@as_user
@click.option("--reason", required=True, help="Reason, one line.")
@click.argument("run_id")
def cancel(run_id: str, tenant: str, user_id: str | None, reason: str) -> None:
    """Cancel a run: it asks about no further key. Its rotations continue; the same `keyturn bulk` resumes the rest."""
    abandonment = validate(lambda: Abandonment(operator=user_id or signed_in_user(), reason=reason))
    _update_run(run_id, tenant, "cancel", abandonment)


async def _load_runs(engine: "AsyncEngine", tenant: str, limit: int) -> list[dict[str, Any]]:
    from keyturn.bulk.store import BulkStore

    rows = await BulkStore(engine).runs(tenant_id=tenant, limit=limit)
    shown = [{name: value for name, value in row.items() if name not in {"question", "figures"}} for row in rows]
    states = await _states_of(rows)
    return [row | {"state": states.get(row["run_id"], "open")} for row in shown]


async def _states_of(rows: "Sequence[Mapping[str, Any]]") -> "Mapping[str, str]":
    """Return what runs are at; of those that are open nothing, and a word about it, where Temporal does not answer."""
    from keyturn.application.connection import connect, map_refusals
    from keyturn.application.runs import states_of_runs

    ended = {row["run_id"]: row["ended"] for row in rows if row["ended"]}
    if len(ended) == len(rows):
        return ended
    try:
        with map_refusals():
            return await states_of_runs(await connect(), rows)
    except KeyturnError as error:
        click.echo(f"whether an open run is paused or has failed is not known: {error}", err=True)
        return ended


def _update_run(run_id: str, tenant: str, update: str, abandonment: Any) -> None:
    from keyturn.application.answers import answer
    from keyturn.application.connection import connect, map_refusals
    from keyturn.application.runs import handle_of_run
    from keyturn.bulk.store import BulkStore

    async def run(engine: "AsyncEngine") -> None:
        workflow_id = (await BulkStore(engine).run(run_id, tenant_id=tenant)).workflow_id
        with map_refusals():
            await answer(handle_of_run(await connect(), workflow_id), update, abandonment)

    with_database(run)
    click.echo(f"{update}: {run_id}")
