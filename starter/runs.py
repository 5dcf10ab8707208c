"""`keyturn runs` and what is said to one, and `keyturn report`."""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keyturn.console import cut, signed_in_user
from keyturn.moments import in_utc
from keyturn.rotations.contracts import Abandonment, Resumption
from keyturn.starter.database import with_database
from keyturn.starter.faults import validate
from keyturn.starter.inventory_options import as_one_object, as_user, for_tenant
from keyturn.starter.jobs import lists

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


@click.group(invoke_without_command=True)
@for_tenant
@click.option(
    "--limit",
    default=20,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="Maximum number of rows, newest first.",
)
@as_one_object
@click.pass_context
def runs(context: click.Context, tenant: str, limit: int, as_json: bool) -> None:
    """List bulk runs, newest first; or pause, resume or cancel one.

    \b
    Example:
      keyturn runs pause run-0f3c...
    """
    if not lists(context):
        return
    rows = cut(with_database(lambda engine: _load_runs(engine, tenant, limit + 1)), limit)
    if as_json:
        click.echo(json.dumps({"runs": rows}, default=str))
        return
    for row in rows:
        state = row["ended"] or ("open" if row["loaded_at"] else "loading")
        click.echo(f"{row['run_id']:24}  {in_utc(row['created_at'])}  {state:10}  {row['source']}")
    if not rows:
        click.echo(f"tenant {tenant} has no bulk run", err=True)


@runs.command()
@for_tenant
@as_user
@click.argument("run_id")
def pause(run_id: str, tenant: str, user_id: str | None) -> None:
    """Pause a run: it starts no further page; questions under way complete."""
    _update_run(run_id, tenant, "pause", validate(lambda: Resumption(operator=user_id or signed_in_user())))


@runs.command()
@for_tenant
@as_user
@click.argument("run_id")
def resume(run_id: str, tenant: str, user_id: str | None) -> None:
    """Resume a run that was paused by an operator, a spend limit or failures."""
    _update_run(run_id, tenant, "resume", validate(lambda: Resumption(operator=user_id or signed_in_user())))


@runs.command()
@for_tenant
@as_user
@click.option("--reason", required=True, help="Reason, one line.")
@click.argument("run_id")
def cancel(run_id: str, tenant: str, user_id: str | None, reason: str) -> None:
    """Cancel a run: it asks about no further key. Its rotations continue; the same `keyturn bulk` resumes the rest."""
    abandonment = validate(lambda: Abandonment(operator=user_id or signed_in_user(), reason=reason))
    _update_run(run_id, tenant, "cancel", abandonment)


async def _load_runs(engine: "AsyncEngine", tenant: str, limit: int) -> list[dict[str, Any]]:
    from keyturn.bulk.store import BulkStore

    rows = await BulkStore(engine).runs(tenant_id=tenant, limit=limit)
    return [{name: value for name, value in row.items() if name != "question"} for row in rows]


def _update_run(run_id: str, tenant: str, update: str, abandonment: Any) -> None:
    from keyturn.application.answers import answer
    from keyturn.application.connection import connect, map_refusals
    from keyturn.application.runs import handle_of_run
    from keyturn.bulk.store import BulkStore

    async def run(engine: "AsyncEngine") -> None:
        workflow_id = (await BulkStore(engine).run(run_id, tenant_id=tenant)).workflow_id
        with map_refusals():
            await answer(handle_of_run(await connect(), workflow_id), update, abandonment)

    with_database(run)
    click.echo(f"{update}: {run_id}")


@click.command()
@click.argument("run_id")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write one self-contained page.")
@click.option("--csv", "table", type=click.Path(path_type=Path, dir_okay=False), help="Write every row as CSV.")
@click.option("--json", "lines", type=click.Path(path_type=Path, dir_okay=False), help="Write every row as JSON Lines.")
@for_tenant
def report(run_id: str, tenant: str, html: Path | None, table: Path | None, lines: Path | None) -> None:
    """Report on a bulk run: each decision, what decided it, its policy line, and its job.

    Without a file, the figures are printed. A report may be written while the run continues.

    \b
    Example:
      keyturn report run-0f3c9a7d5e1b2c44 --html report.html --csv report.csv
    """
    with_database(lambda engine: _report(engine, run_id, tenant, html, table, lines))
    for file in (html, table, lines):
        if file is not None:
            click.echo(f"written to {file}", err=True)


async def _report(
    engine: "AsyncEngine", run_id: str, tenant: str, html: Path | None, table: Path | None, lines: Path | None
) -> None:
    from keyturn.bulk.report import Figures, items_of_run
    from keyturn.bulk.report_page import page_of
    from keyturn.bulk.store import BulkStore
    from keyturn.keyring_files import keyring_from_environment
    from keyturn.progress import outcome_in_words
    from keyturn.workers.bulk import run_encryption
    from keyturn.workers.local_settings import load_local_settings

    store, decrypt = BulkStore(engine), run_encryption(keyring_from_environment()).decrypt
    run = await store.run(run_id, tenant_id=tenant)
    await store.update_job_outcomes(run_id, tenant_id=tenant)  # what waited when the run ended may have its job since
    if html is not None:
        cited = load_local_settings().load_catalogue().resolve(run.policy_lines)
        page = await page_of(store, run, list(cited), decrypt)
        await asyncio.to_thread(html.write_text, page, encoding="utf-8")
    if table is not None or lines is not None:
        await _write_rows(items_of_run(store, run, decrypt), table, lines)
    if html is None and table is None and lines is None:
        figures = Figures()
        async for item in items_of_run(store, run, decrypt):
            figures.add(item)
        for name, count in sorted(figures.outcomes.items(), key=lambda one: (one[0] != "disagreement", -one[1])):
            click.echo(f"{count:>9,}  {outcome_in_words(name, count)}")
        by_rule, total = figures.decided_by["rule"], sum(figures.outcomes.values())
        click.echo(f"{by_rule:,} of {total:,} needed no model; the calls cost ${figures.cost_usd:,.4f}")


async def _write_rows(items: Any, table: Path | None, lines: Path | None) -> None:
    import csv
    from contextlib import ExitStack

    from keyturn.bulk.report import COLUMNS
    from keyturn.inventory.cells import escape_formula

    with ExitStack() as files:
        rows = None
        if table is not None:
            rows = csv.DictWriter(files.enter_context(table.open("w", encoding="utf-8", newline="")), COLUMNS)
            rows.writeheader()
        objects = None if lines is None else files.enter_context(lines.open("w", encoding="utf-8"))
        async for item in items:
            if rows is not None:
                lists = {name: " ".join(item[name] or ()) for name in ("policy_lines", "record_ids")}
                rows.writerow({name: escape_formula(value) for name, value in (item | lists).items()})
            if objects is not None:
                objects.write(json.dumps(item, default=str) + "\n")
