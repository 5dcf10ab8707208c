"""The commands about builds of the worker: which there are, and which one new rotations start on."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import click

from keyturn.errors import KeyturnError
from keyturn.moments import in_utc

if TYPE_CHECKING:
    from temporalio.client import Client  # it takes long to import, and help needs none of it


class UnknownBuild(KeyturnError):
    """No worker of this build has polled."""

    kind = "unknown_build"
    next_step = "fail_and_fix_request"
    hint = "Start a worker of this build first, with KEYTURN_BUILD_ID set; `keyturn deployment show` lists the builds."


class BuildNotRamped(KeyturnError):
    """This build has no ramp to end."""

    kind = "build_not_ramped"
    next_step = "fail_and_fix_request"
    hint = "`keyturn deployment show` says which build is ramped; `promote` gives one build all."


@click.group()
def deployment() -> None:
    """Show the workers' builds, ramp one up, and promote it (docs/how-to/run-in-production.md)."""


@deployment.command()
def show() -> None:
    """List builds, newest first: `current` takes new rotations, `draining` still runs some, `drained` may stop.

    \b
    Example:
      keyturn deployment show
    """
    from keyturn.application.connection import connect, map_refusals
    from keyturn.application.versioning import Build, builds

    async def run() -> list[Build]:
        with map_refusals():
            return await builds(await connect())

    found = asyncio.run(run())
    for build in found:
        state = "current" if build.current else build.drainage.replace("unspecified", "not promoted")
        if build.share is not None:
            state = f"gets {build.share:g}% of the new rotations"
        click.echo(f"{build.build_id:24}  {in_utc(build.created_at)}  {state}")
    if not found:
        click.echo("no worker has a build ID: every worker takes every rotation", err=True)


@deployment.command()
@click.argument("build_id")
def promote(build_id: str) -> None:
    """Start new rotations on the workers of BUILD_ID. Running ones stay with the build that started them.

    \b
    Example:
      keyturn deployment promote 3f2a9c1d4e5b
    """
    from keyturn.application.versioning import promote as make_current

    asyncio.run(_change(build_id, make_current))
    click.echo(f"{build_id} is current: new rotations start on it")


@deployment.command()
@click.argument("build_id")
@click.argument("percentage", type=click.FloatRange(0, 100))
def ramp(build_id: str, percentage: float) -> None:
    """Send PERCENTAGE of the new rotations to BUILD_ID, and the rest to the current build; 0 ends the ramp.

    Which rotation goes where depends on its ID: one that is asked for again goes to the same build.

    \b
    Example:
      keyturn deployment ramp 3f2a9c1d4e5b 10
    """
    from keyturn.application.versioning import ramp as let_take

    async def change(client: "Client", build: str) -> None:
        from keyturn.application.versioning import builds

        shares = {one.build_id: one.share for one in await builds(client)}
        if not percentage and shares.get(build) is None:
            ramped = next((name for name, share in shares.items() if share is not None), None)
            is_ramped = "no build is ramped" if ramped is None else f"the ramped build is {ramped}"
            raise BuildNotRamped(f"the build {build[:64]} has no ramp; {is_ramped}")
        await let_take(client, build, percentage)

    asyncio.run(_change(build_id, change))
    if percentage:
        click.echo(f"{build_id} gets {percentage:g}% of the new rotations; `keyturn deployment promote` gives it all")
    else:
        click.echo(
            f"the ramp of {build_id} has ended: new rotations start on the current build, and its own stay there"
        )


async def _change(build_id: str, change: "Callable[[Client, str], Awaitable[None]]") -> None:
    from keyturn.application.connection import connect, map_refusals
    from keyturn.application.versioning import builds

    with map_refusals():
        client = await connect()
        if build_id not in {build.build_id for build in await builds(client)}:
            raise UnknownBuild(f"no worker of the build {build_id[:64]} has polled this namespace")
        await change(client, build_id)
