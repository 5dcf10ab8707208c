"""The commands by which operators and approvers respond: `parked`, `resume`, `abandon`, `approve`, `deny`."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from keyturn.application.outcomes import days_in_words
from keyturn.console import cut, printable, signed_in_user
from keyturn.contracts import Contract
from keyturn.moments import in_utc
from keyturn.policy.errors import CatalogueInvalid
from keyturn.rotations.contracts import Abandonment, Approval, Denial, Resumption, RotationStatus
from keyturn.rotations.decisions import GroundedDecision
from keyturn.starter.faults import validate
from keyturn.starter.policy_options import policy_options

_user = click.option("--user", "user_id", envvar="KEYTURN_USER", help="Your user name.  [default: the signed-in user]")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
_DECIDED = ("RotationWorkflow",)
_EXECUTION = (*_DECIDED, "RotateKeyWorkflow")
_PRINT_EVERY = 200  # of a log's lines: some seconds
_RESUMED_AT_ONCE = 20  # updates at once: a worker accepts one in milliseconds


@click.command()
@click.option("--tenant", envvar="KEYTURN_TENANT", help="Filter by tenant ID.")
@click.option(
    "--kind", help="Filter by what the rotation waits for, such as quota_exhausted, approval or disagreement."
)
@click.option(
    "--limit",
    default=100,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="Maximum number of rows, oldest first.",
)
@_as_json
def parked(tenant: str | None, kind: str | None, limit: int, as_json: bool) -> None:
    """List the rotations that wait for an operator or approver: parked, awaiting approval, or in disagreement.

    \b
    Example:
      keyturn parked --kind quota_exhausted
    """
    from keyturn.application.connection import connect, map_refusals
    from keyturn.application.parked import as_listed, waiting_rotations

    async def run() -> list[dict[str, Any]]:
        with map_refusals():
            found = waiting_rotations(await connect(), tenant=tenant, kind=kind, limit=limit + 1)
            return [await as_listed(one) async for one in found]

    rows = cut(asyncio.run(run()), limit)
    if as_json:
        click.echo(json.dumps({"waiting": rows}))
        return
    for row in rows:
        under = f" under {', '.join(row['policy_lines'])}" if row["policy_lines"] else ""
        about = (
            f"  {row['key_id']} of {row['account_id']}{under}, asked by {row['requested_by']}" if row["key_id"] else ""
        )
        click.echo(printable(f"{in_utc(row['since'])}  {row['kind']}{about}\n    {row['workflow_id']}"))
    if not rows:
        click.echo("no rotation waits", err=True)


@click.command()
@click.argument("workflow_id", required=False)
@click.option("--all", "everything", is_flag=True, help="Resume every parked rotation of --kind.")
@click.option("--kind", help="With --all: what the rotations wait for, such as quota_exhausted.")
@click.option("--tenant", envvar="KEYTURN_TENANT", help="With --all: filter by tenant ID.")
@_user
def resume(
    workflow_id: str | None, everything: bool, kind: str | None, tenant: str | None, user_id: str | None
) -> None:
    """Resume a parked rotation once its cause is fixed; or all parked rotations of a kind.

    \b
    Example:
      keyturn resume rotate:default:acct_10234:key_01:P-7@1
      keyturn resume --all --kind quota_exhausted
    """
    resumption = validate(lambda: Resumption(operator=user_id or signed_in_user()))
    if everything == (workflow_id is not None):
        raise click.UsageError("name one rotation, or --all with --kind")
    if not everything:
        _answer(str(workflow_id), "resume", resumption)
        click.echo(f"resumed {workflow_id}")
        return
    if not kind or kind in {"approval", "disagreement"}:
        raise click.UsageError("--all needs the --kind of what was fixed (`keyturn parked` lists them)")
    from keyturn.application.connection import connect, map_refusals
    from keyturn.application.parked import resume_all

    async def run() -> tuple[int, list[str]]:
        with map_refusals():
            return await resume_all(
                await connect(),
                resumption,
                kind=str(kind),
                tenant=tenant,
                at_once=_RESUMED_AT_ONCE,
                on_progress=_print_resumed,
            )

    resumed, refused = asyncio.run(run())
    click.echo(f"resumed {resumed} of {resumed + len(refused)}")
    for line in refused:
        click.echo(line, err=True)
    if refused:
        raise click.exceptions.Exit(1)


def _print_resumed(done: int, of: int) -> None:
    """Print how far `resume --all` is: on one line of a terminal, and now and then in a log."""
    if sys.stderr.isatty():
        click.echo(f"\r{done:,} of {of:,} answered", err=True, nl=done == of)
    elif done % _PRINT_EVERY == 0:
        click.echo(f"{done:,} of {of:,} answered", err=True)


@click.command()
@click.argument("workflow_id")
@click.option("--reason", required=True, help="Reason, one line, for the audit trail.")
@_user
def abandon(workflow_id: str, reason: str, user_id: str | None) -> None:
    """Close a parked rotation as failed. You may ask for it again.

    \b
    Example:
      keyturn abandon rotate:default:acct_10234:key_01:P-7@1 --reason "the account is closed"
    """
    _answer(workflow_id, "abandon", validate(lambda: Abandonment(operator=user_id or signed_in_user(), reason=reason)))
    click.echo(f"abandoned {workflow_id}")


def _awaiting(workflow_id: str, verb: str) -> tuple[RotationStatus, GroundedDecision]:
    """Return a rotation's status, and the decision that waits; raises AnswerRefused if none does."""
    from keyturn.application.answers import AnswerRefused

    status = _status(workflow_id)
    if status.decision is None:
        raise AnswerRefused(f"{verb} refused, not_waiting: the rotation waits for no approval")
    return status, status.decision


@click.command()
@click.argument("workflow_id")
@click.option(
    "--digest",
    help="Digest of the decision that you saw. Without it, the command shows the decision and asks you to confirm.",
)
@click.option("--reason", help="Reason, one line, for the audit trail.")
@policy_options
@_user
def approve(
    workflow_id: str,
    digest: str | None,
    reason: str | None,
    policy_dir: Path | None,
    shipped: bool,
    user_id: str | None,
) -> None:
    """Approve the pending decision of a rotation: its job follows. An asker cannot approve their own rotation.

    \b
    Example:
      keyturn approve rotate:default:acct_10234:key_01:P-9@1 --user omar
    """
    if digest is None:
        status, decision = _awaiting(workflow_id, "approve")
        for line in _status_lines(status, _wordings(status, policy_dir, shipped=shipped)):
            click.echo(line)
        if not sys.stdin.isatty():
            raise click.UsageError("name the decision that you approve: --digest, as shown above")
        click.confirm("Approve exactly this?", abort=True)
        digest = decision.digest
    who = user_id or signed_in_user()
    _answer(workflow_id, "approve", validate(lambda: Approval(approver=who, digest=digest, reason=reason)))
    click.echo(f"approved {workflow_id}")


@click.command()
@click.argument("workflow_id")
@click.option("--reason", required=True, help="Reason, one line, for the audit trail.")
@click.option("--digest", help="Digest of the decision that you saw.  [default: the pending one]")
@_user
def deny(workflow_id: str, reason: str, digest: str | None, user_id: str | None) -> None:
    """Deny the pending decision of a rotation: it gets no job.

    \b
    Example:
      keyturn deny rotate:default:acct_10234:key_01:P-9@1 --reason "frozen until Monday"
    """
    if digest is None:
        digest = _awaiting(workflow_id, "deny")[1].digest
    _answer(
        workflow_id,
        "deny",
        validate(lambda: Denial(approver=user_id or signed_in_user(), digest=digest, reason=reason)),
    )
    click.echo(f"denied {workflow_id}")


@click.command()
@click.argument("job_id")
@click.option("--reason", required=True, help="Reason, one line, for the audit trail.")
@_user
def rollback(job_id: str, reason: str, user_id: str | None) -> None:
    """Restore the old key of a job that the executor runs, and close the job as failed.

    \b
    Example:
      keyturn rollback job_0f3c... --reason "the old importer still uses it"
    """
    from keyturn.workflows.rotate_key import execution_id

    abandonment = validate(lambda: Abandonment(operator=user_id or signed_in_user(), reason=reason))
    _answer(execution_id(job_id), "roll_back", abandonment)
    click.echo(f"rolling {job_id} back; `keyturn jobs show {job_id}` shows its progress")


@click.command()
@click.argument("job_id")
@click.option("--reason", required=True, help="Reason, one line, for the audit trail.")
@_user
def advance(job_id: str, reason: str, user_id: str | None) -> None:
    """Confirm that nothing needs the old key of a job, or that it is compromised, so that the executor stops waiting.

    A key that is in use is never cut off by this, and no minimum is cut short but that of a compromised key.

    \b
    Example:
      keyturn advance job_0f3c... --reason "its last consumer was switched off in June"
    """
    from keyturn.workflows.rotate_key import execution_id

    instruction = validate(lambda: Abandonment(operator=user_id or signed_in_user(), reason=reason))
    _answer(execution_id(job_id), "advance", instruction)
    click.echo(f"{job_id} continues; `keyturn jobs show {job_id}` shows its progress")


def _answer(workflow_id: str, update: str, argument: Contract) -> None:
    from keyturn.application.answers import answer
    from keyturn.application.connection import connect, map_refusals
    from keyturn.application.following import handle_of

    # A rotation is approved or denied; one whose job is executed is resumed or rolled back.
    types = _EXECUTION if update in {"resume", "roll_back", "advance"} else _DECIDED

    async def run() -> None:
        with map_refusals():
            await answer(await handle_of(await connect(), workflow_id, types=types), update, argument)

    asyncio.run(run())


def _status(workflow_id: str) -> RotationStatus:
    from keyturn.application.answers import NoWorkerAnswers
    from keyturn.application.connection import connect, map_refusals
    from keyturn.application.following import handle_of
    from keyturn.application.rotation_status import status_of

    async def run() -> RotationStatus | None:
        with map_refusals():
            return await status_of(await handle_of(await connect(), workflow_id))

    status = asyncio.run(run())
    if status is None:
        raise NoWorkerAnswers("no worker answers what the rotation waits for")
    return status


def _status_lines(status: RotationStatus, wordings: Sequence[str]) -> list[str]:
    decision: GroundedDecision | None = status.decision
    if decision is None:
        return [f"nothing waits for an approval: the rotation is {status.phase.replace('_', ' ')}"]
    from keyturn.application.outcomes import approvers_of, due_of, reading_of
    from keyturn.policy.quotes import evidence_in_words

    binding = ", ".join(str(line) for line in decision.source_lines)
    window = f", window {days_in_words(decision.rotation_window_days)}" if decision.rotation_window_days else ""
    facts = status.credential
    return [
        f"rotate     {status.key_id} of {status.account_id}",
        f"decision   {decision.decision} under {binding}{window}{due_of(decision)}",
        *(f"model      {reading_of(one)}" for one in status.readings),
        *(f"wording    {line}" for line in wordings),
        *(f"quoted     {quote.line_id}: {quote.wording!r}, as {quote.evidence!r}" for quote in decision.quotes),
        *([] if facts is None else [f"evidence   {'; '.join(evidence_in_words(facts))}"]),
        *([] if facts is None else [f"observed   {in_utc(facts.observed_at)} by {facts.source}"]),
        f"asked by   {', '.join(status.requested_by)}",
        f"approvers  {approvers_of(decision)}",
        f"digest     {decision.digest}",
    ]


def _wordings(status: RotationStatus, policy_dir: Path | None, *, shipped: bool) -> list[str]:
    """The wording of the binding lines, as far as this machine's policy files have them at that version."""
    from keyturn.policy.catalogue import load_catalogue

    refs = () if status.decision is None else status.decision.source_lines
    try:
        held = load_catalogue(policy_dir, shipped=shipped)
    except CatalogueInvalid as error:  # an approver needs no policy files: the decision is the worker's
        return [f"not shown: this machine's policy files cannot be read ({error})"[:500]]
    return [f"{line.ref}: {line.wording}" for line in held if line.ref in refs]
