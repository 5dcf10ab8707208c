"""`keyturn watch`, for every ID that Keyturn prints."""

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click

from keyturn.console import printable
from keyturn.errors import KeyturnError
from keyturn.starter.rotate import look_up_job, print_outcome

if TYPE_CHECKING:
    from keyturn.bulk.contracts import BulkOutcome

_tenant = click.option("--tenant", envvar="KEYTURN_TENANT", default="default", show_default=True, help="Tenant ID.")
CHANGE_SECONDS = 2.0  # how late a change of a job is seen: it waits for minutes or days


@click.command()
@click.argument("some_id", metavar="ID")
@_tenant
def watch(some_id: str, tenant: str) -> None:
    """Follow a rotation, run, job, execution, delivery or draft until it completes. Ctrl-C stops watching only.

    \b
    Example:
      keyturn watch rotate:default:acct_10234:key_01:P-7@1
      keyturn watch run-0f3c9a7d5e1b2c44
    """
    from keyturn.application.any_id import find_id

    found = find_id(some_id, tenant=tenant)
    try:
        if found.kind == "rotation":
            outcome = asyncio.run(_watch_rotation(some_id))
        elif found.kind == "run":
            _end_run(found.workflow_id, asyncio.run(_watch_run(found.workflow_id)))
        elif found.kind == "job":
            _watch_job(some_id, tenant)
        else:
            asyncio.run(_watch_steps(found))
    except KeyboardInterrupt:
        click.echo(f"\nstopped watching; the {found.kind} continues", err=True)
        raise click.exceptions.Exit(0) from None
    if found.kind == "rotation":
        from keyturn.application.outcomes import exit_status

        outcome = look_up_job(outcome)
        print_outcome(some_id, outcome)
        raise click.exceptions.Exit(exit_status(outcome))


async def _watch_rotation(workflow_id: str) -> Any:
    from keyturn.application.connection import connect, map_refusals
    from keyturn.application.following import handle_of, steps_of
    from keyturn.application.rotation_status import outcome_of

    with map_refusals():
        client = await connect()
        handle = await handle_of(client, workflow_id)
        async for step in steps_of(client, handle):
            click.echo(printable(step))
        return await outcome_of(handle)


def _end_run(workflow_id: str, outcome: "BulkOutcome") -> None:
    """Say how a run ended and what is left to do, as `keyturn bulk` does."""
    from keyturn.starter.bulk import end_by_what_is_left, print_end

    print_end(outcome.run_id, outcome.model_dump(mode="json") | outcome.progress.model_dump(mode="json"))
    end_by_what_is_left(outcome.run_id, outcome.progress.outcomes)


async def _watch_run(workflow_id: str) -> "BulkOutcome":
    from keyturn.application.connection import connect, map_refusals
    from keyturn.application.runs import follow, handle_of_run
    from keyturn.progress import show_progress

    with map_refusals():
        handle = handle_of_run(await connect(), workflow_id)
        show = lambda text, newline: click.echo(text, nl=newline)  # noqa: E731 - one call
        await show_progress(follow(handle), show=show, live=sys.stdout.isatty())
        return await handle.result()


async def _watch_steps(found: Any) -> None:
    from keyturn.application.any_id import handle_of_any, summary_of_any
    from keyturn.application.connection import connect, map_refusals
    from keyturn.application.following import steps_of

    with map_refusals():
        client = await connect()
        handle, _ = await handle_of_any(client, found)
        async for step in steps_of(client, handle):
            click.echo(printable(step))
        summary = await summary_of_any(client, found)
    click.echo(printable("\n".join([f"{found.kind} {summary.state}", *(f"  {line}" for line in summary.lines)])))


def _watch_job(job_id: str, tenant: str) -> None:
    from keyturn.application.connection import connect
    from keyturn.jobs.leases import JobLeases
    from keyturn.jobs.states import OPEN
    from keyturn.moments import in_utc
    from keyturn.starter.database import with_database
    from keyturn.starter.jobs import next_step

    client: Any = None

    async def connected() -> Any:
        nonlocal client
        client = client or await connect()
        return client

    async def follow(engine: Any) -> None:
        leases, seen, said = JobLeases(engine), 0, ""
        while True:
            job, trail = await leases.show(job_id, tenant_id=tenant)
            for row in trail[seen:]:
                detail = "  ".join(f"{name}={value}" for name, value in row["detail"].items())
                click.echo(printable(f"{in_utc(row['at'])}  {row['event']:16}  {row['actor']:16}  {detail}".rstrip()))
            seen = len(trail)
            if job["status"] not in OPEN:
                click.echo(f"job {job['status']}")
                return
            try:
                then = f"next: {await next_step(job, connected)}"
            except KeyturnError as error:  # the audit trail is followed all the same
                then = f"what the executor is at is not known: {error}"
            if then != said:
                click.echo(printable(then))
                said = then
            await asyncio.sleep(CHANGE_SECONDS)

    with_database(follow)
