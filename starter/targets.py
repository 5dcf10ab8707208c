"""`keyturn targets`: where new secrets go, checked before a rotation needs it."""

import asyncio
from typing import TYPE_CHECKING

import click

from keyturn.errors import KeyturnError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from keyturn.execution.mapping import KeyMap
    from keyturn.execution.targets import SecretTargets
    from keyturn.workers.executor_settings import ExecutorSettings


@click.group()
def targets() -> None:
    """Check where new secrets go: the key map, and each target in it.

    \b
    Example:
      KEYTURN_KEY_MAP=keys.toml keyturn targets check
    """


@targets.command()
def check() -> None:
    """Read the key map, ask each target for what it holds now, and compare both with the open jobs; exit status 1 if
    anything is wrong.

    Open jobs are compared as the executor would start them, with the cloud's credentials of this terminal. Nothing is
    written, so that a right to write is not proved. No secret is printed.
    """
    from keyturn.execution.mapping import load_key_map
    from keyturn.starter.database import with_database
    from keyturn.workers.executor_accounts import open_targets
    from keyturn.workers.executor_settings import load_executor_settings

    settings = load_executor_settings()
    key_map = load_key_map(settings.key_map)
    tables = [
        (f"[[key]] {number}  {one.account}  owner {one.owner or '-'}", one.targets or tuple(settings.default_targets))
        for number, one in enumerate(key_map, 1)
    ]
    if settings.default_targets:
        tables.append(("other keys" if tables else "every key", tuple(settings.default_targets)))
    faults = asyncio.run(_look(tables, open_targets(settings)))
    if not settings.default_targets:
        click.echo("other keys  no target: they are not rotated")
    with_database(lambda engine: _print_unnamed(engine, key_map, settings))
    faults += asyncio.run(_compare_with_jobs(key_map, settings))
    if faults:
        raise click.exceptions.Exit(1)


async def _look(tables: "Sequence[tuple[str, Sequence[str]]]", opened: "SecretTargets") -> int:
    """Print what each target answers; returns the number of faults."""
    faults = 0
    for heading, paths in tables:
        click.echo(heading)
        try:
            opened.expect_usable([path.replace("{user}", "user").replace("{account}", "account") for path in paths])
        except KeyturnError as error:
            faults += 1
            click.echo(f"  fault: {error}. {error.hint}")
            continue
        for path in paths:
            if "{" in path:
                click.echo(f"  {path}: differs by user or account: asked for open jobs alone")
                continue
            try:
                click.echo(f"  {path}: {await opened.look(path)}")
            except KeyturnError as error:
                faults += 1
                click.echo(f"  {path}: {error}. {error.hint}")
    return faults


async def _compare_with_jobs(key_map: "KeyMap", settings: "ExecutorSettings") -> int:
    """Print why the executor would not start an open job, or would start none at all; returns the number of faults."""
    from keyturn.errors import SettingsInvalid
    from keyturn.execution.errors import AnotherAccount, KeyMapInvalid
    from keyturn.workers.executor import plans

    faults = compared = 0
    try:
        async with plans(settings) as planned:
            for number, mapping in enumerate(key_map, 1):
                if mapping.cloud_account not in {None, *planned.accounts}:
                    served = ", ".join(planned.accounts)
                    click.echo(f"[[key]] {number}  {mapping.account}: is of {mapping.cloud_account}; this is {served}")
            async for job_id, plan in planned.jobs:
                if isinstance(plan, AnotherAccount):
                    continue
                compared += 1
                if isinstance(plan, KeyturnError):
                    faults += 1
                    click.echo(f"{job_id}  would not start: {plan}. {plan.hint}")
    except (KeyMapInvalid, SettingsInvalid) as error:
        click.echo(f"the executor would not start: {error}. {error.hint}")
        return 1
    except KeyturnError as error:
        click.echo(f"open jobs  not compared: {error}. {error.hint}")
        return faults
    click.echo(f"open jobs  {compared} compared, {faults} would not start")
    return faults


async def _print_unnamed(engine: "AsyncEngine", key_map: "KeyMap", settings: "ExecutorSettings") -> None:
    """Print the tables that name no key of a job: a slip, or a key that nothing has asked about yet."""
    from keyturn.execution.mapping import KeyNames, names_of
    from keyturn.jobs.in_flight import recent_jobs

    rows = await recent_jobs(engine, tenant_id=settings.tenant, kind=settings.kind)
    keys = [(names_of(row.account_id), row.key_id) for row in rows]
    for number, mapping in enumerate(key_map, 1):
        if not any(mapping.names(KeyNames(*key, mapping.cloud_account)) for key in keys):
            click.echo(f"[[key]] {number}  {mapping.account}: names no key of a job of this month")
