"""`keyturn eval`: a model, prompt or policy against what people decided, before it decides anything itself."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keyturn.console import counted
from keyturn.starter.bulk import FAILED, dollars
from keyturn.starter.database import with_database
from keyturn.starter.policy_options import policy_options

if TYPE_CHECKING:
    from keyturn.labels.figures import Change, Evaluation, Figures, Share

CHANGES_SHOWN = 50  # a screen; --json has all of them
COLUMNS = (
    *("lines", "cases", "right", "wrong yes (at most)", "wrong jobs (at most)", "wrong no (at most)"),
    *("disagree", "job", "person", "nothing", "cost", "p50", "p95"),
)


@click.command(name="eval")
@click.option("--from-labels", is_flag=True, required=True, help="Replay the labelled cases (`keyturn labels`).")
@click.option("--route", help="Model to ask, as in KEYTURN_ROUTES: ENDPOINT:MODEL.  [default: KEYTURN_ROUTES]")
@click.option("--prompt-version", help="Prompt version.  [default: the current one]")
@policy_options
@click.option("--limit", type=click.IntRange(1, 1_000_000), help="Maximum number of cases, newest label first.")
@click.option("--max-usd", type=dollars, help="Stop before the calls cost more than this, in US dollars.")
@click.option("--cached", is_flag=True, help="Take answers from the response cache, and store new ones there.")
@click.option(
    "--require",
    "requirements",
    multiple=True,
    help='NAME<=NUMBER that must hold, such as "wrong_yes<=0.001"; repeatable. Names: wrong_yes, wrong_jobs, '
    "wrong_no, disagreements (upper 95% bounds of the rates), cost_usd, p95_seconds.",
)
@click.option("--tenant", envvar="KEYTURN_TENANT", default="default", show_default=True, help="Tenant ID.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
def evaluate(
    from_labels: bool,
    route: str | None,
    policy_dir: Path | None,
    shipped: bool,
    requirements: tuple[str, ...],
    as_json: bool,
    tenant: str,
    **given: Any,
) -> None:
    """Ask a candidate the questions that people have decided, and compare the answers.

    No rotation starts, and no job or message is created.

    Needs a worker's settings and payload keys. Calls are recorded under the user `eval`. Exit status 1 if a requirement
    does not hold, if a case of it was not answered, or if there is no case.

    \b
    Example:
      keyturn eval --from-labels --route openai:gpt-5-mini --require "wrong_yes<=0.001"
      keyturn eval --from-labels --policy-dir proposed/ --max-usd 2
    """
    from keyturn.labels.figures import evaluation_of
    from keyturn.labels.requirements import parse_requirement, unmet_of
    from keyturn.policy.catalogue import load_catalogue
    from keyturn.workers.evaluation import load_candidate, replay_labels
    from keyturn.workers.telemetry import configure_logging

    wanted = [parse_requirement(text) for text in requirements]  # before anything is paid
    settings, catalogue = load_candidate(route), load_catalogue(policy_dir, shipped=shipped)
    configure_logging(settings.log_format, level=40)  # errors only: the table is the output
    replayed = with_database(lambda engine: replay_labels(engine, settings, catalogue, tenant_id=tenant, **given))
    found = evaluation_of(replayed)
    unmet = unmet_of(wanted, found)
    if as_json:
        asked = {"route": settings.routes_text, "requirements": [str(one) for one in wanted], "unmet": unmet}
        click.echo(json.dumps({**asked, **found.as_object()}))
    else:
        _print_table(found.figures)
        _print_changes(found.changes)
        _print_notes(found)
    for why in unmet:
        click.echo(why, err=True)
    if unmet:
        raise click.exceptions.Exit(FAILED)


def _print_table(figures: "Sequence[Figures]") -> None:
    rows = [COLUMNS, *(_row(one) for one in figures)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(COLUMNS))]
    for row in rows:
        cells = (
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        click.echo("  ".join(cells).rstrip())


def _row(one: "Figures") -> tuple[str, ...]:
    would_be = (f"{one.consequences.get(what, 0):,}" for what in ("job", "person", "nothing"))
    cost = "unknown" if one.cost_usd is None else f"${one.cost_usd:.4f}"
    times = ("-" if (took := one.percentile(share)) is None else f"{took:.2f} s" for share in (0.5, 0.95))
    rates = (*map(_share, (one.wrong_yes, one.wrong_jobs, one.wrong_no)), f"{one.disagreements.count:,}")
    return (one.name, f"{one.cases:,}", f"{one.right:,}", *rates, *would_be, cost, *times)


def _share(share: "Share") -> str:
    return f"{share.count:,} of {share.of:,} ({share.at_most:.2%})"


def _print_changes(changes: "Sequence[Change]") -> None:
    click.echo(f"\n{counted(len(changes), 'case')} would be decided otherwise" + (":" if changes else ""))
    for one in changes[:CHANGES_SHOWN]:
        label = one.label.replace("_", " ")
        click.echo(f"{one.workflow_id}  {one.then} -> {one.now}  (a person said: {label})")
    if len(changes) > CHANGES_SHOWN:
        click.echo(f"{CHANGES_SHOWN} shown: --json has all", err=True)


def _print_notes(found: "Evaluation") -> None:
    yes, no = found.total.readings
    click.echo(f"before the gate, the model's own wrong yes: {yes:,}, wrong no: {no:,}", err=True)
    if found.other_policy:
        click.echo(f"{counted(found.other_policy, 'case')} under other wording than then", err=True)
    if found.unasked:
        click.echo(f"{counted(found.unasked, 'case')} not asked: this policy does not have their lines", err=True)
    if found.unanswered:
        click.echo(found.without_answer, err=True)
