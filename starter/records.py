"""`calls` and `costs` read the ledger, `cache` clears cached responses, `ask` asks one question."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import click

from keyturn.console import counted, cut
from keyturn.errors import InvalidRequest
from keyturn.moments import in_utc

T = TypeVar("T")
_STATUSES = ["ok", "invalid_output", "timeout", "failed", "cancelled"]
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
_tenant = click.option("--tenant", envvar="KEYTURN_TENANT", help="Filter by tenant ID.  [default: all tenants]")


@click.command()
@_tenant
@click.option("--task", help="Filter by task, such as decide_rotation.")
@click.option("--status", type=click.Choice(_STATUSES), help="Filter by status.")
@click.option("--trace-id", help="Filter by trace ID.")
@click.option(
    "--limit",
    default=50,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="Maximum number of rows, newest first.",
)
@_as_json
def calls(
    tenant: str | None, task: str | None, status: str | None, trace_id: str | None, limit: int, as_json: bool
) -> None:
    """List model calls, newest first: model, status, latency, tokens and cost.

    \b
    Example:
      keyturn calls --status failed --limit 5 --json
    """

    async def read(store: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await store.calls(
            limit=limit + 1, tenant_id=tenant, task=task, status=status, trace_id=trace_id
        )
        return found

    found = cut(_from_ledger(read), limit)
    if as_json:
        click.echo(json.dumps({"calls": found}, default=_plain))
        return
    for row in found:
        ended = row["status"] if row["failure"] is None else f"{row['status']} ({row['failure']})"
        tokens = (
            "tokens unknown" if row["input_tokens"] is None else f"{row['input_tokens']}+{row['output_tokens']} tokens"
        )
        kept = ", cached response" if row["cache_hit"] else ""
        click.echo(
            f"{in_utc(row['called_at'])}  {row['task']}  {row['provider']}:{row['model']}  {ended}{kept}  "
            f"{row['latency_ms']:.0f} ms  {tokens}  {_dollars(row['cost_usd'])}  {row['trace_id']}"
        )
    if not found:
        click.echo("no calls yet", err=True)


@click.command()
@click.option(
    "--by", type=click.Choice(["task", "model", "user", "day"]), default="task", show_default=True, help="Group by."
)
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="First day (UTC).  [default: 30 days ago]")
@_tenant
@_as_json
def costs(by: Any, since: datetime | None, tenant: str | None, as_json: bool) -> None:
    """Sum what model calls cost, by task, model, user or day.

    \b
    Example:
      keyturn costs --by model --since 2026-11-01
    """
    from keyturn.ledger.store import midnight

    begin = since.replace(tzinfo=UTC) if since else midnight(datetime.now(UTC)) - timedelta(days=30)

    async def read(store: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await store.costs(by, since=begin, tenant_id=tenant)
        return found

    found = _from_ledger(read)
    total = sum((row["cost_usd"] or Decimal(0) for row in found), Decimal(0))
    if as_json:
        output = {"since": begin.isoformat(), "by": by, "costs": found, "total_usd": total}
        click.echo(json.dumps(output, default=_plain))
        return
    width = max((len(str(row[by])) for row in found), default=0)
    for row in found:
        unpriced = f", {row['unpriced']} unpriced" if row["unpriced"] else ""
        hits = f", {row['cache_hits']} from cached responses" if row["cache_hits"] else ""
        cached = f" ({row['cached_tokens']:,} cached)" if row["cached_tokens"] else ""
        click.echo(
            f"{row[by]:{width}}  {_dollars(row['cost_usd']):>12}  {counted(row['calls'], 'call')}{hits}{unpriced}  "
            f"{row['input_tokens']:,} tokens in{cached}, {row['output_tokens']:,} out"
        )
    click.echo(f"{_dollars(total)} since {begin:%Y-%m-%d}", err=True)


@click.group()
def cache() -> None:
    """Manage the response cache of repeatable tasks."""


@cache.command()
@click.option("--task", help="Filter by task.")
@click.option("--prompt-version", help="Filter by prompt version, such as rotation_decision@1.")
@click.option("--catalogue-version", help="Filter by catalogue version.")
@click.option("--expired", is_flag=True, help="Clear only expired responses.")
def clear(task: str | None, prompt_version: str | None, catalogue_version: str | None, expired: bool) -> None:
    """Clear cached responses: all, or those that match every filter.

    A new prompt version or policy catalogue needs no clearing: both are part of a response's key.

    \b
    Example:
      keyturn cache clear --task summarize_scan
    """
    from keyturn.cache.sql import SqlCache
    from keyturn.database import open_database
    from keyturn.workers.local_settings import load_local_settings

    async def forget() -> int:
        settings = load_local_settings()
        chosen = {"task": task, "prompt_version": prompt_version, "catalogue_version": catalogue_version}
        if settings.redis_url is not None:
            from keyturn.cache.redis import RedisCache

            shared = RedisCache(settings.redis_url.get_secret_value())
            try:
                return await shared.clear(**chosen, expired_only=expired)
            finally:
                await shared.close()
        engine = open_database(settings.database_url, pool_size=1)
        try:
            return await SqlCache(engine).clear(**chosen, expired_only=expired)
        finally:
            await engine.dispose()

    _check_schema()
    click.echo(f"{counted(asyncio.run(forget()), 'cached response')} cleared")


@click.command()
@click.argument("task")
@click.option(
    "--request",
    "file",
    default="-",
    type=click.Path(path_type=Path, allow_dash=True),
    help="JSON file of the request; - reads standard input.",
)
def ask(task: str, file: Path) -> None:
    """Ask a model one task, once, without a workflow: try a task, a prompt or a route.

    The request is the task's own, as JSON; a missing trace_id is generated. Needs a worker's settings. Exit status 3 if
    the answer was rejected.

    \b
    Example:
      echo '{"policy_lines": [{"id": "P-7", "version": 1}]}' | keyturn ask summarize_policy
    """
    from keyturn.rotations.decisions import Rejection
    from keyturn.workers.asking import ask_once, request_of
    from keyturn.workers.settings import load_settings
    from keyturn.workers.telemetry import configure_logging

    text = sys.stdin.read() if str(file) == "-" else _read(file)
    request = request_of(task, text)
    settings = load_settings()
    configure_logging(settings.log_format)
    _check_schema()
    judged = asyncio.run(ask_once(settings, request))
    output = {"verdict": judged.verdict.model_dump(mode="json"), "call": judged.call.model_dump(mode="json")}
    click.echo(json.dumps(output))
    if isinstance(judged.verdict, Rejection):
        raise click.exceptions.Exit(3)


def _from_ledger(read: Callable[[Any], Awaitable[T]]) -> T:
    from keyturn.database import open_database
    from keyturn.ledger.store import LedgerStore
    from keyturn.workers.local_settings import load_database_url

    async def run() -> T:
        engine = open_database(load_database_url(), pool_size=1)
        try:
            return await read(LedgerStore(engine))
        finally:
            await engine.dispose()

    _check_schema()
    return asyncio.run(run())


def _check_schema() -> None:
    from keyturn.workers.local_settings import load_database_url
    from keyturn.workers.schema import check_schema

    check_schema(load_database_url())


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"--request {file}: cannot be read: {type(error).__name__}") from None


def _dollars(cost: Decimal | None) -> str:
    return "price unknown" if cost is None else f"${cost:.6f}"


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
