"""`keyturn freeze`, `thaw` and `freezes`: stop the changes of every rotation at once, and let them continue."""

import json
import math
from datetime import UTC, datetime, timedelta

import click

from keyturn.console import counted, printable, signed_in_user
from keyturn.contracts import Identifier, Reason
from keyturn.moments import in_utc
from keyturn.starter.database import with_database
from keyturn.starter.faults import validate_as

_tenant = click.option("--tenant", envvar="KEYTURN_TENANT", default="default", show_default=True, help="Tenant ID.")
_user = click.option("--user", envvar="KEYTURN_USER", help="Your user name.  [default: the signed-in user]")
MOST_HOURS = 8_760  # a year: a longer freeze is a decision to rotate nothing


@click.command()
@_tenant
@click.option("--reason", required=True, help="Reason, one line, for the operators of delayed rotations.")
@click.option(
    "--cloud-account",
    help="Only rotations in this cloud account, as `keyturn jobs show` has it: a number, project or tenant.",
)
@click.option(
    "--hours", type=click.FloatRange(min=0, min_open=True, max=MOST_HOURS), help="Hours after which it ends by itself."
)
@_user
def freeze(tenant: str, reason: str, cloud_account: str | None, hours: float | None, user: str | None) -> None:
    """Freeze rotations: no key is created, deactivated or deleted until it ends. A rollback is never delayed.

    Executors notice it before their next change. Decisions and jobs are created as before.

    \b
    Example:
      keyturn freeze --reason "incident 4711" --hours 4
    """
    from keyturn.execution.contracts import CloudAccount
    from keyturn.freezes.store import FreezeStore

    who, why = validate_as(Identifier, user or signed_in_user(), "--user"), validate_as(Reason, reason, "--reason")
    if hours is not None and math.isnan(hours):
        raise click.BadParameter("not a number of hours", param_hint="--hours")
    if cloud_account is not None:
        validate_as(CloudAccount, cloud_account, "--cloud-account")
    until = None if hours is None else datetime.now(UTC) + timedelta(hours=hours)
    named = {"tenant_id": tenant, "by": who, "reason": why, "cloud_account": cloud_account, "until": until}
    freeze_id = with_database(lambda engine: FreezeStore(engine).start(**named))
    ends = f"until {in_utc(until)}" if until else f"until `keyturn thaw {freeze_id}`"
    click.echo(f"{freeze_id}  rotations of {cloud_account or f'tenant {tenant}'} are frozen {ends}")


@click.command()
@_tenant
@_user
@click.argument("freeze_id", required=False)
def thaw(tenant: str, user: str | None, freeze_id: str | None) -> None:
    """End one freeze, or all of a tenant. Rotations continue within five minutes, or by `keyturn resume`."""
    from keyturn.freezes.store import FreezeStore

    who = validate_as(Identifier, user or signed_in_user(), "--user")
    ended = with_database(lambda engine: FreezeStore(engine).end(tenant_id=tenant, by=who, freeze_id=freeze_id))
    click.echo(f"{counted(ended, 'freeze')} ended")
    if not ended:
        which = f" with the ID {freeze_id}" if freeze_id else ""
        click.echo(f"tenant {tenant} has no freeze{which} that holds now: keyturn freezes lists them", err=True)
        raise click.exceptions.Exit(1)


@click.command()
@_tenant
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
def freezes(tenant: str, as_json: bool) -> None:
    """List the freezes that hold now, oldest first."""
    from keyturn.freezes.store import FreezeStore

    rows = with_database(lambda engine: FreezeStore(engine).active(tenant_id=tenant))
    if as_json:
        output = {"freezes": [dict(row) for row in rows]}
        click.echo(json.dumps(output, default=lambda moment: moment.isoformat()))
        return
    for row in rows:
        until = f"until {in_utc(row['until'])}" if row["until"] else "until it is thawed"
        scope = row["cloud_account"] or "every account"
        since = in_utc(row["started_at"])
        click.echo(
            printable(f"{row['freeze_id']}  {scope}  since {since} {until}  {row['started_by']}  {row['reason']}")
        )
    if not rows:
        click.echo(f"no freeze of tenant {tenant} holds", err=True)
