"""`keyturn rotate`."""

import asyncio
import json
import math
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from keyturn.console import signed_in_user
from keyturn.errors import InvalidRequest, KeyturnError
from keyturn.policy.errors import UnknownPolicyLine
from keyturn.starter.database import with_database
from keyturn.starter.faults import naming_options
from keyturn.starter.policy_options import policy_options

if TYPE_CHECKING:
    from keyturn.keyring import Keyring
    from keyturn.rotations.contracts import RotationRequest
    from keyturn.rotations.outcomes import RotationOutcome

KINDS = ["service_account_key", "access_key", "user_password", "system_account_password"]
_as_json = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object to standard output, everything else to standard error.",
)
_task_queue = click.option(
    "--task-queue", envvar="KEYTURN_TASK_QUEUE", default="keyturn", show_default=True, help="Task queue of the workers."
)


@click.command()
@click.option("--account", "account_id", required=True, help="Account that holds the key, such as acct_10234.")
@click.option("--key-id", required=True, help="ID of the key at its provider. A rotated key has a new ID.")
@click.option("--policy", required=True, multiple=True, help="Policy line to judge under, such as P-7; repeatable.")
@click.option("--question", required=True, help="The asker's question; - reads it from standard input.")
@click.option("--kind", type=click.Choice(KINDS), help="Kind of credential.  [default: service_account_key]")
@click.option("--stale/--not-stale", default=None, help="Whether the key is stale; unknown if neither is given.")
@click.option(
    "--compromised/--not-compromised", default=None, help="Whether the key was exposed; unknown if neither is given."
)
@click.option("--age-days", type=click.IntRange(0, 36_500), help="Days since the key was created or last rotated.")
@click.option(
    "--last-rotated",
    "last_rotated_at",
    help="Timestamp of the key's creation or last rotation, such as 2026-08-01T00:00:00Z.",
)
@click.option("--last-used", "last_used_at", help="Timestamp of the key's last use.")
@click.option("--never-used", is_flag=True, default=None, help="The key was never used.")
@click.option("--notes", help="Evidence as text, up to 1,000 characters, for policy lines whose condition is text.")
@click.option("--observed", "observed_at", help="Time at which the evidence was observed.  [default: now]")
@click.option("--source", help="Where the evidence comes from.  [default: asker]")
@click.option("--user", "user_id", envvar="KEYTURN_USER", help="User who asks.  [default: the signed-in user]")
@click.option("--tenant", "tenant_id", envvar="KEYTURN_TENANT", help="Tenant ID.  [default: default]")
@click.option("--trace-id", help="Trace ID for this call, shown in logs and history.")
@click.option(
    "--timeout", "timeout_seconds", type=float, help="Timeout of one model call, in seconds, up to 120.  [default: 20]"
)
@click.option("--retries", "max_retries", type=int, help="Retries after a transient failure.  [default: 2]")
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds to wait for the outcome. The workflow continues after that.",
)
@click.option(
    "--again",
    is_flag=True,
    help="Ask again, even if the same question was answered; a job that failed or was cancelled gets a successor.",
)
@policy_options
@_task_queue
@_as_json
def rotate(
    policy: tuple[str, ...],
    question: str,
    policy_dir: Path | None,
    shipped: bool,
    task_queue: str,
    wait_seconds: float,
    again: bool,
    as_json: bool,
    observed_at: str | None,
    user_id: str | None,
    **given: Any,
) -> None:
    """Ask whether a key may be rotated; if policy and evidence support it, create its one rotation job.

    The same command again attaches to the same rotation: it never creates a second job. Where the key's job failed or
    was cancelled, --again creates another one.

    \b
    Example:
      keyturn rotate --account acct_10234 --key-id key_01 --policy P-7 --stale \\
        --question "May the stale key be rotated?" --wait 20 --json
    """
    from keyturn.application.notes import uncovered
    from keyturn.application.requests import build_request, id_of
    from keyturn.keyring_files import keyring_from_environment
    from keyturn.owners import load_owners
    from keyturn.policy.catalogue import load_catalogue

    if math.isnan(wait_seconds):
        raise click.BadParameter("not a number of seconds", param_hint="--wait")
    facts = {name: given.pop(name) for name in _FACTS} | {"observed_at": observed_at or datetime.now(UTC)}
    given["question"] = sys.stdin.read() if question == "-" else question
    given["user_id"] = user_id or signed_in_user()
    try:
        with naming_options():
            catalogue = load_catalogue(policy_dir, shipped=shipped)
            request = build_request(catalogue, policy=policy, facts=facts, fields=given)
        beside = uncovered(catalogue, request)
        keyring = keyring_from_environment()
        owner = load_owners().owner_of(request.account_id, request.credential.key_id, request.owner)
    except KeyturnError as error:
        end_before_start(error, None, as_json=as_json)
    workflow_id = id_of(request, keyring.name_of)
    try:
        starting = _start_and_wait(request, keyring, task_queue, wait_seconds, owner=owner, again=again)
        attached, outcome, notes = asyncio.run(starting)
    except KeyturnError as error:
        end_before_start(error, workflow_id, as_json=as_json)
    except KeyboardInterrupt:
        from keyturn.rotations.outcomes import TimedOut

        click.echo("\nstopped waiting; a started rotation continues: follow it with `keyturn watch ID`", err=True)
        attached, outcome, notes = None, TimedOut(), []
    notes = beside + notes
    for note in notes:
        click.echo(note, err=True)
    shown = look_up_job(outcome) if attached else outcome
    _end_with(workflow_id, shown, attached=attached, notes=notes, as_json=as_json)


def _end_with(
    workflow_id: str, outcome: "RotationOutcome", *, attached: bool | None, notes: Sequence[str], as_json: bool
) -> NoReturn:
    """Print how the rotation ended, and leave with the status that says so."""
    from keyturn.application.outcomes import as_object, exit_status

    if as_json:
        output = as_object(workflow_id, outcome, attached=attached)
        click.echo(json.dumps(output | ({"notes": list(notes)} if notes else {})))
    else:
        print_outcome(workflow_id, outcome, attached=bool(attached))
    raise click.exceptions.Exit(exit_status(outcome))


async def _start_and_wait(
    request: "RotationRequest",
    keyring: "Keyring",
    task_queue: str,
    wait_seconds: float,
    *,
    owner: str | None,
    again: bool,
) -> tuple[bool, Any, list[str]]:
    """Return whether the rotation was there before, its outcome, and notes for the user."""
    from keyturn.application.connection import CONNECT_SECONDS, connect, map_refusals
    from keyturn.application.notes import notes_on
    from keyturn.application.rotations import rotate as start_or_attach

    began = time.monotonic()
    client = await connect(keyring=keyring, timeout_seconds=min(wait_seconds, CONNECT_SECONDS))
    left = max(wait_seconds - (time.monotonic() - began), 0.0)
    with map_refusals():
        attached, outcome = await start_or_attach(
            client, request, task_queue=task_queue, wait_seconds=left, owner=owner, again=again
        )
        return attached, outcome, await notes_on(client, request, outcome, task_queue=task_queue)


_FACTS = (
    "key_id",
    "kind",
    "stale",
    "compromised",
    "age_days",
    "last_rotated_at",
    "last_used_at",
    "never_used",
    "notes",
    "source",
)


def look_up_job(outcome: Any) -> Any:
    """Return an outcome with the present state of its job; where the database does not say it, print what to do."""
    from keyturn.application.outcomes import with_job_state
    from keyturn.jobs.store import JobStore
    from keyturn.rotations.outcomes import JobCreated

    if not isinstance(outcome, JobCreated):
        return outcome
    found = None
    with suppress(KeyturnError):  # the outcome is worth more than this
        found = with_database(lambda engine: JobStore(engine).state_of(outcome.job_id))
    outcome = with_job_state(outcome, None if found is None else found.state)
    if isinstance(outcome, JobCreated) and outcome.job_state is None:
        click.echo(f"the state of the job was not found: keyturn status {outcome.job_id} shows it", err=True)
    return outcome


def print_outcome(workflow_id: str, outcome: Any, *, attached: bool = False) -> None:
    """Print an outcome as lines; of a rotation that was there before, its job was there, too."""
    from keyturn.application.outcomes import as_lines
    from keyturn.rotations.outcomes import JobCreated

    if attached and isinstance(outcome, JobCreated):
        outcome = outcome.model_copy(update={"created": False, "tightened": False})
    first, *others = as_lines(workflow_id, outcome)
    click.echo("\n".join([first, *(f"  {line}" for line in others)]))


def end_before_start(error: KeyturnError, workflow_id: str | None, *, as_json: bool) -> NoReturn:
    """Exit with the error printed: on standard error, and as the one JSON object if that was asked for."""
    from keyturn.application.outcomes import EXIT_FAILED, EXIT_USAGE

    click.echo(error.with_hint, err=True)
    if as_json:
        output = {
            "workflow_id": workflow_id,
            "status": "failed",
            "reason": error.kind,
            "explanation": str(error),
            "next_step": error.next_step,
        }
        click.echo(json.dumps(output))
    raise click.exceptions.Exit(EXIT_USAGE if isinstance(error, InvalidRequest | UnknownPolicyLine) else EXIT_FAILED)
