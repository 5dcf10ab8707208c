"""`keyturn inventory`: check one; `fetch` has a file of its own."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from keyturn.console import counted
from keyturn.starter.inventory_fetch import fetch
from keyturn.starter.inventory_options import (
    WITHOUT_KEY_IDS,
    access_keys,
    as_one_object,
    azure_application,
    inventory_file,
    inventory_format,
    moment_of,
    observed,
    print_rejects,
    print_unused_options,
    rejects_beside,
    rejects_file,
)


@click.group()
def inventory() -> None:
    """Fetch an inventory from a cloud, and check one before a bulk run."""


inventory.add_command(fetch)


@inventory.command()
@inventory_file
@inventory_format
@access_keys
@azure_application
@observed
@rejects_file
@click.option(
    "--policy",
    "policies",
    multiple=True,
    help="Count the keys that these lines decide by rule, without a model; repeatable.",
)
@as_one_object
def check(file: Path, policies: tuple[str, ...], as_json: bool, rejects: Path | None, **given: Any) -> None:
    """Read a whole inventory and count what it holds; no model is asked and nothing is stored.

    Exit status 1 if some rows cannot be used: they are written, with line and reason, to a file that you can fix and
    read again.

    \b
    Example:
      keyturn inventory check report.csv --access-keys keys.json --policy CIS-AWS-4.0-1.14
    """
    from keyturn.bulk.load import items_of
    from keyturn.inventory.read import read, recognise_source
    from keyturn.inventory.rejects import Rejects
    from keyturn.progress import outcome_in_words
    from keyturn.workers.local_settings import load_local_settings

    read_as = _inventory(file, given)
    catalogue = load_local_settings().load_catalogue() if policies else None
    lines = [] if catalogue is None else [catalogue.current(line_id) for line_id in dict.fromkeys(policies)]
    form = read_as.format or recognise_source(file)
    print_unused_options(form, access_keys=read_as.access_keys, account_id=read_as.account_id)
    rejected = Rejects(rejects or rejects_beside(file, form))
    counts: dict[str, int] = {}
    ageless, sample = 0, None
    with closing(rejected):
        for item in items_of(read(read_as), lines, always_ask=False, reject=rejected.add):
            facts = item.get("facts") or {"age_days": 0}
            ageless += not {"age_days", "last_rotated_at"} & facts.keys()
            outcome = item["outcome"] if item["outcome"] == "bad_row" else (item["reason"] or "to_ask")
            if not lines and outcome in {"no_line_of_its_kind", "to_ask"}:
                outcome = "active"
            counts[outcome] = counts.get(outcome, 0) + 1
            if sample is None and outcome == "to_ask":
                sample = item
    asks = counts.get("to_ask", 0) if lines else None
    cost = None if not asks else _cost(lines, sample, asks)
    if as_json:
        click.echo(
            json.dumps(
                {"file": str(file), "format": form, "rows": sum(counts.values()), "counts": counts}
                | {"without_age": ageless, "asks": asks, "most_usd": None if cost is None else str(cost[0])}
            )
        )
    else:
        click.echo(f"{file}: {form}, {counted(sum(counts.values()) - counts.get('bad_row', 0), 'key')}")
        for name, count in sorted(counts.items(), key=lambda item: -item[1]):
            click.echo(f"  {count:>9,}  {outcome_in_words(name, count)}")
        if asks is not None:
            click.echo(f"a run asks a model about {counted(asks, 'key')}{'' if cost is None else cost[1]}")
    if ageless:
        click.echo(
            f"{counted(ageless, 'key')} without a known age: no policy line on age can be decided there", err=True
        )
    if form == "aws" and read_as.access_keys is None:
        click.echo(WITHOUT_KEY_IDS, err=True)
    print_rejects(rejected)
    if rejected.count:
        raise click.exceptions.Exit(1)


def _cost(lines: Any, sample: Any, asks: int) -> tuple[Any, str] | None:
    """Return the most that a run costs, and how that is said; None where no model is configured here."""
    from keyturn.contracts import CredentialFacts
    from keyturn.errors import SettingsInvalid
    from keyturn.workers.estimates import estimate_run
    from keyturn.workers.settings import load_settings

    try:
        settings = load_settings()
    except SettingsInvalid:
        click.echo("no estimate of the cost: KEYTURN_ROUTES and its keys are not set here", err=True)
        return None
    facts = CredentialFacts.model_validate(sample["facts"])
    found = estimate_run(settings, lines, account_id=sample["account_id"], facts=facts, asks=asks)
    if found.usd is None:
        return None, f", at a price that is not known of {found.model}"
    return found.usd, f", at most ${found.usd:,.2f} with {found.model}"


def _inventory(file: Path, given: dict[str, Any]) -> Any:
    from keyturn.inventory.places import expect_file
    from keyturn.inventory.source import Inventory

    for one in filter(None, (file, given["access_keys"])):
        expect_file(one)
    return Inventory(
        file=file,
        format=given["form"],
        observed_at=moment_of(given["observed_at"]),
        account_id=given["account_id"],
        access_keys=given["access_keys"],
    )
