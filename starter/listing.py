"""`keyturn list`."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, get_args

import click

from keyturn.application.rotation_lists import ListedRotation, RotationFilter, RotationState
from keyturn.contracts import UNOWNED, Owner
from keyturn.moments import relative_to
from keyturn.starter.faults import validate_as

if TYPE_CHECKING:
    from keyturn.owners import Owners

_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
_tenant = click.option("--tenant", envvar="KEYTURN_TENANT", default="default", show_default=True, help="Tenant ID.")
PAGE = 500  # rows that the server is asked for at once


@click.command("list")
@_tenant
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(get_args(RotationState)),
    help="Filter by state; repeatable.",
)
@click.option("--account", "account_id", help="Filter by account ID.")
@click.option("--key-id", help="Filter by key ID, together with --account.")
@click.option("--policy", "line", help="Filter by policy line, as ID@VERSION.")
@click.option("--owner", help="Filter by owner, as it was when it was asked; `unowned` for keys without one.")
@click.option("--older-than-days", type=click.IntRange(0, 36_500), help="Filter by age: started over so many days ago.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 100_000), help="Maximum number of rows.")
@_as_json
def list_rotations(
    tenant: str,
    states: tuple[RotationState, ...],
    account_id: str | None,
    key_id: str | None,
    line: str | None,
    owner: str | None,
    older_than_days: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """List rotations: open ones first, then those that completed last.

    \b
    Example:
      keyturn list --state awaiting_approval --state disagreement
      keyturn list --account acct_10234 --json
    """
    from keyturn.owners import load_owners

    before = None if older_than_days is None else datetime.now(UTC) - timedelta(days=older_than_days)
    owners, whose = load_owners(), None if owner is None else validate_as(Owner, owner, "--owner")
    chosen = RotationFilter(states, account_id, key_id, line, whose, before)
    rows, is_whole = asyncio.run(_rows(chosen, tenant, limit))
    if as_json:
        click.echo(json.dumps({"rotations": [_as_object(row, owners) for row in rows], "more": not is_whole}))
        return
    for line_of_table in _table(rows, owners):
        click.echo(line_of_table)
    if not rows:
        of_it = "" if whose is None else f": owners are as they are written, capitals included ({whose})"
        click.echo(f"no rotation of tenant {tenant} matches{of_it}", err=True)
    if not is_whole:
        click.echo(f"{len(rows):,} shown, and there are more: --limit shows them", err=True)


async def _rows(chosen: RotationFilter, tenant: str, limit: int) -> tuple[list[ListedRotation], bool]:
    """Return the rows, and whether they are all."""
    from keyturn.application.connection import connect, map_refusals
    from keyturn.application.rotation_lists import list_rotations as page_of

    rows: list[ListedRotation] = []
    after = None
    with map_refusals():
        client = await connect()
        while len(rows) < limit:
            size = min(PAGE, limit - len(rows))
            page = await page_of(client, chosen, tenant=tenant, limit=size, after=after)
            rows += page.rows
            after = page.after
            if after is None:
                return rows, True
    return rows, False


def _owner_of(row: ListedRotation, owners: "Owners") -> str | None:
    subject = row.subject
    return owners.owner_of(subject.account_id, subject.key_id, subject.owner) if subject else None


def _as_object(row: ListedRotation, owners: "Owners") -> dict[str, Any]:
    return {
        "workflow_id": row.workflow_id,
        "state": row.state,
        "reason": row.reason,
        "account_id": row.subject.account_id if row.subject else None,
        "key_id": row.subject.key_id if row.subject else None,
        "requested_by": row.subject.requested_by if row.subject else None,
        "owner": _owner_of(row, owners),
        "policy_lines": list(row.policy_lines),
        "started_at": row.started_at.isoformat(),
        "closed_at": row.closed_at.isoformat() if row.closed_at else None,
    }


def _table(rows: Sequence[ListedRotation], owners: "Owners") -> list[str]:
    """Return the lines of a table, its columns as wide as they need to be."""
    now = datetime.now(UTC)
    cells = [("STATE", "KEY", "ACCOUNT", "OWNER", "POLICY", "ASKED BY", "ASKED", "ID")] if rows else []
    for row in rows:
        subject = row.subject
        names = (subject.key_id, subject.account_id, _owner_of(row, owners) or UNOWNED) if subject else ("?", "?", "?")
        asked_by = subject.requested_by if subject else "?"
        state = row.state.replace("_", " ") + (f" ({row.reason})" if row.state == "parked" else "")
        asked = relative_to(now, row.started_at)
        cells.append((state, *names, ",".join(row.policy_lines), asked_by, asked, row.workflow_id))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
