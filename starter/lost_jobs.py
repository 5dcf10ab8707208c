"""`keyturn jobs lost`: jobs that a restored database does not have, and creating them once more."""

import json
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import click

from keyturn.console import counted, signed_in_user
from keyturn.starter.database import with_database

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from keyturn.application.rotation_lists import ListedRotation


@click.command()
@click.option("--tenant", envvar="KEYTURN_TENANT", default="default", show_default=True, help="Tenant ID.")
@click.option("--recreate", is_flag=True, help="Have a worker create them again from the recorded decisions.")
@click.option("--user", envvar="KEYTURN_USER", help="Your user name.  [default: the signed-in user]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
def lost(tenant: str, recreate: bool, user: str | None, as_json: bool) -> None:
    """List rotations whose job is not in the database; exit status 1 if there are any.

    A database that was restored to an earlier moment lacks the jobs created since. Asking for these rotations again
    finds them completed, and creates nothing: --recreate resets each to the step that creates its job.
    """
    who = (user or signed_in_user()) if recreate else None
    found = with_database(lambda engine: _find(engine, tenant, who))
    if as_json:
        rows = [{"workflow_id": row.workflow_id, "run_id": row.run_id} for row in found]
        click.echo(json.dumps({"lost": rows, "recreated": recreate}))
    else:
        for row in found:
            name = f"{row.subject.key_id} of {row.subject.account_id}" if row.subject else "?"
            click.echo(f"{row.workflow_id}  {name}" + ("  is created once more" if recreate else ""))
        click.echo(_summary(len(found), tenant, recreate), err=True)
    if found and not recreate:
        raise click.exceptions.Exit(1)


def _summary(count: int, tenant: str, recreate: bool) -> str:
    if not count:
        return f"every rotation of tenant {tenant} that created a job has it"
    if recreate:
        return f"{counted(count, 'rotation')} reset: workers create their jobs; `keyturn jobs lost` shows what is left"
    return f"{counted(count, 'rotation')} without the job they created: `keyturn jobs lost --recreate` creates it"


async def _find(engine: "AsyncEngine", tenant: str, recreating: str | None) -> "list[ListedRotation]":
    from keyturn.application.connection import connect, map_refusals
    from keyturn.application.lost_jobs import lost_jobs, recreate_job
    from keyturn.jobs.listing import JobListing

    listing = JobListing(engine)

    async def stored(workflow_ids: Sequence[str]) -> Collection[str]:
        return await listing.jobs_of_rotations(workflow_ids, tenant_id=tenant)

    with map_refusals():
        client = await connect()
        # All are found first: a reset changes the list that is read.
        found = [row async for row in lost_jobs(client, stored, tenant=tenant)]
        for row in found if recreating else ():
            await recreate_job(client, row, by=str(recreating))
    return found
