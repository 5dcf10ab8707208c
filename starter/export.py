"""`keyturn export`: the audit trail for an archive or a SIEM, and its check."""

import dataclasses
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keyturn.console import counted
from keyturn.errors import InvalidRequest, SettingsInvalid
from keyturn.starter.database import with_database
from keyturn.starter.inventory_options import for_tenant

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from keyturn.audit_export import Verified

KEY = "KEYTURN_EXPORT_KEY"
_export = click.Path(path_type=Path, exists=True, dir_okay=False)
_day: Callable[..., datetime] = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"])


@click.group()
def export() -> None:
    """Export the audit trail as signed, hash-chained JSON Lines, and verify such files."""


@export.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--since", type=_day, help="First moment (UTC).  [default: the end of --previous, or the first event]")
@click.option(
    "--until", type=_day, help="End, not included (UTC).  [default: 26 hours ago; events may be late by a day]"
)
@click.option("--recent", is_flag=True, help="Export up to now; no other export can continue this one.")
@click.option("--previous", metavar="FILE", type=_export, help="The export before this one, which this one continues.")
@click.option("--previous-key", help="Public key of --previous, in base64.  [default: that of KEYTURN_EXPORT_KEY]")
@for_tenant
def audit(
    file: Path,
    since: datetime | None,
    until: datetime | None,
    recent: bool,
    previous: Path | None,
    previous_key: str | None,
    tenant: str,
) -> None:
    """Write who did what with rotations and jobs, signed with the key in KEYTURN_EXPORT_KEY.

    \b
    Example:
      keyturn export audit audit-2026-11.jsonl --since 2026-11-01 --until 2026-12-01 --previous audit-2026-10.jsonl
    """
    from keyturn.audit_events import events_of
    from keyturn.audit_export import public_key_of, read_signing_key, write_export

    if not os.environ.get(KEY):
        raise SettingsInvalid(f"{KEY} is not set: `keyturn export key` prints a new key")
    key = read_signing_key(os.environ[KEY])
    before = None if previous is None else _verified(previous, previous_key or public_key_of(key))
    start, end = _span(since, until, before, recent=recent)
    if before is not None and before.tenant_id != tenant:
        raise InvalidRequest(f"--previous: it is an export of the tenant {before.tenant_id}")
    if file.exists():
        raise InvalidRequest(f"{file} exists: an export is never written over another file")
    # Whole or not at all, and readable by its owner alone.
    part = file.with_name(f".{file.name}.{os.getpid()}")

    async def run(engine: "AsyncEngine") -> int:
        with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii") as opened:
            return await write_export(
                events_of(engine, tenant_id=tenant, since=start, until=end),
                opened.write,
                key=key,
                tenant_id=tenant,
                since=start,
                until=end,
                previous=None if before is None else before.end,
            )

    try:
        count = with_database(run)
        os.link(part, file)
    finally:
        part.unlink(missing_ok=True)
    click.echo(f"{counted(count, 'event')} written to {file}", err=True)


def _span(
    since: datetime | None, until: datetime | None, before: "Verified | None", *, recent: bool
) -> tuple[datetime | None, datetime]:
    """Return from when to when is exported; raises InvalidRequest."""
    from keyturn.audit_export import SETTLED_AFTER

    now = datetime.now(UTC)
    start, end = (moment and moment.replace(tzinfo=UTC) for moment in (since, until))
    if recent and end is not None:
        raise InvalidRequest("--recent exports up to now: leave out --until")
    latest = now if recent else now - SETTLED_AFTER
    end = end or latest
    if end > latest:
        raise InvalidRequest(f"--until: events before {end:%Y-%m-%d %H:%M}Z may still be written; see --recent")
    if before is not None:
        if not before.complete:
            raise InvalidRequest("--previous: it was written with --recent, and cannot be continued")
        start = start or datetime.fromisoformat(before.until)
        if start.isoformat() != before.until:
            raise InvalidRequest(f"--since: the export before this one ends at {before.until}")
    if start is not None and start >= end:
        raise InvalidRequest("--since: it is not before --until")
    return start, end


def _verified(file: Path, public_key: str | None) -> "Verified":
    from keyturn.audit_export import verify_export

    with file.open("rb") as lines:
        return verify_export(lines, public_key=public_key)


@export.command()
@click.argument("file", type=_export)
@click.option("--public-key", help="Key that must have signed it, in base64.  [default: the one that the file names]")
@click.option("--previous", metavar="FILE", type=_export, help="The export that it must continue.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
def verify(file: Path, public_key: str | None, previous: Path | None, as_json: bool) -> None:
    """Check that nothing of an export was changed, left out, moved or cut off. Exit status 1 if it was.

    \b
    Example:
      keyturn export verify audit-2026-11.jsonl --public-key "$PUBLIC_KEY" --previous audit-2026-10.jsonl
    """
    found = _verified(file, public_key)
    if previous is not None:
        found.expect_continues(_verified(previous, public_key))
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found)))
        return
    signed = "by the key named" if public_key else "by the key that it names: --public-key says whose it must be"
    span = f"from {found.since or 'the first event'} until {found.until}"
    click.echo(f"valid: {counted(found.events, 'event')} of tenant {found.tenant_id} {span}, signed {signed}")
    if not found.complete:
        click.echo("not complete: events of its last day may have been written after it", err=True)


@export.command()
def key() -> None:
    """Print a new signing key for KEYTURN_EXPORT_KEY, and its public key, which verifiers need.

    \b
    Example:
      keyturn export key
    """
    from keyturn.audit_export import new_signing_key

    private, public = new_signing_key()
    click.echo(f"{KEY}={private}")
    click.echo(f"# public key, for `keyturn export verify --public-key`: {public}")
