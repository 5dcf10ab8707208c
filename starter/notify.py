"""`keyturn notify`: show what notices look like, and send one to each destination to see that it arrives."""

import asyncio
import json
import uuid
from typing import TYPE_CHECKING, Any

import click

from keyturn.console import counted, printable
from keyturn.errors import KeyturnError, SettingsInvalid
from keyturn.notices.contracts import TOPICS, Topic

if TYPE_CHECKING:
    from keyturn.workers.notices import Notifications

_topics = click.option(
    "--topic",
    "topics",
    multiple=True,
    type=click.Choice(TOPICS),
    help="Topic of the sample; repeatable.  [default: job.created]",
)
_to = click.option("--to", help="Destination, as CHANNEL or CHANNEL:ADDRESS.  [default: every one of the routes]")


@click.group()
def notify() -> None:
    """Preview and test the notices that KEYTURN_NOTIFY sends to people.

    \b
    Example:
      keyturn notify preview --to slack:payments --topic job.overdue
      keyturn notify test
    """


@notify.command()
@_topics
@_to
def preview(topics: tuple[Topic, ...], to: str | None) -> None:
    """Print what a sample notice would look like at each destination. Nothing is sent."""
    from keyturn.notices.samples import message_of, samples

    async def show(found: "Notifications") -> None:
        for destination in _wanted(found, to):
            name, _, address = destination.partition(":")
            message = message_of(samples(topics or ("job.created",)), destination)
            shown = found.notifiers[name].preview(address, message, desk=found.routes.desk)
            click.echo(json.dumps({"destination": destination, "message": shown}, indent=2, ensure_ascii=False))

    _with_notifications(show)


@notify.command()
@_topics
@_to
def test(topics: tuple[Topic, ...], to: str | None) -> None:
    """Send a sample notice to each destination. Exit status 1 if one does not take it."""
    from keyturn.notices.samples import message_of, samples

    async def send(found: "Notifications") -> None:
        failed = 0
        for destination in _wanted(found, to):
            name, _, address = destination.partition(":")
            notices = samples(topics or ("job.created",))
            message = message_of(notices, destination, message_id=f"notice_{uuid.uuid4().hex}")
            try:
                answer = await found.notifiers[name].send(address, message, desk=found.routes.desk)
                click.echo(printable(f"{destination}: {answer}"))
            except KeyturnError as error:
                failed += 1
                # A test is no message in the database: nothing sends it again.
                hint = "Make the receiver answer, then test it again." if error.retryable else error.hint
                click.echo(printable(f"{destination}: {error}\n  {hint}"), err=True)
        if failed:
            click.echo(f"{counted(failed, 'destination')} did not take it", err=True)
            raise click.exceptions.Exit(1)

    _with_notifications(send)


def _wanted(found: "Notifications", to: str | None) -> list[str]:
    if to is None:
        return list(found.routes.destinations)
    if to not in found.routes.destinations:
        named = ", ".join(found.routes.destinations)
        raise click.BadParameter(f"no route names it; there are {named}", param_hint="--to")
    return [to]


def _with_notifications(work: Any) -> None:
    from keyturn.database import open_database
    from keyturn.notices.channel import NotifierContext
    from keyturn.workers.local_settings import load_database_url
    from keyturn.workers.notices import channels_of_environment, open_notifications

    async def run() -> None:
        engine = open_database(load_database_url(), pool_size=1)  # connected to by trackers alone, when they send
        try:
            async with open_notifications(channels_of_environment(), NotifierContext(1, engine)) as found:
                if found is None:
                    raise SettingsInvalid("KEYTURN_NOTIFY is not set: no notice is sent (docs/how-to/notify.md)")
                await work(found)
        finally:
            await engine.dispose()

    asyncio.run(run())
