"""The commands about rotation jobs: `jobs` lists them, and its subcommands carry them out, show, and close them."""

import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from keyturn.console import cut, printable, signed_in_user
from keyturn.contracts import UNOWNED, Identifier, Owner, Reason
from keyturn.errors import InvalidRequest, KeyturnError
from keyturn.jobs.contracts import ClaimedJob, Evidence
from keyturn.moments import in_utc
from keyturn.starter.database import with_database
from keyturn.starter.faults import validate_as
from keyturn.starter.jobs_server import serve
from keyturn.starter.lost_jobs import lost
from keyturn.starter.policy_options import policy_options

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine
    from temporalio.client import Client

T = TypeVar("T")
_tenant = click.option("--tenant", envvar="KEYTURN_TENANT", default="default", show_default=True, help="Tenant ID.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
_token = click.option(
    "--token", required=True, type=click.IntRange(min=0), help="Fencing token of the claim, as `claim` printed it."
)


def lists(context: click.Context) -> bool:
    """Whether a group lists, and no subcommand follows; raises UsageError for options before one: they are lost."""
    if context.invoked_subcommand is None:
        return True
    for parameter in context.command.params:
        if context.get_parameter_source(str(parameter.name)) is click.core.ParameterSource.COMMANDLINE:
            command = f"{context.info_name} {context.invoked_subcommand}"
            raise click.UsageError(f"{parameter.opts[0]} belongs after the subcommand: keyturn {command} ...")
    return False


@click.group(invoke_without_command=True)
@_tenant
@click.option(
    "--limit",
    default=50,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="Maximum number of rows, newest first.",
)
@click.option("--overdue", is_flag=True, help="Show only open jobs past their due date, the longest overdue first.")
@click.option("--owner", help="Filter by owner, as it was when the job was created; `unowned` for those without one.")
@_as_json
@click.pass_context
def jobs(context: click.Context, tenant: str, limit: int, overdue: bool, owner: str | None, as_json: bool) -> None:
    """List rotation jobs, newest first; or claim and close them by a subcommand.

    \b
    Example:
      keyturn jobs --limit 5 --json
      keyturn jobs --overdue
      keyturn jobs show job_0f3c...
    """
    if not lists(context):
        return
    from keyturn.jobs.listing import JobFilter, JobListing

    whose = None if owner is None else validate_as(Owner, owner, "--owner")

    async def rows(engine: "AsyncEngine") -> list[dict[str, Any]]:
        chosen = JobFilter(overdue=overdue, owner=whose)
        order_by: Literal["due", "newest"] = "due" if overdue else "newest"
        page = await JobListing(engine).page(chosen, tenant_id=tenant, order_by=order_by, limit=limit + 1)
        return [dict(row) for row in page.rows]

    found = cut(with_database(rows), limit)
    if as_json:
        click.echo(json.dumps({"jobs": found}, default=lambda moment: moment.isoformat()))
        return
    for row in found:
        click.echo(
            f"{row['job_id']}  {row['status']:9}  {_due(row)}  {row['account_id']}  {row['key_id']}  {_under(row)}"
            f"  {row['owner'] or UNOWNED}"
        )
    if not found:
        of_it = "" if whose is None else f" whose owner is {whose} (as it is written, capitals included)"
        click.echo(f"no {'overdue ' if overdue else ''}jobs of tenant {tenant}{of_it}", err=True)


jobs.add_command(lost)
jobs.add_command(serve)


@jobs.command()
@_tenant
@click.argument("job_id")
@_as_json
@policy_options
def show(job_id: str, tenant: str, as_json: bool, policy_dir: Path | None, shipped: bool) -> None:
    """Show a job: its order, its status, what happens next, the waiver that holds it back, and its audit trail."""
    from keyturn.jobs.in_flight import as_row
    from keyturn.jobs.leases import JobLeases
    from keyturn.jobs.tables import NORMAL
    from keyturn.owners import load_owners
    from keyturn.policy.catalogue import load_catalogue
    from keyturn.waivers.jobs import WaivedJobs

    owners, catalogue = load_owners(), load_catalogue(policy_dir, shipped=shipped)

    async def find(engine: "AsyncEngine") -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]], str | None, str]:
        job, trail = await JobLeases(engine).show(job_id, tenant_id=tenant)
        waived = await WaivedJobs(engine, owners, catalogue, tenant_id=tenant).holds_back(as_row(job))
        return job, trail, waived, "" if waived else await _next_for(job)

    job, trail, waived, then = with_database(find)
    if as_json:
        output = {"job": dict(job), "audit": [dict(row) for row in trail], "waived": waived, "next": then or None}
        click.echo(json.dumps(output, default=lambda moment: moment.isoformat()))
        return
    urgent = "  urgent" if job["priority"] < NORMAL else ""
    click.echo(f"{job['job_id']}  {job['status']}  {_due(job)}{urgent}")
    click.echo(f"  rotate {job['key_id']} of {job['account_id']} under {_under(job)}, asked by {job['requested_by']}")
    if job["lease_owner"] and job["lease_until"]:
        held = "claimed" if job["lease_until"] > datetime.now(UTC) else "was claimed"
        until = in_utc(job["lease_until"])
        click.echo(f"  {held} by {job['lease_owner']} until {until}, claim {job['lease_token']}")
    if waived:
        click.echo(printable(f"  no executor starts it: {waived}"))
    if then:
        click.echo(printable(f"  next: {then}"))
    for row in trail:
        detail = "  ".join(f"{name}={value}" for name, value in row["detail"].items())
        click.echo(printable(f"  {in_utc(row['at'])}  {row['event']:16}  {row['actor']:16}  {detail}"))


async def _next_for(job: Mapping[str, Any]) -> str:
    from keyturn.application.connection import connect
    from keyturn.application.next_steps import next_for_job

    try:
        return await next_step(job, connect)
    except KeyturnError as error:
        click.echo(f"what the executor is at is not known: {error}", err=True)
        return next_for_job(job, None)


async def next_step(job: Mapping[str, Any], connect: "Callable[[], Awaitable[Client]]") -> str:
    """Return what happens next to a job, by its row; raises TemporalUnreachable.

    Temporal is asked only about one that Keyturn's own executor holds: `connect` is called for no other.
    """
    from keyturn.application.connection import map_refusals
    from keyturn.application.next_steps import execution_status, next_for_job
    from keyturn.execution.contracts import EXECUTION
    from keyturn.jobs.states import OPEN

    status = None
    if job["status"] in OPEN and (job["lease_owner"] or "").startswith(EXECUTION):
        with map_refusals():
            status = await execution_status(await connect(), job["job_id"])
    return next_for_job(job, status)


@jobs.command()
@_tenant
@click.option(
    "--user", "owner", envvar="KEYTURN_USER", help="User or system that claims the job.  [default: the signed-in user]"
)
@click.option(
    "--lease",
    "lease_seconds",
    default=300.0,
    show_default=True,
    type=click.FloatRange(1, 86_400),
    help="Length of the lease, in seconds.",
)
def claim(tenant: str, owner: str | None, lease_seconds: float) -> None:
    """Claim the most urgent free job, and print it as JSON; exit status 1 if there is none."""
    from keyturn.jobs.leases import JobLeases

    if math.isnan(lease_seconds):
        raise click.BadParameter("not a number of seconds", param_hint="--lease")
    lease, who = timedelta(seconds=lease_seconds), validate_as(Identifier, owner or signed_in_user(), "--user")
    if who.startswith("execute:"):  # by that name an executor knows what it wrote itself into a job's trail
        raise click.BadParameter("names that start with execute: are reserved for executors", param_hint="--user")
    job = with_database(lambda engine: JobLeases(engine).claim_next(tenant_id=tenant, owner=who, lease=lease))
    if job is None:
        click.echo(f"tenant {tenant} has no free job", err=True)
        raise click.exceptions.Exit(1)
    click.echo(job.model_dump_json())


@jobs.command()
@_tenant
@_token
@click.option("--evidence", multiple=True, help="NAME=VALUE for the audit trail; repeatable. Never a secret.")
@click.argument("job_id")
def complete(job_id: str, tenant: str, token: int, evidence: tuple[str, ...]) -> None:
    """Close a claimed job as done."""
    from keyturn.jobs.leases import JobLeases

    pairs = [_pair(entry) for entry in evidence]
    if len(dict(pairs)) < len(pairs):
        raise InvalidRequest("--evidence: a name is given twice; nothing was written")
    output = validate_as(Evidence, dict(pairs), "--evidence")
    _run_and_print(lambda engine: JobLeases(engine).complete(job_id, tenant_id=tenant, token=token, evidence=output))


@jobs.command()
@_tenant
@_token
@click.option("--reason", required=True, help="Reason, one line, for the audit trail.")
@click.argument("job_id")
def fail(job_id: str, tenant: str, token: int, reason: str) -> None:
    """Close a claimed job as failed; you may ask for the rotation again."""
    from keyturn.jobs.leases import JobLeases

    why = validate_as(Reason, reason, "--reason")
    _run_and_print(lambda engine: JobLeases(engine).fail(job_id, tenant_id=tenant, token=token, reason=why))


@jobs.command()
@_tenant
@click.option("--key-id", required=True, help="ID of the key that the consumer uses now.")
@click.option("--user", "actor", envvar="KEYTURN_USER", help="Your user name.  [default: the signed-in user]")
@click.argument("job_id")
@click.argument("consumer")
def moved(job_id: str, consumer: str, tenant: str, key_id: str, actor: str | None) -> None:
    """Report that a consumer uses the new key: the old one may go once all have."""
    from keyturn.jobs.consumers import report_moved

    who, name = (
        validate_as(Identifier, actor or signed_in_user(), "--user"),
        validate_as(Identifier, consumer, "CONSUMER"),
    )
    reported = {"tenant_id": tenant, "consumer": name, "key_id": key_id, "by": who}
    with_database(lambda engine: report_moved(engine, job_id, **reported))
    click.echo(f"{job_id}  {name} uses {key_id}")


@jobs.command()
@_tenant
@click.option("--reason", required=True, help="Reason, one line, for the audit trail.")
@click.option("--user", "actor", envvar="KEYTURN_USER", help="Your user name.  [default: the signed-in user]")
@click.argument("job_id")
def cancel(job_id: str, tenant: str, reason: str, actor: str | None) -> None:
    """Cancel an open job, claimed or not; later reports of its claim are refused.

    An executor that has started changes nothing any more: a key that it created stays. `keyturn rollback` restores the
    old key and deletes the new one.
    """
    from keyturn.jobs.leases import JobLeases

    who, why = validate_as(Identifier, actor or signed_in_user(), "--user"), validate_as(Reason, reason, "--reason")
    named = {"tenant_id": tenant, "actor": who, "reason": why}

    async def work(engine: "AsyncEngine") -> tuple[ClaimedJob, Any]:
        cancelled = await JobLeases(engine).cancel(job_id, **named)
        return cancelled, await JobLeases(engine).show(job_id, tenant_id=tenant)

    job, (_, trail) = with_database(work)
    click.echo(f"{job.job_id}  {job.state}")
    created = [str(row["detail"]["created_key"]) for row in trail if "created_key" in row["detail"]]
    if created:
        click.echo(f"its executor had created {created[-1]}: both keys stay as they are now", err=True)


def _run_and_print(work: Callable[["AsyncEngine"], Awaitable[ClaimedJob]]) -> None:
    job = with_database(work)
    click.echo(f"{job.job_id}  {job.state}")


def _pair(entry: str) -> tuple[str, str]:
    name, equals, value = entry.partition("=")
    if not equals:
        raise InvalidRequest("--evidence: is not NAME=VALUE")
    return name, value


def _due(row: Any) -> str:
    return f"due {row['rotate_by']:%Y-%m-%d}" if row["rotate_by"] else "no due date"


def _under(row: Any) -> str:
    return ", ".join(row["policy_lines"] or [])
