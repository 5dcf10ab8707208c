"""The commands of whole estates: `inventory check`, `bulk`, and `runs`."""

import asyncio
import hashlib
import json
import sys
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from keyturn.console import signed_in_user
from keyturn.contracts import Abandonment, BulkOrder, BulkSource, Resumption
from keyturn.errors import InvalidRequest
from workers.jobs_commands import with_database

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from keyturn.bulk.store import Run

_tenant = click.option("--tenant", envvar="KEYTURN_TENANT", default="default", show_default=True, help="Whose.")
_user = click.option("--user", "user_id", envvar="KEYTURN_USER", help="Who you are.  [default: the signed-in user]")
_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
_file = click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
_FORMATS = click.Choice(["aws", "gcloud", "azure", "csv", "jsonl"])
_format = click.option("--format", "form", type=_FORMATS, help="Of the file.  [default: recognised]")
_access_keys = click.option(
    "--access-keys",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="AWS: the output of `aws iam list-access-keys` for the users of the report, which holds no key ids.",
)
_application = click.option("--account", "account_id", help="Azure: the application that the listing is of.")
_observed = click.option(
    "--observed", "observed_at", help="When the inventory was taken.  [default: as it says, or when it was written]"
)
_rejects = click.option(
    "--rejects", type=click.Path(path_type=Path), help="Where rows that cannot be used go.  [default: FILE.rejects...]"
)


@click.group()
def inventory() -> None:
    """Look at an inventory before anything is asked about it."""


@inventory.command()
@_file
@_format
@_access_keys
@_application
@_observed
@_rejects
@click.option("--policy", "policies", multiple=True, help="Say how many keys these lines settle without a model.")
@_as_json
def check(file: Path, policies: tuple[str, ...], as_json: bool, rejects: Path | None, **given: Any) -> None:
    """Read an inventory whole and say what is in it; nothing is asked and nothing is stored.

    Ends with status 1 if there are rows that cannot be used: they are written, with line and reason, to a file that can
    be mended and read again.

    \b
    Example:
      keyturn inventory check report.csv --access-keys keys.json --policy CIS-AWS-4.0-1.14
    """
    from keyturn.bulk.load import items_of
    from keyturn.inventory.read import read, recognised
    from keyturn.inventory.rejects import Rejects
    from keyturn.policy.catalogue import load_catalogue
    from workers.settings import load_local_settings

    read_as = _inventory(file, given)
    catalogue = load_catalogue(load_local_settings().policy_dir) if policies else None
    lines = [] if catalogue is None else [catalogue.current(line_id) for line_id in dict.fromkeys(policies)]
    rejected = Rejects(rejects or _beside(file))
    counts: dict[str, int] = {}
    for item in items_of(read(read_as), lines, always_ask=not lines, reject=rejected.add):
        told = item["outcome"] if item["outcome"] == "bad_row" else (item["reason"] or "to_ask")
        counts[told] = counts.get(told, 0) + 1
    rejected.close()
    form = read_as.format or recognised(file)
    if as_json:
        click.echo(json.dumps({"file": str(file), "format": form, "rows": sum(counts.values()), "counts": counts}))
    else:
        click.echo(f"{file}: {form}, {sum(counts.values()):,} keys and rows")
        for name, count in sorted(counts.items(), key=lambda item: -item[1]):
            click.echo(f"  {count:>9,}  {name.replace('_', ' ')}")
    _tell_rejects(rejected)
    if rejected.count:
        raise click.exceptions.Exit(1)


@click.command()
@_file
@click.option("--policy", "policies", multiple=True, help="A policy line to judge under; repeatable.")
@click.option("--question", default="May this key be rotated?", show_default=True, help="What is asked of each key.")
@click.option(
    "--task", type=click.Choice(["decide_rotation", "summarize_scan"]), default="decide_rotation", show_default=True
)
@_format
@_access_keys
@_application
@_observed
@_rejects
@click.option("--always-ask", is_flag=True, help="Ask the model about every key, also where the evidence settles it.")
@click.option(
    "--offline", is_flag=True, help="Ask by the provider's batch endpoint first: within a day, half the price."
)
@click.option("--max-usd", type=Decimal, help="Pause when the model calls have cost this much.")
@click.option("--name", help="Of the run.  [default: from the file and the policy lines, so that it is not run twice]")
@click.option("--detach", is_flag=True, help="Start it and leave; `keyturn watch bulk:TENANT:RUN` follows it.")
@_tenant
@_user
@_as_json
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
    """Judge every key of an inventory; each that is due gets its one rotation, and so its one job.

    The same command again goes on where it was: nothing is asked twice. Ctrl-C leaves the run, which goes on.

    \b
    Example:
      keyturn bulk report.csv --access-keys keys.json --policy CIS-AWS-4.0-1.14
      keyturn bulk scan.jsonl --task summarize_scan --detach
    """
    from keyturn.bulk.load import digest_of
    from keyturn.inventory.rejects import Rejects

    source = _source(file, task=task, policies=policies, user_id=user_id or signed_in_user(), given=given)
    digest = digest_of(source, file)
    run_id = name or f"run-{hashlib.sha256(f'{tenant} {digest}'.encode()).hexdigest()[:16]}"
    order = _checked(lambda: BulkOrder(run_id=run_id, tenant_id=tenant, max_usd=max_usd, offline=offline))
    rejected = Rejects(rejects or _beside(file))
    run = with_database(lambda engine: _load(engine, source, order, rejected, digest))
    rejected.close()
    _tell_rejects(rejected)
    outcome = _run(order, watch=not detach, asks=run.asks, as_json=as_json)
    if as_json:
        click.echo(json.dumps({"run": run_id, "workflow_id": f"bulk:{tenant}:{run_id}"} | outcome))
    elif detach:
        click.echo(f"bulk:{tenant}:{run_id}")


@click.group(invoke_without_command=True)
@_tenant
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="How many, newest first.")
@_as_json
@click.pass_context
def runs(context: click.Context, tenant: str, limit: int, as_json: bool) -> None:
    """List bulk runs, newest first; or pause, resume or cancel one.

    \b
    Example:
      keyturn runs pause run-0f3c...
    """
    if context.invoked_subcommand is not None:
        return
    rows = with_database(lambda engine: _listed(engine, tenant, limit))
    if as_json:
        click.echo(json.dumps({"runs": rows}, default=str))
        return
    for row in rows:
        state = row["ended"] or ("open" if row["loaded_at"] else "loading")
        click.echo(f"{row['run_id']:24}  {row['created_at']:%Y-%m-%d %H:%M}Z  {state:10}  {row['source']}")
    if not rows:
        click.echo(f"tenant {tenant} has no run", err=True)


@runs.command()
@_tenant
@_user
@click.argument("run_id")
def pause(run_id: str, tenant: str, user_id: str | None) -> None:
    """Begin no further page of a run; what is being asked may end."""
    _tell(run_id, tenant, "pause", _checked(lambda: Resumption(operator=user_id or signed_in_user())))


@runs.command()
@_tenant
@_user
@click.argument("run_id")
def resume(run_id: str, tenant: str, user_id: str | None) -> None:
    """Go on with a run that is paused, by hand or by failures that were mended."""
    _tell(run_id, tenant, "resume", _checked(lambda: Resumption(operator=user_id or signed_in_user())))


@runs.command()
@_tenant
@_user
@click.option("--reason", required=True, help="Why; a line.")
@click.argument("run_id")
def cancel(run_id: str, tenant: str, user_id: str | None, reason: str) -> None:
    """Ask about nothing more. Rotations that were begun go on; the same `keyturn bulk` goes on with the rest."""
    wish = _checked(lambda: Abandonment(operator=user_id or signed_in_user(), reason=reason))
    _tell(run_id, tenant, "cancel", wish)


def _inventory(file: Path, given: dict[str, Any]) -> Any:
    from keyturn.inventory.read import Inventory

    return Inventory(
        file=file,
        format=given["form"],
        observed_at=_moment(given["observed_at"]),
        account_id=given["account_id"],
        access_keys=given["access_keys"],
    )


def _source(file: Path, *, task: str, policies: tuple[str, ...], user_id: str, given: dict[str, Any]) -> BulkSource:
    keys = given["access_keys"]
    source: BulkSource = _checked(
        lambda: BulkSource(
            path=str(file),
            task=task,
            policies=tuple(dict.fromkeys(policies)),
            question=given["question"] if task == "decide_rotation" else "",
            format=given["form"],
            access_keys=None if keys is None else str(keys),
            account_id=given["account_id"],
            observed_at=_moment(given["observed_at"]),
            always_ask=given["always_ask"],
            user_id=user_id,
        )
    )
    return source


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    moment: datetime | None = None
    with suppress(ValueError):
        moment = datetime.fromisoformat(text)
    if moment is None or moment.tzinfo is None:
        raise InvalidRequest("--observed: is not a moment with its time zone, such as 2026-11-21T09:00:00Z")
    if moment > datetime.now(UTC):
        raise InvalidRequest("--observed lies in the future: evidence is what was seen")
    return moment


def _checked(build: Any) -> Any:
    try:
        return build()
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        name = {"policies": "--policy", "run_id": "--name", "user_id": "--user", "operator": "--user"}
        where = str(fault["loc"][0]) if fault["loc"] else "policies"
        message = fault["msg"].removeprefix("Value error, ")
        raise InvalidRequest(f"{name.get(where, f'--{where}'.replace('_', '-'))}: {message}") from None


def _beside(file: Path) -> Path:
    return file.with_name(f"{file.stem}.rejects{'.csv' if file.suffix == '.csv' else '.jsonl'}")


def _tell_rejects(rejected: Any) -> None:
    if rejected.count:
        click.echo(f"{rejected.count:,} rows cannot be used: {rejected.file} has each with its reason", err=True)


async def _load(engine: "AsyncEngine", source: BulkSource, order: BulkOrder, rejected: Any, digest: str) -> "Run":
    from keyturn.bulk.store import BulkStore
    from keyturn.keyring import keyring_from_environment
    from keyturn.policy.catalogue import load_catalogue
    from workers.bulk import load_source, run_seals
    from workers.settings import load_local_settings
    from workflows.bulk import bulk_id

    catalogue = load_catalogue(load_local_settings().policy_dir)
    seals = run_seals(keyring_from_environment())
    run = await load_source(
        source,
        order.run_id,
        order.tenant_id,
        bulk_id(order.tenant_id, order.run_id),
        BulkStore(engine),
        catalogue,
        seals,
        told=_counter(),
        reject=rejected.add,
        digest=digest,
    )
    if sys.stderr.isatty():
        click.echo("", err=True)
    if run.source_digest != digest:
        raise InvalidRequest(f"--name: {order.run_id} is a run of another inventory, or asks something else of it")
    return run


def _to_error(text: str, newline: bool) -> None:
    click.echo(text, err=True, nl=newline)


def _counter() -> Any:
    def told(count: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{count:,} rows read", err=True, nl=False)

    return told


def _run(order: BulkOrder, *, watch: bool, asks: int, as_json: bool) -> dict[str, Any]:
    from keyturn.progress import shown
    from workers.settings import load_local_settings
    from workflows.connection import connect, refusals_named
    from workflows.runs import follow, start_run

    async def run() -> dict[str, Any]:
        with refusals_named():
            handle = await start_run(await connect(), order, task_queue=load_local_settings().task_queue)
            if not watch:
                return {"asks": asks}
            last = await shown(follow(handle), tell=_to_error, live=sys.stderr.isatty(), quiet=as_json)
            return {} if last is None else last.progress.model_dump(mode="json") | {"phase": last.phase}

    try:
        return asyncio.run(run())
    except KeyboardInterrupt:
        click.echo(f"\nthe run goes on: keyturn watch bulk:{order.tenant_id}:{order.run_id}", err=True)
        raise click.exceptions.Exit(0) from None


async def _listed(engine: "AsyncEngine", tenant: str, limit: int) -> list[dict[str, Any]]:
    from keyturn.bulk.store import BulkStore

    rows = await BulkStore(engine).runs(tenant_id=tenant, limit=limit)
    return [{name: value for name, value in row.items() if name != "question"} for row in rows]


def _tell(run_id: str, tenant: str, update: str, wish: Any) -> None:
    from keyturn.bulk.store import BulkStore
    from workflows.answering import answer
    from workflows.connection import connect, refusals_named
    from workflows.runs import handle_of_run

    async def run(engine: "AsyncEngine") -> None:
        workflow_id = (await BulkStore(engine).run(run_id, tenant_id=tenant)).workflow_id
        with refusals_named():
            await answer(handle_of_run(await connect(), workflow_id), update, wish)

    with_database(run)
    click.echo(f"{update}: {run_id}")


@click.command()
@click.argument("run_id")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write one self-contained page.")
@click.option("--csv", "table", type=click.Path(path_type=Path, dir_okay=False), help="Write every row as CSV.")
@click.option("--json", "lines", type=click.Path(path_type=Path, dir_okay=False), help="Write every row as JSON Lines.")
@_tenant
def report(run_id: str, tenant: str, html: Path | None, table: Path | None, lines: Path | None) -> None:
    """Report on a bulk run: what was decided, by whom, under which line, and which jobs came of it.

    Without a file, the figures are printed. It may be asked for while the run goes on.

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
    from keyturn.bulk.report import Figures, items_of_run, page_of
    from keyturn.bulk.store import BulkStore
    from keyturn.keyring import keyring_from_environment
    from keyturn.policy.catalogue import load_catalogue
    from workers.bulk import run_seals
    from workers.settings import load_local_settings

    store, unseal = BulkStore(engine), run_seals(keyring_from_environment()).unseal
    run = await store.run(run_id, tenant_id=tenant)
    await store.settle_jobs(run_id, tenant_id=tenant)  # what waited when the run ended may have its job since
    if html is not None:
        cited = load_catalogue(load_local_settings().policy_dir).resolve(run.policy_lines)
        page = await page_of(store, run, list(cited), unseal)
        await asyncio.to_thread(html.write_text, page, encoding="utf-8")
    if table is not None or lines is not None:
        await _write_rows(items_of_run(store, run, unseal), table, lines)
    if html is None and table is None and lines is None:
        figures = Figures()
        async for item in items_of_run(store, run, unseal):
            figures.add(item)
        for name, count in figures.outcomes.most_common():
            click.echo(f"{count:>9,}  {name.replace('_', ' ')}")
        by_rule, total = figures.decided_by["rule"], sum(figures.outcomes.values())
        click.echo(f"{by_rule:,} of {total:,} needed no model; the calls cost ${figures.cost_usd:,.4f}")


def _cell(value: Any) -> Any:
    """A text as a spreadsheet shows it and does not calculate it: a summary is a model's, and may begin with = or @."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@"} else value


async def _write_rows(items: Any, table: Path | None, lines: Path | None) -> None:
    import csv
    from contextlib import ExitStack

    from keyturn.bulk.report import COLUMNS

    with ExitStack() as files:
        rows = None
        if table is not None:
            rows = csv.DictWriter(files.enter_context(table.open("w", encoding="utf-8", newline="")), COLUMNS)
            rows.writeheader()
        objects = None if lines is None else files.enter_context(lines.open("w", encoding="utf-8"))
        async for item in items:
            if rows is not None:
                lists = {name: " ".join(item[name] or ()) for name in ("policy_lines", "record_ids")}
                rows.writerow({name: _cell(value) for name, value in (item | lists).items()})
            if objects is not None:
                objects.write(json.dumps(item, default=str) + "\n")
