"""`keyturn bulk`."""

import asyncio
import hashlib
import json
import sys
from contextlib import closing
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keyturn.bulk.contracts import BulkOrder, BulkSource, RunProgress
from keyturn.console import counted, signed_in_user
from keyturn.errors import InvalidRequest
from keyturn.starter.database import with_database
from keyturn.starter.faults import validate
from keyturn.starter.inventory_options import (
    WITHOUT_KEY_IDS,
    access_keys,
    as_one_object,
    as_user,
    azure_application,
    for_tenant,
    inventory_file,
    inventory_format,
    moment_of,
    observed,
    policies_option,
    print_rejects,
    print_unused_options,
    question_option,
    rejects_beside,
    rejects_file,
    task_option,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from keyturn.bulk.store import Run


FAILED, WAITS_FOR_A_PERSON = 1, 5  # exit statuses, as `keyturn rotate` has them


def dollars(text: str) -> Decimal:
    """Return an amount that a person wrote; raises ValueError."""
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError from None  # which click prints with the option's name


@click.command()
@inventory_file
@policies_option
@question_option
@task_option
@inventory_format
@access_keys
@azure_application
@observed
@rejects_file
@click.option("--always-ask", is_flag=True, help="Ask the model about every key, even one that is decided by rule.")
@click.option(
    "--by-rule",
    is_flag=True,
    help="Decide the lines that code can read by rule, without a model and at no cost; the record says so.",
)
@click.option(
    "--again",
    is_flag=True,
    help="Give keys whose job failed or was cancelled another one. To do so a second time, add --name.",
)
@click.option(
    "--offline", is_flag=True, help="Use the provider's batch endpoint first: answers within a day, at half the price."
)
@click.option("--max-usd", type=dollars, help="Pause when the model calls have cost this much, in US dollars.")
@click.option(
    "--name", help="Name of the run.  [default: derived from the file and the options, so that no run starts twice]"
)
@click.option("--detach", is_flag=True, help="Start the run and exit; `keyturn watch bulk:TENANT:RUN` follows it.")
@for_tenant
@as_user
@as_one_object
def bulk(
    file: Path,
    policies: tuple[str, ...],
    task: str,
    tenant: str,
    user_id: str | None,
    rejects: Path | None,
    name: str | None,
    max_usd: Decimal | None,
    offline: bool,
    detach: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Judge every key of an inventory; each key that is due gets one rotation, and so one job.

    The same command again resumes the run: no key is asked about twice. Ctrl-C stops watching; the run continues.

    \b
    Example:
      keyturn bulk report.csv --access-keys keys.json --policy CIS-AWS-4.0-1.14
      keyturn bulk scan.jsonl --task summarize_scan --detach
    """
    from keyturn.bulk.load import digest_of
    from keyturn.inventory.read import recognise_source
    from keyturn.inventory.rejects import Rejects

    source = _source(file, task=task, policies=policies, user_id=user_id or signed_in_user(), given=given)
    digest = asyncio.run(digest_of(source, file))
    run_id = name or f"run-{hashlib.sha256(f'{tenant} {digest}'.encode()).hexdigest()[:16]}"
    order = validate(lambda: BulkOrder(run_id=run_id, tenant_id=tenant, max_usd=max_usd, offline=offline))
    form = None if task != "decide_rotation" else source.format or recognise_source(file)
    print_unused_options(form, access_keys=given["access_keys"], account_id=source.account_id)
    rejected = Rejects(rejects or rejects_beside(file, form))
    with closing(rejected):
        run = with_database(lambda engine: _load(engine, source, order, rejected, digest))
    print_rejects(rejected)
    if form == "aws" and source.access_keys is None:
        click.echo(WITHOUT_KEY_IDS, err=True)
    outcome = _run(order, watch=not detach, asks=run.asks, as_json=as_json)
    if as_json:
        click.echo(json.dumps({"run": run_id, "workflow_id": f"bulk:{tenant}:{run_id}"} | outcome))
    elif detach:
        click.echo(f"bulk:{tenant}:{run_id}")
    else:
        print_end(run_id, outcome)
    end_by_what_is_left(run_id, outcome.get("outcomes", {}))


def end_by_what_is_left(run_id: str, outcomes: dict[str, int]) -> None:
    """Say what people must look at, and end by the exit status of it; return if it is nothing."""
    failed = outcomes.get("job_failed", 0)
    if failed:
        click.echo(
            f"{counted(failed, 'due key')} will not be rotated, as the job failed or was cancelled: keyturn report "
            f"{run_id} says which; the same command with --again gives each another job",
            err=True,
        )
    disagreements = outcomes.get("disagreement", 0)
    if disagreements:
        those = "1 key that is due" if disagreements == 1 else f"{disagreements:,} keys that are due"
        click.echo(
            f"rule and model disagree on {those}: keyturn parked --kind disagreement lists them, keyturn approve ID or "
            "keyturn deny ID --reason WHY decides each",
            err=True,
        )
        raise click.exceptions.Exit(WAITS_FOR_A_PERSON)
    if failed:
        raise click.exceptions.Exit(FAILED)


def print_end(run_id: str, outcome: dict[str, Any]) -> None:
    """Print what became of a run that was followed to its end, and what to do with it."""
    from keyturn.progress import summary_of

    if not outcome:
        return
    progress = RunProgress.model_validate({name: outcome[name] for name in RunProgress.model_fields})
    click.echo(f"{outcome['status']}: {summary_of(progress)}; the calls cost ${progress.cost_usd:,.4f}", err=True)
    click.echo(f"next: keyturn report {run_id} --html report.html", err=True)


def _source(file: Path, *, task: str, policies: tuple[str, ...], user_id: str, given: dict[str, Any]) -> BulkSource:
    keys = given["access_keys"]
    source: BulkSource = validate(
        lambda: BulkSource(
            path=str(file),
            task=task,
            policies=tuple(dict.fromkeys(policies)),
            question=given["question"] if task == "decide_rotation" else "",
            format=given["form"],
            access_keys=None if keys is None else str(keys),
            account_id=given["account_id"],
            observed_at=moment_of(given["observed_at"]),
            always_ask=given["always_ask"],
            by_rule=given["by_rule"],
            again=given["again"],
            user_id=user_id,
        ),
        whole="policies",
    )
    return source


async def _load(engine: "AsyncEngine", source: BulkSource, order: BulkOrder, rejected: Any, digest: str) -> "Run":
    from keyturn.bulk.store import BulkStore
    from keyturn.keyring_files import keyring_from_environment
    from keyturn.workers.bulk import load_source, run_encryption
    from keyturn.workers.local_settings import load_local_settings
    from keyturn.workflows.bulk import bulk_id

    catalogue = load_local_settings().load_catalogue()
    encryption = run_encryption(keyring_from_environment())
    run = await load_source(
        source,
        order.run_id,
        order.tenant_id,
        bulk_id(order.tenant_id, order.run_id),
        BulkStore(engine),
        catalogue,
        encryption,
        on_progress=_print_count,
        reject=rejected.add,
        digest=digest,
    )
    if sys.stderr.isatty():
        click.echo("", err=True)
    if run.source_digest != digest:
        raise InvalidRequest(f"--name: {order.run_id} is a run of another inventory, or of other options")
    return run


def _to_error(text: str, newline: bool) -> None:
    click.echo(text, err=True, nl=newline)


def _print_count(count: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{count:,} rows read", err=True, nl=False)


def _run(order: BulkOrder, *, watch: bool, asks: int, as_json: bool) -> dict[str, Any]:
    from keyturn.application.connection import connect, map_refusals
    from keyturn.application.runs import follow, start_run
    from keyturn.progress import show_progress
    from keyturn.workers.local_settings import load_local_settings

    async def run() -> dict[str, Any]:
        with map_refusals():
            handle = await start_run(await connect(), order, task_queue=load_local_settings().task_queue)
            if not watch:
                return {"asks": asks}
            last = await show_progress(follow(handle), show=_to_error, live=sys.stderr.isatty(), quiet=as_json)
            if last is None:
                return {}
            status = "cancelled" if last.cancelled else "done" if last.phase == "ended" else last.phase
            return last.progress.model_dump(mode="json") | {"phase": last.phase, "status": status}

    try:
        return asyncio.run(run())
    except KeyboardInterrupt:
        click.echo(f"\nthe run continues: keyturn watch bulk:{order.tenant_id}:{order.run_id}", err=True)
        raise click.exceptions.Exit(0) from None
