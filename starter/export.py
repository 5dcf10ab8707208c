"""`keyturn export`: the audit trail for an archive or a SIEM, and its check."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click

from keyturn.console import counted
from keyturn.errors import SettingsInvalid
from keyturn.starter.database import with_database
from keyturn.starter.inventory_options import for_tenant

KEY = "KEYTURN_EXPORT_KEY"
_day: Callable[..., datetime] = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"])


@click.group()
def export() -> None:
    """Export the audit trail as signed, hash-chained JSON Lines, and verify such files."""


@export.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--since", type=_day, help="First moment (UTC).  [default: the first event]")
@click.option("--until", type=_day, help="End, not included (UTC).  [default: now]")
@click.option("--previous", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="The export before this one, which this one then continues.")  # fmt: skip
@for_tenant
def audit(file: Path, since: datetime | None, until: datetime | None, previous: Path | None, tenant: str) -> None:
    """Write who did what with rotations and jobs, signed with the key in KEYTURN_EXPORT_KEY.

    \b
    Example:
      keyturn export audit audit-2026-11.jsonl --since 2026-11-01 --until 2026-12-01 --previous audit-2026-10.jsonl
    """
    from keyturn.audit_export import events_of, read_signing_key, verify_export, write_export

    if not os.environ.get(KEY):
        raise SettingsInvalid(f"{KEY} is not set: `keyturn export key` prints a new key")
    key = read_signing_key(os.environ[KEY])
    start, end = (moment and moment.replace(tzinfo=UTC) for moment in (since, until))
    end = end or datetime.now(UTC)
    before = None
    if previous is not None:
        with previous.open(encoding="utf-8") as lines:
            before = verify_export(lines).end

    async def run(engine: object) -> int:
        with file.open("w", encoding="utf-8") as opened:
            return await write_export(
                events_of(engine, tenant_id=tenant, since=start, until=end),  # type: ignore[arg-type]
                opened.write,
                key=key,
                tenant_id=tenant,
                since=start,
                until=end,
                previous=before,
            )

    count = with_database(run)
    click.echo(f"{counted(count, 'event')} written to {file}", err=True)


@export.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--public-key", help="Key that must have signed it, in base64.  [default: the one that the file names]")
@click.option("--previous", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="The export that it must continue.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
def verify(file: Path, public_key: str | None, previous: Path | None, as_json: bool) -> None:
    """Check that nothing of an export was changed, left out, moved or cut off. Exit status 1 if it was.

    \b
    Example:
      keyturn export verify audit-2026-11.jsonl --public-key "$PUBLIC_KEY" --previous audit-2026-10.jsonl
    """
    from keyturn.audit_export import ExportInvalid, verify_export

    with file.open(encoding="utf-8", errors="replace") as lines:
        found = verify_export(lines, public_key=public_key)
    if previous is not None:
        with previous.open(encoding="utf-8", errors="replace") as lines:
            if verify_export(lines, public_key=public_key).end != found.previous:
                raise ExportInvalid(f"it does not continue {previous}")
    if as_json:
        click.echo(json.dumps({"tenant_id": found.tenant_id, "events": found.events, "end": found.end}))
        return
    signed = "by the key named" if public_key else "by the key that it names: --public-key says whose it must be"
    click.echo(f"valid: {counted(found.events, 'event')} of tenant {found.tenant_id}, signed {signed}")


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
