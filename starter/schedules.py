"""The commands `schedule ...`: an inventory judged again and again, by Temporal's own schedules."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from pydantic import TypeAdapter, ValidationError
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionExecutionStartWorkflow,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleHandle,
    ScheduleInfo,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
)
from temporalio.common import Priority, SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from keyturn.application.connection import connect, map_refusals
from keyturn.application.runs import BULK_PRIORITY, end_of_run, handle_of_run
from keyturn.bulk.contracts import BulkOrder, BulkSource
from keyturn.console import signed_in_user
from keyturn.contracts import ShortIdentifier
from keyturn.errors import InvalidRequest, KeyturnError
from keyturn.faults import faults_of
from keyturn.moments import in_utc
from keyturn.options import FetcherName, InventoryFormat
from keyturn.policy.catalogue import load_catalogue
from keyturn.starter.inventory_options import policies_option, question_option, task_option
from keyturn.starter.policy_options import policy_options
from keyturn.workflows.bulk import BulkWorkflow, bulk_id
from keyturn.workflows.visibility import TENANT

T = TypeVar("T")
LONGEST_NAME = 31  # with -20261121T030000Z behind it, a run's id has 48 characters
# What was missed while the server was down is made up for if it is not older than this: yesterday's run is today's.
CATCH_UP = timedelta(hours=12)
_tenant = click.option("--tenant", envvar="KEYTURN_TENANT", default="default", show_default=True, help="Tenant ID.")
_user = click.option("--user", "user_id", envvar="KEYTURN_USER", help="Your user name.  [default: the signed-in user]")


class UnknownSchedule(KeyturnError):
    """There is no schedule of this name."""

    kind = "unknown_schedule"
    next_step = "fail_and_fix_request"
    hint = "Look for it with `keyturn schedule list`."


@click.group()
def schedule() -> None:
    """Judge an inventory on a schedule.

    While a run is under way, the next one is skipped: it would ask about the same keys.
    """


@schedule.command()
@click.argument("name")
@click.option(
    "--inventory",
    "path",
    required=True,
    help="File, or directory whose newest file is read, on the worker; with --fetch, the directory of snapshots.",
)
@click.option("--fetch", type=FetcherName(), help="Cloud that is read each time, into a snapshot of the run.")
@click.option("--cron", required=True, help="Cron expression of five fields, in UTC unless --time-zone is given.")
@click.option("--time-zone", default="UTC", show_default=True, help="Time zone of --cron, such as Europe/Berlin.")
@policies_option
@question_option
@task_option
@click.option("--format", type=InventoryFormat(), help="Format of the file.  [default: detected]")
@click.option("--access-keys", help="AWS: the output of `aws iam list-access-keys`, on the worker.")
@click.option("--account", "account_id", help="Azure: the application that the listing belongs to.")
@click.option("--always-ask", is_flag=True, help="Ask the model about every key, even one that is decided by rule.")
@click.option(
    "--offline", is_flag=True, help="Use the provider's batch endpoint first: answers within a day, at half the price."
)
@click.option(
    "--by-rule", is_flag=True, help="Decide the lines that code can read by rule, without a model and at no cost."
)
@click.option("--again", is_flag=True, help="Each time, give keys whose job failed or was cancelled another one.")
@policy_options
@click.option(
    "--task-queue", envvar="KEYTURN_TASK_QUEUE", default="keyturn", show_default=True, help="Task queue of the workers."
)
@_tenant
@_user
def create(
    name: str,
    cron: str,
    time_zone: str,
    offline: bool,
    policy_dir: Path | None,
    shipped: bool,
    task_queue: str,
    tenant: str,
    user_id: str | None,
    **source: Any,
) -> None:
    """Create a schedule: each time it fires, a bulk run judges what the inventory then holds.

    \b
    Example:
      keyturn schedule create nightly --inventory /inventories --cron "0 3 * * *" --policy CIS-AWS-4.0-1.14
    """
    catalogue = load_catalogue(policy_dir, shipped=shipped)
    for line_id in source["policies"]:
        catalogue.current(line_id)
    order = _order_of(name, {**source, "user_id": user_id or signed_in_user()}, tenant=tenant, offline=offline)

    async def run(client: Client) -> None:
        action = ScheduleActionStartWorkflow(
            BulkWorkflow.run,
            order,
            id=bulk_id(tenant, name),
            task_queue=task_queue,
            typed_search_attributes=TypedSearchAttributes([SearchAttributePair(TENANT, tenant)]),
            static_summary=f"run {name}",
            priority=Priority(priority_key=BULK_PRIORITY, fairness_key=tenant),
        )
        wanted = Schedule(
            action=action,
            spec=ScheduleSpec(cron_expressions=[cron], time_zone_name=time_zone),
            policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=CATCH_UP),
        )
        # Not as its note: who pauses or resumes it writes another one.
        about = {"about": f"{source['fetch'] or source['path']}, {', '.join(source['policies']) or source['task']}"}
        try:
            await client.create_schedule(_id(tenant, name), wanted, memo=about)
        except ScheduleAlreadyRunningError:
            raise InvalidRequest(f"the schedule {name} exists already: delete it first") from None
        except RPCError as error:
            if error.status is RPCStatusCode.INVALID_ARGUMENT:
                raise InvalidRequest(f"--cron or --time-zone: {error.message[:200]}") from None
            raise

    _with_client(run)
    click.echo(f"created {name}")


@schedule.command("list")
@_tenant
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
def list_(tenant: str, as_json: bool) -> None:
    """List schedules: the next start, and the status of the last run."""

    async def run(client: Client) -> list[dict[str, str | bool | None]]:
        found: list[dict[str, str | bool | None]] = []
        async for entry in await client.list_schedules():
            if not entry.id.startswith(_id(tenant, "")):
                continue
            description = await client.get_schedule_handle(entry.id).describe()
            upcoming = description.info.next_action_times
            found.append(
                {
                    "name": entry.id.removeprefix(_id(tenant, "")),
                    "about": await description.memo_value("about", "", type_hint=str),
                    "paused": description.schedule.state.paused,
                    "next": upcoming[0].isoformat() if upcoming and not description.schedule.state.paused else None,
                    "note": description.schedule.state.note,
                    **await _last_run(client, description.info),
                }
            )
        return found

    rows = _with_client(run)
    if as_json:
        click.echo(json.dumps({"schedules": rows}))
        return
    for row in rows:
        state = "paused" if row["paused"] else f"next {in_utc(str(row['next']))}"
        last = "never run" if row["last"] is None else f"{in_utc(str(row['last']))} {row['last_ended'] or 'running'}"
        click.echo(f"{row['name']:24}  {state:25}  {last:29}  {row['about']}")
        if row["note"]:
            click.echo(f"{'':24}  {row['note']}")
        if row["last_ended"] not in {None, "done"}:
            click.echo(f"{'':24}  follow it: keyturn watch {row['last_workflow_id']}")
    if not rows:
        click.echo(f"tenant {tenant} has no schedule", err=True)


@schedule.command()
@click.argument("name")
@_tenant
@_user
def pause(name: str, tenant: str, user_id: str | None) -> None:
    """Pause a schedule: it starts no further run; a running one continues."""
    _with_schedule(tenant, name, lambda handle: handle.pause(note=f"paused by {user_id or signed_in_user()}"))
    click.echo(f"paused {name}")


@schedule.command()
@click.argument("name")
@_tenant
@_user
def resume(name: str, tenant: str, user_id: str | None) -> None:
    """Resume a paused schedule."""
    _with_schedule(tenant, name, lambda handle: handle.unpause(note=f"resumed by {user_id or signed_in_user()}"))
    click.echo(f"resumed {name}")


@schedule.command()
@click.argument("name")
@_tenant
def trigger(name: str, tenant: str) -> None:
    """Start a run now, unless one is under way."""
    _with_schedule(tenant, name, lambda handle: handle.trigger(overlap=ScheduleOverlapPolicy.SKIP))
    click.echo(f"triggered {name}")


@schedule.command()
@click.argument("name")
@_tenant
def delete(name: str, tenant: str) -> None:
    """Delete a schedule; its runs stay."""
    _with_schedule(tenant, name, lambda handle: handle.delete())
    click.echo(f"deleted {name}")


def _order_of(name: str, source: dict[str, Any], *, tenant: str, offline: bool) -> BulkOrder:
    """Return the order of a schedule's runs; raises InvalidRequest, whose faults name the options."""
    if len(name) > LONGEST_NAME:
        raise InvalidRequest(f"the name has more than {LONGEST_NAME} characters")
    question = source["question"] if source["task"] == "decide_rotation" else ""
    try:
        TypeAdapter(ShortIdentifier).validate_python(name)
        read = BulkSource.model_validate(source | {"question": question})
        return BulkOrder(run_id=name, tenant_id=tenant, source=read, offline=offline)
    except ValidationError as error:
        raise InvalidRequest(faults=[(field or "the schedule", reason) for field, reason in faults_of(error)]) from None


async def _last_run(client: Client, info: ScheduleInfo) -> dict[str, str | None]:
    """Return when the newest run started and how it ended: None while it runs; a failure's kind, if it failed."""
    if not info.recent_actions:
        return {"last": None, "last_workflow_id": None, "last_ended": None}
    newest = info.recent_actions[-1]
    action = cast(ScheduleActionExecutionStartWorkflow, newest.action)  # as `create` makes them, and there is no other
    handle = handle_of_run(client, action.workflow_id)
    return {
        "last": newest.started_at.isoformat(),
        "last_workflow_id": handle.id,
        "last_ended": await end_of_run(handle),
    }


def _id(tenant: str, name: str) -> str:
    return f"keyturn:{tenant}:{name}"


def _with_client(work: Callable[[Client], Awaitable[T]]) -> T:
    async def run() -> T:
        with map_refusals():
            return await work(await connect())

    return asyncio.run(run())


def _with_schedule(tenant: str, name: str, work: Callable[[ScheduleHandle], Awaitable[None]]) -> None:
    async def run(client: Client) -> None:
        try:
            await work(client.get_schedule_handle(_id(tenant, name)))
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise UnknownSchedule(f"there is no schedule {name[:64]} of tenant {tenant}") from None
            raise

    _with_client(run)
