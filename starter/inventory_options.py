"""What the commands of whole inventories share: their options, and how a mistake in one is reported."""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from keyturn.console import counted
from keyturn.errors import InvalidRequest
from keyturn.options import InventoryFormat

for_tenant = click.option("--tenant", envvar="KEYTURN_TENANT", default="default", show_default=True, help="Tenant ID.")
as_user = click.option(
    "--user", "user_id", envvar="KEYTURN_USER", help="Your user name.  [default: the signed-in user]"
)
as_one_object = click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
inventory_file = click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
inventory_format = click.option(
    "--format", "form", type=InventoryFormat(), help="Format of the file.  [default: detected]"
)
access_keys = click.option(
    "--access-keys",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="AWS: the output of `aws iam list-access-keys` for the users of the report, which has no key IDs.",
)
azure_application = click.option("--account", "account_id", help="Azure: the application that the listing belongs to.")
observed = click.option(
    "--observed",
    "observed_at",
    help="Time at which the inventory was taken.  [default: as the file states, or the file's own time]",
)
policies_option = click.option("--policy", "policies", multiple=True, help="A policy line to judge under; repeatable.")
question_option = click.option(
    "--question", default="May this key be rotated?", show_default=True, help="Question to ask about each key."
)
task_option = click.option(
    "--task",
    type=click.Choice(["decide_rotation", "summarize_scan"]),
    default="decide_rotation",
    show_default=True,
    help="Question to ask of each item: whether a key may be rotated, or the summary of a scan.",
)
rejects_file = click.option(
    "--rejects",
    type=click.Path(path_type=Path),
    help="File for the rows that cannot be used.  [default: FILE.rejects...]",
)


# A credential report has no key ids.
WITHOUT_KEY_IDS = (
    "Without --access-keys a key is named by its creation date, and its executor needs the AWS key ID. "
    "A later run with --access-keys adds the ID to the open job, and creates no second one."
)


def moment_of(text: str | None) -> datetime | None:
    """Return the moment that `--observed` gives; raises InvalidRequest if it is none, or lies in the future."""
    if text is None:
        return None
    moment: datetime | None = None
    with suppress(ValueError):
        moment = datetime.fromisoformat(text)
    if moment is None or moment.tzinfo is None:
        raise InvalidRequest("--observed: is not a moment with its time zone, such as 2026-11-21T09:00:00Z")
    if moment > datetime.now(UTC):
        raise InvalidRequest("--observed: lies in the future: evidence is what was seen")
    return moment


def rejects_beside(file: Path, form: str | None) -> Path:
    """Return where rows that cannot be used go by default, in the form in which they are read again.

    Args:
        file: the inventory, or a scan.
        form: the inventory's format; None for a scan.
    """
    from keyturn.inventory.read import holds_table

    is_table = form is not None and holds_table(file, form)
    return file.with_name(f"{file.stem}.rejects{'.csv' if is_table else '.jsonl'}")


def print_unused_options(form: str | None, *, access_keys: Path | None, account_id: str | None) -> None:
    """Say which options have no meaning for an inventory of this format; None for a scan."""
    if form is None:
        return
    if access_keys is not None and form != "aws":
        click.echo(f"--access-keys is not used: it is for AWS's credential report, and this is {form}", err=True)
    if account_id is not None and form not in {"azure", "jsonl"}:
        click.echo(f"--account is not used: it is for Azure's listings, and this is {form}", err=True)


def print_rejects(rejected: Any) -> None:
    """Say how many rows cannot be used, and where they are."""
    if rejected.count:
        click.echo(
            f"{counted(rejected.count, 'row')} cannot be used: {rejected.file} lists each with its reason", err=True
        )
