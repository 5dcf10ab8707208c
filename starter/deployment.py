"""The commands about builds of the worker: which there are, and which one new rotations start on."""

import asyncio

import click

from keyturn.errors import KeyturnError
from keyturn.moments import in_utc


class UnknownBuild(KeyturnError):
    """No worker of this build has polled."""

    kind = "unknown_build"
    next_step = "fail_and_fix_request"
    hint = "Start a worker of this build first, with KEYTURN_BUILD_ID set; `keyturn deployment show` lists the builds."


@click.group()
def deployment() -> None:
    """Show the workers' builds, and promote one (docs/how-to/run-in-production.md)."""


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
    from keyturn.application.connection import connect, map_refusals
    from keyturn.application.versioning import builds
    from keyturn.application.versioning import promote as make_current

    async def run() -> None:
        with map_refusals():
            client = await connect()
            if build_id not in {build.build_id for build in await builds(client)}:
                raise UnknownBuild(f"no worker of the build {build_id[:64]} has polled this namespace")
            await make_current(client, build_id)

    asyncio.run(run())
    click.echo(f"{build_id} is current: new rotations start on it")
