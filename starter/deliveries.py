"""The commands about messages that could not be delivered: `deliveries` lists them, `deliveries resend` sends again."""

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from keyturn.console import counted
from keyturn.jobs.errors import UnknownDelivery
from keyturn.moments import in_utc
from keyturn.starter.database import with_database
from keyturn.starter.jobs import lists

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

USUAL = timedelta(minutes=1)  # within which a message is sent, where everything answers
_tenant = click.option("--tenant", envvar="KEYTURN_TENANT", default="default", show_default=True, help="Tenant ID.")


@click.group(invoke_without_command=True)
@_tenant
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
@click.pass_context
def deliveries(context: click.Context, tenant: str, as_json: bool) -> None:
    """List dead letters, oldest first, each with its last failure; and where notices wait for a receiver.

    \b
    Example:
      keyturn deliveries
      keyturn deliveries resend --all
    """
    if not lists(context):
        return
    rows, waiting = with_database(lambda engine: _dead_and_waiting(engine, tenant))
    if as_json:
        found = {"dead_letters": rows, "waiting": waiting}
        click.echo(json.dumps(found, default=lambda moment: moment.isoformat()))
        return
    for row in waiting:
        number, verb = counted(row["messages"], "message"), "waits" if row["messages"] == 1 else "wait"
        because = "the receiver did not take it yet, or no worker sends; it is tried for a day"
        click.echo(f"{number} to {row['destination']} {verb} since {in_utc(row['since'])}: {because}", err=True)
    for row in rows:
        about = row["job_id"] if "job_id" in row else f"{row['message_id']}  {row['destination']}"
        click.echo(f"{about}  dead since {in_utc(row['dead_at'])}  {row['failure']}")
    if not rows:
        click.echo(f"tenant {tenant} has no dead letter", err=True)


@deliveries.command()
@_tenant
@click.argument("letter_id", metavar="[ID]", required=False)
@click.option("--all", "everything", is_flag=True, help="Resend every dead letter.")
def resend(letter_id: str | None, tenant: str, everything: bool) -> None:
    """Resend a dead letter, or all of them, under the same idempotency key, so that the receiver counts it once.

    ID is a job's, or that of a message of notices.
    """
    if everything == (letter_id is not None):
        raise click.UsageError("name one job or message, or --all")

    async def run(engine: "AsyncEngine") -> int:
        from keyturn.application.connection import connect, map_refusals
        from keyturn.jobs.outbox import Outbox
        from keyturn.notices.store import NoticeStore
        from keyturn.workers.deliveries import DeliveryStarts
        from keyturn.workers.local_settings import load_local_settings
        from keyturn.workers.notice_deliveries import NoticeStarts

        wanted = [row for row in await _dead(engine, tenant) if everything or _id_of(row) == letter_id]
        if not wanted and not everything:
            raise UnknownDelivery(f"there is no dead letter with the ID {str(letter_id)[:64]}")
        with map_refusals():
            client, task_queue = await connect(), load_local_settings().task_queue
            jobs, notices = DeliveryStarts(client, task_queue), NoticeStarts(client, task_queue)
            for row in wanted:
                if "job_id" in row:
                    await Outbox(engine).revive(row["job_id"])
                    await jobs.start(row["job_id"])
                else:
                    await NoticeStore(engine).revive(row["message_id"])
                    await notices.start(row["message_id"])
        return len(wanted)

    click.echo(f"resending {counted(with_database(run), 'message')}")


def _id_of(row: dict[str, Any]) -> str:
    return str(row["job_id"] if "job_id" in row else row["message_id"])


async def _dead_and_waiting(engine: "AsyncEngine", tenant: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    from keyturn.notices.store import NoticeStore

    waiting = await NoticeStore(engine).waiting(tenant_id=tenant, older_than=USUAL)
    return await _dead(engine, tenant), [dict(row) for row in waiting]


async def _dead(engine: "AsyncEngine", tenant: str) -> list[dict[str, Any]]:
    """Return the dead letters: of jobs, then of notices."""
    from keyturn.jobs.outbox import Outbox
    from keyturn.notices.store import NoticeStore

    of_jobs = await Outbox(engine).dead_letters(tenant_id=tenant, limit=10_000)
    of_notices = await NoticeStore(engine).dead_letters(tenant_id=tenant, limit=10_000)
    return [dict(row) for row in (*of_jobs, *of_notices)]
