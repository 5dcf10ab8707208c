"""`keyturn status` and `cancel`, for every ID that Keyturn prints."""

import asyncio
import json
from typing import Any

import click

from keyturn.console import printable, signed_in_user
from keyturn.errors import KeyturnError
from keyturn.rotations.contracts import Abandonment
from keyturn.starter.faults import validate
from keyturn.starter.rotate import end_before_start, look_up_job, print_outcome
from keyturn.workflows.visibility import APPROVAL, DISAGREEMENT, PARKED

_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
_tenant = click.option("--tenant", envvar="KEYTURN_TENANT", default="default", show_default=True, help="Tenant ID.")


@click.command()
@click.argument("some_id", metavar="ID")
@_tenant
@_as_json
@click.pass_context
def status(context: click.Context, some_id: str, tenant: str, as_json: bool) -> None:
    """Show the status of a rotation, run, job, execution, delivery or draft.

    For a rotation, the exit status is that of its outcome. ID is an ID that Keyturn prints; a rotation's ID may contain
    the names of account and key, or the pseudonyms that Temporal's UI shows.

    \b
    Example:
      keyturn status rotate:default:acct_10234:key_01:P-7@1
      keyturn status run-0f3c9a7d5e1b2c44
    """
    from keyturn.application.any_id import find_id, summary_of_any
    from keyturn.application.connection import connect, map_refusals

    found = find_id(some_id, tenant=tenant)
    if found.kind == "rotation":
        _rotation_status(some_id, as_json=as_json)
        return
    if found.kind == "job":
        from keyturn.starter.jobs import show

        context.invoke(show, job_id=some_id, tenant=tenant, as_json=as_json)
        return

    async def run() -> Any:
        with map_refusals():
            return await summary_of_any(await connect(), found)

    try:
        summary = asyncio.run(run())
    except KeyturnError as error:
        end_before_start(error, found.workflow_id, as_json=as_json)
    if as_json:
        output = {"workflow_id": found.workflow_id, "kind": found.kind, "status": summary.state}
        click.echo(json.dumps(output | {"progress": list(summary.lines)}))
        return
    click.echo(printable("\n".join([f"{found.kind} {summary.state}", *(f"  {line}" for line in summary.lines)])))


def _rotation_status(workflow_id: str, *, as_json: bool) -> None:
    from keyturn.application.connection import connect, map_refusals
    from keyturn.application.following import handle_of, progress_of
    from keyturn.application.outcomes import as_object, exit_status
    from keyturn.application.rotation_status import outcome_of

    async def run() -> tuple[str, list[str] | None, Any]:
        with map_refusals():
            handle = await handle_of(await connect(), workflow_id)
            progress = await progress_of(handle)
            if isinstance(progress, list):
                return handle.id, progress, None
            return handle.id, None, progress or await outcome_of(handle)

    try:
        workflow_id, progress, outcome = asyncio.run(run())
    except KeyturnError as error:
        end_before_start(error, workflow_id, as_json=as_json)
    if progress is not None:
        running = {"workflow_id": workflow_id, "status": "running", "progress": progress}
        click.echo(json.dumps(running) if as_json else printable("\n".join(["running", *progress])))
        return
    outcome = look_up_job(outcome)
    if as_json:
        click.echo(json.dumps(as_object(workflow_id, outcome)))
    else:
        print_outcome(workflow_id, outcome)
    raise click.exceptions.Exit(exit_status(outcome))


@click.command()
@click.argument("some_id", metavar="ID")
@click.option("--reason", required=True, help="Reason, one line, for the audit trail.")
@click.option("--user", "user_id", envvar="KEYTURN_USER", help="Your user name.  [default: the signed-in user]")
@_tenant
@click.pass_context
def cancel(context: click.Context, some_id: str, reason: str, user_id: str | None, tenant: str) -> None:
    """Cancel a rotation, run, job or draft. Anything that it has already created stays; `keyturn status ID` lists it.

    \b
    Example:
      keyturn cancel run-0f3c9a7d5e1b2c44 --reason "wrong inventory"
    """
    from keyturn.application.any_id import find_id

    found = find_id(some_id, tenant=tenant)
    instruction = validate(lambda: Abandonment(operator=user_id or signed_in_user(), reason=reason))
    if found.kind == "job":
        from keyturn.starter.jobs import cancel as cancel_job

        context.invoke(cancel_job, job_id=some_id, tenant=tenant, reason=reason, actor=instruction.operator)
        return
    if found.kind == "notice":
        raise click.UsageError("a message is not cancelled: it is given up after a day")
    if found.kind in {"execution", "delivery"}:
        job_id = some_id.partition(":")[2]
        raise click.UsageError(
            f"an {found.kind} is not cancelled by itself: `keyturn cancel {job_id} --reason WHY` cancels its job, and "
            f"`keyturn rollback {job_id} --reason WHY` restores the old key"
            if found.kind == "execution"
            else f"a delivery is not cancelled by itself: `keyturn cancel {job_id} --reason WHY` cancels its job"
        )
    asyncio.run(_cancel(found, instruction))
    click.echo(f"cancelling {found.kind} {some_id}; `keyturn status {some_id}` shows how it ends")


def _expect_running(found: Any, description: Any) -> None:
    """Refuse to cancel what has ended: nothing would change, and Temporal would not say so."""
    from temporalio.client import WorkflowExecutionStatus

    from keyturn.application.answers import AnswerRefused

    if description.status is not WorkflowExecutionStatus.RUNNING:
        raise AnswerRefused(f"the {found.kind} has ended already: nothing was cancelled")


async def _cancel(found: Any, instruction: Abandonment) -> None:
    from keyturn.application.answers import answer
    from keyturn.application.any_id import handle_of_any
    from keyturn.application.connection import connect, map_refusals
    from keyturn.application.following import describe_workflow

    with map_refusals():
        client = await connect()
        if found.kind == "rotation":
            handle, description = await describe_workflow(client, found.workflow_id)
            _expect_running(found, description)
            is_parked = description.typed_search_attributes.get(PARKED) not in {None, APPROVAL, DISAGREEMENT}
            if is_parked:  # an operator's reason is in its audit trail, then
                await answer(handle, "abandon", instruction)
            else:
                await handle.cancel()
            return
        other, description = await handle_of_any(client, found)
        _expect_running(found, description)
        if found.kind == "run":
            await answer(other, "cancel", instruction)
        else:
            await other.cancel()
