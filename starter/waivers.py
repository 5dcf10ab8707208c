"""`keyturn waivers`: exempt keys from rotation until a date, list what is exempt, and end an exemption."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keyturn.console import counted, cut, printable, signed_in_user
from keyturn.contracts import Identifier
from keyturn.moments import in_utc, last_moment
from keyturn.starter.database import with_database
from keyturn.starter.faults import naming_options, validate_as
from keyturn.starter.jobs import lists
from keyturn.starter.policy_options import policy_options

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


_tenant = click.option("--tenant", envvar="KEYTURN_TENANT", default="default", show_default=True, help="Tenant ID.")
_user = click.option("--user", envvar="KEYTURN_USER", help="Your user name.  [default: the signed-in user]")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
ALL = 1_000  # more than a person reads; `keyturn export audit` has all of them
SOON_DAYS = 14  # within which a waiver's end is pointed out: two weeks to renew it, or to plan the rotation


@click.group(invoke_without_command=True)
@_tenant
@click.option("--all", "ended", is_flag=True, help="List those that have ended, too, newest first, 1,000 at most.")
@_as_json
@click.pass_context
def waivers(context: click.Context, tenant: str, ended: bool, as_json: bool) -> None:
    """List the waivers in force, soonest to end first; or grant and end them by a subcommand.

    A waived key is judged as before, and gets no job while its waiver holds.

    \b
    Example:
      keyturn waivers
      keyturn waivers grant --account 'svc-legacy-*' --policy P-7 --until 2027-01-31 --reason "vendor replaces it"
    """
    if not lists(context):
        return
    from keyturn.waivers.store import WaiverStore

    if ended:
        _list_all(tenant, as_json=as_json)
        return
    found = with_database(lambda engine: WaiverStore(engine).active(tenant_id=tenant))
    if as_json:
        click.echo(json.dumps({"waivers": [one.model_dump(mode="json") for one in found]}))
        return
    now = datetime.now(UTC)
    for one in found:
        days = (one.until - now).days
        soon = f"  ends in {counted(days, 'day')}" if days < SOON_DAYS else ""
        line = f"{one.waiver_id}  until {in_utc(one.until)}  {one.scope}  by {one.granted_by}: {one.reason}{soon}"
        click.echo(printable(line))
    if not found:
        click.echo(f"tenant {tenant} has no waiver in force", err=True)


def _list_all(tenant: str, *, as_json: bool) -> None:
    from keyturn.waivers.contracts import Waiver
    from keyturn.waivers.store import WaiverStore

    rows = cut(with_database(lambda engine: WaiverStore(engine).history(tenant_id=tenant, limit=ALL + 1)), ALL)
    if as_json:
        click.echo(json.dumps({"waivers": rows}, default=lambda moment: moment.isoformat()))
        return
    for row in rows:
        one = Waiver.model_validate({name: row[name] for name in Waiver.model_fields})
        state = f"until {in_utc(one.until)}"
        if row["ended_at"] is not None:
            state = f"ended {in_utc(row['ended_at'])} by {row['ended_by']}"
        elif one.until <= datetime.now(UTC):
            state = f"ran out {in_utc(one.until)}"
        granted = f"by {one.granted_by} on {one.granted_at:%Y-%m-%d}"
        click.echo(printable(f"{one.waiver_id}  {state}  {one.scope}  {granted}: {one.reason}"))
    if not rows:
        click.echo(f"tenant {tenant} has had no waiver", err=True)


@waivers.command()
@_tenant
@click.option("--account", help="Pattern of accounts, such as svc-legacy-*; * stands for any characters.")
@click.option("--key-id", help="Key ID.")
@click.option("--owner", help="Owner of the keys.")
@click.option("--policy", "line", help="Policy line, such as P-7; without it, under every line.")
@click.option("--until", required=True, help="Last day, such as 2027-01-31, or a time; in UTC.")
@click.option("--reason", required=True, help="Reason, one line, for reports and auditors.")
@click.option(
    "--compromised-too",
    "covers_compromised",
    is_flag=True,
    help="Exempt the key although it was exposed; needs --key-id.",
)
@_user
@policy_options
def grant(tenant: str, until: str, user: str | None, policy_dir: Path | None, shipped: bool, **given: Any) -> None:
    """Exempt keys from rotation until a date. At least one of --account, --key-id, --owner and --policy is needed.

    You may not exempt keys that you own. A policy line says who may grant its waivers (approvers) and for how long
    (waiver_days, 365 if it does not). A compromised key stays due unless --compromised-too is given.

    \b
    Example:
      keyturn waivers grant --owner payments --policy P-7 --until 2027-01-31 --reason "freeze until the audit"
    """
    from keyturn.owners import load_owners
    from keyturn.policy.catalogue import load_catalogue
    from keyturn.waivers.granting import exceptions_of, new_waiver
    from keyturn.waivers.jobs import open_jobs_of
    from keyturn.waivers.known import expect_owner_known
    from keyturn.waivers.store import WaiverStore

    try:
        ends = last_moment(until)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--until") from None
    with naming_options():
        catalogue = load_catalogue(policy_dir, shipped=shipped)
        by = {"tenant_id": tenant, "granted_by": user or signed_in_user()}
        waiver = new_waiver(catalogue, {**by, "until": ends, **given})

    owners = load_owners()  # what is wrong with their files is said before anything is written

    async def write(engine: "AsyncEngine") -> "list[str]":
        await expect_owner_known(waiver, engine, owners)
        await WaiverStore(engine).add(waiver)
        return await open_jobs_of(waiver, engine, owners)

    jobs = with_database(write)
    click.echo(printable(f"{waiver.waiver_id}  {waiver.scope}, until {in_utc(waiver.until)}"))
    for exception in exceptions_of(waiver, catalogue, owners):
        click.echo(exception, err=True)
    if jobs:
        names = ", ".join(jobs[:5]) + (" ..." if len(jobs) > 5 else "")
        click.echo(
            f"{counted(len(jobs), 'open job')} of such keys: no executor starts them now; what has started goes on, "
            f"and `keyturn jobs cancel` closes them: {names}",
            err=True,
        )


@waivers.command()
@_tenant
@_user
@click.argument("waiver_id")
def end(waiver_id: str, tenant: str, user: str | None) -> None:
    """End a waiver before its date. Its keys are due again at the next question or run."""
    from keyturn.waivers.store import WaiverStore

    who = validate_as(Identifier, user or signed_in_user(), "--user")
    with_database(lambda engine: WaiverStore(engine).end(waiver_id, tenant_id=tenant, by=who))
    click.echo(f"{printable(waiver_id)} ended")
