"""The commands `desk` and `draft`."""

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from keyturn.console import printable, signed_in_user
from keyturn.errors import KeyturnError
from keyturn.starter.faults import naming_options

if TYPE_CHECKING:
    from keyturn.desk.desk import Desk

T = TypeVar("T")
EXIT_UNAPPROVED, EXIT_FAILED = 3, 1
END_SECONDS = 10.0  # a worker gets a stop with its next heartbeat, within three seconds
STOP_SECONDS = 2.0  # a user who stops twice waits no longer for the stop to be accepted


@click.command()
def desk() -> None:
    """Serve the support desk until Ctrl-C: ask, watch drafts and approve, in a browser or by JSON.

    KEYTURN_DESK_TOKENS or a proxy's header names its users; without either it serves on loopback and in
    development only.

    \b
    Example:
      keyturn desk
      KEYTURN_DESK_TOKENS=luna:$(openssl rand -hex 24) KEYTURN_DESK_ROLES="luna=asker" keyturn desk
    """
    from keyturn.desk.app import desk_application
    from keyturn.desk.settings import load_desk_settings, parse_networks
    from keyturn.keyring_files import keyring_from_environment
    from keyturn.web.serving import served
    from keyturn.workers.local_settings import load_local_settings
    from keyturn.workers.telemetry import configure_logging

    settings = load_desk_settings()
    configure_logging(load_local_settings().log_format)

    async def run(desk: "Desk", engine: Any) -> None:
        application = desk_application(desk, engine, settings, keyring_from_environment())
        stop = asyncio.Event()
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
        async with served(
            application, settings.address, setting="KEYTURN_DESK_ADDRESS", proxies=parse_networks(settings.proxies)
        ) as url:
            click.echo(f"the desk serves on {url}", err=True)
            await stop.wait()

    _with_desk(settings.tenant, run)


@click.command()
@click.option("--account", "account_id", help="Account that the question is about.")
@click.option("--question", help="The asker's question; - reads it from standard input.")
@click.option("--policy", multiple=True, help="Policy line that the reply may rest on; repeatable.")
@click.option("--rotation", "workflow_id", help="Reply to this rotation's question, with its decision, instead.")
@click.option("--tenant", envvar="KEYTURN_TENANT", default="default", show_default=True, help="Tenant ID.")
@click.option("--user", "user_id", envvar="KEYTURN_USER", help="User who asks.  [default: the signed-in user]")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object to standard output when the draft is finished."
)
def draft(
    account_id: str | None,
    question: str | None,
    policy: tuple[str, ...],
    workflow_id: str | None,
    tenant: str,
    user_id: str | None,
    as_json: bool,
) -> None:
    """Draft a reply and show it as it is written. Ctrl-C stops the draft and closes the provider's connection.

    Exit status: 0 if the draft is approved for a person to send, 3 if not, 1 if it failed or was stopped.

    \b
    Example:
      keyturn draft --account acct_10234 --policy P-7 --question "May the stale key be rotated?"
      keyturn draft --rotation rotate:default:acct_10234:key_01:P-7@1
    """
    import uuid

    asked: dict[str, Any] = {"trace_id": f"trace_{uuid.uuid4().hex}"}
    if workflow_id:
        asked["workflow_id"] = workflow_id
    elif account_id and question and policy:
        words = sys.stdin.read() if question == "-" else question
        asked |= {"account_id": account_id, "question": words, "policy_lines": list(policy)}
    else:
        raise click.UsageError("give --rotation, or --account, --policy and --question")

    async def run(desk: "Desk", _engine: Any) -> dict[str, Any]:
        from keyturn.application.drafts import new_draft_id

        draft_id = new_draft_id(tenant)
        with naming_options():
            await desk.draft(user_id or signed_in_user(), draft_id, asked)
        return await _follow(desk, draft_id, quiet=as_json)

    shown = _with_desk(tenant, run)
    if as_json:
        click.echo(json.dumps(shown))
    good = shown["state"] == "completed" and shown["approved"]
    raise click.exceptions.Exit(0 if good else EXIT_UNAPPROVED if shown["state"] == "completed" else EXIT_FAILED)


async def _follow(desk: "Desk", draft_id: str, *, quiet: bool) -> dict[str, Any]:
    """Print a draft as it is written, until its end; a signal has it stopped."""
    shown = asyncio.ensure_future(_print_draft(desk, draft_id, quiet=quiet))
    stops: list[asyncio.Future[bool]] = []

    def stop() -> None:  # not as KeyboardInterrupt: its end is still to be printed
        if stops:  # asked again: this user does not wait for the end
            shown.cancel()
        stops.append(asyncio.ensure_future(_stop(desk, draft_id)))
        # No worker may be there to end it: then it is not waited for.
        asyncio.get_running_loop().call_later(END_SECONDS, shown.cancel)

    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop)
    try:
        return await shown
    except asyncio.CancelledError:
        done, _ = await asyncio.wait(stops, timeout=STOP_SECONDS)
        reached = any(one.result() for one in done)
        word = (
            "was asked to stop; whether it did is not known"
            if reached
            else "may continue: the request to stop did not reach it"
        )
        click.echo(f"\n{draft_id} {word}", err=True)
        raise click.exceptions.Exit(EXIT_FAILED) from None
    finally:
        for one in stops:
            one.cancel()
        await asyncio.gather(*stops, return_exceptions=True)


async def _stop(desk: "Desk", draft_id: str) -> bool:
    """Have a draft stopped; returns whether that was accepted, and prints why it was not."""
    from temporalio.service import RPCError

    from keyturn.application.connection import map_rpc_error

    try:
        await desk.stop(draft_id)
    except (KeyturnError, RPCError) as error:
        why = error if isinstance(error, KeyturnError) else map_rpc_error(error)
        click.echo(f"\nthe draft was not stopped: {why}. Ctrl-C again exits.", err=True)
        return False
    return True


async def _print_draft(desk: "Desk", draft_id: str, *, quiet: bool) -> dict[str, Any]:
    """Print a draft on the terminal as it comes; returns how it ended."""
    seen: Any = None
    async for seen in desk.follow(draft_id):
        if quiet:
            continue
        if seen.starts_over:
            click.echo("\n\n(the draft starts again)\n", err=True)
        click.echo(printable(seen.more), nl=False)
        sys.stdout.flush()
    last = seen.draft
    names = ("draft_id", "state", "text", "approved", "reason", "explanation")
    shown = {name: getattr(last, name) for name in names}
    if not quiet:
        click.echo()
        why = f": {last.reason.replace('_', ' ')}. {last.explanation or ''}" if last.reason else ""
        said = "approved: a person may read and send it" if last.approved else "unapproved" + why
        click.echo(f"\n{said if last.state == 'completed' else last.state + why}", err=True)
    return shown


def _with_desk(tenant: str, work: "Callable[[Desk, Any], Awaitable[T]]") -> T:
    """Return what `work` does with a desk on the environment's Temporal, database and policies."""
    from keyturn.application.connection import connect, map_refusals
    from keyturn.database import open_database
    from keyturn.desk.desk import Desk
    from keyturn.keyring_files import keyring_from_environment
    from keyturn.owners import load_owners
    from keyturn.workers.local_settings import load_local_settings
    from keyturn.workers.schema import check_schema

    settings, keyring = load_local_settings(), keyring_from_environment()
    catalogue, owners = settings.load_catalogue(), load_owners()
    check_schema(settings.database_url)

    async def run() -> T:
        engine = open_database(settings.database_url)
        try:
            with map_refusals():
                client = await connect(keyring=keyring)
                named = {"tenant": tenant, "task_queue": settings.task_queue}
                desk = Desk(client, engine, keyring, catalogue, **named, owners=owners)
                return await work(desk, engine)
        finally:
            await engine.dispose()

    return asyncio.run(run())
