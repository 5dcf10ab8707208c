"""`keyturn retention`."""

import json
from datetime import UTC, datetime

import click

from keyturn.starter.database import with_database


@click.command()
@click.option("--delete", "deletes", is_flag=True, help="Delete what has expired.  [default: count it only]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
def retention(deletes: bool, as_json: bool) -> None:
    """Count the records that have expired by the KEYTURN_RETAIN_ settings, or delete them.

    A closed job leaves its tombstone, which still refuses a second job for its key. Workers do the same once a day
    where KEYTURN_RETENTION is on.

    \b
    Example:
      KEYTURN_RETAIN_CALLS_DAYS=90 keyturn retention
      keyturn retention --delete
    """
    from keyturn.retention import RECORD_KINDS, RetentionStore
    from keyturn.workers.retention_settings import load_retention_settings

    days = load_retention_settings().limits()
    limits = days.limits(datetime.now(UTC))
    found = with_database(
        lambda engine: RetentionStore(engine).delete(limits) if deletes else RetentionStore(engine).count(limits)
    )
    if as_json:
        click.echo(json.dumps({"deleted" if deletes else "expired": found}))
        return
    for kind in RECORD_KINDS:
        stored = getattr(days, kind)
        if stored is None:
            click.echo(f"{kind:8}  never expire")
        else:
            word = "deleted" if deletes else "expired"
            click.echo(f"{kind:8}  expire after {stored:>5} days  {found[kind]:>9,} {word}")
    if not deletes and any(found.values()):
        click.echo("nothing was deleted: --delete does so, or KEYTURN_RETENTION=on of the workers once a day", err=True)
