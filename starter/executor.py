"""The command `executor`: execute rotation jobs at one cloud."""

import asyncio

import click

from keyturn.errors import KeyturnError


@click.command()
@click.option("--dry-run", is_flag=True, help="Show each step of every unclaimed job, change nothing, and exit.")
def executor(dry_run: bool) -> None:
    """Rotate the keys of one cloud until Ctrl-C: each job once, step by step.

    KEYTURN_EXECUTOR names the cloud; docs/how-to/rotate-keys.md says more. Credentials come from where the cloud's own
    tools find them.

    \b
    Example:
      keyturn executor --dry-run
      AWS_PROFILE=rotator keyturn executor
    """
    from keyturn.workers.executor import plans, run_executor
    from keyturn.workers.executor_settings import load_executor_settings
    from keyturn.workers.local_settings import load_local_settings
    from keyturn.workers.telemetry import configure_logging

    settings = load_executor_settings()
    if not dry_run:
        configure_logging(load_local_settings().log_format)
        asyncio.run(run_executor(settings))
        return

    async def show() -> None:
        shown = 0
        async with plans(settings) as planned:
            async for job_id, plan in planned.jobs:
                shown += 1
                if isinstance(plan, KeyturnError):
                    click.echo(f"{job_id}  would not start: {plan}. {plan.hint}")
                    continue
                click.echo(job_id)
                for number, step in enumerate(plan, 1):
                    click.echo(f"  {number}. {step}")
        if not shown:
            click.echo(f"tenant {settings.tenant} has no free job for this executor", err=True)
        for kind, count in sorted(planned.left.items()):
            click.echo(f"left for another executor: {count} of {kind}; this one rotates {settings.kind}", err=True)

    asyncio.run(show())
